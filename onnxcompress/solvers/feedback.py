r"""Rounding with error feedback: each input takes back what rounding the ones before it did to the output.

GPTQ (Frantar et al. 2022, arXiv 2210.17323; OBQ, arXiv 2208.11580) rounds one column of W after the other and moves
the columns that are left such that the output changes least. With H + λI = R Rᵀ, R upper triangular, the error is
‖(W−Ŵ)R‖², whose j-th column is  Rⱼⱼ eⱼ + Σ_{i<j} Rᵢⱼ eᵢ,  e = w − ŵ. It is least for

    ŵⱼ = round(tⱼ),    tⱼ = wⱼ + Σ_{i<j} (Rᵢⱼ / Rⱼⱼ) eᵢ,

the same codes as GPTQ's without an inverse (Babai's nearest plane: Chen et al. 2025, arXiv 2507.18553). The sum over
all columns before a block is one matrix product, so halving the columns recursively leaves hardly anything else to
do. Inputs go in the order of falling diag(H); scales are found beforehand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.solvers.grid import Quantized
from onnxcompress.solvers.metric import decoded, plain_error, row_errors, stacked, unit_factors
from onnxcompress.solvers.scales import weighted_scales

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnxcompress.solvers.groups import Grid, Groups

Array = np.ndarray
_LEAF = 32  # columns that are rounded one by one before the others hear of it
_ROWS = 2048  # rows worked on at a time


@np.errstate(over="ignore", invalid="ignore")  # where products overflow nothing is found to be better
def feedback(
    W: Array,
    H: Array,
    grid: Grid,
    groups: Groups,
    scale_dtype: np.dtype | None = None,
    *,
    damping: float = 0.01,
    scales: tuple[Array, Array | None] | None = None,
    kept: Array | None = None,
) -> Quantized:
    """Round weights to a grid with error feedback; a row that it makes worse in the metric of H is rounded to nearest.

    Args:
        W: weights (out, in).
        H: Gram matrix of the inputs (in, in) or (groups, in, in), float64.
        grid: the codes to be used.
        groups: rows, blocks of rows, or all weights share a scale.
        scale_dtype: type in which scales are stored; codes are found for the scales as stored.
        damping: part of the mean of diag(H) that is added to it; raised where H is too ill-conditioned.
        scales: scales and zero points in ``groups.scale_shape``, found by `weighted_scales` unless given.
        kept: where weights (out, in) may be other than zero, bool; all unless given.

    Raises:
        ValueError: a value is not finite, or the shapes do not fit.
    """
    W3, H3 = stacked(W, H)
    seen = np.maximum(np.diagonal(H3, axis1=1, axis2=2), 0)
    scale, zero = scales or weighted_scales(W, seen, grid, groups, scale_dtype)
    order = np.argsort(-seen, axis=1, kind="stable")
    permuted = np.stack([one[np.ix_(o, o)] for one, o in zip(H3, order, strict=True)])
    M, _ = unit_factors(permuted, damping)
    Q = nearest(W, scale, zero, grid, groups)
    E = (W3 - decode_rows(Q, scale, zero, grid, groups).reshape(W3.shape)).astype(np.float32)
    plain = row_errors(E, H3)
    steps = steps_by_input(W3.shape, scale, zero, grid, groups)
    C = Q.reshape(W3.shape)
    for start in range(0, W3.shape[1], _ROWS):
        rows = slice(start, start + _ROWS)
        some = None if kept is None else kept.reshape(W3.shape)[:, rows]
        codes, E = _solve(W3[:, rows], M, order, (steps[0][:, :, rows], steps[1][:, :, rows]), grid, some)
        better = row_errors(E, H3) < plain[:, rows]
        C[:, rows] = np.where(better[:, :, None], codes, C[:, rows])
    return assembled(W, Q, scale, zero, grid, groups)


def nearest(W: Array, scale: Array, zero: Array | None, grid: Grid, groups: Groups) -> Array:
    """Codes of weights rounded to nearest, in the shape of the groups."""
    shift = np.float32(grid.middle) if zero is None else zero.astype(np.float32)
    codes = np.rint(np.asarray(W, np.float32).reshape(groups.shape) / scale.astype(np.float32) + shift)
    return np.clip(codes, grid.low, grid.high, out=codes).astype(grid.dtype)


def decode_rows(codes: Array, scale: Array, zero: Array | None, grid: Grid, groups: Groups) -> Array:
    """ŵ of codes in any shape of the weights, float32, in the shape of the groups."""
    return decoded(Quantized(codes.reshape(groups.shape), scale, zero, 0.0), grid)


def assembled(W: Array, codes: Array, scale: Array, zero: Array | None, grid: Grid, groups: Groups) -> Quantized:
    """Codes, scales and zero points with their plain error."""
    found = Quantized(np.ascontiguousarray(codes.reshape(groups.shape), grid.dtype), scale, zero, 0.0)
    return Quantized(found.codes, scale, zero, plain_error(W, decoded(found, grid)), grid.middle)


def steps_by_input(
    shape: tuple[int, ...], scale: Array, zero: Array | None, grid: Grid, groups: Groups
) -> tuple[Array, Array]:
    """Scale and zero point of each weight seen from its input.

    Args:
        shape: (groups, rows, in) of the weights.
        scale: scales in ``groups.scale_shape``.
        zero: zero points likewise, or None.
        grid: the codes.
        groups: rows, blocks of rows, or all weights share a scale.

    Returns:
        Two float32 arrays (groups, in, rows), or (groups, 1, rows) where all inputs have the same.
    """
    shift = np.full(scale.shape, grid.middle) if zero is None else zero
    width = groups.shape[1] if len(groups.shape) == 3 else 1
    found = []
    for values in (scale, shift):
        wide = np.broadcast_to(np.asarray(values, np.float32).reshape(-1, width), (shape[0] * shape[1], width))
        seen = wide.reshape(*shape[:2], width).transpose(0, 2, 1)
        found.append(np.repeat(seen, shape[2] // width, 1) if width > 1 else np.ascontiguousarray(seen))
    return found[0], found[1]


def ordered_inputs(values: Array, order: Array) -> Array:
    """Values (groups, in or 1, rows) with their inputs in another order, (groups, in), contiguous."""
    if values.shape[1] == 1:
        return np.ascontiguousarray(values)
    return np.take_along_axis(values, order[:, :, None], 1) if len(order) > 1 else values[:, order[0]]


def _solve(
    W: Array, M: Array, order: Array, steps: tuple[Array, Array], grid: Grid, kept: Array | None = None
) -> tuple[Array, Array]:
    """Codes (groups, rows, in), float32, and the errors W−Ŵ that they leave."""
    T = ordered_inputs(W.transpose(0, 2, 1), order)
    scale, zero = (ordered_inputs(values, order) for values in steps)
    E, C = T.copy(), np.empty_like(T)
    prepared = (scale, np.float32(1) / scale, zero)
    seen = None if kept is None else ordered_inputs(kept.transpose(0, 2, 1), order)

    def leaf(low: int, high: int) -> None:
        _leaf(T, E, C, M, prepared, grid, range(low, high), seen)

    halves(T, E, M, leaf, range(T.shape[1]), _LEAF)
    back = np.argsort(order, axis=1)
    codes, rest = (np.ascontiguousarray(ordered_inputs(values, back).transpose(0, 2, 1)) for values in (C, E))
    return codes, rest


def halves(T: Array, E: Array, M: Array, leaf: Callable[[int, int], None], columns: range, size: int) -> None:
    """Round a range of inputs, the targets of the second half of which wait for the errors of the first.

    Args:
        T: targets (groups, in, rows), changed in place.
        E: errors likewise, which ``leaf`` fills.
        M: factors of `unit_factors`.
        leaf: rounds the inputs from its first argument to its second; it hears of the errors before them only.
        columns: the inputs.
        size: number of inputs of a leaf.
    """
    low, high = columns.start, columns.stop
    if high - low <= size:
        leaf(low, high)
        return
    middle = low + (high - low + size) // (2 * size) * size
    halves(T, E, M, leaf, range(low, middle), size)
    T[:, middle:high] += M[:, middle:high, low:middle] @ E[:, low:middle]
    halves(T, E, M, leaf, range(middle, high), size)


def _leaf(
    T: Array, E: Array, C: Array, M: Array, steps: tuple[Array, Array, Array], grid: Grid, columns: range,
    kept: Array | None,
) -> None:  # fmt: skip
    """Round a few inputs one by one: codes into C, and E, which holds the weights, becomes the errors."""
    low, last = columns.start, steps[0].shape[1] - 1
    least, most = np.float32(grid.low), np.float32(grid.high)
    for j in columns:
        scale, inverse, zero = (values[:, min(j, last)] for values in steps)
        codes = C[:, j]
        if j > low:
            T[:, j] += (M[:, j, None, low:j] @ E[:, low:j])[:, 0]
        np.multiply(T[:, j], inverse, out=codes)
        codes += zero
        np.rint(codes, out=codes)
        np.maximum(codes, least, out=codes)
        np.minimum(codes, most, out=codes)
        if kept is not None:
            np.copyto(codes, zero, where=~kept[:, j])
        E[:, j] -= (codes - zero) * scale
