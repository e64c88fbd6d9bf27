"""What moves into weights: the expected noise against loops and against real rounding, and what may never happen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.solvers.equalization import equalization
from onnxcompress.solvers.grid import quantize
from onnxcompress.solvers.groups import Grid, per_channel
from onnxcompress.solvers.migration import Costs, candidates, migration
from tests.small_models import normal

if TYPE_CHECKING:
    from collections.abc import Sequence

Stats = tuple[np.ndarray, np.ndarray, np.ndarray]


def stats(x: np.ndarray) -> Stats:
    return x.min(0), x.max(0), np.square(x.astype(np.float64)).mean(0)


def with_outliers(rows: int, features: int, seed: int = 0, size: float = 30.0) -> np.ndarray:
    """Activations of which three features are far wider than the rest."""
    x = normal(rows, features, seed=seed)
    x[:, :: max(1, features // 3)] *= size
    return x


def by_loops(weights: Sequence[np.ndarray], x: Stats, s: np.ndarray, bits: int) -> float:
    """The formulas as they are written."""
    low, high, square = (np.asarray(a, float) for a in x)
    high_end, low_end = max([0.0, *(high / s)]), min([0.0, *(low / s)])
    step = (high_end - low_end) / (2**bits - 1)
    total = 0.0
    for w in weights:
        for j in range(w.shape[0]):
            total += min(step**2 / 12 * s[j] ** 2, square[j]) * float((w[j].astype(float) ** 2).sum())
        for k in range(w.shape[1]):
            own = max(abs(float(w[j, k])) * s[j] for j in range(w.shape[0])) / (2 ** (bits - 1) - 1)
            total += own**2 / 12 * float((square / s**2).sum())
    return total


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[np.ndarray], Stats]:
    """Small ones, with zero rows, dead and constant features among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    features = draw(st.integers(1, 9))
    count = draw(st.integers(1, 3))
    weights = [rng.standard_normal((features, draw(st.integers(0, 5)))).astype(np.float32) for _ in range(count)]
    x = rng.standard_normal((6, features)) * np.exp(rng.normal(0, draw(st.floats(0, 4)), features))
    kinds = rng.integers(0, 5, features)
    x[:, kinds == 0] = 0
    x[:, kinds == 1] = np.abs(x[:1, kinds == 1]) + 1
    for w in weights:
        w[rng.random(features) < draw(st.sampled_from([0.0, 0.3]))] = 0
    low, high, square = stats(x.astype(np.float32))
    return weights, (low, high, square)


@settings(max_examples=150, deadline=None)
@given(problems(), st.integers(0, 1000), st.sampled_from([4, 8]))
def test_noise_is_that_of_the_formulas(problem: tuple[list[np.ndarray], Stats], seed: int, bits: int) -> None:
    weights, x = problem
    s = np.exp(np.random.default_rng(seed).normal(0, 2, len(x[0])))
    wanted = by_loops(weights, x, s, bits)
    assert Costs(weights, *x, bits=bits).noise(s) == pytest.approx(wanted, rel=1e-5, abs=1e-30)


@settings(max_examples=150, deadline=None)
@given(problems())
def test_what_is_found_is_positive_pays_and_is_told_right(problem: tuple[list[np.ndarray], Stats]) -> None:
    weights, x = problem
    found = migration(weights, *x)
    assert found.before == pytest.approx(by_loops(weights, x, np.ones(len(x[0])), 8), rel=1e-5, abs=1e-30)
    if found.s is None:
        assert found.after == found.before
        return
    assert found.s.shape == x[0].shape
    assert found.s.dtype == np.float32
    assert np.isfinite(found.s).all()
    assert (found.s > 0).all()
    assert found.after < 0.9 * found.before
    assert found.after == pytest.approx(by_loops(weights, x, found.s.astype(float), 8), rel=1e-5, abs=1e-30)
    dead = (x[0] == 0) & (x[1] == 0)
    np.testing.assert_array_equal(found.s[dead], 1)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_nothing_that_is_tried_is_better(problem: tuple[list[np.ndarray], Stats]) -> None:
    weights, x = problem
    found, costs = migration(weights, *x), Costs(weights, *x)
    tried = [costs.noise(s) for s in candidates(costs.reach, costs.peak)]
    least = min([*tried, found.before])
    if found.s is None:
        assert least >= 0.9 * found.before
    else:
        assert found.after == least


