"""The range of a value that eight bits are spread over.

Whatever lies outside is clipped, whatever lies inside is rounded to steps of (high − low) / 255. Four ways to choose:

* ``min-max``: nothing is clipped;
* ``percentile``: all but a ten-thousandth, or a thousandth, of the values at each end (Wu et al. 2020, arXiv
  2004.09602);
* ``entropy``: the clipped and rounded distribution is closest to the real one, by the Kullback-Leibler divergence
  (S. Migacz, "8-bit inference with TensorRT", 2017);
* ``squared error``: the sum of clipping and rounding errors is least (Choukroun et al. 2019, arXiv 1902.06822).

Which one is best differs from value to value, so all are candidates, and the error that they cause decides.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray
_LEVELS = 255
_BINS = 2048
_TINY = float(np.finfo(np.float32).tiny) * 2**20
_HUGE = float(np.finfo(np.float32).max) / 4
_SHRINK = np.array([1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])

Range = tuple[float, float]


def grid(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of unsigned eight bits over a range; zero is always one of the steps.

    The scale is a normal float32 number whatever the range: for a constant zero it is one.
    """
    low, high = max(min(low, 0.0), -_HUGE), min(max(high, 0.0), _HUGE)
    scale = float(np.float32((high - low) / _LEVELS))
    if scale < _TINY:
        return 1.0, 0
    return scale, int(np.clip(np.rint(-low / scale), 0, _LEVELS))


def rounded(values: Array, low: float, high: float) -> Array:
    """The values as they come out of eight bits over a range."""
    scale, zero = grid(low, high)
    codes = np.clip(np.rint(values / np.float32(scale)) + zero, 0, _LEVELS) - zero
    decoded: Array = (codes * np.float32(scale)).astype(np.float32)
    return decoded


def squared_error(values: Array, low: float, high: float) -> float:
    """Σ (x − x̂)² over a range."""
    difference = rounded(values, low, high) - values.astype(np.float64)
    return float(np.square(difference).sum())


def candidates(sample: Array, low: float, high: float) -> dict[str, Range]:
    """Ranges by method, each distinct.

    Args:
        sample: values, flat and finite; without any there is nothing to choose from.
        low: least of all values, of which the sample is a part; it may be infinite.
        high: greatest of them.
    """
    low, high = max(min(low, 0.0), -_HUGE), min(max(high, 0.0), _HUGE)
    found: dict[str, Range] = {"min-max": (low, high)}
    if not sample.size or high - low < _TINY:
        return found
    sample = np.clip(sample.astype(np.float64), low, high)  # in float64 no difference overflows
    for percent in (99.99, 99.9):
        ends = np.percentile(sample, [100 - percent, percent])
        found[f"percentile {percent}"] = (max(low, min(float(ends[0]), 0.0)), min(high, max(float(ends[1]), 0.0)))
    found["squared error"] = _least_error(sample, low, high)
    found["entropy"] = _least_divergence(sample, low, high)
    distinct: dict[Range, str] = {}
    for name, ends_ in found.items():
        if ends_[1] - ends_[0] >= _TINY:
            distinct.setdefault(ends_, name)
    return {name: ends_ for ends_, name in distinct.items()}


def _least_error(sample: Array, low: float, high: float) -> Range:
    """One end after the other is drawn in as long as the squared error falls; twice."""
    best, error = (low, high), squared_error(sample, low, high)
    for _ in range(2):
        for side in (1, 0):
            start = best
            for part in _SHRINK[1:]:
                ends = (start[0] * part, start[1]) if side == 0 else (start[0], start[1] * part)
                found = squared_error(sample, *ends)
                if found < error:
                    best, error = (float(ends[0]), float(ends[1])), found
    return best


def _least_divergence(sample: Array, low: float, high: float) -> Range:
    """Both ends drawn in by the same part."""
    counts, edges = np.histogram(sample, _BINS, (low, high))
    real = counts / counts.sum()
    middles = (edges[1:] + edges[:-1]) / 2
    best, least = (low, high), np.inf
    for part in _SHRINK:
        ends = (float(low * part), float(high * part))
        found = _divergence(real, middles, ends)
        if found < least:
            best, least = ends, found
    return best


def _divergence(real: Array, middles: Array, ends: Range) -> float:
    """Σ p log(p / q), q spread evenly over the bins of each step in which there is anything."""
    clipped = np.clip(middles, *ends)
    scale, zero = grid(*ends)
    step = np.clip(np.rint(clipped / scale) + zero, 0, _LEVELS).astype(np.int64)
    within = (middles >= ends[0]) & (middles <= ends[1])
    moved = np.bincount(step, real, _LEVELS + 1)
    alive = real > 0
    share = np.bincount(step[within & alive], minlength=_LEVELS + 1)
    spread = np.where(within & alive, moved[step] / np.maximum(share[step], 1), 1e-12)
    return float((real[alive] * np.log(real[alive] / np.maximum(spread[alive], 1e-12))).sum())
