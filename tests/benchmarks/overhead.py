"""Verification's own cost: the whole of it over the inferences that it makes.

Time within `Session.run` counts as inference, of whichever model and for whatever purpose; loading sessions
is shown apart, though it counts as cost.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from onnxcompress.compress import verify_models
from onnxcompress.runtime.session import Session
from onnxcompress.verify.budgets import Budgets
from tests.benchmarks.measure import ROOT, run, tool
from tests.benchmarks.tables import number, table, verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.benchmarks.settings import Settings

TITLE = "Verification over the inferences in it"
LIMIT = 1.25
TARGET = f"at most {LIMIT}"

_ROUNDS = 3
_REAL = ("mnist-cnn", "efficientnet-lite0", "minilm-l3", "crepe-full")


@dataclass(frozen=True)
class Row:
    """Seconds of one verification: all of it, within inferences, loading sessions."""

    name: str
    total: float
    inferring: float
    loading: float

    @property
    def ratio(self) -> float:
        """The whole over the inferences."""
        return self.total / self.inferring


def measure(settings: Settings) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="onnxcompress-bench-") as folder:
        rows = [_row(n, p, Path(folder), settings.rounds or _ROUNDS) for n, p in _models(settings)]
    print(report(rows))


def _models(settings: Settings) -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / "sample_models").glob("*.onnx")):
        if not settings.models or path.stem in settings.models:
            yield path.stem, path
    wanted = settings.models or _REAL
    yield from ((n, settings.corpus / n / "model.onnx") for n in settings.real_models() if n in wanted)


def _row(name: str, path: Path, folder: Path, rounds: int) -> Row:
    compressed = folder / f"{name}.onnx"
    run(tool("quantize", path, "-o", compressed, "--force", "--quiet"))
    rows = [_once(name, path, compressed) for _ in range(rounds)]
    middle = median(row.ratio for row in rows)
    return min(rows, key=lambda row: abs(row.ratio - middle))


def _once(name: str, original: Path, compressed: Path) -> Row:
    with clocked("run") as inferring, clocked("__init__") as loading:
        started = time.perf_counter()
        verify_models(original, compressed, Budgets())
        total = time.perf_counter() - started
    return Row(name, total, sum(inferring), sum(loading))


@contextmanager
def clocked(method: str) -> Iterator[list[float]]:
    """Collects the seconds of every call of a method of `Session`."""
    plain: Callable[..., Any] = getattr(Session, method)
    taken: list[float] = []

    @wraps(plain)
    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return plain(*arguments, **options)
        finally:
            taken.append(time.perf_counter() - started)

    setattr(Session, method, timed)
    try:
        yield taken
    finally:
        setattr(Session, method, plain)


def report(rows: Sequence[Row]) -> str:
    """The table, with where the time beyond inferences goes, as parts of the inferences."""
    cells = [
        [
            row.name,
            number(row.ratio),
            number(row.loading / row.inferring, 2),
            number((row.total - row.inferring - row.loading) / row.inferring, 2),
            f"{row.inferring:.1f} s",
            verdict(row.ratio <= LIMIT),
        ]
        for row in rows
    ]
    return table(["model", "all / inferences", "of which loading", "other", "inferences", "target"], cells)
