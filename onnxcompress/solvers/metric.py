r"""The error of a layer in the metric of what it sees, and factors of that metric.

A layer with the weight W (out, in) sees inputs with the Gram matrix H = E[x xᵀ]; a weight Ŵ in its place changes its
output by E‖(W−Ŵ)x‖² = tr((W−Ŵ) H (W−Ŵ)ᵀ) on average. A grouped convolution has one H for each group, (groups, in, in),
and the rows of W belong to the groups in equal consecutive parts.

With H + λI = R Rᵀ, R upper triangular, the error is ‖(W−Ŵ)R‖², and its j-th column depends on the first j inputs only.
λ is the damping of Frantar et al. 2022 (arXiv 2210.17323): a small part of the mean of diag(H).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnxcompress.solvers.grid import Quantized
    from onnxcompress.solvers.groups import Grid

Array = np.ndarray
_HARDEST = 1e3  # damping beyond which a matrix is no Gram matrix


def stacked(W: Array, H: Array) -> tuple[Array, Array]:
    """A weight and its Gram matrices by group, checked.

    Args:
        W: weights (out, in).
        H: Gram matrix (in, in) or (groups, in, in).

    Returns:
        (groups, out / groups, in) float32, and (groups, in, in) float64, over the mean of its diagonal, as only ratios
        of errors count; one group where H is a matrix.

    Raises:
        ValueError: a value is not finite, or the shapes do not fit.
    """
    H3 = np.asarray(H, np.float64)
    H3 = H3[None] if H3.ndim == 2 else H3
    if W.ndim != 2 or H3.ndim != 3 or H3.shape[1:] != (W.shape[1], W.shape[1]) or len(W) % max(1, len(H3)):
        raise ValueError(f"a Gram matrix of shape {np.shape(H)} does not fit weights of shape {W.shape}")
    if not np.isfinite(H3).all():
        raise ValueError("the Gram matrix is not finite")
    W3 = np.asarray(W, np.float32).reshape(len(H3), -1, W.shape[1])
    if not np.isfinite(W3).all():
        raise ValueError("weights are not finite")
    level = float(np.diagonal(H3, axis1=1, axis2=2).mean()) if H3.size else 0.0
    return W3, H3 / level if level > 0 else H3


def row_errors(E: Array, H: Array) -> Array:
    """The error e H eᵀ of each row e.

    Args:
        E: differences of weights (groups, rows, in).
        H: Gram matrices (groups, in, in).

    Returns:
        (groups, rows) float64, never negative. Products are float32 where E is: E is small, not a difference of large.
    """
    product = E @ H.astype(E.dtype, copy=False)
    errors: Array = np.maximum(np.einsum("grc,grc->gr", product, E, dtype=np.float64), 0)
    return errors


def relative_error(W: Array, W_hat: Array, H: Array) -> float:
    """tr((W−Ŵ) H (W−Ŵ)ᵀ) / tr(W H Wᵀ); zero where W is not seen at all and Ŵ is not either, else infinite.

    Args:
        W: weights (out, in).
        W_hat: those in their place, of the same number.
        H: Gram matrix (in, in) or (groups, in, in).

    Raises:
        ValueError: a value is not finite, or the shapes do not fit.
    """
    W3, H3 = stacked(W, H)
    E = W3.astype(np.float64) - np.asarray(W_hat, np.float64).reshape(W3.shape)
    noise, energy = float(row_errors(E, H3).sum()), float(row_errors(W3.astype(np.float64), H3).sum())
    if energy > 0:
        return noise / energy
    return np.inf if noise > 0 else 0.0


def plain_error(W: Array, W_hat: Array) -> float:
    """‖W−Ŵ‖²/‖W‖², zero for a weight of zeros."""
    flat = np.asarray(W, np.float32).ravel()
    rest = flat - np.asarray(W_hat, np.float32).ravel()
    noise, energy = (float(np.einsum("i,i->", v, v, dtype=np.float64)) for v in (rest, flat))  # squares one by one
    return noise / energy if energy else 0.0


def decoded(found: Quantized, grid: Grid) -> Array:
    """ŵ = s · (q − z) of any grid, float32, in the shape of the groups; z is the middle of a symmetric grid."""
    shift = np.float32(grid.middle) if found.zero_point is None else found.zero_point.astype(np.float32)
    values: Array = (found.codes.astype(np.float32) - shift) * found.scale.astype(np.float32)
    return values


def damped(H: Array, damping: float) -> Array:
    """H + λI as a new matrix, made symmetric, λ = damping · mean(diag(H)); the identity where H is zero.

    Args:
        H: Gram matrix (in, in), float64.
        damping: part of the mean of its diagonal.
    """
    level = float(np.diagonal(H).mean()) if len(H) else 0.0
    if level <= 0:
        return np.eye(len(H), dtype=np.float64)
    D: Array = (H + H.T) / 2
    D.flat[:: len(H) + 1] += damping * level
    return D


def upper_factor(H: Array, damping: float) -> Array:
    """R, upper triangular with a positive diagonal, such that R Rᵀ = H + λI; damping is raised until there is one.

    Args:
        H: Gram matrix (in, in), float64.
        damping: part of the mean of its diagonal, λ.

    Raises:
        ValueError: H is far from being a Gram matrix.
    """
    reverse = H[::-1, ::-1]
    while damping <= _HARDEST:
        try:
            L = np.linalg.cholesky(damped(reverse, damping))
        except np.linalg.LinAlgError:
            damping = max(damping * 10, 1e-6)
            continue
        if np.diagonal(L).min(initial=np.inf) > 0 and np.isfinite(L).all():
            R: Array = L[::-1, ::-1]
            return R
        damping = max(damping * 10, 1e-6)
    raise ValueError("the Gram matrix has large negative eigenvalues")


def unit_factors(H: Array, damping: float) -> tuple[Array, Array]:
    """How errors made so far are best taken back by the next input: R of `upper_factor`, its columns divided by Rⱼⱼ.

    Args:
        H: Gram matrices (groups, in, in), float64.
        damping: part of the mean of each diagonal.

    Returns:
        Transposed factors (groups, in, in) float32, unit lower triangular, and R²ⱼⱼ (groups, in) float64.
    """
    M = np.empty(H.shape, np.float32)
    rest = np.empty(H.shape[:2])
    for group, one in enumerate(H):
        R = upper_factor(one, damping)
        diagonal = np.diagonal(R)
        M[group] = (R / diagonal).T
        rest[group] = np.square(diagonal)
    return M, rest