@settings(max_examples=60, deadline=None)
@given(problems(), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_units_do_not_matter(problem: tuple[list[np.ndarray], Stats], a: float, b: float) -> None:
    weights, (low, high, square) = problem
    found = migration(weights, low, high, square)
    scaled = migration([w * np.float32(b) for w in weights], low * a, high * a, square * a * a)
    assert scaled.before == pytest.approx(found.before * (a * b) ** 2, rel=1e-4, abs=1e-30)
    assert scaled.after == pytest.approx(found.after * (a * b) ** 2, rel=2e-2, abs=1e-30)


def rounded_noise(x: np.ndarray, w: np.ndarray, s: np.ndarray) -> float:
    """Squared error of one position that real rounding leaves: one step for x / s, one for each column of weights."""
    flat = x / s
    low, high = min(0.0, float(flat.min())), max(0.0, float(flat.max()))
    step = (high - low) / 255
    zero = np.rint(-low / step)
    seen = (np.clip(np.rint(flat / step) + zero, 0, 255) - zero) * step
    stored = quantize(w * s[:, None].astype(np.float32), Grid(8), per_channel(w.shape, (1,))).dequantize()
    wanted = x.astype(np.float64) @ w
    return float(np.square(seen @ stored.astype(np.float64) - wanted).sum() / len(x))


@pytest.mark.parametrize("size", [5.0, 30.0, 200.0])
def test_real_rounding_has_the_noise_that_was_expected(size: float) -> None:
    x, w = with_outliers(2000, 96, size=size), normal(96, 64, seed=3)
    found = migration(w, *stats(x))
    assert found.s is not None
    before, after = rounded_noise(x, w, np.ones(96)), rounded_noise(x, w, found.s)
    # an upper bound of about 1.5 for the weights: their largest rounds to itself
    assert before == pytest.approx(found.before, rel=0.3)
    assert after == pytest.approx(found.after, rel=0.3)
    assert after < before / 2


def test_flat_activations_are_left() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (500, 64)).astype(np.float32)
    found = migration(normal(64, 32), *stats(x))
    assert found.s is None
    assert found.after == found.before


def test_full_flattening_makes_the_least_activation_noise() -> None:
    x = with_outliers(100, 12)
    low, high, square = stats(np.concatenate([x, -x]))
    costs = Costs([normal(12, 3)], low, high, square)
    least = costs.of_activation(costs.reach)
    rng = np.random.default_rng(0)
    for spread in (0.01, 0.1, 1):
        tried = [costs.of_activation(costs.reach * np.exp(rng.normal(0, spread, 12))) for _ in range(50)]
        assert min(tried) >= least


def test_several_weights_are_one_wide_one() -> None:
    x, w = with_outliers(100, 30), normal(30, 60)
    whole = migration(w, *stats(x))
    parts = migration([w[:, :10], w[:, 10:]], *stats(x))
    assert whole.s is not None
    assert parts.s is not None
    np.testing.assert_allclose(parts.s, whole.s, rtol=1e-5)
    assert parts.after == pytest.approx(whole.after, rel=1e-5)


def test_wide_weights_are_judged_by_some_of_their_columns() -> None:
    x, w = with_outliers(50, 8), normal(8, 5000)
    s = np.exp(normal(8, seed=4)).astype(np.float64)
    assert Costs([w], *stats(x)).noise(s) == pytest.approx(by_loops([w], stats(x), s, 8), rel=0.05)


