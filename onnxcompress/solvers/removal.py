r"""Which channels that a layer reads are removed, and how those that stay take over.

A weight W (out, in) sees inputs with H = E[x xᵀ]; a channel is a block of inputs. Without the inputs S it is refitted,

    min ‖(W − W')x‖² + λ ‖W_K − W'_K‖²,  W'_S = 0   →   W'_K = W_K + W_S H_SK (H_KK + λ)⁻¹

K being the inputs that stay: least squares, but for the small λ. What the removal of a block c then costs, and what the
removal of all blocks adds up to when they go one after the other, is known from the inverse of H + λ alone:

    cost_c = tr(W_c P W_cᵀ),   W ← W − W_c P [H⁻¹]_c:,   H⁻¹ ← H⁻¹ − [H⁻¹]_:c P [H⁻¹]_c:,   P = ([H⁻¹]_cc)⁻¹

(the optimal brain surgeon of Hassibi and Stork 1993, on blocks as in E. Kurtic et al., "ZipLM", NeurIPS 2023,
https://arxiv.org/abs/2302.04089). Channels go greedily, cheapest first, by what all their readers lose together.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.solvers.metric import damped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Array = np.ndarray
DAMPING = 0.01  # of the mean of diag(H)
_AT_ONCE = 64  # parts of all channels that are removed between two looks at the scores


@dataclass(frozen=True, eq=False)
class Reader:
    """A weight that reads channels.

    ``W``: (groups, rows, in). ``H``: what it sees, (groups, in, in), or its diagonal alone, (groups, in). ``blocks``:
    for each channel the inputs that are its own, the same in every group; other inputs always stay.
    """

    W: Array
    H: Array
    blocks: tuple[Array, ...]


@dataclass(frozen=True, eq=False)
class Removal:
    """Channels in the order in which they go, and at some numbers of them (``stops``) what is lost by then.

    ``errors`` are sums over the readers of ‖(W − W')x‖² / ‖Wx‖².
    """

    order: tuple[int, ...]
    stops: tuple[int, ...]
    errors: tuple[float, ...]


def removal(
    readers: Sequence[Reader], stops: Sequence[int], damping: float = DAMPING, scores: Array | None = None
) -> Removal:
    """Remove channels one after the other.

    Args:
        readers: all that read them, each with as many blocks.
        stops: increasing numbers of channels, at which the error is told; the last one is how many go.
        damping: part of the mean of diag(H) that is added to it.
        scores: what each channel counts (channels,), in place of what its removal costs; the least go first.

    Raises:
        ValueError: the readers do not agree in the number of channels, or there are fewer than are to go.
    """
    channels = len(readers[0].blocks) if readers else 0
    wrong = any(len(r.blocks) != channels for r in readers) or any(a >= b for a, b in pairwise(stops))
    if wrong or not stops or not 0 < stops[0] <= stops[-1] <= channels:
        raise ValueError(f"of {channels} channels {list(stops)} cannot go")
    states = [state for reader in readers for state in _states(reader, damping)]
    alive, order, errors, error = np.arange(channels), list[int](), [], 0.0
    step = max(1, channels // _AT_ONCE)
    for stop in stops:
        while len(order) < stop:
            if scores is None:
                cost = sum((state.costs(alive) for state in states), np.zeros(len(alive)))
            else:
                cost = scores[alive]
            cheapest = np.argsort(cost, kind="stable")[: min(step, stop - len(order))]
            gone = alive[cheapest]
            error += sum(state.remove(gone) for state in states)
            order += [int(c) for c in gone]
            alive = np.delete(alive, cheapest)
        errors.append(error)
    return Removal(tuple(order), tuple(int(s) for s in stops), tuple(errors))


def refitted(W: Array, H: Array, gone: Array, damping: float = DAMPING) -> Array:
    """A weight without some of its inputs, the others having taken over.

    Args:
        W: weights (groups, rows, in).
        H: what it sees, (groups, in, in); of a diagonal alone, (groups, in), nothing can be taken over.
        gone: the inputs that go.
        damping: part of the mean of diag(H) that is added to it.

    Returns:
        (groups, rows, in) float64, zero where inputs are gone.
    """
    found = np.array(W, np.float64)
    found[:, :, gone] = 0
    kept = np.setdiff1d(np.arange(W.shape[-1]), gone)
    if H.ndim == 2 or not len(gone) or not len(kept):
        return found
    for w, made, one in zip(W, found, H, strict=True):
        D = damped(np.asarray(one, np.float64), damping)
        moved = np.linalg.solve(D[np.ix_(kept, kept)], D[np.ix_(kept, gone)])
        made[:, kept] += w[:, gone].astype(np.float64) @ moved.T
    return found


def lost(W: Array, W_hat: Array, H: Array) -> float:
    """Σ tr((W−Ŵ) H (W−Ŵ)ᵀ) over groups, for H (groups, in, in) or its diagonal (groups, in)."""
    E = np.asarray(W, np.float64) - W_hat
    if H.ndim == 2:
        return float((np.square(E).sum(axis=1) * H).sum())
    return max(0.0, float(((E @ H) * E).sum()))


# ------------------------------------------------------------------------- removal from one weight


def _states(reader: Reader, damping: float) -> Iterator[_Full | _Diagonal]:
    """One for each group; those of one reader share its energy."""
    W = np.asarray(reader.W, np.float64)
    if reader.H.ndim == 2:
        powers = np.square(W).sum(axis=1) * reader.H
        if powers.sum() > 0:
            yield _Diagonal(powers.sum(axis=0) / powers.sum(), reader.blocks)
        return
    metrics = [damped(np.asarray(one, np.float64), damping) for one in reader.H]
    energy = sum(float(((w @ D) * w).sum()) for w, D in zip(W, metrics, strict=True))
    if energy > 0:
        for w, D in zip(W, metrics, strict=True):
            yield _Full(w / np.sqrt(energy), np.linalg.inv(D), reader.blocks)


class _Diagonal:
    """Inputs that know nothing of each other: a channel costs what it costs."""

    def __init__(self, powers: Array, blocks: Sequence[Array]) -> None:
        self._costs = np.array([powers[block].sum() for block in blocks])

    def costs(self, channels: Array) -> Array:
        """Of each of the channels (channels,)."""
        found: Array = self._costs[channels]
        return found

    def remove(self, channels: Array) -> float:
        """What it costs that these go."""
        return float(self._costs[channels].sum())


class _Full:
    """A weight (rows, in) and the inverse of its metric, which both forget the channels that are gone."""

    def __init__(self, W: Array, inverse: Array, blocks: Sequence[Array]) -> None:
        self._W = W
        self._inverse = (inverse + inverse.T) / 2
        self._blocks = blocks
        self._sizes = np.array([len(block) for block in blocks])

    def costs(self, channels: Array) -> Array:
        """Of each of the channels, if it were the next to go, (channels,)."""
        found = np.zeros(len(channels))
        sizes = self._sizes[channels]
        for size in np.unique(sizes[sizes > 0]):
            where = np.flatnonzero(sizes == size)
            index = np.stack([self._blocks[c] for c in channels[where]])
            A = self._inverse[index[:, :, None], index[:, None, :]]
            w = self._W[:, index].transpose(1, 2, 0)
            found[where] = np.trace(np.linalg.solve(A, w @ w.transpose(0, 2, 1)), axis1=1, axis2=2)
        return np.maximum(found, 0)

    def remove(self, channels: Array) -> float:
        """Take these out, have the others take over, and return what it costs."""
        gone = np.concatenate([self._blocks[c] for c in channels]).astype(np.int64)
        if not len(gone):
            return 0.0
        w = self._W[:, gone]
        moved = np.linalg.solve(self._inverse[np.ix_(gone, gone)], self._inverse[gone])
        cost = float(((w @ np.linalg.inv(self._inverse[np.ix_(gone, gone)])) * w).sum())
        self._W -= w @ moved
        self._inverse -= self._inverse[:, gone] @ moved
        self._W[:, gone] = 0
        return max(cost, 0.0)
