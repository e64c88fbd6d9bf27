"""Latency of any number of models, all in turns, the first of them the reference.

It is `timing` for more than two: a unit is a block of turns A B C C B A on the same inputs, and each block starts
with another model, so every model goes first equally often and the ratio (A₁ + A₂) / (C₁ + C₂) is free of any drift
that is linear in time. Where a call lasts long, one pass over the models is a unit. Ratios and intervals are those of
`intervals`, over rounds with sessions of their own; as long as one is wide, more rounds are measured than usual.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxcompress.runtime.intervals import USUAL_ROUNDS, median, median_interval, over_rounds
from onnxcompress.runtime.timing import Call, Clock, percentiles, turn, warm_up, without_collection

if TYPE_CHECKING:
    from onnxcompress.report import Percentiles

Lineup = Sequence[Call]  # one call of each model on the same inputs, the reference first
Turns = tuple[tuple[float, ...], ...]  # milliseconds of the calls of one model in one unit, turn by turn

_TURN_MS = 3.0
_LONG_CALL_MS = 20.0  # from here on, one call is a turn and one pass a unit
_MOST_REPEATS = 200
_SURE_UNITS = 6  # the fewest that give a 95 % interval
_FEWEST_UNITS = 3
_NARROW, _WIDE = 0.02, 0.10  # width of the widest interval relative to its middle


@dataclass(frozen=True)
class Speedup:
    """How many times faster than the reference, with the bounds of a 95 % confidence interval."""

    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    """What one model took; ``speedup`` is None for the reference."""

    calls: int
    units: int
    latency_ms: Percentiles
    speedup: Speedup | None


@dataclass
class _Taken:
    """What has been measured: all calls of each model, and the ratios of each rival, unit by unit."""

    times: list[list[float]]
    ratios: list[list[float]]
    units: int = 0
    spent: float = 0.0  # seconds within calls

    def add(self, unit: Sequence[Turns]) -> None:
        costs = [sum(median(t) for t in turns) for turns in unit]
        for known, turns in zip(self.times, unit, strict=True):
            known += [ms for t in turns for ms in t]
        for known, cost in zip(self.ratios, costs[1:], strict=True):
            known.append(costs[0] / max(cost, 1e-9))
        self.units += 1
        self.spent += sum(ms for turns in unit for t in turns for ms in t) / 1000


def interleaved(
    rounds: Sequence[Callable[[], Sequence[Lineup]]], seconds: float = 4.0, clock: Clock = time.perf_counter
) -> tuple[Series, ...]:
    """Time models against the first of them.

    It stops early when all intervals are narrow, and goes on to twice the time when one is wide.

    Args:
        rounds: each gives, for each set of inputs, a call of every model, with sessions of its own, loaded in the other
            order each time. The usual number of them share the time; what is given beyond is measured, two at a time,
            as long as an interval is wide.
        seconds: time to spend within calls.
        clock: seconds, from any origin.
    """
    found: list[_Taken] = []
    long, repeats = False, 1
    usual = min(len(rounds), USUAL_ROUNDS)
    for number, make in enumerate(rounds):
        if number >= usual and number % 2 == 0 and _narrow(found):
            break
        lineups = make()
        costs = [median(warm_up(call, clock)) for lineup in lineups for call in lineup]
        if not number:
            fastest = min(costs[: len(lineups[0])])
            long = fastest >= _LONG_CALL_MS
            repeats = 1 if long else min(_MOST_REPEATS, max(1, math.ceil(_TURN_MS / max(fastest, 1e-3))))
        found.append(_collect(lineups, repeats, long, seconds / usual, clock))
        del lineups
    return _summary(found)


def _collect(lineups: Sequence[Lineup], repeats: int, long: bool, seconds: float, clock: Clock) -> _Taken:
    """One round."""
    count = len(lineups[0])
    taken = _Taken([[] for _ in range(count)], [[] for _ in range(count - 1)])
    with without_collection():
        while not _enough(taken, seconds):
            for lineup in lineups:
                taken.add(_unit(lineup, repeats, long, taken.units, clock))
                if _enough(taken, seconds):
                    break
    return taken


def _unit(lineup: Lineup, repeats: int, long: bool, done: int, clock: Clock) -> list[Turns]:
    """One more unit: a pass over the models and, unless calls are long, the same backwards."""
    places = range(len(lineup))
    first = (done // 2 if long else done) % len(lineup)
    order = [*places[first:], *places[:first]]
    if long and done % 2:
        order.reverse()
    turns: list[list[tuple[float, ...]]] = [[] for _ in places]
    for place in order if long else [*order, *reversed(order)]:
        turns[place].append(turn(lineup[place], repeats, clock))
    return [tuple(own) for own in turns]


def _enough(taken: _Taken, seconds: float) -> bool:
    if taken.units < _SURE_UNITS:
        return taken.units >= _FEWEST_UNITS and taken.spent >= 4 * seconds
    if taken.spent < seconds / 4:
        return False
    if not taken.ratios:
        return taken.spent >= seconds
    intervals = [median_interval(ratios) for ratios in taken.ratios]
    width = max((high - low) / middle for middle, low, high in intervals)
    if taken.spent < seconds:
        return width <= _NARROW and taken.units >= 2 * _SURE_UNITS
    return width <= _WIDE or taken.spent >= 2 * seconds


def _narrow(found: Sequence[_Taken]) -> bool:
    rivals = range(len(found[0].ratios))
    intervals = [over_rounds([taken.ratios[rival] for taken in found]) for rival in rivals]
    return all((high - low) / middle <= _WIDE for middle, low, high in intervals)


def _summary(found: Sequence[_Taken]) -> tuple[Series, ...]:
    made = []
    units = sum(taken.units for taken in found)
    for place in range(len(found[0].times)):
        times = [ms for taken in found for ms in taken.times[place]]
        speedup = Speedup(*over_rounds([taken.ratios[place - 1] for taken in found])) if place else None
        made.append(Series(len(times), units, percentiles(times), speedup))
    return tuple(made)
