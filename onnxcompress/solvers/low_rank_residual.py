r"""A weight as the sum of a thin product and a matrix of a set: few bits, or few values that are not zero.

    min tr((W−AB−Q) H (W−AB−Q)ᵀ)   over A (out, rank), B (rank, in) and Q of the set

in turns: Q is the projection of W−AB onto the set, AB the best of its rank for W−Q (`low_rank`). These are the turns of
GoDec (Zhou and Tao 2011) for sparse Q, and of LoftQ (Li et al. 2023, arXiv 2310.08659) for a grid. `residual` does the
same with the codes of a grid in hand; here Q may be of any set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.solvers.low_rank import Factors, energy, factors

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray
_GAIN = 1e-3  # turns that gain less are the last


def plus(
    W: Array, H: Array | None, rank: int, project: Callable[[Array], Array], sweeps: int = 4
) -> tuple[Factors, Array]:
    """W ≈ AB + Q, the best of all turns.

    Args:
        W: weights (out, in).
        H: Gram matrix of the inputs (in, in), or None for the plain squared error.
        rank: of AB, from 1 to min(out, in).
        project: takes what AB leaves of W, (out, in) float32, to a matrix of the set, (out, in); the first is W itself.
        sweeps: how many turns at most, at least one; a turn that gains less than 0.1 % is the last.

    Returns:
        AB, float32, and Q (out, in) as ``project`` made it.

    Raises:
        ValueError: a value is not finite, the shapes do not fit, or there is no such rank.
    """
    exact = np.asarray(W, np.float64)
    rest, found = exact, list[tuple[float, Factors, Array]]()
    for _ in range(max(1, sweeps)):
        Q = np.asarray(project(rest.astype(np.float32)))
        if Q.shape != exact.shape:
            raise ValueError(f"a projection of shape {Q.shape} of weights of shape {exact.shape}")
        both = factors(exact - Q, H, rank)
        rest = exact - both.product
        found.append((energy(rest - Q, H), both, Q))
        if len(found) > 1 and found[-1][0] >= found[-2][0] * (1 - _GAIN):
            break
    _, both, Q = min(found, key=lambda turn: turn[0])
    return both, Q
