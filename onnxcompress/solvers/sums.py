"""Rounding that keeps sums: what is lost by rounding up and down is made to cancel within each group.

A convolution sees neighbouring pixels, and after an activation all of its inputs tend to be positive: the input of a
group of weights is nearly a constant μ plus something smaller. The error at the output then is mostly μ · Σ(ŵ − w), so
the sum of the rounding errors of a group counts more than the sum of their squares (E[xxᵀ] ≈ σ²I + μ²11ᵀ). With eᵢ the
part of a weight that rounding to nearest leaves, in steps, the k = |round(Σeᵢ)| weights that were nearest to being
rounded the other way are rounded so; what is left of the sum is at most half a step.

After C. Guo et al., "SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian Approximation", ICLR 2022,
https://arxiv.org/abs/2202.07471.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def cancelled(scaled: Array, codes: Array, low: int, high: int) -> Array:
    """Codes whose rounding errors nearly cancel in each row.

    Args:
        scaled: weights over their scale, plus the zero point, (groups, members).
        codes: their codes, rounded to nearest, of the same shape.
        low: smallest code.
        high: largest code.

    Returns:
        Codes of the same shape; each differs from the given one by at most 1, in the direction of its remainder.
    """
    rest = scaled - codes
    total = np.rint(rest.sum(1)).astype(np.int64)
    direction = np.sign(total).astype(scaled.dtype)[:, None]
    urgency = rest * direction  # the larger, the cheaper it is to go one further
    within = (codes + direction >= low) & (codes + direction <= high) & (urgency > 0)
    urgency = np.where(within, urgency, -np.inf)
    order = np.argsort(-urgency, axis=1, kind="stable")
    chosen = np.zeros(scaled.shape, bool)
    first = np.arange(scaled.shape[1])[None, :] < np.abs(total)[:, None]
    np.put_along_axis(chosen, order, first, axis=1)
    moved: Array = codes + direction * (chosen & within)
    return moved
