"""One number for what a change does to the outputs: that of the worst output, and of the worst group of channels.

    noise = Σ(y − ŷ)² / Σy²

Of an output that is scores of classes the distributions are compared as well. What a language model loses in
perplexity is the divergence, whatever the size of its logits, most of which are those of words that nobody expects:

    noise ≥ KL(p ‖ p̂) · 10^-2.5 / .0025 nats ,    p = softmax(y), or y itself where its rows are probabilities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.stats.magnitudes import without_masks
from onnxcompress.stats.masks import kept_positions
from onnxcompress.stats.output_groups import groups_of
from onnxcompress.stats.scores import class_like, probabilities

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnxcompress.data.dataset import Feeds

Array = np.ndarray
Outputs = dict[str, Array]
NOISE_LIMIT = 10**-2.5  # noise-to-signal ratio at the worst output that is bearable where nothing else is asked
_LIMIT_NATS = 0.0025  # the divergence that is held to be as bad: a quarter of a percent of perplexity
_LEAST = 1e-12  # of a probability
_SAMPLE_ROWS = 256
_MOST = 1 << 22  # scores in a call that are looked at
_ROWS_BYTES = 1 << 25


class OutputNoise:
    """Compares outputs with those of the original, on some calls.

    Args:
        calls: inputs.
        expected: the float outputs of the original for each of them.
        producers: the operators that outputs come from, see `scores.producers`; None to leave distributions out.
    """

    def __init__(
        self, calls: Sequence[Feeds], expected: Sequence[Outputs], producers: Mapping[str, str] | None
    ) -> None:
        first = expected[0] if expected else {}
        self._scores = {
            name for name, y in first.items() if producers is not None and class_like(name, y, producers.get(name))
        }
        self._keep = [kept_positions(feeds) for feeds in calls]
        self._shapes = [{name: y.shape for name, y in outputs.items()} for outputs in expected]
        self._expected = [self._counting(y, keep) for y, keep in zip(expected, self._keep, strict=True)]
        self._groups = groups_of([{n: without_masks(y) for n, y in own.items()} for own in self._expected])

    def ratio(self, found: Iterable[Outputs]) -> float:
        """The noise of the outputs of a changed model for the same calls, infinite where shapes differ."""
        totals: dict[tuple[str, int], list[float]] = {}
        known = zip(self._expected, self._shapes, self._groups, self._keep, found, strict=True)
        for expected, shapes, groups, keep, changed in known:
            if any(changed[name].shape != shape for name, shape in shapes.items()):
                return float("inf")
            own = self._counting(changed, keep)
            for key, noise, energy in _noises(expected, own, groups):
                total = totals.setdefault(key, [0.0, 0.0])
                total[0] += noise
                total[1] += energy
            for name in self._scores:
                total = totals.setdefault((name, -1), [0.0, 0.0])
                total[0] += _divergence(expected[name], own[name]) * (NOISE_LIMIT / _LIMIT_NATS)
                total[1] += expected[name].size // expected[name].shape[-1]
        return max((n / e if e > 0 else (float("inf") if n else 0.0) for n, e in totals.values()), default=0.0)

    def _counting(self, outputs: Outputs, keep: Array | None) -> Outputs:
        """Outputs without the positions that are padding, and of very many rows of scores every n-th."""
        found = {}
        for name, y in outputs.items():
            if keep is not None and y.shape[:2] == keep.shape:
                y = y[keep]
            if name in self._scores and y.size > _MOST:
                y = y.reshape(-1, y.shape[-1])[:: -(-y.size // _MOST)]
            found[name] = y
        return found


def _divergence(y: Array, z: Array) -> float:
    """Σ KL(p ‖ p̂) over rows, in nats."""
    rows, other = y.reshape(-1, y.shape[-1]), z.reshape(-1, y.shape[-1])
    proper = probabilities(rows[:_SAMPLE_ROWS])
    total, step = 0.0, max(1, _ROWS_BYTES // (8 * rows.shape[-1]))
    for start in range(0, len(rows), step):
        p, q = (_logarithms(part[start : start + step], proper=proper) for part in (rows, other))
        with np.errstate(invalid="ignore", over="ignore"):
            terms = np.exp(p) * (p - q)
        total += float(np.nan_to_num(terms, nan=np.inf).sum()) if np.isfinite(p).all() else 0.0
    return max(total, 0.0)


def _logarithms(rows: Array, *, proper: bool) -> Array:
    values = rows.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        if proper:
            return np.log(np.maximum(values, _LEAST))
        values -= values.max(axis=-1, keepdims=True)
        found: Array = values - np.log(np.exp(values).sum(axis=-1, keepdims=True))
        return found


def _noises(
    expected: Mapping[str, Array], found: Mapping[str, Array], groups: Mapping[str, tuple[int, list[list[int]]] | None]
) -> list[tuple[tuple[str, int], float, float]]:
    rows = []
    for name, y in expected.items():
        z = found[name]
        y = without_masks(y)
        finite = np.isfinite(y)
        difference = np.where(finite, z.astype(np.float64) - np.where(finite, y, 0), 0)
        energy = np.square(np.where(finite, y, 0).astype(np.float64))
        noise = np.nan_to_num(np.square(difference), nan=np.inf, posinf=np.inf)
        parts = groups[name]
        if parts is None:
            rows.append(((name, 0), float(noise.sum()), float(energy.sum())))
            continue
        axis, lists = parts
        rows += [
            ((name, i), float(noise.take(c, axis).sum()), float(energy.take(c, axis).sum()))
            for i, c in enumerate(lists)
        ]
    return rows