@pytest.mark.parametrize("features", [0, 1, 5])
def test_nothing_to_be_seen(features: int) -> None:
    nothing = np.zeros(features)
    assert migration(normal(features, 4), nothing, nothing, nothing).s is None
    assert (
        migration(np.zeros((features, 4), np.float32), -np.ones(features), np.ones(features), np.ones(features)).s
        is None
    )
    assert migration(np.zeros((features, 0), np.float32), nothing, nothing, nothing).s is None


BAD: list[tuple[Any, Any, Any, Any]] = [
    ([], np.zeros(4), np.zeros(4), np.zeros(4)),
    (normal(5, 4), np.zeros(4), np.zeros(4), np.zeros(4)),
    (normal(4), np.zeros(4), np.zeros(4), np.zeros(4)),
    (normal(4, 4), np.zeros(4), np.zeros(5), np.zeros(4)),
    (normal(4, 4), np.zeros((4, 1)), np.zeros((4, 1)), np.zeros((4, 1))),
    (normal(4, 4), np.full(4, -np.inf), np.zeros(4), np.zeros(4)),
    (normal(4, 4), np.zeros(4), np.full(4, np.nan), np.zeros(4)),
    (normal(4, 4), np.zeros(4), np.zeros(4), -np.ones(4)),
    (normal(4, 4) * np.float32(np.nan), np.zeros(4), np.zeros(4), np.zeros(4)),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_what_does_not_fit_is_refused(case: int) -> None:
    with pytest.raises(ValueError, match=r"do not fit|not finite"):
        migration(*BAD[case])


# ------------------------------------------------------------------------- equalization


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_ranges_on_both_sides_are_equal_afterwards(seed: int, features: int) -> None:
    rng = np.random.default_rng(seed)
    first = rng.standard_normal((features, 5)) * np.exp(rng.normal(0, 2, (features, 1)))
    second = rng.standard_normal((features, 3, 2)) * np.exp(rng.normal(0, 2, (features, 1, 1)))
    s = equalization(first, second)
    r1, r2 = np.abs(first).max(1) / s, np.abs(second).max((1, 2)) * s
    np.testing.assert_allclose(r1 / r2, np.full(features, r1[0] / r2[0]), rtol=1e-4)
    assert np.exp(np.log(s).mean()) == pytest.approx(1, rel=1e-4)

    def precision(factors: np.ndarray) -> float:
        one, two = np.abs(first).max(1) / factors, np.abs(second).max((1, 2)) * factors
        return float((one / one.max() * two / two.max()).sum())

    assert all(precision(s * np.exp(rng.normal(0, 0.5, features))) <= precision(s) + 1e-6 for _ in range(20))


def test_a_range_between_takes_the_place_of_weights() -> None:
    second, value = normal(6, 4), np.geomspace(0.1, 10, 6)
    s = equalization(None, second, value)
    flat = value / s / (np.abs(second).max(1) * s)
    np.testing.assert_allclose(flat, np.full(6, flat[0]), rtol=1e-4)
    both = equalization(normal(6, 4, seed=1), second, value)
    middle = np.sqrt(equalization(normal(6, 4, seed=1), second) * s)
    np.testing.assert_allclose(both, middle, rtol=1e-4)


def test_what_is_zero_is_left_and_the_rest_is_bounded() -> None:
    first, second = np.ones((4, 3)), np.ones((4, 3))
    first[0], second[1], first[2] = 0, 0, 1e30
    s = equalization(first, second)
    np.testing.assert_array_equal(s[:2], 1)
    assert (s <= 1.0001e4).all()
    assert (s >= 0.9999e-4).all()
    np.testing.assert_array_equal(equalization(np.zeros((3, 2)), np.zeros((3, 2))), np.ones(3))


def test_equalization_refuses_what_does_not_fit() -> None:
    for args in (
        (None, np.ones((3, 2))),
        (np.ones((4, 2)), np.ones((3, 2))),
        (np.full((3, 2), np.nan), np.ones((3, 2))),
    ):
        with pytest.raises(ValueError, match=r"do not fit|not finite"):
            equalization(*args)
