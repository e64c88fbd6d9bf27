r"""Learned rounding: whether each weight is rounded up or down is found by gradients.

AdaRound (Nagel et al. 2020, arXiv 2004.10568) lets every code lie between two neighbours, q = ⌊t⌋ + h(v), with the
rectified sigmoid  h(v) = clip(1.2 σ(v) − 0.1, 0, 1), and minimises

    tr(E H Eᵀ) + λ Σ (1 − |2h − 1|^β),    E = W − s (q − z),

by Adam (Kingma and Ba, arXiv 1412.6980). β falls from 20 to 2, so that at first only the error counts, and in the end
every h is pushed to 0 or 1. Rows are independent and their errors are counted in parts of those at the start; from
then on everything is one matrix product with H a step. The neighbours are those of the start: where error feedback
moved a code away from its weight, the two next to that code.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.solvers.descent import better
from onnxcompress.solvers.feedback import steps_by_input
from onnxcompress.solvers.metric import stacked
from onnxcompress.solvers.parallel import ordered

if TYPE_CHECKING:
    from onnxcompress.solvers.grid import Quantized
    from onnxcompress.solvers.groups import Grid, Groups

Array = np.ndarray
_ROWS = 256  # rows worked on at a time
_NEAR = np.float32(0.45)  # how far from the code of the start a weight is taken to be at most, in steps
_WARM = 0.2  # part of the steps before codes are pushed to whole numbers
_PUSH = 300.0  # λ, where the error at the start is the number of weights
_EXACT = np.float32(1e-6)  # part of the error of whole steps below which there is nothing to learn
_RATE = 0.05
_FIRST, _SECOND = 0.9, 0.99


@np.errstate(over="ignore", invalid="ignore")  # where products overflow nothing is found to be better
def learned(
    W: Array,
    H: Array,
    start: Quantized,
    grid: Grid,
    groups: Groups,
    *,
    steps: int = 200,
    rate: float = _RATE,
    push: float = _PUSH,
) -> Quantized:
    """Improve the codes of a start, whose scales stay; never worse in the metric of H.

    Args:
        W: weights (out, in).
        H: Gram matrix of the inputs (in, in) or (groups, in, in), float64.
        start: codes, scales and zero points to start from.
        grid: its codes.
        groups: its groups: rows, blocks of rows, or all weights.
        steps: steps of Adam.
        rate: how far each goes.
        push: λ, what it costs to lie between two codes.

    Raises:
        ValueError: a value is not finite, or the shapes do not fit.
    """
    W3, H3 = stacked(W, H)
    H32 = H3.astype(np.float32)
    old = start.codes.reshape(W3.shape)
    scale, zero = steps_by_input(W3.shape, start.scale, start.zero_point, grid, groups)
    codes = np.empty(W3.shape, grid.dtype)

    def learn(rows: slice) -> None:
        T, Q = (np.array(a[:, rows].transpose(0, 2, 1), np.float32) for a in (W3, old))
        s, z = scale[:, :, rows], zero[:, :, rows]
        near = np.clip(np.clip(T / s + z, Q - _NEAR, Q + _NEAR), grid.low, grid.high)
        base = np.clip(np.floor(near), grid.low, grid.high - 1)
        unit = np.abs(s).max(1, keepdims=True)
        rest, E = (T - (base - z) * s) / unit, (T - (Q - z) * s) / unit
        with np.errstate(over="ignore", invalid="ignore"):
            up = _learn(rest, near - base, E, s / unit, H32, steps, (rate, push))
        codes[:, rows] = (base + up).transpose(0, 2, 1)

    deque(ordered(learn, [slice(i, i + _ROWS) for i in range(0, W3.shape[1], _ROWS)]), 0)
    return better(W, H, start, codes, start.scale, grid, groups)


def _learn(
    rest: Array, part: Array, E: Array, scale: Array, H: Array, steps: int, tuning: tuple[float, float]
) -> Array:
    """Which codes are to be rounded up, a bool for each of (groups, in, rows).

    Args:
        rest: weights less what the lower codes stand for; in units of the largest scale of a row, as are all here.
        part: how far the upper ones are wanted, 0 to 1.
        E: what the start leaves.
        scale: scales.
        H: Gram matrices (groups, in, in), float32.
        steps: steps of Adam.
        tuning: rate and λ.
    """
    rate, push = tuning
    v = np.log((part + 0.1) / (1.1 - part))
    error = np.einsum("gjr,gjr->gr", E, H @ E)[:, None]
    whole = (np.square(scale) * np.diagonal(H, axis1=1, axis2=2)[:, :, None]).sum(1, keepdims=True)
    error = np.maximum(error, np.maximum(_EXACT * whole, 1e-20))
    gain = np.float32(-2 * E.shape[1]) / error * scale
    mean, square = np.zeros_like(v), np.zeros_like(v)
    warm = int(_WARM * steps)
    for step in range(steps):
        sigmoid = 1 / (1 + np.exp(-v))
        h = np.clip(1.2 * sigmoid - np.float32(0.1), 0, 1)
        slope = gain * (H @ (rest - scale * h))
        if step >= warm:
            beta = 2 + 9 * (1 + np.cos(np.pi * (step - warm) / max(1, steps - warm)))
            centred = 2 * h - 1
            slope -= np.float32(push * 2 * beta) * np.sign(centred) * np.abs(centred) ** np.float32(beta - 1)
        slope *= 1.2 * sigmoid * (1 - sigmoid) * ((h > 0) & (h < 1))
        mean += np.float32(1 - _FIRST) * (slope - mean)
        square += np.float32(1 - _SECOND) * (np.square(slope) - square)
        size = rate / (1 - _FIRST ** (step + 1))
        v -= np.float32(size) * mean / (np.sqrt(square / np.float32(1 - _SECOND ** (step + 1))) + np.float32(1e-8))
    chosen: Array = v > 0
    return chosen
