r"""Coordinate descent on codes: one after the other is set to its best value, all others staying as they are.

The error tr((W−Ŵ) H (W−Ŵ)ᵀ) is a parabola in each weight, so with E = W − Ŵ and G = H Eᵀ the best code is

    qⱼ ← round(qⱼ + Gⱼ / (s Hⱼⱼ)),    G ← G − H[:, j] · s (qⱼ' − qⱼ),

and no step makes the error larger (QuantEase: Behdin et al. 2023, arXiv 2309.01885). A block of inputs is worked off
before the rest of G hears of it, in one matrix product. The error is a parabola in each scale as well: for the
direction d = q − z of the weights of a group,  s ← s + d·G / (dᵀ H d).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.solvers.feedback import assembled, decode_rows, steps_by_input
from onnxcompress.solvers.metric import row_errors, stacked
from onnxcompress.solvers.scales import storable

if TYPE_CHECKING:
    from onnxcompress.solvers.grid import Quantized
    from onnxcompress.solvers.groups import Grid, Groups

Array = np.ndarray
_BLOCK = 32  # inputs worked off before the others hear of it
_ROWS = 512  # rows worked on at a time
_SHRINK = 0.1  # a scale that wants to be less of itself belongs to codes that have nothing to do with the weights
_LEAST = np.float32(1e-4)  # steps that a code must come nearer: ties do not go back and forth


@np.errstate(over="ignore", invalid="ignore")  # where products overflow nothing is found to be better
def descent(
    W: Array,
    H: Array,
    start: Quantized,
    grid: Grid,
    groups: Groups,
    *,
    sweeps: int = 4,
    rescale: bool = True,
    kept: Array | None = None,
) -> Quantized:
    """Improve codes, and scales, until nothing changes or for a number of sweeps; never worse in the metric of H.

    Args:
        W: weights (out, in).
        H: Gram matrix of the inputs (in, in) or (groups, in, in), float64.
        start: codes, scales and zero points to start from.
        grid: its codes.
        groups: its groups: rows, blocks of rows, or all weights.
        sweeps: how often each code is visited at most.
        rescale: whether scales are changed too, after each sweep but the last.
        kept: where codes (out, in) may change, bool; everywhere unless given.

    Raises:
        ValueError: a value is not finite, or the shapes do not fit.
    """
    W3, H3 = stacked(W, H)
    H32 = H3.astype(np.float32)
    codes = start.codes.reshape(W3.shape)
    scale, zero = steps_by_input(W3.shape, start.scale, start.zero_point, grid, groups)
    found, scales = np.empty(W3.shape, np.float32), scale.copy()
    step = W3.shape[1] if 0 in groups.shared else _ROWS
    for first in range(0, W3.shape[1], step):
        rows = slice(first, first + step)
        parts = [np.array(a[:, rows].transpose(0, 2, 1), np.float32) for a in (W3, codes)]
        some = None if kept is None else kept.reshape(W3.shape)[:, rows].transpose(0, 2, 1)
        state = _State(parts[1], scale[:, :, rows].copy(), zero[:, :, rows], parts[0] * 0, some)
        state.begin(parts[0], H32)
        for sweep in range(sweeps):
            changed = state.sweep(H32, grid)
            if rescale and sweep + 1 < sweeps:
                changed |= state.rescale(H32, start.scale.dtype, groups)
            if not changed:
                break
            state.begin(parts[0], H32)
        found[:, rows], scales[:, :, rows] = state.codes.transpose(0, 2, 1), state.scale
    return better(W, H, start, found, _stored_scale(scales, start.scale, groups), grid, groups)


def better(W: Array, H: Array, start: Quantized, codes: Array, scale: Array, grid: Grid, groups: Groups) -> Quantized:
    """The start with those rows replaced that new codes and scales make better; all rows or none that share a scale.

    Args:
        W: weights (out, in).
        H: Gram matrix (in, in) or (groups, in, in).
        start: codes, scales and zero points.
        codes: other codes, (groups, rows, in) of the Gram matrices.
        scale: other scales in ``groups.scale_shape``.
        grid: the codes.
        groups: rows, blocks of rows, or all weights.
    """
    W3, H3 = stacked(W, H)
    zero = start.zero_point
    errors = []
    for q, s in ((start.codes, start.scale), (codes, scale)):
        E = W3 - decode_rows(q, s, zero, grid, groups).reshape(W3.shape)
        errors.append(row_errors(E, H3).ravel())
    together = 0 in groups.shared
    taken = np.full(len(W), errors[1].sum() < errors[0].sum()) if together else errors[1] < errors[0]
    mine = taken.reshape(-1, *[1] * (len(groups.shape) - 1))
    kept = np.where(mine, codes.reshape(groups.shape), start.codes)
    s = np.where(mine[: len(scale)], scale, start.scale).astype(start.scale.dtype)
    return assembled(W, kept, s, zero, grid, groups)


def _stored_scale(scales: Array, start: Array, groups: Groups) -> Array:
    """Scales of `steps_by_input` in the shape and type of those at the start."""
    if 0 in groups.shared:
        return scales.ravel()[:1].reshape(start.shape).astype(start.dtype)
    width = groups.shape[1] if len(groups.shape) == 3 else 1
    each = scales[:, :: scales.shape[1] // width].transpose(0, 2, 1)
    return np.ascontiguousarray(each).reshape(start.shape).astype(start.dtype)


@dataclass
class _State:
    """Codes of some rows, (groups, in, rows), their scales and zero points likewise or (groups, 1, rows), and G."""

    codes: Array
    scale: Array
    zero: Array
    G: Array
    kept: Array | None = None

    def begin(self, W: Array, H: Array) -> None:
        """G from scratch, so that rounding does not add up over the sweeps."""
        self.G = H @ (W - (self.codes - self.zero) * self.scale)

    def sweep(self, H: Array, grid: Grid) -> bool:
        """Set each code to its best value; whether any changed."""
        inputs = H.shape[1]
        curvature = np.diagonal(H, axis1=1, axis2=2)
        alive = curvature > 0
        inverse = np.where(alive, 1 / np.where(alive, curvature, 1), 0).astype(np.float32)
        changed = False
        for low in range(0, inputs, _BLOCK):
            block = slice(low, min(low + _BLOCK, inputs))
            D = self._block(H, inverse, block, grid)
            if D.any():
                changed = True
                self.G -= H[:, :, block] @ D
        return changed

    def _block(self, H: Array, inverse: Array, block: slice, grid: Grid) -> Array:
        """By how much the weights of a block change."""
        D = np.empty_like(self.codes[:, block])
        last = self.scale.shape[1] - 1
        for k, j in enumerate(range(block.start, block.stop)):
            scale, old = self.scale[:, min(j, last)], self.codes[:, j]
            slope = self.G[:, j]
            if k:
                slope = slope - (H[:, j, None, block.start : j] @ D[:, :k])[:, 0]
            best = old + slope * (inverse[:, j, None] / scale)
            new = np.clip(np.rint(best), grid.low, grid.high)
            new = np.where(np.abs(best - old) - np.abs(best - new) > _LEAST, new, old)
            if self.kept is not None:
                new = np.where(self.kept[:, j], new, old)
            np.multiply(new - old, scale, out=D[:, k])
            self.codes[:, j] = new
        return D

    def rescale(self, H: Array, dtype: np.dtype, groups: Groups) -> bool:
        """Set each scale to its best value, G of the codes as they are; whether any changed."""
        width = groups.shape[1] if len(groups.shape) == 3 else 1
        size = H.shape[1] // width
        together = (0, 1) if 0 in groups.shared else ()
        changed = False
        for low in range(0, H.shape[1], size):
            block = slice(low, low + size)
            own = block if self.scale.shape[1] > 1 else slice(0, 1)
            before = self.scale[:, own][:, 0]
            d = self.codes[:, block] - self.zero[:, own]
            product = np.einsum("gjr,gjr->gr", d, self.G[:, block])
            square = np.einsum("gjr,gjr->gr", d, H[:, block, block] @ d)
            if together:
                product, square = np.full_like(product, product.sum()), np.full_like(square, square.sum())
            move = np.where(square > 0, product / np.where(square > 0, square, 1), 0)
            shrunk = np.abs(before + move) < _SHRINK * np.abs(before)
            move = np.where(shrunk, 0, storable(before + move, dtype).astype(np.float32) - before)
            move = np.where(2 * move * product > np.square(move) * square * (1 + 1e-5), move, 0).astype(np.float32)
            if move.any():
                changed = True
                self.scale[:, own] += move[:, None]
                self.G -= H[:, :, block] @ (d * move[:, None])
        return changed
