"""Reports as files: HTML, Markdown and JUnit, from the report alone, whatever the names in it are."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from onnxcompress import report as r
from onnxcompress.render import ci, html
from onnxcompress.render.junit import junit
from onnxcompress.render.markdown import markdown
from tests import sample_report as sample

SAMPLES = Path(__file__).parent.parent / "sample_models"
HOSTILE = "</script><img src=x onerror=alert(1)>|`*_[a](http://evil)@all\x1b[31m\n\u202e\"'&"
VOID = {"meta", "input", "br", "img", "link", "hr"}
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


class Balanced(HTMLParser):
    """Every tag closed in order; texts and attributes collected."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def failing() -> r.Report:
    bad = (r.BudgetResult("min_sqnr", 30.0, 25.5, ok=False), r.BudgetResult(HOSTILE, None, HOSTILE, ok=False))
    layers = (sample.layer(HOSTILE, ranks=(16, 32), sparsity=0.5), sample.skipped("other", HOSTILE))
    return sample.report(
        budgets=(*sample.report().budgets, *bad), verdict="failed", notes=(HOSTILE,),
        steps=(sample.step(*layers, notes=(HOSTILE,)),), fidelity=sample.fidelity("a", HOSTILE),
        recipe={"name": HOSTILE, "steps": []},
    )  # fmt: skip


def parsed(text: str) -> Balanced:
    found = Balanced()
    found.feed(text)
    assert found.open == []
    return found


@pytest.mark.parametrize("report", [sample.report(), failing()], ids=["passed", "failed"])
def test_html_is_one_sound_file_that_loads_nothing(report: r.Report) -> None:
    text = html.page(report, Path("out.onnx"), passed=report.verdict == "passed")
    found = parsed(text)
    assert found.tags.count("script") == 1
    assert not {"img", "link", "iframe", "object"} & set(found.tags)
    assert not [a for a in found.attributes if a[0] in ("src", "href") or a[0].startswith("on")]
    assert not re.search(r"(src|href|url|import|fetch)\s*[=(]\s*[\"']?https?:", text)
    for said in ("Content-Security-Policy", "prefers-color-scheme", "@media print", 'lang="en"'):
        assert said in text
    shown = " ".join(found.text)
    for part in ("model.onnx", report.original.sha256, "1.31.1", "a processor", "min_sqnr", "latency p50"):
        assert part in shown
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_the_policy_of_the_page_admits_the_script_of_the_page_alone() -> None:
    text = html.page(failing(), None, passed=False)
    (script,) = re.findall("<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "unsafe-inline" not in text.split("script-src")[1].split('"')[0]


def test_layers_without_an_error_are_counted_and_not_drawn() -> None:
    drawn = [sample.layer(f"drawn.{i}", error=10.0**-i) for i in range(1, 4)]
    text = html.page(sample.report(steps=(sample.step(*drawn, sample.layer("bare", error=None)),)), None, passed=True)
    assert text.count("<circle") == 3
    assert "as no error was computed: 1 layer" in " ".join(parsed(text).text)
    none = html.page(sample.report(steps=(sample.step(sample.layer("bare", error=None)),)), None, passed=True)
    assert "<circle" not in none


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, two: str) -> float:
    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_stands_out_in_light_in_dark_and_on_paper() -> None:
    style = (Path(html.__file__).parent / "report.css").read_text()
    themes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", part)) for part in re.findall(r":root \{(.*?)\}", style, re.S)
    ]
    assert len(themes) == 3
    for theme in themes:
        for ground in ("paper", "shade"):
            for ink in ("ink", "faint", "good", "bad"):
                assert contrast(theme[ink], theme[ground]) >= 4.5, (ink, ground)
            for mark in ("first", "second", "third", "fourth"):
                assert contrast(theme[mark], theme[ground]) >= 3, (mark, ground)


