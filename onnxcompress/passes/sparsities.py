"""How sparse each weight becomes, such that a share of all weights goes.

By damage: weight i was changed on trial with the error eᵢ, in the metric of what it sees, and the outputs were seen to
lose dᵢ by that. At a sparsity that leaves the error e it is expected to do dᵢ · e / eᵢ. Weights are kept where each of
them saves most damage. No weight gets sparser than 1 − (1 − s)/3 for a share s of all.

By one threshold: |w| over the root mean square of its tensor is compared across tensors, or a gradient's score
as it is.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.passes.allotment import Rung, allotted
from onnxcompress.solvers.metric import row_errors, stacked
from onnxcompress.solvers.sparsity import fitted, pruned, simple_scores
from onnxcompress.solvers.supports import Pattern
from onnxcompress.training.importance import Sensitivity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Array = np.ndarray
_GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99)
_ROWS = 96  # of a weight, from which its errors are told
_STEPS = 6  # of the fit for that
_STARVED = 3.0  # times fewer weights stay than on average, at most
_MANY = 1 << 20  # scores of a weight, which tell what goes with the smallest of them
_SAMPLE = 1 << 16  # values of a tensor that a threshold is found from


@dataclass(frozen=True)
class Target:
    """A weight that is to be pruned: its rows (out, in), and the metric of what it sees if that is known.

    ``often``: how often each row counts, (out,), as they are looked up; ``felt``: the gradient by which weights go, if
    they are to go by that.
    """

    rows: Array
    metric: Array | None
    often: Array | None = None
    felt: Sensitivity | None = None

    def trial(self, sparsity: float) -> Array:
        """The rows with those weights gone that do least by themselves, nothing refitted."""
        kept = Pattern().support(self.scores(), int(sparsity * self.rows.size))
        return np.where(kept, self.rows, np.float32(0))

    def solved(self, pattern: Pattern, zeros: int, importance: str) -> Array:
        """The rows with so many zeros: weights go by magnitude, times input, by gradient, or as the others allow.

        Raises:
            ValueError: a value is not finite.
        """
        if importance == "magnitude":
            return np.where(pattern.support(np.abs(self.rows), zeros), self.rows, np.float32(0))
        if self.metric is None or self.felt is not None or importance == "activation":
            return np.where(pattern.support(self.scores(), zeros), self.rows, np.float32(0))
        return pruned(self.rows, self.metric, pattern, zeros)

    def error(self, changed: Array) -> float:
        """The error of changed rows in the metric, in the units of the outputs."""
        E = self.rows - changed
        if self.metric is None:
            squares = np.einsum("oi,oi->o", E, E, dtype=np.float64)
            return float(squares.sum() if self.often is None else squares @ self.often)
        return float(row_errors(*stacked(E, self.metric)).sum())

    def curve(self) -> list[tuple[float, float]]:
        """Sparsities with the errors that they leave, once the rest is refitted where it is, from a few rows."""
        if self.felt is not None:
            return self._unfitted(self.felt)
        if self.metric is None:
            scores = self.scores().ravel()
            step = 1 if self.often is not None else max(1, scores.size // _MANY) | 1  # odd, so that columns take turns
            scores, whole = scores[::step].copy(), scores.size
            places = [max(int(s * scores.size), 1) for s in _GRID]
            scores.partition([n - 1 for n in places])  # in parts, which is half the work of sorting
            parts = [scores[a:b].sum(dtype=np.float64) for a, b in pairwise([0, *places])]
            lost = np.cumsum(parts) * (whole / scores.size)
            return [(0.0, 0.0), *zip(_GRID, map(float, lost), strict=True)]
        some = slice(None) if self.metric.ndim > 2 else slice(None, None, max(1, len(self.rows) // _ROWS))
        W, scores = self.rows[some], self.scores()[some]
        W3, H3 = stacked(W, self.metric)
        found = [(0.0, 0.0)]
        for sparsity in _GRID:
            kept = Pattern().support(scores, int(sparsity * W.size)).reshape(W3.shape)
            left = fitted(W3, H3, kept, steps=_STEPS)
            found.append((sparsity, float(row_errors(W3 - left, H3).sum()) * len(self.rows) / len(W)))
        return found

    def _unfitted(self, felt: Sensitivity) -> list[tuple[float, float]]:
        step = 1 if self.metric is not None and self.metric.ndim > 2 else max(1, len(self.rows) // _ROWS)
        often = None if self.often is None else self.often[::step]
        part = Target(self.rows[::step], self.metric, often, Sensitivity(felt.kind, felt.mean[::step]))
        share = len(self.rows) / len(part.rows)
        return [(0.0, 0.0), *((s, part.error(part.trial(s)) * share) for s in _GRID)]

    def scores(self) -> Array:
        """What each weight counts by itself, (out, in)."""
        if self.felt is not None:
            return self.felt.scores(self.rows)
        if self.metric is None:
            squares: Array = np.square(self.rows)
            return squares if self.often is None else squares * self.often[:, None].astype(np.float32)
        scores: Array = simple_scores(*stacked(self.rows, self.metric)).reshape(self.rows.shape)
        return scores


@dataclass(frozen=True)
class Curve:
    """What is known of a weight before it is pruned: its size, what errors sparsities leave, and the trial's error."""

    name: str
    count: int
    errors: Sequence[tuple[float, float]]
    tried: float


