"""How the values of a weight are spread, before and after, from a few of its rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from onnxcompress.report import Histogram
from onnxcompress.solvers.grid import Quantized

_BINS = 32
_SAMPLE = 1 << 16  # values, roughly


def histogram(original: np.ndarray, made: Any) -> Histogram | None:
    """Of the original values and of those that were made of them, which a few rows of both stand for.

    ``made`` is what a solver found: a Quantized, or what has ``values`` in the order of the original. None where it is
    neither, or no value is finite.
    """
    after = _rows(made)
    if after is None or not original.size:
        return None
    before = _strided(np.asarray(original))
    finite = before[np.isfinite(before)].astype(np.float64)
    if not finite.size:
        return None
    both = np.concatenate([finite, after[np.isfinite(after)].astype(np.float64)])
    low, high = float(both.min()), float(both.max())
    if not low < high:
        return None
    counts = [np.histogram(v, bins=_BINS, range=(low, high))[0] for v in (finite, both[finite.size :])]
    return Histogram(float(f"{low:.6g}"), float(f"{high:.6g}"), *(tuple(map(int, c)) for c in counts))


def _rows(made: Any) -> np.ndarray | None:
    if isinstance(made, Quantized):
        codes = made.codes
        places = _places(codes.shape[0], codes.size) if codes.ndim else slice(None)
        parts = {
            name: part[places] if codes.ndim and part.ndim == codes.ndim and part.shape[0] == codes.shape[0] else part
            for name in ("codes", "scale", "zero_point")
            if (part := getattr(made, name, None)) is not None
        }
        return dataclasses.replace(made, **parts).dequantize().reshape(-1)
    return _strided(np.asarray(made.values)) if isinstance(getattr(made, "values", None), np.ndarray) else None


def _strided(array: np.ndarray) -> np.ndarray:
    if array.ndim:
        array = array[_places(array.shape[0], array.size)]
    return array.reshape(-1)


def _places(rows: int, size: int) -> slice:
    return slice(None, None, max(1, min(rows // 8, size // _SAMPLE)))
