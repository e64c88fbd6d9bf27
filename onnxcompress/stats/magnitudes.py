"""Channels of one output that differ by orders of magnitude, and so must not share one figure.

A detector gives boxes in hundreds of pixels and scores below one in one tensor. Its overall SQNR is that of
the boxes: with all scores wiped out it still reads 30 dB and more. So channels are sorted by magnitude and
parted wherever there is a gap, and each group has a figure of its own. Only gaps part: scores of many classes
form a continuum.
"""

from __future__ import annotations

import math

import numpy as np

_GAP = 1.5  # orders of magnitude between neighbours
_MOST_CHANNELS = 4096
_MASK, _FAR = 1e9, 1e5  # magnitude of masks, and how far beyond other values that is
_DEAD = 1e-9  # relative to the largest channel: nothing but rounding


def without_masks(x: np.ndarray) -> np.ndarray:
    """The values with NaN in place of those that stand for minus infinity: beyond 1e9, and far beyond all others.

    Such as the −1e38 that masks add to scores: beside them everything else would seem exact.
    """
    if x.dtype.kind != "f" or x.dtype.itemsize < 4 or not x.size:
        return x
    with np.errstate(invalid="ignore"):
        huge = np.abs(x) >= _MASK
    if not huge.any():
        return x
    rest = x[~huge & np.isfinite(x)].astype(np.float64)
    if not rest.size or float(np.square(rest).mean()) ** 0.5 * _FAR > _MASK:
        return x
    return np.where(huge, np.asarray(np.nan, x.dtype), x)


def channel_axis(x: np.ndarray, dims: tuple[int | str | None, ...] | None) -> int | None:
    """The axis along which magnitudes differ most, if there is one where they differ by a gap.

    The first axis counts as the batch unless its size is fixed and above one.
    """
    if x.ndim < 2 or x.dtype.kind != "f" or not x.size:
        return None
    batch = dims is None or not dims or not isinstance(dims[0], int) or dims[0] == 1
    best, widest = None, _GAP
    squares = np.square(np.where(np.isfinite(x), x, 0).astype(np.float64))
    for axis in range(1 if batch else 0, x.ndim):
        if 2 <= x.shape[axis] <= _MOST_CHANNELS:
            others = tuple(i for i in range(x.ndim) if i != axis)
            found = max((gap for gap, _ in _gaps(np.sqrt(squares.sum(axis=others)))), default=0.0)
            if found >= widest:
                best, widest = axis, found
    return best


def magnitude_groups(rms: np.ndarray) -> list[list[int]]:
    """Channels in groups of like magnitude, the largest first; channels that are zero are left out.

    Args:
        rms: the magnitude of each channel, up to a common factor.
    """
    alive = _alive(rms)
    if not len(alive):
        return []
    cuts = [place + 1 for gap, place in _gaps(rms) if gap >= _GAP]
    return [sorted(int(i) for i in part) for part in np.split(alive, cuts)]


def describe(axis: int, channels: list[int], rms: float) -> str:
    """A group in words: ``axis 1, channels 0-3, about 1e+02``."""
    runs: list[list[int]] = []
    for channel in channels:
        if runs and channel == runs[-1][1] + 1:
            runs[-1][1] = channel
        else:
            runs.append([channel, channel])
    shown = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs[:4]) + (", ..." if len(runs) > 4 else "")
    return f"axis {axis}, channel{'s' if len(channels) > 1 else ''} {shown}, about {rms:.0e}"


def _alive(rms: np.ndarray) -> np.ndarray:
    """Channels by falling magnitude, without those that are zero but for rounding."""
    order = np.argsort(-rms, kind="stable")
    alive: np.ndarray = order[rms[order] > _DEAD * rms.max(initial=0.0)]
    return alive


def _gaps(rms: np.ndarray) -> list[tuple[float, int]]:
    """Orders of magnitude from each channel to the next smaller one, and the place in that order."""
    sizes = rms[_alive(rms)]
    return [(math.log10(sizes[i] / sizes[i + 1]), i) for i in range(len(sizes) - 1)]
