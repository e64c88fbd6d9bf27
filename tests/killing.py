"""Processes that are killed while they write models, again and again, and what is then found in their folder."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import onnxruntime

from onnxcompress.graph import writer
from onnxcompress.graph.model import Model
from onnxcompress.graph.payload import FileRange
from tests.small_models import normal, proto, write

TEXT = "g (float[n, 256] x) => (float[n, 256] y) { h = MatMul(x, first) r = Relu(h) y = MatMul(r, second) }"

# Reads two models and writes one after the other, each time as a run does: a candidate that becomes the target. That is
# removed first where it has to be a new one.
WRITER = """
import sys
from pathlib import Path
from onnxcompress.graph import leftovers, writer
from onnxcompress.graph.model import Model
target, limit, new = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "new"
models = [Model.open(Path(p)) for p in sys.argv[4:]]
print("ready", flush=True)
while True:
    for model in models:
        if new:
            for file in sorted(target.parent.glob(target.name + "*")):  # the model before its data
                file.unlink()
        candidate = leftovers.candidate(target)
        writer.save(model, candidate, single_file_limit=limit, stem=target.name)
        writer.publish(candidate, target, new=new)
"""


@dataclass(frozen=True)
class Mode:
    """What is written: with external data or without, over an old model or where there is none."""

    limit: int
    new: bool = False


MODES = {
    "one file, new": Mode(2**30, new=True),
    "one file, over an old one": Mode(2**30),
    "external data, new": Mode(0, new=True),
    "external data, over old ones": Mode(0),
}


@dataclass
class Tally:
    """What was found after so many kills: the target as it was or as it should become, or none; files in between."""

    kills: int = 0
    first: int = 0
    second: int = 0
    absent: int = 0
    in_between: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


def model(folder: Path, name: str, seed: int) -> Path:
    """A model of half a megabyte."""
    weights = {"first": normal(256, 256, seed=seed), "second": normal(256, 256, seed=seed + 1)}
    return write(proto(TEXT, weights), folder, name)


def answer(path: Path) -> bytes:
    """What a model computes."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    result: bytes = session.run(None, {"x": normal(2, 256, seed=9)})[0].tobytes()
    return result


def kill_often(mode: Mode, kills: int, folder: Path, seed: int = 0) -> Tally:
    """Start a writer, kill it within 30 ms, look at what it left, clear up, look again; so often."""
    chance, tally, started = random.Random(seed), Tally(), time.perf_counter()
    (folder / "in").mkdir()
    (folder / "out").mkdir()
    sources = [model(folder / "in", f"{i}.onnx", seed=10 * i) for i in range(2)]
    target = folder / "out" / "model.onnx"
    allowed = [answer(s) for s in sources]
    if not mode.new:
        writer.save(Model.open(sources[0]), target, single_file_limit=mode.limit)
    for _ in range(kills):
        _kill(sources, target, mode, chance.uniform(0, 0.03))
        tally.kills += 1
        tally.in_between += len(list(target.parent.iterdir())) != len(_parts(target))
        _look(target, mode, allowed, tally, "after the kill")
        writer.tidy(target.parent)
        found = _look(target, mode, allowed, tally, "after clearing up")
        tally.absent += found is None
        tally.first += found == allowed[0]
        tally.second += found == allowed[1]
        if left := {p.name for p in target.parent.iterdir()} - {p.name for p in _parts(target)}:
            if not (mode.new and found is None):  # removed by hand, data last
                tally.faults.append(f"left: {', '.join(sorted(left))}")
            for name in left:
                (target.parent / name).unlink()
    tally.seconds = time.perf_counter() - started
    return tally


def _kill(sources: list[Path], target: Path, mode: Mode, wait: float) -> None:
    command = [sys.executable, "-c", WRITER, target, mode.limit, "new" if mode.new else "old", *sources]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def _look(target: Path, mode: Mode, allowed: list[bytes], tally: Tally, when: str) -> bytes | None:
    if not target.exists():
        if not mode.new:
            tally.faults.append(f"there is no model {when}")
        return None
    try:
        found = answer(target)
    except Exception as error:
        tally.faults.append(f"the model does not load {when}: {error}")
        return None
    if found not in allowed:
        tally.faults.append(f"the model is neither {when}")
    return found


def _parts(target: Path) -> set[Path]:
    """The files of a model."""
    if not target.exists():
        return set()
    opened = Model.open(target)
    payloads = [opened.payload(t) for t in opened.tensors()]
    return {target, *(p.path for p in payloads if isinstance(p, FileRange))}
