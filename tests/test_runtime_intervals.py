from __future__ import annotations

import numpy as np
import pytest

from onnxcompress.runtime.intervals import MOST_ROUNDS, median_interval, over_rounds, rounds_for


def test_intervals_of_pure_noise_cover_as_promised() -> None:
    random = np.random.default_rng(1)
    for n in (6, 15, 40, 300):
        covered = 0
        for _ in range(400):
            _, low, high = median_interval(list(random.standard_normal(n)))
            covered += low <= 0 <= high
        assert covered / 400 > 0.92


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 7, 8, 9, 20, 199, 200, 201, 1000])
def test_interval_ranks_are_within_the_values(n: int) -> None:
    middle, low, high = median_interval(list(range(n)))
    assert 0 <= low <= middle <= high <= n - 1
    if n >= 20:
        assert high - low < n / 1.5


@pytest.mark.parametrize(("n", "k"), [(6, 1), (9, 2), (20, 6), (50, 18), (100, 40)])
def test_interval_ranks_are_those_of_the_tables(n: int, k: int) -> None:
    assert median_interval(list(range(1, n + 1)))[1] == k


@pytest.mark.parametrize("rounds", [1, 2, 4, 8])
@pytest.mark.parametrize("spread", [0.0, 0.02, 0.1, 0.5])
def test_sessions_that_differ_widen_the_interval(rounds: int, spread: float) -> None:
    """What a session costs is drawn anew for each round; the noise of calls within one is small."""
    random = np.random.default_rng(2)
    widths, covered = [], 0
    for _ in range(300):
        sessions = spread * random.standard_normal(rounds)
        found = [np.exp(s + 0.05 * random.standard_normal(20)).tolist() for s in sessions]
        ratio, low, high = over_rounds(found)
        assert low <= ratio <= high
        covered += low <= 1 <= high
        widths.append(high / low - 1)
    assert np.median(widths) < 0.2 + 6 * spread
    # a single pair of sessions tells nothing of others, and few tell too little: the interval trusts a quiet machine
    promised = 0.92 if spread <= 0.02 else {1: 0.0, 2: 0.65, 4: 0.82, 8: 0.9}[rounds]
    assert covered / 300 >= promised


def test_two_sessions_of_which_one_was_three_times_as_slow_say_nothing() -> None:
    _, low, high = over_rounds([[0.38] * 20, [1.0] * 20])
    assert low < 0.5
    assert high > 1


def test_rounds_come_in_both_orders_and_only_where_loading_is_quick() -> None:
    assert rounds_for(4, 100, 10) == MOST_ROUNDS
    assert rounds_for(4, 1500, 10) == 2
    assert rounds_for(4, 2500, 10) == 1
    assert rounds_for(4, 100, 300) == 2
    assert rounds_for(4, 100, 5000) == 1
    assert MOST_ROUNDS % 2 == 0
