"""Grids of eight bits hold zero, cover their range and round to the nearest step, whatever the values are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from onnxcompress.solvers.clipping import Range, candidates, grid, rounded, squared_error

FLOAT = np.finfo(np.float32)
LARGEST = float(FLOAT.max) / 4  # a grid ends here
ENDS = st.floats(-LARGEST, LARGEST, width=32)
SAMPLES = arrays.arrays(
    np.float32, st.integers(1, 300), elements=st.floats(-(2.0**100), 2.0**100, width=32)
)  # fmt: skip


def gaussian(*outliers: float, size: int = 4000) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    values[: len(outliers)] = outliers
    return values


def ranges(sample: np.ndarray) -> dict[str, Range]:
    return candidates(sample, float(sample.min()), float(sample.max()))


@given(ENDS, ENDS)
def test_zero_is_a_step_and_the_scale_a_normal_number(low: float, high: float) -> None:
    scale, zero = grid(low, high)
    assert 0 <= zero <= 255
    assert float(np.float32(scale)) == scale
    assert float(FLOAT.tiny) <= scale < math.inf
    assert rounded(np.zeros(1, np.float32), low, high)[0] == 0


@given(ENDS, ENDS)
def test_a_grid_covers_its_range_but_for_half_a_step(low: float, high: float) -> None:
    low, high = min(low, high), max(low, high)
    scale, zero = grid(low, high)
    slack = 0.5001 * scale
    assert -zero * scale <= min(low, 0) + slack
    assert (255 - zero) * scale >= max(high, 0) - slack


@given(ENDS, ENDS, st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_what_lies_inside_is_off_by_half_a_step_at_most(low: float, high: float, places: list[float]) -> None:
    low, high = min(low, high, 0.0), max(low, high, 0.0)
    values = np.clip(np.float32(low) + np.float32(high - low) * np.array(places, np.float32), low, high)
    scale, _ = grid(low, high)
    error = np.abs(rounded(values, low, high).astype(np.float64) - values)
    assert error.max() <= 0.501 * scale


@given(ENDS, ENDS, st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_sixteen_bits_are_off_by_half_a_step_at_most(low: float, high: float, places: list[float]) -> None:
    low, high = min(low, high, 0.0), max(low, high, 0.0)
    values = np.clip(low + (high - low) * np.array(places), low, high)
    scale, zero = grid(low, high, 16)
    assert 0 <= zero <= 65535
    assert scale <= max((high - low) / 65535, 1.0) * 1.001
    error = np.abs(rounded(values, low, high, 16).astype(np.float64) - values)
    assert error.max() <= 0.51 * scale + np.abs(values).max() * 2**-22  # decoded values are float32


def test_sixteen_bits_are_not_clipped_but_for_masks() -> None:
    sample = gaussian()
    low, high = float(sample.min()), float(sample.max())
    assert candidates(sample, low, 8 * high, 16) == {"headroom": (2 * low, 16 * high)}
    masked = candidates(sample, -1e9, high, 16)
    assert min(ends[0] for ends in masked.values()) == -1e9
    assert max(ends[0] for ends in masked.values()) > -100


@pytest.mark.parametrize(("low", "high", "kept"), [(0, 255, 200), (-128, 127, -128), (-255, 0, -3), (0, 51, 0.2)])
def test_steps_come_out_exactly(low: float, high: float, kept: float) -> None:
    assert rounded(np.array([kept], np.float32), low, high)[0] == np.float32(kept)


@pytest.mark.parametrize(("value", "end"), [(1e9, 255), (-1e9, 0), (300, 255), (-1, 0)])
def test_what_lies_outside_is_clipped(value: float, end: float) -> None:
    assert rounded(np.array([value], np.float32), 0, 255)[0] == end


@pytest.mark.parametrize("ends", [(0, 0), (-0.0, 0.0), (0, 1e-45), (-1e-40, 1e-40), (0, float(FLOAT.tiny))])
def test_a_range_of_nothing_has_steps_of_one(ends: Range) -> None:
    assert grid(*ends) == (1.0, 0)


@pytest.mark.parametrize("ends", [(-math.inf, math.inf), (0, math.inf), (-math.inf, 0), (-3.4e38, 3.4e38)])
def test_a_range_without_end_still_has_finite_steps(ends: Range) -> None:
    scale, zero = grid(*ends)
    assert 0 < 255 * scale < float(FLOAT.max)
    assert (zero == 0) == (ends[0] == 0)
    assert np.isfinite(rounded(np.array([-FLOAT.max, 1, FLOAT.max], np.float32), *ends)).all()


@given(SAMPLES)
def test_candidates_lie_within_what_was_seen_and_hold_zero(sample: np.ndarray) -> None:
    found = ranges(sample)
    low, high = min(float(sample.min()), 0.0), max(float(sample.max()), 0.0)
    assert found["min-max"] == (low, high)
    assert len(set(found.values())) == len(found)
    for ends in found.values():
        assert low <= ends[0] <= 0 <= ends[1] <= high


@given(SAMPLES)
def test_the_least_squared_error_is_that_of_min_max_at_most(sample: np.ndarray) -> None:
    found = ranges(sample)
    best = found.get("squared error", found["min-max"])  # it is left out where another candidate is the same
    errors = {name: squared_error(sample, *ends) for name, ends in found.items()}
    assert squared_error(sample, *best) <= errors["min-max"]


def test_percentiles_leave_rare_outliers_out() -> None:
    found = ranges(gaussian(400.0, size=20000))
    assert found["min-max"][1] == 400
    assert found["percentile 99.99"][1] < found["min-max"][1]
    assert found["percentile 99.9"][1] < 4


def test_clipping_rare_values_lessens_the_squared_error() -> None:
    sample = gaussian(12.0, -12.0, size=60000)
    found = ranges(sample)
    assert squared_error(sample, *found["squared error"]) < 0.9 * squared_error(sample, *found["min-max"])


def test_even_values_are_not_clipped_for_their_squared_error() -> None:
    found = ranges(np.linspace(-1, 1, 5000, dtype=np.float32))
    assert "squared error" not in found  # it is that of min-max


@pytest.mark.parametrize(
    "sample",
    [
        np.zeros(9), np.full(9, 5.0), np.full(9, -5.0), np.array([3.0]), np.array([1e-40, 2e-40]), np.full(5, 1e-45),
        np.array([-3e38, 1, 3e38]), np.full(9, FLOAT.max), np.array([1e-40, 1e38]), np.array([0, 0, 0, 0, 7.0]),
        np.array([1e-33, 3e-32]), np.array([-1e-20, 1e20]),
    ],
    ids=lambda a: f"{a.min():.0e} to {a.max():.0e}",
)  # fmt: skip
def test_strange_samples_have_candidates_that_can_be_rounded_to(sample: np.ndarray) -> None:
    sample = sample.astype(np.float32)
    found = ranges(sample)
    assert "min-max" in found
    for ends in found.values():
        assert ends[0] <= 0 <= ends[1]
        assert np.isfinite(rounded(sample, *ends)).all()
        assert math.isfinite(squared_error(sample, *ends))


def test_a_value_that_is_infinite_in_places_is_cut_down_to_what_is_finite() -> None:
    sample = gaussian()
    found = candidates(sample, -math.inf, float(sample.max()))
    assert found["min-max"][0] == -LARGEST
    assert found["percentile 99.9"][0] == pytest.approx(-3.1, abs=0.5)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (-2.0, 3.0), (2.0, 3.0)])
def test_nothing_to_choose_from_leaves_the_extremes(low: float, high: float) -> None:
    assert candidates(np.zeros(0, np.float32), low, high) == {"min-max": (min(low, 0.0), high)}


def test_extremes_that_the_sample_missed_do_not_hide_it() -> None:
    sample = gaussian()
    found = candidates(sample, -1e6, 1e6)
    assert -4 < found["percentile 99.9"][0] < found["percentile 99.9"][1] < 4
