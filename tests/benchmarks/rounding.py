"""Error-feedback rounding of an encoder's matrix products, against the time of measuring what they see."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.solvers.feedback import feedback
from onnxcompress.solvers.groups import Grid, per_block
from tests.benchmarks.tables import table

if TYPE_CHECKING:
    from tests.benchmarks.settings import Settings

TITLE = "Error feedback: six layers of an encoder, 384 wide, 10.6 million weights"
TARGET = "under ten times the products that make its Gram matrices from 2,048 positions"
_SHAPES = ((384, 384),) * 4 + ((1536, 384), (384, 1536))
_LAYERS = 6
_POSITIONS = 2048


def measure(_: Settings) -> None:
    """Measure and print a table."""
    rng = np.random.default_rng(0)
    cases = [(rng.standard_normal(shape).astype(np.float32), _seen(rng, shape[1])) for shape in _SHAPES]
    started = time.perf_counter()
    grams = [x.T.astype(np.float64) @ x.astype(np.float64) / len(x) for _, x in cases for _ in range(_LAYERS)]
    collecting = time.perf_counter() - started
    lines = []
    for bits, block in ((8, 0), (4, 32), (2, 16)):
        started = time.perf_counter()
        for number, gram in enumerate(grams):
            weight = cases[number // _LAYERS][0]
            groups = per_block(weight.shape, (0,), block or weight.shape[1])
            feedback(weight, gram, Grid(bits), groups)
        seconds = time.perf_counter() - started
        lines.append([str(bits), str(block or "row"), f"{seconds:.1f}", f"{seconds / collecting:.1f}"])
    print(table(["bits", "block", "seconds", "times the products"], lines))


def _seen(rng: np.random.Generator, inputs: int) -> np.ndarray:
    mixed = rng.standard_normal((inputs, inputs)) / np.sqrt(inputs)
    found: np.ndarray = (rng.standard_normal((_POSITIONS, inputs)) @ mixed).astype(np.float32)
    return found