def test_what_was_measured_is_drawn() -> None:
    pairs = tuple((10 + i % 7, 8 + i % 5) for i in range(60))
    points = tuple((i / 10, i / 10 + 0.01) for i in range(50))
    output = dataclasses.replace(
        sample.fidelity(HOSTILE).outputs[0], points=points, confusions=(r.Confusion(3, 7, 12),)
    )  # fmt: skip
    found = dataclasses.replace(
        sample.fidelity(), outputs=(output,), worst_calls=(r.CallFidelity(41, HOSTILE, 12.5),)
    )  # fmt: skip
    latency = dataclasses.replace(sample.latency(), pairs_ms=pairs)
    text = html.page(sample.report(fidelity=found, latency=latency), None, passed=True)
    shown = parsed(text)
    assert text.count('class="point"') == 50
    assert text.count('class="spread') == 3
    said = " ".join(shown.text)
    for part in ("times of 60 pairs of calls", "calls that lose most", "41", "12.5 dB", "classes that changed"):
        assert part in said
    few = html.page(sample.report(latency=dataclasses.replace(latency, pairs_ms=pairs[:2])), None, passed=True)
    assert "latency as measured" not in few


def test_the_time_of_each_layer_is_shown() -> None:
    layers = (
        r.LayerTime(HOSTILE, ("Conv", "Relu"), 4.0, 1.0),
        *(r.LayerTime(f"layer.{i}", ("MatMul",), 0.5, None) for i in range(100)),
    )
    found = parsed(html.page(sample.report(layer_times=layers), None, passed=True))
    said = " ".join(found.text)
    for part in ("time of each layer", "Conv, Relu", "3.00 ms", "Not shown: 41 faster layers", "54.0 ms and 1.00 ms"):
        assert part in said
    assert "time of each layer" not in html.page(sample.report(), None, passed=True)


def test_a_dry_run_says_what_is_foreseen() -> None:
    seen = sample.report(compressed=None, latency=None, fidelity=None)
    text = html.page(seen, None, passed=True, dry_run=True)
    assert "predicted size" in " ".join(parsed(text).text)
    assert "predicted size" in markdown(seen, None, passed=True, dry_run=True)


def test_html_lists_every_layer_and_stays_small() -> None:
    layers = [sample.layer(f"encoder/layer.{i}/attention/dense/MatMul") for i in range(2000)]
    text = html.page(sample.report(steps=(sample.step(*layers),)), None, passed=True)
    assert len(text.encode()) < 8 << 20
    found = parsed(text)
    names = {t for t in found.text if re.fullmatch(r"encoder/layer[.]\d+/attention/dense/MatMul", t)}
    assert len(names) == 2000


def test_markdown_has_well_formed_tables_and_no_foreign_marks() -> None:
    text = markdown(failing(), Path("out.rejected.onnx"), passed=False)
    assert text.startswith("### ❌")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = [len(re.split(r"(?<!\\)\|", row)) for row in rows]
    tables = re.split(r"\n\n", text)
    for table in tables:
        counts = {len(re.split(r"(?<!\\)\|", row)) for row in table.splitlines() if row.startswith("|")}
        assert len(counts) <= 1
    assert min(cells) > 3
    for mark in ("<", ">", "`", "["):
        assert not re.search(rf"(?<!\\){re.escape(mark)}", text)
    assert not re.search("@(?!&#8203;)", text)  # nobody is called
    assert "25.5" in text
    assert markdown(sample.report(), None, passed=True).startswith("### ✅")


def test_junit_has_a_case_for_each_check() -> None:
    root = ElementTree.fromstring(junit(failing()))  # noqa: S314 - our own
    (suite,) = root.findall("testsuite")
    cases = suite.findall("testcase")
    assert (suite.get("tests"), suite.get("failures")) == (str(len(cases)), "2")
    failed = {c.get("name"): c.find("failure") for c in cases if c.find("failure") is not None}
    assert len(failed) == 2
    failure = failed["min_sqnr"]
    assert failure is not None
    assert "25.5" in (failure.text or "")
    assert "30" in (failure.text or "")
    assert {p.get("name") for p in suite.iter("property")} >= {"version", "onnxruntime", "sha256", "verdict"}


def test_workflow_commands_are_one_line_each() -> None:
    lines = list(ci.errors(failing()))
    assert len(lines) == 2
    assert all(line.startswith("::error title=onnxcompress::") and "\n" not in line for line in lines)


def test_no_line_of_a_job_is_a_command_of_the_model() -> None:
    said = ci.harmless("::stop-commands::x\n  ::add-mask::y\nlayer a::b ##[group]z")
    assert not re.search(r"(?m)^\s*::", said)
    assert "##[" not in said
    assert "layer a::b" in said


