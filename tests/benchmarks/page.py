"""The HTML report of a model of 2,000 layers in a browser: bytes, the time to open it, and what axe-core objects to.

Opening is timed against an empty page, in turns, as most of it is the browser's own start. axe-core judges the page in
light and dark; AXE_CORE names its axe.min.js (``npm install axe-core``).
"""

from __future__ import annotations

import html as markup
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from onnxcompress import report as r
from onnxcompress.render import html
from tests import sample_report as sample
from tests.benchmarks.tables import number, table, verdict

if TYPE_CHECKING:
    from tests.benchmarks.settings import Settings

TITLE = "The HTML report of 2,000 layers"
LAYERS, MOST_MIB, MOST_SECONDS = 2000, 8, 2.0
TARGET = f"at most {MOST_MIB} MiB, and {MOST_SECONDS:g} s more than an empty page; nothing that axe-core objects to"

_ROUNDS = 5
_EMPTY = "<!doctype html><title>empty</title>"
_DARK = ("--force-dark-mode", "--enable-features=WebContentsForceDark")
_JUDGE = """<script>%s</script><script>
document.querySelector("#table button[data-h]")?.click();
axe.run().then(found => document.body.setAttribute("data-axe", JSON.stringify(found.violations.map(v => v.id))));
</script></body>"""


def measure(settings: Settings) -> None:
    """Measure and print."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("not measured: there is no Chromium here")
        return
    text = large()
    with tempfile.TemporaryDirectory(prefix="onnxcompress-bench-") as folder:
        pages = {"empty": _EMPTY, "report": text}
        paths = {name: Path(folder) / f"{name}.html" for name in pages}
        for name, path in paths.items():
            path.write_text(pages[name], encoding="utf-8")
        found: dict[str, list[float]] = {name: [] for name in pages}
        for _ in range(settings.rounds or _ROUNDS):
            for name, path in paths.items():
                started = time.perf_counter()
                _dump(browser, path, Path(folder))
                found[name].append(time.perf_counter() - started)
        more = median(b - a for a, b in zip(found["empty"], found["report"], strict=True))
        size = len(text.encode()) / 2**20
        rows = [
            ["size, MiB", number(size), verdict(size <= MOST_MIB)],
            ["opening, s more than an empty page", number(more), verdict(more <= MOST_SECONDS)],
        ]
        rows += [
            [f"axe-core, {name}", *_judged(browser, Path(folder), flags)]
            for name, flags in (("light", ()), ("dark", _DARK))
        ]
    print(table(["what", "found", "target"], rows))


def large() -> str:
    """The page."""
    spread = r.Histogram(-1.5, 2.5, tuple(range(40)), tuple(range(40, 0, -1)))
    layers = [
        sample.layer(f"encoder/layer.{i}/attention", bytes_before=1000 * i, histogram=spread) for i in range(LAYERS)
    ]
    return html.page(sample.report(steps=(sample.step(*layers),)), None, passed=True)


def _judged(browser: str, folder: Path, flags: tuple[str, ...]) -> tuple[str, str]:
    """What axe-core objects to, and the verdict."""
    given = os.environ.get("AXE_CORE")
    if not given:
        return "AXE_CORE is not set", "-"
    spread = r.Histogram(-1.5, 2.5, (1, 4, 2), (0, 7, 0))
    layers = [sample.layer(f"layer.{i}", histogram=spread) for i in range(20)]
    text = html.page(sample.report(steps=(sample.step(*layers),)), None, passed=True)
    text = re.sub("script-src 'sha256-[^']+'", "script-src 'unsafe-inline' 'unsafe-eval'", text)
    script = Path(given).read_text(encoding="utf-8").replace("</script>", "<\\/script>")
    page = folder / "judged.html"
    page.write_text(text.replace("</body>", _JUDGE % script), encoding="utf-8")
    match = re.search(r'data-axe="([^"]*)"', _dump(browser, page, folder, "--virtual-time-budget=20000", *flags))
    if match is None:
        return "it gave no answer", verdict(met=False)
    violations = json.loads(markup.unescape(match[1]))
    return ", ".join(violations) or "no violations", verdict(not violations)


def _dump(browser: str, page: Path, folder: Path, *flags: str) -> str:
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom"]
    place = [f"--user-data-dir={folder / 'profile'}", page.as_uri()]
    return subprocess.run([*command, *flags, *place], capture_output=True, text=True, check=True, timeout=120).stdout
