"""Sums over one value of both models, call by call: nothing of the values themselves is kept."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnxcompress.stats.magnitudes import without_masks
from onnxcompress.verify.sums import IDENTICAL_DB, Sums

NOT_FINITE_DB = -IDENTICAL_DB  # of a value that is NaN or infinite where the first model's is not


class Meter:
    """Figures of floats are those of `Sums`; of anything else the share of equal elements counts.

    Positions that an attention mask marks as padding are left out of values that share its axes.
    """

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.fault: str | None = None
        self.dtype: np.dtype | None = None  # of the second model's
        self._sums: Sums | None = None
        self._equal = self._count = 0

    def add(self, x: Any, y: Any, keep: np.ndarray | None) -> None:
        """Add what one call gave; ``keep`` marks positions ``(batch, time)`` that count."""
        if self.fault is not None:
            return
        if not isinstance(x, np.ndarray) or not isinstance(y, np.ndarray):
            self.fault = "no tensor"
            return
        self.shape, self.dtype = x.shape, y.dtype
        if x.shape != y.shape:
            self.fault = f"its shape is {_shape(x)} in the first and {_shape(y)} in the second"
            return
        x, y = _numbers(x), _numbers(y)
        if (x.dtype.kind == "f") != (y.dtype.kind == "f"):
            self.fault = f"it is {x.dtype.name} in the first and {y.dtype.name} in the second"
            return
        if keep is not None and x.shape[:2] == keep.shape:
            x, y = x[keep], y[keep]
        if x.dtype.kind == "f":
            self._sums = self._sums or Sums()
            self._sums.add(without_masks(x).reshape(1, 1, -1), y.reshape(1, 1, -1))
        else:
            self._equal += int(np.count_nonzero(x == y))
            self._count += x.size

    @property
    def agreement(self) -> float | None:
        """The share of equal elements, None for floats and where there are none."""
        return self._equal / self._count if self._count else None

    def figures(self) -> tuple[float, float, float]:
        """SQNR in dB, cosine and largest absolute error; NaN where nothing was compared or it is no float."""
        if self._sums is None:
            return math.nan, math.nan, math.nan
        sqnr, cosine, peak = self._sums.figures()
        return (NOT_FINITE_DB, cosine, peak) if self._sums.bad else (sqnr, cosine, peak)


def _shape(x: np.ndarray) -> str:
    return "×".join(map(str, x.shape)) or "scalar"


def _numbers(x: np.ndarray) -> np.ndarray:
    """The array in a type of numpy's own, where it is one of ml_dtypes."""
    if x.dtype.kind != "V":
        return x
    return x.astype(np.float32 if "float" in x.dtype.name else np.int32)
