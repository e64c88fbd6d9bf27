r"""Rounding weights to an integer grid, the scales found by minimum squared error.

A group of weights shares a scale s and, when asymmetric, a zero point z:  ŵ = s · (q − z),  q in [low, high].
With N weights in a group, clipping the largest magnitude a of b-bit symmetric weights by the fraction δ costs
(δa)² once and saves 2δ · N · (a/L)²/12 of rounding noise, L = 2^(b−1) − 1; the best δ is N / (12 L²). At eight bits it
is below 9 % for groups under 16,384 weights, and the noise saved less than half of it, so the search over clipping
candidates is made where it can pay: large groups, and fewer than eight bits.

After the search, the scale of given codes is refined to its least-squares value s = Σ w(q−z) / Σ (q−z)².

One bit needs no search, see `scales`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.solvers.groups import Groups
from onnxcompress.solvers.parallel import ordered
from onnxcompress.solvers.scales import weighted_scales
from onnxcompress.solvers.sums import cancelled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxcompress.solvers.groups import Grid

Array = np.ndarray

_SEARCH_FROM = 16384  # weights in a group, at eight bits
_CHUNK = 1 << 18  # weights worked on at a time: they stay in the processor's cache
_REFINEMENTS = 2
_JUDGED = 16  # chunks at most, evenly spread, from which the error of a weight is told


@dataclass(frozen=True)
class Quantized:
    """Codes in the shape of the groups, scales and zero points that broadcast against them, and ‖W−Ŵ‖²/‖W‖².

    ``middle`` is the zero point where none is stored, see `Grid.middle`.
    """

    codes: Array
    scale: Array
    zero_point: Array | None
    error: float
    middle: float = 0.0

    def zeros(self) -> Array:
        """The zero points of an asymmetric grid."""
        if self.zero_point is None:
            raise ValueError("a symmetric grid has no zero points")
        return self.zero_point

    def dequantize(self) -> Array:
        """ŵ = s · (q − z), float32, in the shape of the groups."""
        shift = np.float32(self.middle) if self.zero_point is None else self.zero_point.astype(np.float32)
        return (self.codes.astype(np.float32) - shift) * self.scale.astype(np.float32)


@np.errstate(over="ignore", invalid="ignore")  # where squares overflow nothing is clipped
def quantize(
    weight: Array,
    grid: Grid,
    groups: Groups,
    scale_dtype: np.dtype | None = None,
    *,
    keep_sums: bool = False,
    floor: Array | None = None,
) -> Quantized:
    """Round a weight to a grid.

    Args:
        weight: values that can be viewed with ``groups.shape``; computed in float32.
        grid: the codes to be used.
        groups: which weights share a scale.
        scale_dtype: type in which scales are stored; codes are found for the scales as stored.
        keep_sums: let rounding errors cancel within each group, see `sums`.
        floor: least scales, which broadcast against those of the groups.

    Raises:
        ValueError: a weight is not finite.
    """
    view = np.asarray(weight).reshape(groups.shape)
    scale, zero = _scales(view, grid, groups, scale_dtype or np.dtype(np.float32))
    keep_sums = keep_sums and grid.bits > 1  # single bits are too far apart to make up for each other
    if floor is not None:
        scale = np.maximum(scale, floor).astype(scale.dtype)
    codes = np.empty(groups.shape, grid.dtype)

    def rounded(rows: slice) -> tuple[float, float]:
        part = _part(view, rows)
        s, z = _rows(scale, rows, groups), None if zero is None else _rows(zero, rows, groups)
        near = _round(part, s, z, grid)
        if keep_sums:
            near = _with_sums(part, near, s, z, grid, groups)
        codes[rows] = near
        if rows.start not in judged:
            return 0.0, 0.0
        near -= np.float32(grid.middle) if z is None else z
        near *= s
        near -= part
        return float(np.vdot(near, near)), float(np.vdot(part, part))

    parts = [slice(0, view.shape[0])] if keep_sums and 0 in groups.shared else list(_chunks(view.shape))
    judged = {rows.start for rows in parts[:: max(1, -(-len(parts) // _JUDGED))]}
    sums = list(ordered(rounded, parts))
    noise, energy = sum(n for n, _ in sums), sum(e for _, e in sums)
    stored_zero = None if zero is None else zero.astype(scale.dtype if grid.bits == 1 else np.uint8)
    return Quantized(codes, scale, stored_zero, noise / energy if energy else 0.0, grid.middle)


def _scales(view: Array, grid: Grid, groups: Groups, dtype: np.dtype) -> tuple[Array, Array | None]:
    """Scales as they will be stored, and zero points."""
    low, high = _ranges(view, groups)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError("weights are not finite")
    if grid.bits == 1:
        scale, zero = _two_levels(view, grid, groups)
        return _storable(scale, dtype), None if zero is None else zero.astype(dtype).astype(np.float32)
    if grid.bits < 8 or groups.members >= _SEARCH_FROM:
        scale, zero = _searched(view, grid, groups, low, high)
    else:
        scale, zero = _max_scales(low, high, grid)
    return _storable(scale, dtype), zero


def _with_sums(part: Array, codes: Array, scale: Array, zero: Array | None, grid: Grid, groups: Groups) -> Array:
    """The codes of some rows, with errors that cancel within each group."""
    own = [i for i in range(part.ndim) if i not in groups.shared]
    order = [*own, *groups.shared]
    scaled = part / scale.astype(np.float32) + (np.float32(0) if zero is None else zero)
    flat = [a.transpose(order).reshape(-1, groups.members) for a in (scaled, codes)]
    better = cancelled(flat[0], flat[1], grid.low, grid.high)
    moved = better.reshape([part.shape[i] for i in order]).transpose(np.argsort(order))
    return np.ascontiguousarray(moved)


@np.errstate(over="ignore", invalid="ignore")
def expected_error(weight: Array, grid: Grid, groups: Groups) -> float:
    """‖W−Ŵ‖²/‖W‖² to be expected of rounding without clipping: a step Δ leaves Δ²/12 for each weight.

    It takes one reading of the weight; NaN where a weight is not finite.
    """
    view = np.asarray(weight).reshape(groups.shape)
    low, high = _ranges(view, groups)
    scale, _ = _max_scales(low, high, grid)
    energy = sum(float(np.square(_part(view, rows)).sum(dtype=np.float64)) for rows in _chunks(view.shape))
    noise = float(np.square(scale, dtype=np.float64).sum()) * groups.members / 12
    return noise / energy if energy else 0.0


def _chunks(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, _CHUNK // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def _part(view: Array, rows: slice) -> Array:
    """Some rows as float32 at an aligned address: a small copy where the weight is mapped from a file."""
    part: Array = np.require(view[rows], np.float32, "A")
    return part


def _rows(values: Array, rows: slice, groups: Groups) -> Array:
    return values if 0 in groups.shared else values[rows]


def _ranges(view: Array, groups: Groups) -> tuple[Array, Array]:
    """Least and greatest weight of each group; NaN where a weight is NaN."""
    low = np.full(groups.scale_shape, np.inf, np.float32)
    high = np.full(groups.scale_shape, -np.inf, np.float32)

    def bounds(rows: slice) -> tuple[slice, Array, Array]:
        part = _part(view, rows)
        return rows, part.min(groups.shared, keepdims=True), part.max(groups.shared, keepdims=True)

    for rows, least, greatest in ordered(bounds, list(_chunks(view.shape))):
        if 0 in groups.shared:
            np.minimum(low, least, out=low)
            np.maximum(high, greatest, out=high)
        else:
            low[rows], high[rows] = least, greatest
    return low, high


def _max_scales(low: Array, high: Array, grid: Grid) -> tuple[Array, Array | None]:
    """Scales that clip nothing."""
    if grid.symmetric:
        return _nonzero(np.maximum(-low, high) / grid.high), None
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    scale = _nonzero((high - low) / grid.high)
    return scale, np.clip(np.rint(-low / scale), 0, grid.high).astype(np.float32)


def _nonzero(scale: Array) -> Array:
    return np.where(np.abs(scale) > np.finfo(np.float32).tiny, scale, np.float32(1)).astype(np.float32)


def _storable(scale: Array, dtype: np.dtype) -> Array:
    stored = np.clip(scale, -np.finfo(dtype).max, np.finfo(dtype).max).astype(dtype)
    kept: Array = np.where(stored == 0, np.finfo(dtype).tiny, stored).astype(dtype) if dtype != np.float32 else stored
    return kept


def _round(part: Array, scale: Array, zero: Array | None, grid: Grid) -> Array:
    codes: Array = part * (np.float32(1) / scale.astype(np.float32))
    codes += np.float32(grid.middle) if zero is None else zero
    np.rint(codes, out=codes)
    np.clip(codes, grid.low, grid.high, out=codes)
    return codes


def _candidates(low: Array, high: Array, grid: Grid) -> Iterator[tuple[Array, Array | None]]:
    """Scales and zero points to try.

    A symmetric grid of few bits has one code more on its negative side, so its scale is tried with both signs, such
    that either end of the range may get it.
    """
    ratios = np.linspace(1.0, 0.5, 26) if grid.bits < 8 else np.linspace(1.0, 0.7, 16)
    for ratio in ratios.astype(np.float32):
        if not grid.symmetric:
            yield _max_scales(low * ratio, high * ratio, grid)
        elif grid.bits == 8:
            yield _nonzero(np.maximum(-low, high) * ratio / grid.high), None
        else:
            bound = np.where(-low >= high, low, high) * ratio  # signed: the end that is farther out
            yield _nonzero(bound / grid.low), None
            yield _nonzero(np.abs(bound) / grid.high), None


def _searched(view: Array, grid: Grid, groups: Groups, low: Array, high: Array) -> tuple[Array, Array | None]:
    """The candidate of least squared error for each group, its scale refined by least squares."""
    scale, zero = _max_scales(low, high, grid)
    best = np.full(groups.scale_shape, np.inf, np.float64)
    for s, z in _candidates(low, high, grid):
        error = _error(view, s, z, grid, groups)
        better = error < best
        best = np.where(better, error, best)
        scale = np.where(better, s, scale)
        if zero is not None and z is not None:
            zero = np.where(better, z, zero)
    for _ in range(_REFINEMENTS):
        refined = _least_squares(view, scale, zero, grid, groups)
        error = _error(view, refined, zero, grid, groups)
        better = error < best
        best, scale = np.where(better, error, best), np.where(better, refined, scale)
    return scale.astype(np.float32), zero


def _accumulate(groups: Groups, rows: slice, total: Array, part: Array) -> None:
    if 0 in groups.shared:
        total += part
    else:
        total[rows] = part


def _rounded(
    view: Array, scale: Array, zero: Array | None, grid: Grid, groups: Groups
) -> Iterator[tuple[slice, Array, Array, Array]]:
    """Rows of a weight with their values, scales, and codes less the zero point."""
    for rows in _chunks(view.shape):
        part = _part(view, rows)
        s, z = _rows(scale, rows, groups), None if zero is None else _rows(zero, rows, groups)
        codes = _round(part, s, z, grid)
        if z is not None:
            codes -= z
        yield rows, part, s, codes


def _error(view: Array, scale: Array, zero: Array | None, grid: Grid, groups: Groups) -> Array:
    total = np.zeros(groups.scale_shape, np.float64)
    for rows, part, s, codes in _rounded(view, scale, zero, grid, groups):
        codes *= s
        codes -= part
        _accumulate(groups, rows, total, np.square(codes, out=codes).sum(groups.shared, keepdims=True))
    return total


def _least_squares(view: Array, scale: Array, zero: Array | None, grid: Grid, groups: Groups) -> Array:
    product, square = np.zeros(groups.scale_shape), np.zeros(groups.scale_shape)
    for rows, part, _, codes in _rounded(view, scale, zero, grid, groups):
        _accumulate(groups, rows, product, (codes * part).sum(groups.shared, keepdims=True))
        _accumulate(groups, rows, square, np.square(codes).sum(groups.shared, keepdims=True))
    return np.where(square > 0, product / np.maximum(square, 1e-30), scale).astype(np.float32)


def _two_levels(view: Array, grid: Grid, groups: Groups) -> tuple[Array, Array | None]:
    """Scale and zero point of one bit: ±s/2, or two free levels."""
    own = [i for i in range(view.ndim) if i not in groups.shared]
    flat = np.asarray(view, np.float32).transpose([*own, *groups.shared]).reshape(-1, groups.members)
    scale, zero = weighted_scales(flat, np.ones(groups.members), grid, Groups(flat.shape, (1,)))
    return scale.reshape(groups.scale_shape), None if zero is None else zero.reshape(groups.scale_shape)
