r"""A convolution as a chain of smaller ones, in the metric of what it sees.

A kernel W (O, I, kh, kw) sees windows with H = E[x xᵀ] over (I, kh, kw), and V in its place costs tr((W−V) H (W−V)ᵀ),
both flattened to (O, I·kh·kw). Three forms of V:

    spatial   V[o,i,a,b] = Σ_r h[o,r,b] v[r,i,a]             (Jaderberg et al. 2014, arXiv 1405.3866)
    output    V[o,i,a,b] = Σ_r l[o,r] c[r,i,a,b]             (Zhang et al. 2016, arXiv 1505.06798)
    tucker    V[o,i,a,b] = Σ_rs l[o,r] c[r,s,a,b] f[s,i]     (Tucker-2; Kim et al. 2016, arXiv 1511.06530)

The second is exact for any H (`low_rank`), the first for none; else h and v are fitted in turns, each a linear least
squares problem. In the third, f is that of a decomposition in the metric of single inputs, H summed over positions; for
this f the best l and c are exact: least squares for the product l·c over projected windows, H' = f H fᵀ, and the best
factors of that in the metric H'.
"""

from __future__ import annotations

import numpy as np

from onnxcompress.solvers import low_rank
from onnxcompress.solvers.low_rank import Factors, balanced, energy

Array = np.ndarray
_DAMPING = 1e-8  # part of the mean of a diagonal: what is not seen stays as it is
_ROUGH = 1e-5  # the same where only the direction of a step depends on it
_STEPS = 5  # of conjugate gradients in each turn; far more change the error of all turns by less than 1 %
_GAIN = 1e-3  # turns that gain less are the last
_EXACT = 1e-12  # part of the energy: what is left is that float32 has no more digits


def error(W: Array, V: Array, H: Array | None) -> float:
    """tr((W−V) H (W−V)ᵀ).

    Args:
        W: kernel (O, I, kh, kw).
        V: the one in its place, of the same shape.
        H: Gram matrix of the windows (I·kh·kw, I·kh·kw), or None for the plain squared error.

    Raises:
        ValueError: a value of W or H is not finite, or the shapes do not fit.
    """
    flat, metric = _flat(W, H)
    if np.shape(V) != np.shape(W):
        raise ValueError(f"a kernel of shape {np.shape(V)} cannot take the place of one of shape {np.shape(W)}")
    return energy(flat - np.asarray(V, np.float64).reshape(flat.shape), metric)


def output(W: Array, H: Array | None, rank: int) -> tuple[Array, Array]:
    """A convolution with few outputs, then one of size 1; no other kernels of the rank do better.

    Args:
        W: kernel (O, I, kh, kw).
        H: Gram matrix of the windows (I·kh·kw, I·kh·kw), or None for the plain squared error.
        rank: from 1 to min(O, I·kh·kw).

    Returns:
        Core (rank, I, kh, kw) and last (O, rank, 1, 1), float32.

    Raises:
        ValueError: a value is not finite, the shapes do not fit, or there is no such rank.
    """
    flat, metric = _flat(W, H)
    found = low_rank.factors(flat, metric, rank)
    return found.right.reshape(rank, *W.shape[1:]), found.left[:, :, None, None]


# ------------------------------------------------------------------------------------------------------------ spatial


def spatial(W: Array, H: Array | None, rank: int, sweeps: int = 6) -> tuple[Array, Array]:
    """A convolution along columns, then one along rows.

    Without H no other kernels of the rank do better; with H these are at least as good as those without.

    Args:
        W: kernel (O, I, kh, kw).
        H: Gram matrix of the windows (I·kh·kw, I·kh·kw), or None for the plain squared error.
        rank: from 1 to min(O·kw, I·kh).
        sweeps: how often both are fitted in turns, at most; the best of all counts.

    Returns:
        Vertical (rank, I, kh, 1) and horizontal (O, rank, 1, kw), float32.

    Raises:
        ValueError: a value is not finite, the shapes do not fit, or there is no such rank.
    """
    flat, metric = _flat(W, H)
    outs, ins, kh, kw = W.shape
    unfolded = flat.reshape(outs, ins * kh, kw).transpose(0, 2, 1).reshape(outs * kw, ins * kh)
    best = low_rank.factors(unfolded, None, rank)
    if metric is not None:
        best = _Turns(flat, metric, kw).run(unfolded, best, sweeps)
    horizontal = best.left.reshape(outs, kw, rank).transpose(0, 2, 1)[:, :, None, :]
    return best.right.reshape(rank, ins, kh, 1), np.ascontiguousarray(horizontal)


