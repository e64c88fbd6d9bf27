"""How many channels of each group go, such that a share of all multiply-adds goes and the outputs lose least.

Groups were taken to a few of their stops on trial, one at a time, and the outputs were seen to lose d by that; between
them damage is taken to grow with the error e in the metric of what readers see. Steps are taken where the damage for
each multiply-add saved is least; what a step saves depends on what is gone already.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.graph import multiply_adds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxcompress.graph.multiply_adds import Cuts, Layer

_LEAST = 1e-12  # of damage, so that steps that seem to cost nothing are still told apart by what they save


@dataclass(frozen=True)
class Ladder:
    """What may become of a group: for each stop the error (or damage) there, and what it removes from axes of layers.

    The first stop is the group as it is: no error, nothing removed.
    """

    errors: tuple[float, ...]
    cuts: tuple[Cuts, ...]


def expected(ladders: Sequence[Ladder], measured: Sequence[Mapping[int, float]]) -> list[Ladder]:
    """Ladders with the damage at the outputs in place of errors.

    Between stops that were tried damage grows with the error, and behind the last one as it did before.

    Args:
        ladders: of the groups.
        measured: for each group stops that were tried, with the damage; what is not finite counts as not measured. A
            group of which nothing is known has the median of the damage for each error of others.
    """
    known = [{s: d for s, d in one.items() if math.isfinite(d)} for one in measured]
    factors = [
        known[i][stop] / ladder.errors[stop]
        for i, ladder in enumerate(ladders)
        if known[i] and ladder.errors[stop := min(known[i])] > 0
    ]
    middle = statistics.median(factors) if factors else 1.0
    return [
        Ladder(_damage(ladder.errors, one, middle), ladder.cuts) for ladder, one in zip(ladders, known, strict=True)
    ]


def _damage(errors: Sequence[float], tried: Mapping[int, float], factor: float) -> tuple[float, ...]:
    if not tried or errors[max(tried)] <= 0:
        return tuple(e * factor for e in errors)
    stops = sorted(tried)
    x = np.array([0.0, *(errors[s] for s in stops)])
    y = np.maximum.accumulate([0.0, *(tried[s] for s in stops)])
    slope = max(y[-1] - y[-2], 0) / (x[-1] - x[-2]) if x[-1] > x[-2] else 0.0
    slope = max(slope, y[-1] / x[-1])
    beyond = [max(e - x[-1], 0) * slope for e in errors]
    return tuple(float(np.interp(e, x, y)) + more for e, more in zip(errors, beyond, strict=True))


def chosen_stops(ladders: Sequence[Ladder], layers: Sequence[Layer], ratio: float) -> list[int]:
    """The stop of each group's ladder.

    Args:
        ladders: of the groups, with the damage that is expected.
        layers: all layers of the model.
        ratio: the share of their multiply-adds that is to go. It is reached where the ladders are long enough.
    """
    return _Choice(ladders, layers).made(ratio)


class _Choice:
    def __init__(self, ladders: Sequence[Ladder], layers: Sequence[Layer]) -> None:
        self._ladders = ladders
        self._layers = {layer.name: layer for layer in layers}
        self._of = [{name for name, _ in ladder.cuts[-1]} & set(self._layers) for ladder in ladders]
        self._at = [0] * len(ladders)
        self._cuts: Cuts = {}

    def made(self, ratio: float) -> list[int]:
        whole = multiply_adds.total(list(self._layers.values()))
        target = ratio * whole * (1 - 1e-9)
        saved = 0.0
        best = {g: self._best(g) for g in range(len(self._ladders))}
        while saved < target:
            steps = [(step[0], g, step[1]) for g, step in best.items() if step is not None]
            if not steps:
                break
            _, group, stop = min(steps)
            if saved + self._saving(group, stop) >= target:
                group, stop = self._last(target - saved)
            saved += self._saving(group, stop)
            self._cuts = self._moved(group, stop)
            self._at[group] = stop
            best |= {g: self._best(g) for g, names in enumerate(self._of) if names & self._of[group]}
        return self._at

    def _best(self, group: int) -> tuple[float, int] | None:
        """The least damage for each multiply-add saved, and the stop to go to for that."""
        errors, now = self._ladders[group].errors, self._at[group]
        found = []
        for stop in range(now + 1, len(errors)):
            saving = self._saving(group, stop)
            if saving > 0:
                damage = max(errors[stop] - errors[now], _LEAST)
                found.append((damage / saving, stop))
        return min(found, default=None)

    def _last(self, missing: float) -> tuple[int, int]:
        """Of all steps that save what is still missing the one of least damage."""
        found = []
        for group, ladder in enumerate(self._ladders):
            now = self._at[group]
            for stop in range(now + 1, len(ladder.errors)):
                if self._saving(group, stop) >= missing:
                    damage = ladder.errors[stop] - ladder.errors[now]
                    found.append((damage, group, stop))
                    break
        _, group, stop = min(found)
        return group, stop

    def _saving(self, group: int, stop: int) -> float:
        """Multiply-adds that go when a group goes on to a stop."""
        own = [self._layers[name] for name in sorted(self._of[group])]
        return multiply_adds.total(own, self._cuts) - multiply_adds.total(own, self._moved(group, stop))

    def _moved(self, group: int, stop: int) -> Cuts:
        before, after = self._ladders[group].cuts[self._at[group]], self._ladders[group].cuts[stop]
        return self._cuts | {key: self._cuts.get(key, 0) + n - before.get(key, 0) for key, n in after.items()}


def joined(cuts: Sequence[Mapping[tuple[str, int], int]]) -> Cuts:
    """What several groups remove together: they have different places along an axis."""
    found: Cuts = {}
    for one in cuts:
        for key, count in one.items():
            found[key] = found.get(key, 0) + count
    return found