def by_damage(curves: Sequence[Curve], damage: Mapping[str, float], share: float) -> list[int]:
    """Zeros of each weight, such that ``share`` of all go and the outputs are expected to lose least.

    Args:
        curves: of the weights.
        damage: what the trial of each did to the outputs, by name; where nothing is known errors count by themselves.
        share: of all weights.
    """
    total = sum(c.count for c in curves)
    limit = 1 - (1 - share) / _STARVED
    weighed = _weighed(curves, damage)
    ladders = [[Rung(None, c.count - int(s * c.count), e) for s, e in reversed(c.errors) if s <= limit] for c in curves]
    least = sum(rungs[0].nbytes for rungs in ladders)
    keep = total - int(share * total)
    chosen = [r.nbytes for r in allotted(ladders, weighed, max(keep - least, 0))]
    _spread(chosen, [c.count for c in curves], keep)
    return [c.count - kept for c, kept in zip(curves, chosen, strict=True)]


def _spread(chosen: list[int], counts: list[int], keep: int) -> None:
    """Have ``keep`` weights stay in all: what steps of the ladders left over goes to all in proportion, or comes."""
    left = keep - sum(chosen)
    if left > 0:
        rooms = [count - kept for count, kept in zip(counts, chosen, strict=True)]
        whole = sum(rooms)
        for i, room in enumerate(rooms):
            part = min(room, math.ceil(left * room / whole)) if whole else 0
            whole, left = whole - room, left - part
            chosen[i] += part


def _weighed(curves: Sequence[Curve], damage: Mapping[str, float]) -> list[float]:
    """What an error of each weight counts; a weight that was not tried counts as the middle one of its size."""
    known = {
        c.name: damage[c.name] / c.tried
        for c in curves
        if c.tried > 0 and math.isfinite(damage.get(c.name, math.inf)) and damage[c.name] > 0
    }
    if not known:
        return [1.0] * len(curves)
    # per relative error and weight, since errors have the units of the activations
    scale = {c.name: c.errors[-1][1] / c.count for c in curves}
    middle = statistics.median(known[c.name] * scale[c.name] for c in curves if c.name in known)
    return [
        known[c.name] if c.name in known else (middle / scale[c.name] if scale[c.name] > 0 else 0.0) for c in curves
    ]


def by_threshold(weights: Sequence[Array], share: float, *, scaled: bool = True) -> list[int]:
    """Zeros of each weight where one threshold for |w| over its root mean square takes ``share`` of all away.

    Without ``scaled`` the threshold is for the values as they are, for scores that tensors have in common.
    """
    values, counts, at = [], [], []
    for W in weights:
        level = (float(np.sqrt(np.square(W, dtype=np.float64).mean())) or 1.0) if scaled else 1.0
        sample = np.sort(np.abs(W.ravel()[:: max(1, W.size // _SAMPLE)]) / level)
        values.append(sample)
        counts.append(np.full(sample.size, W.size / sample.size))
        at.append(level)
    order = np.argsort(np.concatenate(values), kind="stable")
    gone = np.cumsum(np.concatenate(counts)[order])
    place = int(np.searchsorted(gone, share * gone[-1]))
    threshold = np.concatenate(values)[order][min(place, len(order) - 1)]
    limit = 1 - (1 - share) / (2 * _STARVED)
    return [
        min(int(np.count_nonzero(np.abs(W) < threshold * level)), int(limit * W.size))
        for W, level in zip(weights, at, strict=True)
    ]