class _Turns:
    """Alternating least squares for left (O·kw, rank) and right (rank, X), X = I·kh, in the metric H (X·kw, X·kw)."""

    def __init__(self, W: Array, H: Array, kw: int) -> None:
        self._W, self._H, self._kw = W, H, kw
        self._X = W.shape[1] // kw
        self._WH = (W @ H).reshape(len(W), self._X, kw)
        self._columns = np.einsum("xbyb->xy", H.reshape(self._X, kw, self._X, kw))
        self._inverse = np.linalg.inv(_damped(self._columns, _ROUGH))

    def run(self, unfolded: Array, plain: Factors, sweeps: int) -> Factors:
        """The best of all turns, of the plain start and of one in the metric of single columns."""
        seen = low_rank.factors(unfolded, self._columns, plain.left.shape[1])
        best, least = min(((start, self._cost(start)) for start in (plain, seen)), key=lambda pair: pair[1])
        exact = _EXACT * energy(self._W, self._H)
        for _ in range(sweeps):
            if least <= exact:
                break
            left = self._left(best.left.astype(np.float64), best.right.astype(np.float64))
            latest = balanced(left, self._right(left, best.right.astype(np.float64)))
            cost = self._cost(latest)
            gained = cost < least * (1 - _GAIN)
            if cost < least:
                best, least = latest, cost
            if not gained:
                break
        return best

    def _cost(self, both: Factors) -> float:
        product = (both.left.astype(np.float64) @ both.right).reshape(len(self._W), self._kw, self._X)
        return energy(self._W - product.transpose(0, 2, 1).reshape(self._W.shape), self._H)

    def _seen(self, right: Array) -> Array:
        """What each component sees at each of its positions along a row, (rank, kw, X, kw)."""
        found: Array = (right @ self._H.reshape(self._X, -1)).reshape(len(right), self._kw, self._X, self._kw)
        return found

    def _left(self, left: Array, right: Array) -> Array:
        """The best left for this right: one system of rank·kw unknowns for all outputs."""
        rank, size = len(right), len(right) * self._kw
        Z = self._seen(right)
        gram = np.tensordot(Z, right, axes=(2, 1)).transpose(0, 1, 3, 2).reshape(size, size)
        h = left.reshape(len(self._W), self._kw, rank).transpose(0, 2, 1).reshape(-1, size)
        h = _improved(h, gram, self._W @ Z.reshape(size, -1).T)
        found: Array = h.reshape(-1, rank, self._kw).transpose(0, 2, 1).reshape(left.shape)
        return found

    def _right(self, left: Array, right: Array) -> Array:
        """A better right for this left, by conjugate gradients from the one there is.

        As a preconditioner, positions along a row are taken as unrelated: then the system is a Kronecker product.
        """
        rank, kw = len(right), self._kw
        h = left.reshape(-1, kw, rank).transpose(0, 2, 1)
        C = np.tensordot(h, h, axes=(0, 0)).transpose(1, 0, 2, 3).reshape(kw, rank, rank * kw)
        between = np.linalg.inv(_damped(np.einsum("brsb->rs", C.reshape(kw, rank, rank, kw)), _ROUGH))

        def applied(x: Array) -> Array:
            Z = self._seen(x).reshape(rank * kw, self._X, kw)
            return sum((C[c] @ Z[:, :, c] for c in range(kw)), np.zeros_like(x))

        x = right.copy()
        rest = np.tensordot(h, self._WH, axes=((0, 2), (0, 2))) - applied(x)
        step, power = np.zeros_like(x), 1.0
        for turn in range(_STEPS):
            ahead = between @ rest @ self._inverse
            now = float((ahead * rest).sum())
            step = ahead + (now / power if turn else 0.0) * step
            bent = applied(step)
            curvature = float((step * bent).sum())
            if not (now > 0 and curvature > 0):  # nothing is left to gain but rounding errors
                break
            x += now / curvature * step
            rest -= now / curvature * bent
            power = now
        return x


# ------------------------------------------------------------------------------------------------------------- tucker


def tucker(W: Array, H: Array | None, rank_in: int, rank_out: int, sweeps: int = 2) -> tuple[Array, Array, Array]:
    """A convolution of size 1 to few inputs, one of these to few outputs, and one of size 1 to all outputs.

    Args:
        W: kernel (O, I, kh, kw).
        H: Gram matrix of the windows (I·kh·kw, I·kh·kw), or None for the plain squared error.
        rank_in: from 1 to min(I, O·kh·kw).
        rank_out: from 1 to min(O, rank_in·kh·kw).
        sweeps: how often inputs and outputs are chosen in turns; the best of all counts, the choice without H included.

    Returns:
        First (rank_in, I, 1, 1), of orthonormal rows, core (rank_out, rank_in, kh, kw) and last (O, rank_out, 1, 1),
        float32; core and last are the best for this first.

    Raises:
        ValueError: a value is not finite, the shapes do not fit, or there are no such ranks.
    """
    flat, metric = _flat(W, H)
    outs, ins, kh, kw = W.shape
    K = kh * kw
    if not (1 <= rank_in <= min(ins, outs * K) and 1 <= rank_out <= min(outs, rank_in * K)):
        raise ValueError(f"no inner kernel ({rank_out}, {rank_in}) for one of shape {W.shape}")
    flat = flat.reshape(outs, ins, K).transpose(0, 2, 1).reshape(outs, -1)  # inputs last: one product for all positions
    if metric is not None:
        metric = metric.reshape(ins, K, ins, K).transpose(1, 0, 3, 2).reshape(metric.shape)
    found = _choices(flat, metric, rank_in, rank_out, K, sweeps)
    if metric is not None:
        plain = min(_choices(flat, None, rank_in, rank_out, K, sweeps), key=lambda each: each[0])[1]
        found.append(_behind(flat, metric, plain, rank_out))
    _, first, inner = min(found, key=lambda each: each[0])
    core = inner.right.reshape(rank_out, kh, kw, rank_in).transpose(0, 3, 1, 2)
    once = first.astype(np.float32, order="C")
    return once[:, :, None, None], np.ascontiguousarray(core), inner.left[:, :, None, None]


