"""Real models, no data and no options: one row a model, beside the best rows of other tools.

The tool runs as a user runs it; the corpus script judges what it wrote on real data. Latency is measured in
pairs on real inputs, in sessions that are loaded anew several times.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxcompress.graph.model import Model
from onnxcompress.runtime.session import Session
from onnxcompress.runtime.timing import Callers, paired
from onnxcompress.verify.facts import model_files
from tests.benchmarks.corpus_row import MOST_BYTES, MOSTLY, Interval, Row, cells, report
from tests.benchmarks.measure import Failed, copy_seconds, run, tool
from tests.benchmarks.peers import PEERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.benchmarks.settings import Settings

TITLE = "Real models: onnxcompress quantize MODEL"
TARGET = (
    f"at most {MOST_BYTES:.0%} of the bytes where {MOSTLY:.0%} are float weights, latency not above 1"
    " beyond noise, fidelity not below the first peer's"
)

_ITEMS = {
    "efficientnet-lite0": 250,
    "minilm-l3": 64,
    "silero-vad": 1,
    "silero-vad-16k-seq": 1,
}
_FEW_ITEMS = 8
_TIMED_CALLS = 4
_LOADS = 3
_FLOAT = 1

Feeds = dict[str, np.ndarray]


def measure(settings: Settings) -> None:
    """Measure and print, a line for each model when it is done, then the table."""
    if not settings.script.is_file():
        print(f"left out: the script that scores real models is not at {settings.script}; give --corpus-script")
        return
    names = settings.real_models()
    if not names:
        print(f"left out: there are no models in {settings.corpus}; run {settings.script.name} fetch")
        return
    rows = []
    for name in names:
        try:
            with tempfile.TemporaryDirectory(prefix="onnxcompress-bench-") as folder:
                rows.append(measured(name, Path(folder), settings))
        except Failed as failure:
            print(f"{name}: {failure}", flush=True)
            continue
        print("  ".join(cells(rows[-1])), flush=True)
    print("\n" + report(rows))


def measured(name: str, folder: Path, settings: Settings, *options: str | Path, verb: str = "quantize") -> Row:
    """One model compressed by a verb with these options, and judged."""
    original, compressed = settings.corpus / name / "model.onnx", folder / "small.onnx"
    copies = [copy_seconds(model_files(Model.open(original)), folder)]
    ran = run(tool(verb, original, "-o", compressed, "--force", "--quiet", *options), codes=(0, 1))
    copies += [copy_seconds(model_files(Model.open(original)), folder) for _ in range(2)]
    if ran.code:
        raise Failed(f"the result did not pass: {ran.output}")
    found = _compared(name, original, compressed, settings)
    calls = _feeds(name, folder, settings)
    metric = next(iter(found["original"]))
    return Row(
        name=name,
        float_share=_float_share(original),
        bytes_ratio=found["bytes_ratio"],
        sqnr_db=found["sqnr_db"],
        cosine=found["cosine"],
        metric=metric,
        before=found["original"][metric],
        after=found["candidate"][metric],
        items=found["n"],
        agreement=_agreement(original, compressed, calls) if _wants_agreement(name) else None,
        latency=tuple(_latency(original, compressed, calls, threads, settings.seconds) for threads in (1, 2)),
        seconds=ran.seconds,
        copies=ran.seconds / median(copies),
    )


def _script(settings: Settings, *arguments: str | Path) -> str:
    command = [sys.executable, str(settings.script), *map(str, arguments)]
    return run(command).output


def _compared(name: str, original: Path, compressed: Path, settings: Settings) -> dict[str, Any]:
    """What the corpus script finds on real data; its own timing is kept short."""
    few = ("-n", str(settings.items)) if settings.items else ()
    output = _script(settings, "compare", name, original, compressed, "--seconds", "0.1", *few)
    found: dict[str, Any] = json.loads(output)
    return found


def calibration(name: str, folder: Path, settings: Settings, items: int) -> Path:
    """A folder with calls of the calibration split, none of which are in the evaluation split."""
    target = folder / "calibration"
    _script(settings, "feeds", name, "--split", "calib", "-n", str(items), "-o", target)
    return target


def _feeds(name: str, folder: Path, settings: Settings) -> list[Feeds]:
    target = folder / "feeds"
    items = _ITEMS.get(name, _FEW_ITEMS)
    if not target.exists():
        _script(settings, "feeds", name, "--split", "eval", "-n", str(items), "-o", target)
    return [dict(np.load(file)) for file in sorted(target.glob("*.npz"))]


def _float_share(path: Path) -> float:
    """The part of all bytes that are float tensors of two or more dimensions."""
    model = Model.open(path)
    weights = sum(model.nbytes(t) for t in model.tensors() if t.data_type == _FLOAT and len(t.dims) > 1)
    return weights / sum(file.stat().st_size for file in model_files(model))


def _wants_agreement(name: str) -> bool:
    """Whether other tools were judged by it; elsewhere the last axis may be rows of pixels."""
    return any(peer.agreement is not None for peer in PEERS.get(name, ()))


def _agreement(original: Path, compressed: Path, calls: Sequence[Feeds]) -> float | None:
    """How often the greatest value along the last axis of the first output stays the greatest."""
    first, second = Session(original), Session(compressed)
    name = first.outputs[0].name
    same: list[np.ndarray] = []
    for feeds in calls:
        a, b = first.run(feeds)[name], second.run(feeds)[name]
        if not isinstance(a, np.ndarray) or a.ndim < 2 or a.shape != b.shape or a.shape[-1] < 2:
            return None
        same.append((a.argmax(-1) == b.argmax(-1)).ravel())
    return float(np.concatenate(same).mean())


def _latency(original: Path, compressed: Path, calls: Sequence[Feeds], threads: int, seconds: float) -> Interval:
    """Latency of the compressed model over the original's, with its interval."""
    timed = [calls[i * len(calls) // _TIMED_CALLS] for i in range(min(_TIMED_CALLS, len(calls)))]

    def rounds() -> Iterator[Callers]:
        for number in range(_LOADS):
            order = (original, compressed) if number % 2 else (compressed, original)
            sessions = {path: Session(path, threads=threads) for path in order}
            yield [(sessions[original].caller(f), sessions[compressed].caller(f)) for f in timed]

    loads = rounds()
    found = paired([lambda: next(loads)] * _LOADS, seconds)
    return Interval(1 / found.speedup, 1 / found.speedup_high, 1 / found.speedup_low)
