"""What `bench` says of a model and its own copy: nothing but 1.0, and the same when it is asked again.

On one thread, and on all cores while another process keeps one of them busy.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxcompress.runtime.machine import usable_cores
from tests.benchmarks.measure import ROOT, run, tool
from tests.benchmarks.tables import number, table, verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.benchmarks.settings import Settings

TITLE = "bench: a model against its own copy"
RUNS, COVERED = 20, 19
TARGET = f"the interval covers 1.0 in at least {COVERED} of {RUNS} runs, and those of two runs overlap"

_MODELS = ("mnist-cnn", "minilm-l3", "silero-vad-16k-seq")
_BUSY = "while True: pass"
_SECONDS = 2.0


@dataclass(frozen=True)
class Interval:
    """The speed-up of the copy over the model."""

    ratio: float
    low: float
    high: float

    @property
    def covers(self) -> bool:
        """Whether it says that the two are equally fast."""
        return self.low <= 1 <= self.high

    def overlaps(self, other: Interval) -> bool:
        """Whether both can be right."""
        return self.low <= other.high and other.low <= self.high


def measure(settings: Settings) -> None:
    """Measure and print."""
    wanted = [name for name in settings.real_models() if name in (settings.models or _MODELS)]
    paths = {name: settings.corpus / name / "model.onnx" for name in wanted}
    paths = paths or {"digits-cnn": ROOT / "sample_models" / "digits-cnn.onnx"}
    runs, found = settings.rounds or RUNS, {}
    for name, path in paths.items():
        found[f"{name}, 1 thread"] = _intervals(path, runs, 1)
        with _busy():
            found[f"{name}, all cores, one of them busy"] = _intervals(path, runs, usable_cores())
    print(report(found))


@contextlib.contextmanager
def _busy() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", _BUSY]) as process:
        try:
            yield
        finally:
            process.kill()


def _intervals(path: Path, runs: int, threads: int) -> list[Interval]:
    with tempfile.TemporaryDirectory(prefix="onnxcompress-bench-") as folder:
        model, copy = Path(folder) / "model.onnx", Path(folder) / "copy.onnx"
        for place in (model, copy):
            shutil.copyfile(path, place)
        setting = ("--threads", str(threads), "--seconds", str(_SECONDS))
        command = tool("bench", model, copy, *setting, "--no-memory", "--json", "-")
        return [_interval(run(command).output) for _ in range(runs)]


def _interval(output: str) -> Interval:
    speedup = json.loads(output)["rows"][1]["speedup"]
    return Interval(speedup["ratio"], speedup["low"], speedup["high"])


def report(found: Mapping[str, Sequence[Interval]]) -> str:
    """The table, a row a model."""
    rows = []
    for name, intervals in found.items():
        covered = sum(i.covers for i in intervals)
        pairs = list(zip(intervals[::2], intervals[1::2], strict=False))
        overlap = sum(a.overlaps(b) for a, b in pairs)
        ratios = [i.ratio for i in intervals]
        width = max(i.high / i.low - 1 for i in intervals)
        met = covered * RUNS >= COVERED * len(intervals) and overlap == len(pairs)
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        counts = [f"{covered} of {len(intervals)}", f"{overlap} of {len(pairs)}"]
        rows.append([name, *counts, spread, f"{number(100 * width)} %", verdict(met)])
    header = ["model", "cover 1.0", "pairs that overlap", "ratios", "widest interval", "target"]
    return table(header, rows)
