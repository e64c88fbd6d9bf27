r"""Weights as places in a table that they share: a grid whose steps are free.

A vector of neighbouring weights is ŵ = s · C[q], C a table of 2ᵇ entries. Weight sharing (Han et al. 2016, arXiv
1510.00149) clusters the weights; weighted by what the inputs see, as in SqueezeLLM (Kim et al. 2024, arXiv 2306.07629),
k-means minimises  Σ hⱼ sᵢ² (wᵢⱼ/sᵢ − c)².  Two steps then go on in the metric of H, in turns:

* the entry of each vector is chosen with error feedback, as in GPTVQ (van Baalen et al. 2024, arXiv 2402.15319): with
  H + λI = R Rᵀ it is nearest to the target of `feedback`, in the metric of its own block of R;
* the table is refitted: tr(E H Eᵀ) is a parabola in C, with the gradient  −2 Σ sᵢ (E H)ᵢⱼ  over the places of an entry,
  and conjugate gradients go down along it with exact steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.solvers.clusters import nearest_entries, scalar_table, vector_table
from onnxcompress.solvers.feedback import halves, ordered_inputs
from onnxcompress.solvers.metric import plain_error, stacked, unit_factors

if TYPE_CHECKING:
    from onnxcompress.solvers.groups import Groups

Array = np.ndarray
_ROWS = 1024  # rows worked on at a time
_LEAF = 32
_STEPS = 6  # of conjugate gradients


@dataclass(frozen=True)
class Shared:
    """Weights as places in a table.

    ``indices`` (vectors,) uint8, in the order of the weights, row by row; ``table`` (entries, length) float32;
    ``scale`` in the shape of those of the groups, or None; ``error`` ‖W−Ŵ‖²/‖W‖².
    """

    indices: Array
    table: Array
    scale: Array | None
    error: float

    def dequantize(self, groups: Groups | None, shape: tuple[int, int]) -> Array:
        """ŵ = s · C[q], float32, (out, in)."""
        values = self.table[self.indices]
        if self.scale is not None and groups is not None:
            values = values.reshape(groups.shape) * self.scale
        matrix: Array = values.reshape(shape)
        return matrix


def codebook(
    W: Array,
    H: Array | None,
    bits: int,
    length: int = 1,
    groups: Groups | None = None,
    seed: int = 0,
    *,
    iterations: int = 20,
    rounds: int = 2,
    damping: float = 0.01,
) -> Shared:
    """Find a table and the place of each vector of weights in it.

    Args:
        W: weights (out, in).
        H: Gram matrix of the inputs (in, in) or (groups, in, in), or None: plain k-means.
        bits: of a place, 1 to 8.
        length: weights of a vector, neighbours along the inputs; a divisor of their number.
        groups: rows, blocks of rows that are whole vectors, or all weights share a scale; None for no scales.
        seed: of the first entries where ``length`` is more than 1.
        iterations: rounds of k-means.
        rounds: of error feedback and refitting; the best counts.
        damping: part of the mean of diag(H) that is added to it.

    Raises:
        ValueError: a value is not finite, or the shapes do not fit.
    """
    block = W.shape[-1] if groups is None or len(groups.shape) == 2 else groups.shape[2]
    if not 1 <= bits <= 8 or length < 1 or W.shape[-1] % length or block % length:
        raise ValueError(f"no table of {bits} bits for vectors of {length} in weights of shape {W.shape}")
    W3, H3 = stacked(W, np.eye(W.shape[-1]) if H is None else H)
    unit = np.exp2(np.floor(np.log2(np.maximum(np.abs(W3).max(initial=0), np.finfo(np.float32).tiny))))
    W3 = W3 / unit  # a power of two, which changes no digit and lets no square overflow
    scale = None if groups is None else _spread(W3, groups)
    S = np.ones(W3.shape, np.float32) if groups is None or scale is None else _wide(scale, groups, W3.shape)
    places, table = _clustered(W3, H3, S, (1 << bits, length), seed, iterations)
    if H is not None:
        places, table = _with_feedback(W3, H3, S, places, table, rounds, damping)
    if scale is None:
        table = table * unit
    else:
        scale = (scale * unit).astype(np.float32)
    found = Shared(places.astype(np.uint8), table.astype(np.float32), scale, 0.0)
    return Shared(found.indices, found.table, scale, plain_error(W, found.dequantize(groups, W.shape)))


def _clustered(W: Array, H: Array, S: Array, size: tuple[int, int], seed: int, iterations: int) -> tuple[Array, Array]:
    """Places and table, (entries, length) of a size, of least error in the metric of diag(H)."""
    entries, length = size
    h = np.maximum(np.diagonal(H, axis1=1, axis2=2), 0)
    h = np.maximum(h, 1e-6 * h.mean()) if h.max(initial=0) > 0 else np.ones_like(h)
    importance = np.square(S) * (h / h.mean()).astype(np.float32)[:, None]
    vectors, counted = (a.reshape(-1, length) for a in (W / S, importance))
    if length == 1:
        table = scalar_table(vectors.ravel(), counted.ravel(), entries, iterations)[:, None]
    else:
        table = vector_table(vectors, counted, entries, seed, iterations)
    return _places(vectors, counted, table), table


def _spread(W: Array, groups: Groups) -> Array:
    """Root mean square of each group, one where it is zero."""
    squares = np.square(W.reshape(groups.shape), dtype=np.float64).mean(groups.shared, keepdims=True)
    scale = np.sqrt(squares).astype(np.float32)
    return np.where(scale > np.finfo(np.float32).tiny, scale, np.float32(1))


def _wide(scale: Array, groups: Groups, shape: tuple[int, ...]) -> Array:
    return np.broadcast_to(scale, groups.shape).reshape(shape)


def _places(vectors: Array, counted: Array, table: Array) -> Array:
    """The nearest entry of each vector."""
    if table.shape[1] > 1:
        return nearest_entries(vectors, counted, table)[0]
    order = np.argsort(table[:, 0], kind="stable")
    ascending = table[order, 0]
    place: Array = order[np.searchsorted((ascending[1:] + ascending[:-1]) / 2, vectors[:, 0])]
    return place


def _decoded(places: Array, table: Array, S: Array) -> Array:
    values: Array = table[places].reshape(S.shape) * S
    return values


def _with_feedback(
    W: Array, H: Array, S: Array, places: Array, table: Array, rounds: int, damping: float
) -> tuple[Array, Array]:
    """Places and table of least error in the metric of H; those given are the first to be judged, refitted."""
    H32 = H.astype(np.float32)
    length = table.shape[1]
    sums = np.diagonal(H, axis1=1, axis2=2).reshape(len(H), -1, length).sum(2)
    vectors = np.argsort(-sums, axis=1, kind="stable")
    order = (vectors[:, :, None] * length + np.arange(length)).reshape(len(H), -1)
    permuted = np.stack([one[np.ix_(o, o)] for one, o in zip(H, order, strict=True)])
    M, rest = unit_factors(permuted, damping)
    best = _refitted(W, H32, S, places, table)
    candidate = best[1]
    for _ in range(rounds):
        chosen = _assigned(W, M, rest.astype(np.float32), order, S, candidate)
        found = _refitted(W, H32, S, chosen, candidate)
        candidate = found[1]
        if found[2] < best[2]:
            best = found
    return best[0], best[1]


def _refitted(W: Array, H: Array, S: Array, places: Array, table: Array) -> tuple[Array, Array, float]:
    """Places, the table improved for them, and their error tr(E H Eᵀ): conjugate gradients, diagonally scaled."""
    entries, length = table.shape
    where = (places[:, None] * length + np.arange(length)).ravel()
    scale, table = S.ravel(), table.astype(np.float32)

    def gathered(values: Array) -> Array:
        return np.bincount(where, values.ravel().astype(np.float64), entries * length).reshape(entries, length)

    curvature = gathered(np.square(S) * np.diagonal(H, axis1=1, axis2=2)[:, None])
    inverse = np.where(curvature > 0, 1 / np.where(curvature > 0, curvature, 1), 0)
    E = W - _decoded(places, table, S)
    product = E @ H
    gradient = gathered(product.ravel() * scale)
    direction, size = inverse * gradient, float((gradient * inverse * gradient).sum())
    for _ in range(_STEPS):
        D = _decoded(places, direction.astype(np.float32), S)
        moved = D @ H
        slope, bend = np.vdot(product, D), np.vdot(D, moved)
        if not (size > 0 and bend > 0 and slope > 0):
            break
        step = slope / bend
        table = (table + step * direction).astype(np.float32)
        product -= step * moved
        gradient, before = gathered(product.ravel() * scale), size
        size = float((gradient * inverse * gradient).sum())
        direction = inverse * gradient + size / before * direction
    E = W - _decoded(places, table, S)
    return places, table, float(np.vdot(E @ H, E))


def _assigned(W: Array, M: Array, rest: Array, order: Array, S: Array, table: Array) -> Array:
    """The place of each vector, (vectors,), chosen with error feedback."""
    length = table.shape[1]
    out = np.empty((*W.shape[:2], W.shape[2] // length), np.int64)
    back = np.argsort(order[:, ::length], axis=1)
    for first in range(0, W.shape[1], _ROWS):
        rows = slice(first, first + _ROWS)
        T, scale = (ordered_inputs(a[:, rows].transpose(0, 2, 1), order) for a in (W, S))
        state = _Assignment(T, T.copy(), scale, M, rest, table, [])
        size = max(1, _LEAF // length) * length
        halves(T, state.E, M, state.leaf, range(T.shape[1]), size)
        out[:, rows] = ordered_inputs(state.places(), back).transpose(0, 2, 1)
    return out.ravel()


@dataclass(frozen=True)
class _Assignment:
    """Targets and errors (groups, in, rows) on their way through `halves`; E holds the weights at first."""

    T: Array
    E: Array
    scale: Array
    M: Array
    rest: Array
    table: Array
    chosen: list[Array]

    def places(self) -> Array:
        """The places found so far (groups, vectors, rows)."""
        return np.stack(self.chosen, 1)

    def leaf(self, low: int, high: int) -> None:
        """Choose the entries of a few vectors one by one."""
        length = self.table.shape[1]
        for j in range(low, high, length):
            block = slice(j, j + length)
            if j > low:
                self.T[:, block] += self.M[:, block, low:j] @ self.E[:, low:j]
            place = self._single(j) if length == 1 else self._vector(block)
            self.chosen.append(place)
            self.E[:, block] -= self.table[place].transpose(0, 2, 1) * self.scale[:, block]

    def _single(self, j: int) -> Array:
        target = self.T[:, j] / self.scale[:, j]
        return _places(target.reshape(-1, 1), target, self.table).reshape(target.shape)

    def _vector(self, block: slice) -> Array:
        """The entry that leaves least of a block in the metric of its own part of R."""
        M, rest = self.M[:, block, block], self.rest[:, block]
        target = self.T[:, block] + (M @ self.E[:, block] - self.E[:, block])
        C = self.table @ M.transpose(0, 2, 1)
        counted = C * rest[:, None]
        squares = (counted * C).sum(2)
        distance = counted @ target
        distance *= -2
        distance += squares[:, :, None] * self.scale[:, None, block.start]
        place: Array = distance.argmin(1)
        return place
