"""The range of a value that eight bits, or sixteen, are spread over.

Whatever lies outside is clipped, whatever lies inside is rounded to steps of (high − low) / (2ᵇ − 1). Four ways to
choose:

* ``min-max``: nothing is clipped;
* ``percentile``: all but a ten-thousandth, or a thousandth, of the values at each end (Wu et al. 2020, arXiv
  2004.09602);
* ``entropy``: the clipped and rounded distribution is closest to the real one, by the Kullback-Leibler divergence
  (S. Migacz, "8-bit inference with TensorRT", 2017);
* ``squared error``: the sum of clipping and rounding errors is least (Choukroun et al. 2019, arXiv 1902.06822).

Which one is best differs from value to value, so all are candidates, and the error that they cause decides. With
sixteen bits nothing is gained by clipping, and the range is twice that which was seen, for what was not; unless some
values are so far out (masks of attention) that the rest would have few steps left.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray
_BINS = 2048
_HEADROOM = 2.0  # one bit of sixteen
_FAR_OUT = 1024  # times what a sample spans, so that six bits of sixteen are left for it
_TINY = float(np.finfo(np.float32).tiny) * 2**20
_HUGE = float(np.finfo(np.float32).max) / 4
_SHRINK = np.array([1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])

Range = tuple[float, float]


def grid(low: float, high: float, bits: int = 8) -> tuple[float, int]:
    """Scale and zero point of so many unsigned bits over a range; zero is always one of the steps.

    The scale is a normal float32 number whatever the range: for a constant zero it is one.
    """
    low, high = max(min(low, 0.0), -_HUGE), min(max(high, 0.0), _HUGE)
    levels = 2**bits - 1
    scale = float(np.float32((high - low) / levels))
    if scale < _TINY:
        return 1.0, 0
    return scale, int(np.clip(np.rint(-low / scale), 0, levels))


def rounded(values: Array, low: float, high: float, bits: int = 8) -> Array:
    """The values as they come out of so many bits over a range."""
    scale, zero = grid(low, high, bits)
    codes = np.clip(np.rint(values / np.float32(scale)) + zero, 0, 2**bits - 1) - zero
    decoded: Array = (codes * np.float32(scale)).astype(np.float32)
    return decoded


def squared_error(values: Array, low: float, high: float, bits: int = 8) -> float:
    """Σ (x − x̂)² over a range."""
    difference = rounded(values, low, high, bits) - values.astype(np.float64)
    return float(np.square(difference).sum())


def candidates(sample: Array, low: float, high: float, bits: int = 8) -> dict[str, Range]:
    """Ranges by method, each distinct.

    Args:
        sample: values, flat and finite; without any there is nothing to choose from.
        low: least of all values, of which the sample is a part; it may be infinite.
        high: greatest of them.
        bits: over which the range is spread.
    """
    low, high = max(min(low, 0.0), -_HUGE), min(max(high, 0.0), _HUGE)
    found: dict[str, Range] = {"min-max": (low, high)}
    if not sample.size or high - low < _TINY:
        return found
    if bits > 8 and high - low < _FAR_OUT * float(np.ptp(np.clip(sample, low, high))):
        return {"headroom": (_HEADROOM * low, _HEADROOM * high)}
    sample = np.clip(sample.astype(np.float64), low, high)  # in float64 no difference overflows
    for percent in (99.99, 99.9):
        ends = np.percentile(sample, [100 - percent, percent])
        found[f"percentile {percent}"] = (max(low, min(float(ends[0]), 0.0)), min(high, max(float(ends[1]), 0.0)))
    found["squared error"] = _least_error(sample, low, high, bits)
    if 2**bits < _BINS:
        found["entropy"] = _least_divergence(sample, low, high, 2**bits - 1)
    distinct: dict[Range, str] = {}
    for name, ends_ in found.items():
        if ends_[1] - ends_[0] >= _TINY:
            distinct.setdefault(ends_, name)
    return {name: ends_ for ends_, name in distinct.items()}


def _least_error(sample: Array, low: float, high: float, bits: int) -> Range:
    """One end after the other is drawn in as long as the squared error falls; twice."""
    best, error = (low, high), squared_error(sample, low, high, bits)
    for _ in range(2):
        for side in (1, 0):
            start = best
            for part in _SHRINK[1:]:
                ends = (start[0] * part, start[1]) if side == 0 else (start[0], start[1] * part)
                found = squared_error(sample, ends[0], ends[1], bits)
                if found < error:
                    best, error = (float(ends[0]), float(ends[1])), found
    return best


def _least_divergence(sample: Array, low: float, high: float, levels: int) -> Range:
    """Both ends drawn in by the same part."""
    counts, edges = np.histogram(sample, _BINS, (low, high))
    real = counts / counts.sum()
    middles = (edges[1:] + edges[:-1]) / 2
    best, least = (low, high), np.inf
    for part in _SHRINK:
        ends = (float(low * part), float(high * part))
        found = _divergence(real, middles, ends, levels)
        if found < least:
            best, least = ends, found
    return best


def _divergence(real: Array, middles: Array, ends: Range, levels: int) -> float:
    """Σ p log(p / q), q spread evenly over the bins of each step in which there is anything."""
    clipped = np.clip(middles, *ends)
    scale = (ends[1] - ends[0]) / levels
    zero = np.rint(-ends[0] / scale)
    step = np.clip(np.rint(clipped / scale) + zero, 0, levels).astype(np.int64)
    within = (middles >= ends[0]) & (middles <= ends[1])
    moved = np.bincount(step, real, levels + 1)
    alive = real > 0
    share = np.bincount(step[within & alive], minlength=levels + 1)
    spread = np.where(within & alive, moved[step] / np.maximum(share[step], 1), 1e-12)
    return float((real[alive] * np.log(real[alive] / np.maximum(spread[alive], 1e-12))).sum())
