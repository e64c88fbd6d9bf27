r"""What a grid leaves of a weight, as a product of two thin matrices.

Of all matrices of rank r, that which leaves least of a residual R = W − Ŵ in the metric of H, tr((R−AB) H (R−AB)ᵀ), is
the truncated singular value decomposition of R H^½ (Eckart and Young 1936), taken back from there. Its left singular
vectors U, those of R H Rᵀ with the r largest eigenvalues, are all that is needed:  AB = U Uᵀ R,  so H may be singular.

Grid and product depend on each other, so they are found in turns, as in LoftQ (Li et al. 2023, arXiv 2310.08659) and,
in the metric of H, in CALDERA (Saha et al. 2024, arXiv 2405.18886).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.solvers.grid import Quantized
from onnxcompress.solvers.metric import relative_error

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray
_DAMPING = 1e-8  # part of the mean of diag(H): directions that are not seen decide where nothing else does


def thin_factors(R: Array, H: Array | None, rank: int) -> tuple[Array, Array]:
    """A (out, rank) and B (rank, in), float32, that leave least of R in the metric of H.

    The columns of A are as long as the rows of B, so both fit a small float type. Where the rank is larger than that
    of R, the rest is zero.

    Args:
        R: residual (out, in).
        H: Gram matrix of the inputs (in, in), or None for the plain squared error.
        rank: number of columns of A, from 1 on.

    Raises:
        ValueError: a value is not finite, the shapes do not fit, or the rank is less than 1.
    """
    exact = np.asarray(R, np.float64)
    if exact.ndim != 2 or rank < 1 or (H is not None and H.shape != (exact.shape[1],) * 2):
        seen = "" if H is None else f" in a metric of shape {H.shape}"
        raise ValueError(f"no product of rank {rank} for a matrix of shape {exact.shape}{seen}")
    if not np.isfinite(exact).all() or (H is not None and not np.isfinite(H).all()):
        raise ValueError("a residual or its Gram matrix is not finite")
    U = _directions(exact, H, min(rank, *exact.shape))
    B = U.T @ exact
    length = np.sqrt(np.linalg.norm(B, axis=1))
    used = length > 0
    A_out, B_out = np.zeros((len(exact), rank), np.float32), np.zeros((rank, exact.shape[1]), np.float32)
    A_out[:, : U.shape[1]] = np.where(used, U * length, 0)
    B_out[: U.shape[1]] = np.where(used[:, None], B / np.where(used, length, 1)[:, None], 0)
    return A_out, B_out


def _directions(R: Array, H: Array | None, rank: int) -> Array:
    """U (out, rank): orthonormal directions at the output in which there is most of R."""
    if H is None:
        left: Array = np.linalg.svd(R, full_matrices=False)[0][:, :rank]
        return left
    out, inputs = R.shape
    level = float(np.diagonal(H).mean())
    metric = (H + H.T) / 2
    metric.flat[:: inputs + 1] += _DAMPING * level if level > 0 else 1.0
    if out <= inputs:
        return _largest(R @ metric @ R.T, rank)
    values, vectors = np.linalg.eigh(metric)
    S = R @ (vectors * np.sqrt(np.maximum(values, 0)))
    return np.linalg.qr(S @ _largest(S.T @ S, rank))[0]


def _largest(symmetric: Array, rank: int) -> Array:
    """Eigenvectors of the largest eigenvalues, falling."""
    chosen: Array = np.linalg.eigh((symmetric + symmetric.T) / 2)[1][:, ::-1][:, :rank]
    return chosen


def alternating(
    W: Array,
    H: Array | None,
    rank: int,
    quantize: Callable[[Array], Quantized],
    *,
    rounds: int = 4,
    decode: Callable[[Quantized], Array] = Quantized.dequantize,
) -> tuple[Quantized, Array, Array]:
    """Codes and thin factors, W ≈ Ŵ + AB, found in turns: W − AB is quantized, and AB refitted to what that leaves.

    Args:
        W: weights (out, in).
        H: Gram matrix of the inputs (in, in), or None for the plain squared error.
        rank: number of columns of A.
        quantize: finds codes of a matrix of the shape of W.
        rounds: how often, at least once; the best round counts.
        decode: what codes stand for.

    Returns:
        Codes, A (out, rank) and B (rank, in), float32. The error of the codes is theirs alone, as ``quantize`` says.

    Raises:
        ValueError: a value is not finite, or the shapes do not fit.
    """
    metric = np.eye(W.shape[1]) if H is None else H
    exact = np.asarray(W, np.float32)

    def turn(product: Array) -> tuple[float, Quantized, Array, Array]:
        codes = quantize(exact - product)
        rest = exact - decode(codes).reshape(exact.shape)
        A, B = thin_factors(rest, H, rank)
        return relative_error(exact, exact - rest + A @ B, metric), codes, A, B

    best = latest = turn(np.zeros_like(exact))
    for _ in range(rounds - 1):
        latest = turn(latest[2] @ latest[3])
        if latest[0] < best[0]:
            best = latest
    return best[1:]