def run(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "onnxcompress", "verify", str(SAMPLES / "digits-cnn.onnx"), "copy.onnx", *words]
    place = {**os.environ, "PYTHONPATH": str(SAMPLES.parent), **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=place)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(SAMPLES / "digits-cnn.onnx", tmp_path / "copy.onnx")
    return tmp_path


def test_files_are_written_whatever_the_verdict(folder: Path) -> None:
    files = ("--report", "a.html", "--report", "a.md", "--report", "a.json", "--junit", "a.xml")
    done = run(folder, *files, "--min-speedup", "900", GITHUB_ACTIONS="")
    assert done.returncode == 1
    assert "::error" not in done.stdout
    assert sorted(p.name for p in folder.iterdir()) == ["a.html", "a.json", "a.md", "a.xml", "copy.onnx"]
    assert json.loads((folder / "a.json").read_text())["verdict"] == "failed"
    parsed((folder / "a.html").read_text())
    assert "min\\_speedup" in (folder / "a.md").read_text()
    root = ElementTree.parse(folder / "a.xml").getroot()  # noqa: S314 - our own
    assert root.find("testsuite/testcase/failure") is not None


def test_a_job_is_told_by_itself(folder: Path) -> None:
    told = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(folder / "summary.md")}
    done = run(folder, "--min-speedup", "900", "--json", "-", **told)
    assert done.returncode == 1
    assert json.loads(done.stdout)["verdict"] == "failed"
    assert "::error title=onnxcompress::" in done.stderr
    assert "### ❌" in (folder / "summary.md").read_text()
    done = run(folder, **told)
    assert done.returncode == 0
    assert "::error" not in done.stdout
    assert (folder / "summary.md").read_text().count("###") == 2


def test_reports_that_cannot_be_written_are_refused_before_the_run(folder: Path) -> None:
    for words in (("--report", "nowhere/a.html"), ("--report", "copy.onnx"), ("--junit", "a.json")):
        done = run(folder, *words)
        assert done.returncode == 2, done.stderr
    assert [p.name for p in folder.iterdir()] == ["copy.onnx"]


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_sorts_and_searches(tmp_path: Path) -> None:
    """The page drives itself by a script that is added for the test, and says what it saw in its title."""
    spread = r.Histogram(-1.5, 2.5, (1, 4, 2), (0, 7, 0))
    layers = [sample.layer(f"layer.{i}", bytes_before=1000 * i, bytes_after=10, histogram=spread) for i in range(1, 30)]
    text = html.page(sample.report(steps=(sample.step(*layers),)), None, passed=True)
    drive = """<script>
        const rows = () => [...document.querySelectorAll("#table tbody tr:not([hidden])")];
        const name = row => row.querySelector("th button").textContent;
        const head = title => [...document.querySelectorAll("#table thead button")].find(b => b.textContent === title);
        const seen = [name(rows()[0])];
        head("before").click(); seen.push(name(rows()[0]));
        head("before").click(); seen.push(name(rows()[0]));
        const box = document.getElementById("search"); box.value = "layer.2"; box.dispatchEvent(new Event("input"));
        seen.push(rows().length);
        const dots = [...document.querySelectorAll("#scatter circle")];
        dots.find(d => d.dataset.name === "layer.17").dispatchEvent(new MouseEvent("click", {bubbles: true}));
        seen.push(dots.length, rows().length, name(rows()[0]), document.activeElement.id);
        rows()[0].querySelector("th button").click();
        const drawn = document.querySelector("#values svg");
        seen.push(drawn.querySelectorAll("path").length, document.querySelectorAll("tr.chosen").length);
        seen.push(drawn.getAttribute("aria-label").includes("layer.17, before and after, from -1.5 to 2.5"));
        document.body.setAttribute("data-seen", seen.join(" "));
    </script></body>"""
    path = tmp_path / "page.html"
    own = re.sub("script-src 'sha256-[^']+'", "script-src 'unsafe-inline'", text)  # the page lets none but its own run
    assert own != text
    path.write_text(own.replace("</body>", drive))
    assert BROWSER is not None
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom",
         f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()],
        capture_output=True, text=True, check=False, timeout=90,
    )  # fmt: skip
    assert 'data-seen="layer.29 layer.1 layer.29 11 29 1 layer.17 search 2 1 true"' in done.stdout
