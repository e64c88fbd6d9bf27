"""Latency of two models, measured in pairs so that what disturbs one disturbs the other.

The unit is a block of four turns, A B B A, on the same inputs: its ratio (A₁ + A₂) / (B₁ + B₂) is free of the
order and of any drift that is linear in time. A turn is so many calls that it lasts a few milliseconds, the
same number for both. Where a single call lasts long, order and caches no longer matter: each pair A B or B A
is a unit.

The speedup and its 95 % confidence interval are those of `intervals`, over rounds with sessions of their own. As long
as that interval is wide, more rounds are measured than usual.
"""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from onnxcompress.report import Percentiles
from onnxcompress.runtime.intervals import USUAL_ROUNDS, median, median_interval, over_rounds

Call = Callable[[], object]
Callers = Sequence[tuple[Call, Call]]
Clock = Callable[[], float]
T = TypeVar("T")

_TURN_MS = 3.0
_LONG_CALL_MS = 20.0  # from here on, one call is a turn and one pair a unit
_MOST_REPEATS = 200
_SURE_UNITS = 6  # the fewest that give a 95 % interval
_FEWEST_UNITS = 3
_SHOWN = 300  # pairs that are handed on as they are
_NARROW, _WIDE = 0.02, 0.10  # width of the interval relative to the speedup


@dataclass(frozen=True)
class Timing:
    """Latency per call of both models, and how many times faster the second one is."""

    units: int
    original_ms: Percentiles
    compressed_ms: Percentiles
    speedup: float
    speedup_low: float
    speedup_high: float
    seconds: float  # spent within calls
    pairs_ms: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class _Turns:
    """One pair: the calls of each model in milliseconds."""

    original: tuple[float, ...]
    compressed: tuple[float, ...]

    @property
    def medians(self) -> tuple[float, float]:
        return median(self.original), median(self.compressed)

    @property
    def seconds(self) -> float:
        return (sum(self.original) + sum(self.compressed)) / 1000


def paired(
    rounds: Sequence[Callable[[], Callers]],
    seconds: float = 4.0,
    seen: Sequence[tuple[float, float]] = (),
    clock: Clock = time.perf_counter,
) -> Timing:
    """Time two models against each other.

    It stops early when the interval is narrow, goes on to twice the time when it is wide, and longer only for
    the few units without which there is no interval.

    Args:
        rounds: each gives, for each set of inputs, a call of the original and one of the compressed model, with
            sessions of its own, loaded in the other order each time. The usual number of them share the time; what
            is given beyond is measured, two at a time, as long as the interval is wide.
        seconds: time to spend within calls.
        seen: milliseconds of pairs of calls already made in alternating order, after a warm-up.
        clock: seconds, from any origin.
    """
    found: list[list[_Turns]] = []
    long, repeats = False, 1
    usual = min(len(rounds), USUAL_ROUNDS)
    for number, make in enumerate(rounds):
        if number >= usual and number % 2 == 0 and _narrow(found, long):
            break
        callers = make()
        known = [[pair[i] for pair in seen] for i in (0, 1)] if seen and not number else None
        fastest = min(median(times) for times in known or [warm_up(call, clock) for call in callers[0]])
        if not number:
            long = fastest >= _LONG_CALL_MS
            repeats = 1 if long else min(_MOST_REPEATS, max(1, math.ceil(_TURN_MS / max(fastest, 1e-3))))
        before = [_Turns((a,), (b,)) for a, b in seen] if long and not number else []
        found.append(_collect(before, callers, repeats, long, seconds / usual, clock))
        del callers
    return _summary(found, long)


def _collect(
    turns: list[_Turns], callers: Callers, repeats: int, long: bool, seconds: float, clock: Clock
) -> list[_Turns]:
    """The turns of one round: those given, and more until there are enough for so many seconds."""
    with without_collection():
        while not _enough(turns, long, seconds):
            for original, compressed in callers:
                turns += _unit(original, compressed, repeats, long, len(turns), clock)
                if _enough(turns, long, seconds):
                    break
    return turns


def timed(call: Callable[[], T], clock: Clock = time.perf_counter) -> tuple[T, float]:
    """The result of one call, and its milliseconds."""
    started = clock()
    result = call()
    return result, (clock() - started) * 1000


def _unit(a: Call, b: Call, repeats: int, long: bool, done: int, clock: Clock) -> list[_Turns]:
    """One more unit: a block A B B A or B A A B, or a single pair A B or B A, in turns."""
    a_first = (done if long else done // 2) % 2 == 0
    x, y = (a, b) if a_first else (b, a)
    pairs = [(turn(x, repeats, clock), turn(y, repeats, clock))]
    if not long:
        last_y = turn(y, repeats, clock)
        pairs.append((turn(x, repeats, clock), last_y))
    return [_Turns(*pair) if a_first else _Turns(*reversed(pair)) for pair in pairs]


def turn(call: Call, repeats: int, clock: Clock) -> tuple[float, ...]:
    """Milliseconds of so many calls in a row."""
    times = []
    last = clock()
    for _ in range(repeats):
        call()
        now = clock()
        times.append((now - last) * 1000)
        last = now
    return tuple(times)


def warm_up(call: Call, clock: Clock) -> list[float]:
    """A first call, which is slow and not counted, and a few more for an estimate."""
    _, first = timed(call, clock)
    return [timed(call, clock)[1] for _ in range(1 if first > _LONG_CALL_MS else 3)]


def _ratios(turns: Sequence[_Turns], long: bool) -> list[float]:
    medians = [t.medians for t in turns]
    if not long:
        medians = [(a + c, b + d) for (a, b), (c, d) in zip(medians[::2], medians[1::2], strict=True)]
    return [a / max(b, 1e-9) for a, b in medians]


def _enough(turns: Sequence[_Turns], long: bool, seconds: float) -> bool:
    units = len(turns) if long else len(turns) // 2
    spent = sum(t.seconds for t in turns)
    if units < _SURE_UNITS:
        return units >= _FEWEST_UNITS and spent >= 4 * seconds
    if spent < seconds / 4:
        return False
    middle, low, high = median_interval(_ratios(turns, long))
    width = (high - low) / middle
    if spent < seconds:
        return width <= _NARROW and units >= 2 * _SURE_UNITS
    return width <= _WIDE or spent >= 2 * seconds


def _narrow(found: Sequence[Sequence[_Turns]], long: bool) -> bool:
    middle, low, high = over_rounds([_ratios(turns, long) for turns in found])
    return (high - low) / middle <= _WIDE


def _summary(found: Sequence[Sequence[_Turns]], long: bool) -> Timing:
    rounds = [_ratios(turns, long) for turns in found]
    middle, low, high = over_rounds(rounds)
    turns = [one for own in found for one in own]
    original = [t for turn in turns for t in turn.original]
    compressed = [t for turn in turns for t in turn.compressed]
    spent = sum(t.seconds for t in turns)
    chosen = [turns[i * len(turns) // _SHOWN] for i in range(_SHOWN)] if len(turns) > _SHOWN else turns
    pairs = tuple((round(a, 6), round(b, 6)) for a, b in (t.medians for t in chosen))
    return Timing(
        sum(map(len, rounds)), percentiles(original), percentiles(compressed), middle, low, high, spent, pairs
    )


def percentiles(times: Sequence[float]) -> Percentiles:
    """The median and the 95th percentile."""
    p50, p95 = np.percentile(times, [50, 95])
    return Percentiles(float(p50), float(p95))


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Without the garbage collector, whose pauses would count as latency."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
