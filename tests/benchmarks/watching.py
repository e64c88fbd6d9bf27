"""What calibration costs: watching ranges against plain inference, and memory against the number of samples."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.data import load
from onnxcompress.data.options import DataOptions
from onnxcompress.forms import static
from onnxcompress.forms.chains import units
from onnxcompress.graph.interface import interface
from onnxcompress.graph.model import Model
from onnxcompress.graph.opset import raised
from onnxcompress.graph.shapes import float_values
from onnxcompress.passes.base import Context
from onnxcompress.passes.simplify import Simplify
from onnxcompress.runtime.memory import peak_bytes
from onnxcompress.runtime.session import Session
from onnxcompress.stats.probe import Probe
from tests.benchmarks.corpus import calibration
from tests.benchmarks.measure import run
from tests.benchmarks.tables import table

if TYPE_CHECKING:
    from tests.benchmarks.settings import Settings

TITLE = "Calibration: time and memory"
TARGET = "ranges within 1.5 times the plain inference of the same samples; 512 samples within 5 % of the memory of 64"
_MODELS = ("efficientnet-lite0", "ppocrv4-rec", "ddddocr-det")
_SAMPLES = (64, 512)


def measure(settings: Settings) -> None:
    """Measure and print a table."""
    wanted = [n for n in settings.real_models() if n in (settings.models or _MODELS)]
    if not settings.script.is_file() or not wanted:
        print("left out: the script that scores real models, or the models, are not there")
        return
    lines = []
    for name in wanted:
        with tempfile.TemporaryDirectory(prefix="onnxcompress-bench-") as folder:
            data = calibration(name, Path(folder), settings, 32)
            made = [_child(settings.corpus / name / "model.onnx", data, n) for n in _SAMPLES]
        ratio = made[-1]["watching"] / made[-1]["plain"]
        memory = made[-1]["peak"] / made[0]["peak"]
        lines.append([name, f"{ratio:.2f}", f"{made[0]['peak'] / 2**20:.0f}", f"{memory:.3f}"])
    print(table(["model", "watching / plain", "peak MiB at 64", "peak at 512 / at 64"], lines))


def _child(model: Path, data: Path, samples: int) -> dict[str, float]:
    """What one process measures, so that peaks are its own."""
    command = [sys.executable, "-m", "tests.benchmarks.watching", str(model), str(data), str(samples)]
    found: dict[str, float] = json.loads(run(command).output.strip().splitlines()[-1])
    return found


def watch(path: Path, folder: Path, samples: int) -> dict[str, float]:
    """Seconds of plain inference and of watching ranges over so many samples, which repeat those in the folder."""
    model = Simplify().rewrite(Model.open(path), Context()).model
    model = model if model.opset >= static.MIN_OPSET else raised(model, static.MIN_OPSET)
    there = load(folder, interface(model.proto).inputs, DataOptions())
    data = type(there)(there.source, samples, lambda i: there.read(i % len(there)))
    known = float_values(model)
    names = [n for n in dict.fromkeys(n for u in units(model) for n in (*u.inputs, u.output)) if n in known]
    probe = Probe(data, 2)
    shapes = probe.shapes(model, names)
    session = Session(path, threads=2)
    session.run(data.first())
    started = time.perf_counter()
    for feeds in data:
        session.run(feeds)
    plain = time.perf_counter() - started
    started = time.perf_counter()
    seen = probe.extremes(model, shapes)
    watching = time.perf_counter() - started
    held = sum(np.asarray(e.sample).nbytes for e in seen.values())
    return {"plain": plain, "watching": watching, "peak": float(peak_bytes() or 0), "held": float(held)}


if __name__ == "__main__":
    print(json.dumps(watch(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))))
