r"""Which weights of a layer go to zero, and what the others become.

    minimise  tr((W−Ŵ) H (W−Ŵ)ᵀ)   subject to   Ŵ on a sparse support

The support is sought by alternating directions (ADMM) between weights that suit H and weights that are sparse. In
coordinates in which every input has unit power, H = Q Λ Qᵀ being the correlations there,

    X ← (W H − V + ρ D) Q (Λ + ρ)⁻¹ Qᵀ,   D ← the largest of X + V/ρ,   V ← V + ρ (X − D),

with ρ growing until the support stands. Then the weights that are left get their best values on that support, rows all
at once, by conjugate gradients over the Gram matrix with its diagonal as preconditioner. After ALPS: X. Meng et al.,
"ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language Models", NeurIPS 2024,
https://arxiv.org/abs/2406.07831. It leaves a fifth to a third less error than choosing zeros by w²/[H⁻¹]ⱼⱼ block after
block (SparseGPT: Frantar and Alistarh 2023, arXiv 2301.00774) and the same fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.solvers.metric import damped, row_errors, stacked

if TYPE_CHECKING:
    from onnxcompress.solvers.supports import Pattern

Array = np.ndarray
_ROUNDS, _HOLD = 24, 3  # of alternating directions, and after how many of them ρ grows
_RHO, _GROWTH = 0.1, 1.35
_LEAST = 1e-6  # of the mean power of inputs, so that weights whose inputs were never seen go by their size
_ROWS = 4096  # rows worked on at a time when values are fitted
_STEPS = 16  # of conjugate gradients
_ENOUGH = 1e-4  # part of the first residual from which steps gain nothing


@np.errstate(over="ignore", invalid="ignore")
def pruned(W: Array, H: Array, pattern: Pattern, zeros: int, *, damping: float = 0.01, steps: int = _STEPS) -> Array:
    """The weights with at least so many zeros, the others refitted.

    Args:
        W: weights (out, in).
        H: Gram matrix of the inputs (in, in) or (groups, in, in), float64.
        pattern: where zeros may stand.
        zeros: how many there are to be; where the pattern fixes their number, that counts.
        damping: part of the mean of diag(H) that is added to it.
        steps: of the fit.

    Returns:
        (out, in) float32.

    Raises:
        ValueError: a value is not finite, or the shapes do not fit.
    """
    W3, H3 = stacked(W, H)
    plain = pattern.support(simple_scores(W3, H3).reshape(W.shape), zeros).reshape(W3.shape)
    own = (~plain).sum(axis=(1, 2))
    supports = [plain]
    if np.isfinite(H3).all() and (np.diagonal(H3, axis1=1, axis2=2) > 0).any():
        parts = [
            _alternating(w, damped(h, damping), pattern, int(n), damping) for w, h, n in zip(W3, H3, own, strict=True)
        ]
        supports.append(np.stack(parts))
    found = [fitted(W3, H3, kept, damping, steps) for kept in supports]
    return min(found, key=lambda X: float(row_errors(W3 - X, H3).sum())).reshape(W.shape)


def simple_scores(W: Array, H: Array) -> Array:
    """What a weight does to the output by itself, w² Hⱼⱼ (Wanda: Sun et al. 2023, arXiv 2306.11695).

    Args:
        W: weights (groups, rows, in).
        H: Gram matrices (groups, in, in).
    """
    power = np.maximum(np.diagonal(H, axis1=1, axis2=2), 0).astype(np.float32)
    score: Array = np.square(W) * (power + _LEAST * max(float(power.mean()), 1e-30))[:, None, :]
    return score


def _alternating(W: Array, H: Array, pattern: Pattern, zeros: int, damping: float) -> Array:
    """The support (rows, in), bool, of the weights of one group; H as `damped`."""
    power = np.sqrt(np.diagonal(H))
    values, Q = np.linalg.eigh(H / np.outer(power, power))
    scaled = (W * power).astype(np.float32)
    Q, values = Q.astype(np.float32), np.maximum(values, damping).astype(np.float32)
    target = scaled @ Q * values  # W H in the coordinates of Q
    D, V = scaled.copy(), np.zeros_like(scaled)
    rho = np.float32(_RHO)
    for step in range(_ROUNDS):
        X = ((target + (rho * D - V) @ Q) / (values + rho)) @ Q.T
        Z = X + V / rho
        kept = pattern.support(np.square(Z), zeros)
        D = np.where(kept, Z, np.float32(0))
        V += rho * (X - D)
        if step % _HOLD == _HOLD - 1:
            rho *= np.float32(_GROWTH)
    return kept


def fitted(W: Array, H: Array, kept: Array, damping: float = 0.01, steps: int = _STEPS) -> Array:
    """The weights of least error on a support.

    Args:
        W: weights (groups, rows, in), float32.
        H: Gram matrices (groups, in, in), float64.
        kept: where weights may stay, bool, of the shape of W.
        damping: part of the mean of diag(H) that is added to it.
        steps: of conjugate gradients.

    Returns:
        (groups, rows, in) float32; a row that steps made worse is the one with zeros put in.
    """
    found = np.where(kept, W, np.float32(0))
    if steps < 1:
        return found
    for group, one in enumerate(H):
        level = float(np.diagonal(one).mean())
        if level <= 0:
            continue
        metric = (one / level).astype(np.float32)
        metric.flat[:: len(one) + 1] += damping
        for start in range(0, W.shape[1], _ROWS):
            rows = slice(start, start + _ROWS)
            found[group, rows] = _descended(W[group, rows], metric, kept[group, rows], steps)
    return found


def _descended(W: Array, H: Array, kept: Array, steps: int) -> Array:
    """Conjugate gradients for all rows at once: X H = W H on the support of each row."""
    X = np.where(kept, W, np.float32(0))
    inverse = 1 / np.diagonal(H)
    residual = np.where(kept, (W - X) @ H, np.float32(0))
    P = residual * inverse
    rz = np.einsum("rc,rc->r", residual, P, dtype=np.float64)
    first = rz.copy()
    for _ in range(steps):
        moved = np.where(kept, P @ H, np.float32(0))
        curvature = np.einsum("rc,rc->r", P, moved, dtype=np.float64)
        alpha = np.where(curvature > 0, rz / np.where(curvature > 0, curvature, 1), 0).astype(np.float32)
        X += alpha[:, None] * P
        residual -= alpha[:, None] * moved
        Z = residual * inverse
        new = np.einsum("rc,rc->r", residual, Z, dtype=np.float64)
        if (new <= _ENOUGH**2 * first).all():
            break
        beta = np.where(rz > 0, new / np.where(rz > 0, rz, 1), 0).astype(np.float32)
        P = Z + beta[:, None] * P
        rz = new
    return np.where(np.isfinite(X).all(axis=1, keepdims=True), X, np.where(kept, W, np.float32(0)))
