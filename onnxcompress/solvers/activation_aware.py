r"""Weights that read loud inputs are made larger before they are rounded to few bits, and the inputs smaller.

With a positive s for each input feature,  x·W = (x / s)·(diag(s)·W).  Where the weights of a block share a step, those
that are multiplied by a large s lose less of themselves, and the others more as the step grows. With

    sⱼ = E[xⱼ²]^(α/2)

the exponent is the one with the least error of weights that are rounded on their own scales,

    Σⱼ E[xⱼ²] Σₖ (wⱼₖ − ŵⱼₖ/sⱼ)²,    ŵ = round(diag(s)·W).

After J. Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration", MLSys 2024,
https://arxiv.org/abs/2306.00978.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.solvers.feedback import decode_rows, nearest
from onnxcompress.solvers.groups import per_block, per_channel
from onnxcompress.solvers.scales import weighted_scales

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxcompress.solvers.groups import Grid

Array = np.ndarray
_ALPHAS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75)
_PAYS = 0.95  # part of the error that may be left at most: factors take bytes
_JUDGED = 256  # outputs of a weight from which its error is told
_WIDEST = 32.0  # s and 1/s at most, around their median: features that were quiet need not stay so


def activation_aware(weights: Sequence[Array], square: Array, grid: Grid, block: int) -> Array | None:
    """The best s for all weights that read one activation, (in,) float32, or None where it does not pay.

    Args:
        weights: matrices (in, out).
        square: E[x²] of each feature (in,).
        grid: the codes that the weights will have.
        block: inputs that share a scale, 0: all.

    Raises:
        ValueError: shapes do not fit, or a number is not finite.
    """
    if not weights or square.ndim != 1 or any(w.ndim != 2 or len(w) != len(square) for w in weights):
        raise ValueError(f"weights {[w.shape for w in weights]} do not fit features {square.shape}")
    if not np.isfinite(square).all() or (square < 0).any():
        raise ValueError("statistics of features are not finite")
    rows = [_judged(np.asarray(w, np.float32)) for w in weights]
    best, found = _PAYS * _error(rows, square, np.ones(len(square)), grid, block), None
    for alpha in _ALPHAS:
        s = _factors(square, alpha)
        error = _error(rows, square, s, grid, block)
        if error < best:
            best, found = error, s
    return None if found is None else found.astype(np.float32)


def _factors(square: Array, alpha: float) -> Array:
    """S around one; one for features that are never seen."""
    seen = square > 0
    if not seen.any():
        return np.ones(len(square))
    s = np.where(seen, square, 1.0) ** (alpha / 2)
    bounded = np.clip(s / np.median(s[seen]), 1 / _WIDEST, _WIDEST)
    return np.where(seen, bounded, 1.0)


def _error(rows: Sequence[tuple[Array, float]], square: Array, s: Array, grid: Grid, block: int) -> float:
    """The expected squared error, summed over the outputs; ``rows``: weights (out, in), each with its share."""
    seen = square / np.square(s)
    total = 0.0
    for W, share in rows:
        V = W * s.astype(np.float32)
        groups = per_block(V.shape, (0,), block) if block else per_channel(V.shape, (0,))
        scale, zero = weighted_scales(V, seen, grid, groups)
        back = decode_rows(nearest(V, scale, zero, grid, groups), scale, zero, grid, groups).reshape(V.shape)
        total += share * float((np.square(V - back, dtype=np.float64) @ seen).sum())
    return total


def _judged(weight: Array) -> tuple[Array, float]:
    """Some outputs of a weight (in, out) as rows, evenly spread, and for how many each of them stands."""
    step = max(1, -(-weight.shape[1] // _JUDGED))
    rows = np.ascontiguousarray(weight[:, ::step].T)
    return rows, weight.shape[1] / max(len(rows), 1)
