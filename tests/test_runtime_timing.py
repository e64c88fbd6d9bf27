from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from onnxcompress.runtime.timing import Callers, Timing, paired

if TYPE_CHECKING:
    from collections.abc import Callable


class Machine:
    """Time that passes only when something is called: with drift, spikes, and a price for going first."""

    def __init__(self, seed: int = 0, noise: float = 0.0, drift: float = 0.0, first: float = 1.0) -> None:
        self.now = 0.0
        self.calls = {"a": 0, "b": 0}
        self._random = np.random.default_rng(seed)
        self._noise, self._drift, self._first = noise, drift, first
        self._last = ""

    def clock(self) -> float:
        return self.now

    def call(self, name: str, ms: float) -> Callable[[], None]:
        def run() -> None:
            self.calls[name] += 1
            factor = math.exp(self._noise * self._random.standard_normal()) * (1 + self._drift * self.now)
            if self._random.random() < 0.05 * (self._noise > 0):
                factor *= 10
            if self._last != name:
                factor *= self._first
            self._last = name
            self.now += ms * factor / 1000

        return run

    def rounds(self, a: float, b: float, count: int = 1) -> list[Callable[[], Callers]]:
        return [lambda: [(self.call("a", a), self.call("b", b))]] * count

    def time(self, a: float, b: float, seconds: float = 1.0) -> Timing:
        return paired(self.rounds(a, b), seconds, clock=self.clock)


@pytest.mark.parametrize("base_ms", [0.05, 1.0, 15.0, 25.0, 100.0])
def test_the_interval_holds_the_true_ratio(base_ms: float) -> None:
    """A twentieth of the calls takes ten times as long, and still most results are right within 5 %."""
    ratios = np.linspace(0.3, 4, 20)
    found = [Machine(seed, noise=0.05).time(base_ms * r, base_ms, 10.0) for seed, r in enumerate(ratios)]
    held = [t.speedup_low <= r <= t.speedup_high for t, r in zip(found, ratios, strict=True)]
    close = [abs(t.speedup / r - 1) < 0.05 for t, r in zip(found, ratios, strict=True)]
    assert np.mean(held) >= 0.9
    assert np.mean(close) >= 0.9


def test_drift_and_order_cancel() -> None:
    assert Machine(drift=0.5).time(1.0, 1.0).speedup == pytest.approx(1, rel=1e-3)
    assert Machine(first=1.5).time(2.0, 2.0).speedup == pytest.approx(1, rel=0.01)


def test_short_calls_are_repeated_and_the_budget_is_kept() -> None:
    machine = Machine(noise=0.02)
    timing = machine.time(0.1, 0.05)
    assert machine.calls["a"] / timing.units > 30
    assert machine.now < 2.2


def test_a_clear_result_stops_early() -> None:
    machine = Machine()
    assert machine.time(1.0, 0.5, seconds=4).speedup == pytest.approx(2)
    assert machine.now < 1.5


def test_a_noisy_result_goes_on() -> None:
    machine = Machine(noise=1.0)
    machine.time(15.0, 15.0, seconds=1)
    assert 1.9 < machine.now < 4


def test_pairs_seen_already_count_for_slow_models() -> None:
    machine = Machine()
    seen = [(1000.0, 500.0)] * 7
    timing = paired(machine.rounds(1000, 500), 4, seen, machine.clock)
    assert machine.now == 0
    assert timing.units == 7
    assert timing.speedup == 2
    assert timing.original_ms.p50 == 1000


def test_a_slow_model_gets_the_fewest_pairs() -> None:
    machine = Machine()
    timing = machine.time(10_000, 10_000, seconds=1)
    assert timing.units == 3
    assert timing.speedup_low < 1 < timing.speedup_high


def test_rounds_share_the_time() -> None:
    machine = Machine(noise=0.3)
    factors = itertools.count()

    def fresh() -> Callers:
        slow = 1.2 if next(factors) % 2 else 1 / 1.2
        return [(machine.call("a", 5 * slow), machine.call("b", 5))]

    timing = paired([fresh, fresh], 2.0, clock=machine.clock)
    assert timing.speedup_low < 1 < timing.speedup_high


def test_percentiles_are_per_call() -> None:
    timing = Machine().time(2.0, 4.0)
    assert timing.original_ms.p50 == pytest.approx(2)
    assert timing.compressed_ms.p95 == pytest.approx(4)
    assert timing.speedup == pytest.approx(0.5)
