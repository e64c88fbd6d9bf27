r"""Scales and zero points of least weighted squared error.

A group of weights has  Σⱼ hⱼ (wⱼ − s (qⱼ − z))²  to lose, hⱼ being what the input j sees: diag(H), say. Candidates
are spread geometrically between the scale that clips nothing and the one that suits a Gaussian of the same spread (the
steps of J. Max, "Quantizing for minimum distortion", 1960); the best is refined by Lloyd's alternation of codes and
least squares, s = Σ h w (q−z) / Σ h (q−z)². One bit needs no search: s/2 = Σ h|w| / Σ h is the optimum of ±s/2
(Rastegari et al. 2016, arXiv 1603.05279), and two free levels are the means of what lies on either side of
their middle.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.solvers.parallel import ordered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxcompress.solvers.groups import Grid, Groups

Array = np.ndarray
Found = tuple[Array, Array | None]

_CHUNK = 1 << 17  # weights worked on at a time: they and what is computed from them stay in the processor's cache
_SAMPLE = 1 << 20  # weights at most from which one scale for all is found
_STEPS = {8: 0.0308, 4: 0.335, 3: 0.586, 2: 0.996}  # of a Gaussian of unit variance
_TRIES = 12
_REFINEMENTS = 3
_ENDS = (0.5, 0.8, 0.92, 1.1)


def weighted_scales(
    W: Array, weight_per_input: Array, grid: Grid, groups: Groups, dtype: np.dtype | None = None
) -> Found:
    """Scales as they will be stored, and zero points.

    Args:
        W: weights (out, in).
        weight_per_input: how much an error counts, not negative: (in,), or (parts, in) for equal parts of the rows.
        grid: the codes to be used.
        groups: rows, blocks of rows, or one group of all.
        dtype: type of the scales, float32 unless given.

    Returns:
        Scales in ``groups.scale_shape``; zero points likewise, uint8, or of the type of the scales for one bit, or None
        for a symmetric grid.

    Raises:
        ValueError: a weight is not finite.
    """
    dtype = np.dtype(np.float32) if dtype is None else np.dtype(dtype)
    if not np.isfinite(W).all():
        raise ValueError("weights are not finite")
    with np.errstate(over="ignore"):
        importance = np.minimum(np.atleast_2d(np.asarray(weight_per_input, np.float32)), np.finfo(np.float32).max)
    V, h = _sampled(W, importance) if 0 in groups.shared else _rows(W, importance, groups)
    step = max(1, _CHUNK // max(1, V[0].size))
    parts = [slice(i, i + step) for i in range(0, len(V), step)]

    def search(rows: slice) -> Found:
        mine = h[rows] if len(h) > 1 else h
        with np.errstate(over="ignore", invalid="ignore"):  # where squares overflow nothing is clipped
            return _search(np.asarray(V[rows], np.float32), mine, grid)

    found = list(ordered(search, parts))
    scale = storable(np.concatenate([s for s, _ in found]), dtype).reshape(groups.scale_shape)
    if grid.symmetric:
        return scale, None
    zero = np.concatenate([z for _, z in found if z is not None]).reshape(groups.scale_shape)
    return scale, zero.astype(dtype if grid.bits == 1 else np.uint8)


def storable(scale: Array, dtype: np.dtype) -> Array:
    """Scales in the type of their storage, neither infinite nor zero."""
    limit = np.finfo(dtype)
    kept = np.clip(scale, -limit.max, limit.max).astype(dtype)
    stored: Array = np.where(kept == 0, limit.tiny, kept).astype(dtype)
    return stored


def _rows(W: Array, importance: Array, groups: Groups) -> tuple[Array, Array]:
    """Weights (out, blocks, members), and what they count, (out or 1, blocks, members)."""
    shape = groups.shape if len(groups.shape) == 3 else (len(W), 1, W.shape[1])
    if len(importance) > 1:
        importance = np.repeat(importance, len(W) // len(importance), 0)
    return W.reshape(shape), _counted(importance.reshape(len(importance), *shape[1:]))


def _sampled(W: Array, importance: Array) -> tuple[Array, Array]:
    """All weights as one group, (1, 1, members); of many rows some, and those with the extremes."""
    rows = np.arange(0, len(W), max(1, -(-W.size // _SAMPLE)))
    if len(rows) < len(W):
        rows = np.unique([*rows, W.max(1).argmax(), W.min(1).argmin()])
    part = rows * len(importance) // max(1, len(W))
    return W[rows].reshape(1, 1, -1), _counted(importance[part].reshape(1, 1, -1))


def _counted(importance: Array) -> Array:
    """Positive everywhere, scaled to a mean of about one: inputs that are never seen decide where nothing else does."""
    mean = importance.mean(-1, keepdims=True, dtype=np.float64)
    usable = np.isfinite(mean) & (mean > 0)
    scaled = np.where(usable, importance / np.where(usable, mean, 1), 1)
    return np.maximum(scaled, 1e-6).astype(np.float32)


def _search(V: Array, h: Array, grid: Grid) -> Found:
    if grid.bits == 1:
        return _two_levels(V, h, grid)
    low, high = V.min(-1, keepdims=True), V.max(-1, keepdims=True)
    best = np.full(low.shape, np.inf)
    scale = _nonzero(np.maximum(-low, high) / grid.high)
    zero = None if grid.symmetric else np.zeros_like(low)
    ends = (low, high)
    for s, z, low_, high_ in _candidates(V, h, low, high, grid):
        better = _error(V, h, s, z, grid)
        best, scale, zero, ends = _kept(better, best, (scale, s), (zero, z), ends, (low_, high_))
    if not grid.symmetric:
        for side, factor in itertools.product((0, 1, 0, 1), _ENDS):
            moved = (ends[0] * factor, ends[1]) if side == 0 else (ends[0], ends[1] * factor)
            s, z = _spread(*moved, grid)
            better = _error(V, h, s, z, grid)
            best, scale, zero, ends = _kept(better, best, (scale, s), (zero, z), ends, moved)
    for _ in range(_REFINEMENTS):
        for free in (False, True)[: 1 if zero is None else 2]:
            s, z = _regressed(V, h, scale, zero, grid) if free else (_fitted(V, h, scale, zero, grid), zero)
            better = _error(V, h, s, z, grid)
            best, scale, zero, ends = _kept(better, best, (scale, s), (zero, z), ends, ends)
    return scale.astype(np.float32), zero


def _kept(
    error: Array,
    best: Array,
    scales: tuple[Array, Array],
    zeros: tuple[Array | None, Array | None],
    ends: tuple[Array, Array],
    moved: tuple[Array, Array],
) -> tuple[Array, Array, Array | None, tuple[Array, Array]]:
    """What is kept of the best so far and a candidate, group by group."""
    better = error < best
    zero = None if zeros[0] is None or zeros[1] is None else np.where(better, zeros[1], zeros[0])
    kept = (np.where(better, moved[0], ends[0]), np.where(better, moved[1], ends[1]))
    return np.where(better, error, best), np.where(better, scales[1], scales[0]), zero, kept


def _candidates(
    V: Array, h: Array, low: Array, high: Array, grid: Grid
) -> Iterator[tuple[Array, Array | None, Array, Array]]:
    """Scales, zero points, and the ends of the range that they are for."""
    bound = np.maximum(-low, high) if grid.symmetric else high - low
    widest = bound / grid.high
    deviation = np.sqrt((h * np.square(V)).sum(-1, keepdims=True) / h.sum(-1, keepdims=True))
    suited = 0.8 * _STEPS.get(grid.bits, 0.0308) * (1.2 if grid.ternary else 1.0) * deviation
    narrowest = np.clip(suited / np.maximum(widest, np.finfo(np.float32).tiny), 0.1, 0.6)
    tries = _TRIES if grid.bits < 8 else _TRIES // 2
    signed = np.where(-low >= high, low, high)  # the end that is farther out
    for power in np.linspace(0, 1, tries, dtype=np.float32):
        ratio = narrowest**power
        if not grid.symmetric:
            yield (*_spread(low * ratio, high * ratio, grid), low * ratio, high * ratio)
        elif grid.low == -grid.high:
            yield _nonzero(bound * ratio / grid.high), None, low, high
        else:  # one code more on the negative side: either end of the range may get it
            scale = signed * ratio / grid.low * (1 + power / max(1, -grid.low))
            yield _nonzero(scale), None, low, high
            yield _nonzero(-scale), None, low, high


def _spread(low: Array, high: Array, grid: Grid) -> tuple[Array, Array]:
    """Scale and zero point of an asymmetric grid over a range; zero is one of the steps."""
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    scale = _nonzero((high - low) / grid.high)
    return scale, np.clip(np.rint(-low / scale), 0, grid.high).astype(np.float32)


def _nonzero(scale: Array) -> Array:
    return np.where(np.abs(scale) > np.finfo(np.float32).tiny, scale, np.float32(1)).astype(np.float32)


def _shifted(V: Array, scale: Array, zero: Array | None, grid: Grid) -> Array:
    """Nearest codes less the zero point."""
    shift = np.float32(0) if zero is None else zero
    codes: Array = V * (np.float32(1) / scale)
    np.rint(codes, out=codes)  # zero points are whole numbers here
    return np.clip(codes, grid.low - shift, grid.high - shift, out=codes)


def _error(V: Array, h: Array, scale: Array, zero: Array | None, grid: Grid) -> Array:
    rest = _shifted(V, scale, zero, grid)
    rest *= scale
    rest -= V
    np.square(rest, out=rest)
    rest *= h
    total: Array = rest.sum(-1, keepdims=True)
    return total


def _fitted(V: Array, h: Array, scale: Array, zero: Array | None, grid: Grid) -> Array:
    """The scale of least squares for the codes of a scale and zero point."""
    codes = _shifted(V, scale, zero, grid)
    counted = codes * h
    square = (counted * codes).sum(-1, keepdims=True)
    product = (counted * V).sum(-1, keepdims=True)
    return _nonzero(np.where(square > 0, product / np.maximum(square, 1e-30), scale))


def _regressed(V: Array, h: Array, scale: Array, zero: Array | None, grid: Grid) -> tuple[Array, Array]:
    """Scale and zero point of the line through weights and their codes, the zero point rounded."""
    shift = np.float32(0) if zero is None else zero
    codes = _shifted(V, scale, zero, grid)
    total = h.sum(-1, keepdims=True)
    middle, mean = ((h * values).sum(-1, keepdims=True) / total for values in (codes, V))
    codes -= middle
    variance = (h * np.square(codes)).sum(-1, keepdims=True)
    product = (h * codes * V).sum(-1, keepdims=True)
    slope = _nonzero(np.where(variance > 0, product / np.maximum(variance, 1e-30), scale))
    found = np.clip(np.rint(shift + middle - mean / slope), 0, grid.high).astype(np.float32)
    return _fitted(V, h, slope, found, grid), found


def _two_levels(V: Array, h: Array, grid: Grid) -> Found:
    total = h.sum(-1, keepdims=True)
    if grid.symmetric:
        return _nonzero(2 * (h * np.abs(V)).sum(-1, keepdims=True) / total), None
    middle = (h * V).sum(-1, keepdims=True) / total
    for _ in range(8):
        above = h * (middle < V)
        share = above.sum(-1, keepdims=True)
        sums = (above * V).sum(-1, keepdims=True), (h * V).sum(-1, keepdims=True)
        upper = np.where(share > 0, sums[0] / np.maximum(share, 1e-30), middle)
        lower = np.where(total > share, (sums[1] - sums[0]) / np.maximum(total - share, 1e-30), middle)
        middle = (upper + lower) / 2
    distance = upper - lower
    alike = np.abs(distance) < 1e-3 * np.abs(middle)  # one level is zero then, lest the zero point be huge
    scale = _nonzero(np.where(alike, middle, distance))
    return scale, np.where(alike, 0, 0.5 - middle / scale).astype(np.float32)
