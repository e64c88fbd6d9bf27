r"""What a grid leaves of a weight, as a product of two thin matrices.

Of all products AB of rank r, `low_rank` finds that which leaves least of a residual R = W − Ŵ in the metric of H,
tr((R−AB) H (R−AB)ᵀ).

Grid and product depend on each other, so they are found in turns, as in LoftQ (Li et al. 2023, arXiv 2310.08659) and,
in the metric of H, in CALDERA (Saha et al. 2024, arXiv 2405.18886).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.solvers.grid import Quantized
from onnxcompress.solvers.low_rank import factors
from onnxcompress.solvers.metric import damped, relative_error

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray
_DAMPING = 1e-8  # part of the mean of diag(H)


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
    # Directions that are not seen decide where nothing else does.
    found = factors(exact, None if H is None else damped(np.asarray(H, np.float64), _DAMPING), min(rank, *exact.shape))
    more = rank - found.left.shape[1]
    return np.pad(found.left, ((0, 0), (0, more))), np.pad(found.right, ((0, more), (0, 0)))


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