def _choices(
    W: Array, H: Array | None, rank_in: int, rank_out: int, K: int, sweeps: int
) -> list[tuple[float, Array, Factors]]:
    """Inputs chosen as the outputs see them, and outputs as the inputs let them: each turn as of `_behind`."""
    found = list[tuple[float, Array, Factors]]()
    left = low_rank.factors(W, H, min(rank_out, W.shape[1])).left
    for _ in range(max(1, sweeps)):
        found.append(_behind(W, H, _inputs(W, H, left, rank_in, K), rank_out))
        left = found[-1][2].left
    return found


def _inputs(W: Array, H: Array | None, left: Array, rank: int, K: int) -> Array:
    """Orthonormal combinations (rank, I) of inputs that keep most of W (O, K·I) as seen by left (O, n)."""
    ins = W.shape[1] // K
    single = None if H is None else np.einsum("aiaj->ij", H.reshape(K, ins, K, ins))
    seen = np.linalg.qr(left.astype(np.float64))[0]
    # Where outputs are too few to tell as many inputs apart, all outputs do.
    rows = seen.T @ W if seen.shape[1] * K >= rank else W
    right = low_rank.factors(rows.reshape(-1, ins), single, rank).right
    basis = np.linalg.qr(right.T.astype(np.float64))[0].T
    largest = np.take_along_axis(basis, np.abs(basis).argmax(axis=1)[:, None], axis=1)
    found: Array = np.where(largest < 0, -basis, basis)
    return found


def _behind(W: Array, H: Array | None, first: Array, rank: int) -> tuple[float, Array, Factors]:
    """The least error behind this first (rank_in, I), the first itself, and the last and core that have it."""
    inner = _inner(W, H, first, rank)
    V = (inner.left.astype(np.float64) @ inner.right).reshape(-1, len(first)) @ first
    return energy(W - V.reshape(W.shape), H), first, inner


def _inner(W: Array, H: Array | None, first: Array, rank: int) -> Factors:
    """Last (O, rank) and core (rank, K·rank_in) that leave least of W (O, K·I) behind this first (rank_in, I)."""
    P, ins = first, first.shape[1]
    size = len(P) * (W.shape[1] // ins)
    M = (W.reshape(-1, ins) @ P.T).reshape(len(W), size)
    if H is None:
        return low_rank.factors(M, None, rank)
    half = np.matmul(P, H.reshape(-1, ins, H.shape[1])).reshape(size, -1)
    gram = (half.reshape(-1, ins) @ P.T).reshape(size, size)
    return low_rank.factors(_improved(M, gram, W @ half.T), gram, rank)


# ------------------------------------------------------------------------------------------------------------- shared


def _flat(W: Array, H: Array | None) -> tuple[Array, Array | None]:
    """Kernel (O, I·kh·kw) and its metric, float64."""
    if np.ndim(W) != 4 or not np.size(W) or (H is not None and np.shape(H) != (W[0].size,) * 2):
        seen = "" if H is None else f" in a metric of shape {np.shape(H)}"
        raise ValueError(f"no factors of a kernel of shape {np.shape(W)}{seen}")
    flat = np.asarray(W, np.float64).reshape(len(W), -1)
    metric = None if H is None else np.asarray(H, np.float64)
    if not np.isfinite(flat).all() or (metric is not None and not np.isfinite(metric).all()):
        raise ValueError("weights or their Gram matrix are not finite")
    return flat, metric


def _damped(G: Array, damping: float) -> Array:
    """G and a part of the mean of its diagonal; the identity where G is zero."""
    level = float(np.diagonal(G).mean())
    D: Array = (G + G.T) / 2
    D.flat[:: len(G) + 1] += damping * level if level > 0 else 1.0
    return D


def _improved(x: Array, gram: Array, target: Array) -> Array:
    """Rows x that come closest to x·gram = target, from those there are.

    A damped step on a quadratic form never goes up, so nothing is lost where the matrix is singular.
    """
    found: Array = x + np.linalg.solve(_damped(gram, _DAMPING), (target - x @ gram).T).T
    return found
