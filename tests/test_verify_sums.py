from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxcompress.stats import magnitudes as groups
from onnxcompress.verify.sums import Sums, sqnr_db

FLOATS = hnp.arrays(
    np.float32, (3, 4, 5), elements=st.floats(-1000, 1000, width=32).filter(lambda v: v == 0 or abs(v) > 1e-6)
)


def flat(*arrays: np.ndarray) -> list[np.ndarray]:
    return [a.reshape(1, 1, -1) for a in arrays]


@given(scale=st.floats(1e-6, 1e6), db=st.floats(-10, 100))
@settings(max_examples=50, deadline=None)
def test_sqnr_of_scaled_noise(scale: float, db: float) -> None:
    random = np.random.default_rng(0)
    x, noise = random.standard_normal((2, 4000))
    noise *= np.linalg.norm(x) / np.linalg.norm(noise) * 10 ** (-db / 20)
    sums = Sums()
    sums.add(*flat(scale * x, scale * (x + noise)))
    assert sums.figures()[0] == pytest.approx(db, abs=1e-3)


@given(x=FLOATS, y=FLOATS)
@settings(deadline=None)
def test_streamed_sums_equal_those_of_the_whole(x: np.ndarray, y: np.ndarray) -> None:
    streamed, whole = Sums(4), Sums(4)
    whole.add(x, y)
    for i in range(3):
        streamed.add(x[i : i + 1], y[i : i + 1])
    for name in ("xx", "yy", "xy", "dd", "peak"):
        np.testing.assert_allclose(getattr(streamed, name), getattr(whole, name), rtol=1e-9, atol=1e-9)
    merged = whole.merged().figures()
    np.testing.assert_allclose(merged, whole.figures(), rtol=1e-9)
    assert whole.figures()[2] == np.abs(x.astype(float) - y).max()


def test_chunks_do_not_change_the_sums() -> None:
    random = np.random.default_rng(0)
    x, y = random.standard_normal((2, 3, 7, 40_000)).astype(np.float32)
    sums = Sums(7)
    sums.add(x, y)
    np.testing.assert_allclose(sums.dd, np.square(x.astype(float) - y).sum(axis=(0, 2)))
    np.testing.assert_allclose(sums.rms(), np.sqrt(np.square(x.astype(float)).mean(axis=(0, 2))))


def test_identical_and_empty() -> None:
    sums = Sums()
    sums.add(*flat(np.zeros(0), np.zeros(0)))
    assert all(map(math.isnan, sums.figures()))
    sums.add(*flat(np.ones(3), np.ones(3)))
    assert sums.figures() == (200, 1, 0)


@pytest.mark.parametrize(("error", "wanted"), [(1e-9, math.nan), (0.5, 0.0)])
def test_an_output_of_zeros(error: float, wanted: float) -> None:
    sums = Sums()
    sums.add(*flat(np.zeros(3), np.full(3, error)))
    assert sums.figures()[0] == pytest.approx(wanted, nan_ok=True)


def test_tiny_and_huge_values() -> None:
    for scale in (1e-30, 1e30):
        x = np.full(100, scale, np.float32)
        sums = Sums()
        sums.add(*flat(x, x * np.float32(1.01)))
        assert sums.figures()[0] == pytest.approx(40, abs=0.1)


def test_what_is_not_finite() -> None:
    x = np.array([1, np.nan, -np.inf, 2, 3], np.float32)
    same, worse = Sums(), Sums()
    same.add(*flat(x, x))
    worse.add(*flat(x, np.array([1, 5, -np.inf, np.nan, np.inf], np.float32)))
    assert (same.bad, same.figures()[0]) == (0, 200)
    assert worse.bad == 2
    assert worse.figures()[0] == 200  # of what can be compared


def test_arrays_that_cannot_be_compared_are_all_error() -> None:
    sums = Sums()
    sums.add_apart(np.ones(4), np.ones(6))
    assert sums.figures()[0] == pytest.approx(sqnr_db(4, 10))


def boxes_and_scores(anchors: int = 2000) -> np.ndarray:
    random = np.random.default_rng(0)
    boxes = random.uniform(20, 600, (1, 4, anchors))
    scores = random.uniform(0, 1, (1, 80, anchors)) ** random.uniform(3, 30, (1, 80, 1))
    return np.concatenate([boxes, scores], axis=1).astype(np.float32)


def test_boxes_and_scores_are_two_groups() -> None:
    x = boxes_and_scores()
    assert groups.channel_axis(x, (1, 84, 2000)) == 1
    rms = np.sqrt(np.square(x.astype(float)).mean(axis=(0, 2)))
    assert groups.magnitude_groups(rms) == [[0, 1, 2, 3], list(range(4, 84))]
    assert groups.channel_axis(x.transpose(0, 2, 1), None) == 2


def test_a_continuum_is_one_group() -> None:
    assert len(groups.magnitude_groups(np.logspace(-6, 3, 60))) == 1


def test_dead_channels_are_no_group() -> None:
    assert groups.magnitude_groups(np.array([1.0, 0.0, 2.0, 1e-12])) == [[0, 2]]
    assert groups.magnitude_groups(np.zeros(3)) == []


def test_the_batch_is_no_channel_axis() -> None:
    x = np.ones((2, 5), np.float32) * np.array([[1.0], [1000.0]], np.float32)
    assert groups.channel_axis(x, ("N", 5)) is None
    assert groups.channel_axis(x, (2, 5)) == 0


def test_groups_in_words() -> None:
    assert groups.describe(1, [0, 1, 2, 5], 312.0) == "axis 1, channels 0-2, 5, about 3e+02"
    assert groups.describe(2, [4], 0.01) == "axis 2, channel 4, about 1e-02"
