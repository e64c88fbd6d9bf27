r"""Of all matrices of a rank, that which does best in place of a weight, in the metric of what the layer sees.

Of all V of rank r, tr((W−V) H (W−V)ᵀ) = ‖(W−V)H^½‖² is least for the truncated singular value decomposition of W H^½
(Eckart and Young 1936), taken back from there:  V = U Uᵀ W,  U being the eigenvectors of W H Wᵀ with the r largest
eigenvalues. What is left is the sum of the other eigenvalues. Neither a root nor an inverse of H is taken, so H may be
singular. Of a weight with more rows than inputs, W = Q R, the same is done with R, which is square:  V = Q (U Uᵀ R).

Where fewer than r directions are seen at all, the others go to the largest part of what is left in the plain metric.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.solvers.metric import row_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = np.ndarray
_EPS = float(np.finfo(np.float64).eps)
_NOISE = 1e-12  # part of the energy that is rounding errors of a spectrum


@dataclass(frozen=True)
class Factors:
    """Two thin matrices: left (out, rank) and right (rank, in), float32."""

    left: Array
    right: Array

    @property
    def product(self) -> Array:
        """What they stand for, (out, in) float32."""
        found: Array = self.left @ self.right
        return found


def spectrum(W: Array, H: Array | None) -> Array:
    """Squared singular values of W H^½; the least error of rank r is the sum of those from the r-th on.

    Args:
        W: weights (out, in).
        H: Gram matrix of the inputs (in, in), or None for the plain squared error.

    Returns:
        (min(out, in),) float64, falling, never negative; each to within the rounding error of the largest.

    Raises:
        ValueError: a value is not finite, or the shapes do not fit.
    """
    exact, metric = _checked(W, H)
    square = np.asarray(np.linalg.qr(exact, mode="r")) if exact.shape[0] > exact.shape[1] else exact
    values: Array = np.maximum(np.linalg.eigvalsh(_gram(square, metric))[::-1], 0)
    return values


def factors(W: Array, H: Array | None, rank: int) -> Factors:
    """The product of a rank that leaves least of W in the metric of H.

    Args:
        W: weights (out, in).
        H: Gram matrix of the inputs (in, in), or None for the plain squared error.
        rank: from 1 to min(out, in).

    Returns:
        Left (out, rank), of orthogonal columns, and right (rank, in). A column is as long as the row of its component,
        and its largest entry is positive. Components of which nothing is left are zero.

    Raises:
        ValueError: a value is not finite, the shapes do not fit, or there is no such rank.
    """
    return Decomposition(W, H).factors(rank)


def joint(Ws: Sequence[Array], H: Array | None, rank: int, weights: Sequence[float]) -> tuple[Array, list[Array]]:
    """One right factor for several layers that read the same input, which leaves least of the weighted sum of errors.

    Args:
        Ws: weights (outᵢ, in).
        H: Gram matrix of the inputs (in, in), or None for the plain squared error.
        rank: from 1 to min(Σ outᵢ, in).
        weights: what the error of each layer counts, positive.

    Returns:
        Right (rank, in) and a left (outᵢ, rank) for each layer, float32; the lefts together are as long as the right,
        by component.

    Raises:
        ValueError: as in `factors`, of all layers one below the other, or weights do not fit.
    """
    if not Ws or len(Ws) != len(weights) or not all(0 < weight < np.inf for weight in weights):
        raise ValueError(f"{len(Ws)} layers cannot have the weights {list(weights)}")
    if any(W.ndim != 2 or W.shape[1] != Ws[0].shape[1] for W in Ws):
        raise ValueError(f"layers of shapes {[W.shape for W in Ws]} do not read one input")
    counts = np.repeat(np.sqrt(np.asarray(weights, np.float64)), [len(W) for W in Ws])[:, None]
    stack = counts * np.concatenate([np.asarray(W, np.float64) for W in Ws])
    left, right = Decomposition(stack, H).parts(rank)
    found = balanced(left / counts, right)
    return found.right, np.split(found.left, np.cumsum([len(W) for W in Ws])[:-1])


def rank_for_energy(spectrum: Array, share: float) -> int:
    """The least rank that keeps a share of the energy, at least 1.

    Args:
        spectrum: squared singular values (n,), falling, as of `spectrum`.
        share: above 0, at most 1; all of it but for rounding errors.

    Raises:
        ValueError: the share is not in (0, 1], or the spectrum is empty.
    """
    if not 0 < share <= 1 or not len(spectrum):
        raise ValueError(f"no rank keeps a share of {share} of {len(spectrum)} values")
    left = np.cumsum(spectrum[::-1])[::-1]  # from the small end: small values are not lost in large sums
    allowed = (1 - share + _NOISE) * left[0]
    return max(1, int(np.count_nonzero(left > allowed)))


def energy(E: Array, H: Array | None) -> float:
    """tr(E H Eᵀ): what differences of weights cost.

    Args:
        E: differences (out, in), float64.
        H: Gram matrix of the inputs (in, in), or None for the plain squared error.
    """
    return float(np.square(E).sum() if H is None else row_errors(E[None], H[None]).sum())


def balanced(left: Array, right: Array) -> Factors:
    """The same product, each component as long at the left as at the right: both fit a small float type or a grid.

    Args:
        left: (out, rank).
        right: (rank, in).

    Returns:
        Float32; the largest entry of each left column is positive, and components that are rounding noise are zero.
    """
    a, b = np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1)
    used = a * b > _EPS * len(a) * (a * b).max(initial=0)
    a, b = np.where(used, a, 1), np.where(used, b, 1)
    sign = np.where(np.take_along_axis(left, np.abs(left).argmax(axis=0)[None], axis=0)[0] < 0, -1.0, 1.0) * used
    return Factors(
        (left * (sign * np.sqrt(b / a))).astype(np.float32, order="C"),
        (right * (sign * np.sqrt(a / b))[:, None]).astype(np.float32, order="C"),
    )


def _checked(W: Array, H: Array | None) -> tuple[Array, Array | None]:
    """Both in float64, of shapes that fit."""
    exact = np.asarray(W, np.float64)
    if exact.ndim != 2 or (H is not None and np.shape(H) != (exact.shape[1],) * 2):
        seen = "" if H is None else f" in a metric of shape {np.shape(H)}"
        raise ValueError(f"no factors of a matrix of shape {exact.shape}{seen}")
    metric = None if H is None else np.asarray(H, np.float64)
    if not np.isfinite(exact).all() or (metric is not None and not np.isfinite(metric).all()):
        raise ValueError("weights or their Gram matrix are not finite")
    return exact, metric


class Decomposition:
    """A weight taken apart once, for its spectrum and factors of any rank.

    Args:
        W: weights (out, in).
        H: Gram matrix of the inputs (in, in), or None for the plain squared error.

    Raises:
        ValueError: a value is not finite, or the shapes do not fit.
    """

    def __init__(self, W: Array, H: Array | None) -> None:
        exact, metric = _checked(W, H)
        self._Q: Array | None = None
        self._square: Array = exact
        if exact.shape[0] > exact.shape[1]:
            self._Q, self._square = np.linalg.qr(exact)
        self._values, self._vectors = np.linalg.eigh(_gram(self._square, metric))
        self._highest = min(exact.shape)

    @property
    def spectrum(self) -> Array:
        """As of `spectrum`."""
        found: Array = np.maximum(self._values[::-1], 0)
        return found

    def factors(self, rank: int) -> Factors:
        """As of `factors`.

        Raises:
            ValueError: there is no such rank.
        """
        return balanced(*self.parts(rank))

    def parts(self, rank: int) -> tuple[Array, Array]:
        """U (out, rank) of orthonormal columns, and Uᵀ W (rank, in), float64.

        Raises:
            ValueError: there is no such rank.
        """
        if not 1 <= rank <= self._highest:
            raise ValueError(f"no product of rank {rank} where the highest is {self._highest}")
        # Below, the eigenvectors are those of rounding errors.
        least = max(0.0, _EPS * len(self._values) * self._values[-1])
        seen = min(rank, int(np.count_nonzero(self._values > least)))
        U = self._vectors[:, ::-1][:, :seen]
        right = U.T @ self._square
        if seen < rank:
            rest = self._square - U @ right
            more = np.linalg.eigh(_gram(rest, None))[1][:, ::-1][:, : rank - seen]
            U, right = np.hstack([U, more]), np.vstack([right, more.T @ rest])
        return (U if self._Q is None else self._Q @ U), right


def _gram(W: Array, H: Array | None) -> Array:
    """W H Wᵀ, symmetric to the last bit."""
    E = W @ W.T if H is None else W @ H @ W.T
    symmetric: Array = (E + E.T) / 2
    return symmetric
