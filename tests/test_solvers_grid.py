"""Rounding to a grid: what holds of every result, and that the scales found are about the best there are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from onnxcompress.solvers.grid import expected_error, quantize
from onnxcompress.solvers.groups import Grid, Groups, per_block, per_channel
from onnxcompress.solvers.sums import cancelled
from tests.small_models import normal

GRIDS = [Grid(bits, symmetric) for bits in (8, 4, 2) for symmetric in (True, False)]
values = st.floats(-1e4, 1e4, width=32).map(lambda v: v if abs(v) > 1e-20 else 0.0)
matrices = npst.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=values)
grids = st.sampled_from(GRIDS)


def by_row(weight: np.ndarray) -> Groups:
    return Groups(weight.shape, (1,))


def error(weight: np.ndarray, scale: np.ndarray, zero: np.ndarray | float, grid: Grid) -> np.ndarray:
    """Squared error of each row with a scale and zero point for each, in float64."""
    w, s = weight.astype(np.float64), np.asarray(scale, np.float64)
    codes = np.clip(np.rint(w / s + zero), grid.low, grid.high)
    noise: np.ndarray = np.square((codes - zero) * s - w).sum(-1)
    return noise


def max_abs(weight: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray | float]:
    """The scales that everybody takes: those that clip nothing."""
    if grid.symmetric:
        bound = np.abs(weight).max(1, keepdims=True).astype(np.float64)
        return np.where(bound > 0, bound, 1) / grid.high, 0.0
    low, high = np.minimum(weight.min(1, keepdims=True), 0), np.maximum(weight.max(1, keepdims=True), 0)
    scale = np.where(high > low, high - low, 1).astype(np.float64) / grid.high
    return scale, np.clip(np.rint(-low / scale), 0, grid.high)


# ------------------------------------------------------------------------- what always holds


@given(weight=matrices, grid=grids)
def test_no_weight_is_farther_than_half_a_step_from_its_code_unless_clipped(weight: np.ndarray, grid: Grid) -> None:
    found = quantize(weight, grid, by_row(weight))
    inside = (found.codes > grid.low) & (found.codes < grid.high)
    step = np.abs(found.scale).astype(np.float64)
    far = np.abs(found.dequantize().astype(np.float64) - weight) > step / 2 * (1 + 1e-4) + 1e-6 * np.abs(weight)
    assert not (far & inside).any()


@given(weight=matrices, grid=grids)
def test_codes_and_zero_points_lie_on_the_grid(weight: np.ndarray, grid: Grid) -> None:
    found = quantize(weight, grid, by_row(weight))
    assert found.codes.dtype == grid.dtype
    assert found.codes.min() >= grid.low
    assert found.codes.max() <= grid.high
    if grid.symmetric:
        assert found.zero_point is None
    else:
        zeros = found.zeros()
        assert zeros.dtype == np.uint8
        assert zeros.shape == found.scale.shape == (len(weight), 1)
        assert zeros.max() <= grid.high


@given(weight=matrices, grid=grids)
def test_zero_stays_zero(weight: np.ndarray, grid: Grid) -> None:
    weight[:, 0] = 0
    assert (quantize(weight, grid, by_row(weight)).dequantize()[:, 0] == 0).all()


@given(weight=matrices, grid=grids)
def test_rows_are_independent(weight: np.ndarray, grid: Grid) -> None:
    whole = quantize(weight, grid, by_row(weight)).dequantize()
    for row in range(len(weight)):
        alone = quantize(weight[row : row + 1], grid, Groups((1, weight.shape[1]), (1,))).dequantize()
        np.testing.assert_array_equal(alone[0], whole[row])


@given(weight=matrices, grid=grids)
def test_it_is_never_worse_than_scales_that_clip_nothing(weight: np.ndarray, grid: Grid) -> None:
    found = quantize(weight, grid, by_row(weight))
    mine = np.square(found.dequantize().astype(np.float64) - weight).sum(-1)
    theirs = error(weight, *max_abs(weight, grid), grid)
    assert (mine <= theirs * (1 + 1e-3) + 1e-9 * np.square(weight, dtype=np.float64).sum(-1)).all()


@given(weight=matrices, grid=grids)
def test_the_error_told_is_that_of_the_result(weight: np.ndarray, grid: Grid) -> None:
    found = quantize(weight, grid, by_row(weight))
    noise = np.square(found.dequantize().astype(np.float64) - weight).sum()
    energy = np.square(weight, dtype=np.float64).sum()
    assert found.error == pytest.approx(noise / energy if energy else 0.0, rel=1e-2, abs=1e-9)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_codes_are_found_for_scales_as_they_are_stored(grid: Grid) -> None:
    weight = normal(8, 64)
    found = quantize(weight, grid, by_row(weight), np.dtype(np.float16))
    assert found.scale.dtype == np.float16
    zero = 0.0 if found.zero_point is None else found.zero_point.astype(np.float64)
    nearest = np.clip(np.rint(weight / found.scale.astype(np.float64) + zero), grid.low, grid.high)
    assert (np.abs(nearest - found.codes) <= (np.abs(weight / found.scale) % 1 > 0.49)).all()  # but for ties


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize(
    "weight", [np.zeros((2, 16)), np.full((2, 16), 1e-42), np.full((2, 16), 3e37)], ids=["0", "tiny", "huge"]
)
def test_extreme_weights_stay_finite(grid: Grid, weight: np.ndarray) -> None:
    weight = weight.astype(np.float32)
    found = quantize(weight, grid, by_row(weight))
    assert np.isfinite(found.scale).all()
    np.testing.assert_allclose(found.dequantize(), weight, rtol=0.01, atol=1e-37)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_weights_that_are_not_finite_are_refused(grid: Grid, bad: float) -> None:
    weight = normal(4, 16)
    weight[2, 3] = bad
    with pytest.raises(ValueError, match="finite"):
        quantize(weight, grid, by_row(weight))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_rounded_as_float32(dtype: type[np.floating]) -> None:
    weight = normal(4, 16).astype(np.float16)
    same = quantize(weight.astype(np.float32), Grid(8), by_row(weight))
    found = quantize(weight.astype(dtype), Grid(8), by_row(weight))
    np.testing.assert_array_equal(found.dequantize(), same.dequantize())


def test_a_large_weight_is_rounded_part_by_part_as_if_whole() -> None:
    weight = normal(300, 2000)
    for groups in (Groups(weight.shape, (1,)), Groups(weight.shape, (0,)), Groups(weight.shape, (0, 1))):
        found = quantize(weight, Grid(8), groups)
        codes = np.clip(np.rint(weight * (np.float32(1) / found.scale)), -127, 127)
        np.testing.assert_array_equal(found.codes, codes)
        assert found.error < 2e-4


# ------------------------------------------------------------------------- the scales are about the best


@pytest.mark.parametrize("grid", [g for g in GRIDS if g.bits < 8], ids=str)
@pytest.mark.parametrize("kind", ["normal", "uniform", "outlier", "positive", "two values"])
def test_against_brute_force_over_scales_and_zero_points(grid: Grid, kind: str) -> None:
    rng = np.random.default_rng(5)
    weight = {
        "normal": rng.normal(size=(40, 24)),
        "uniform": rng.uniform(-1, 1, (40, 24)),
        "outlier": rng.normal(size=(40, 24)) * np.where(np.arange(24) == 7, 6, 1),
        "positive": rng.uniform(0.5, 2, (40, 24)),
        "two values": rng.choice([-1.0, 0.25], (40, 24)),
    }[kind].astype(np.float32)
    best = np.full(40, np.inf)
    bound = np.maximum(weight.max(1), 0) - np.minimum(weight.min(1), 0)
    for ratio, sign in itertools.product(np.linspace(0.2, 2.2, 500), (1, -1) if grid.symmetric else (1,)):
        scale = sign * (bound * ratio / (grid.high - grid.low))[:, None]
        for zero in [0] if grid.symmetric else range(grid.high + 1):
            best = np.minimum(best, error(weight, scale, zero, grid))
    found = quantize(weight, grid, by_row(weight))
    mine = np.square(found.dequantize().astype(np.float64) - weight).sum(-1)
    assert mine.sum() <= best.sum() * 1.1 + 1e-9
    assert np.median(mine / np.maximum(best, 1e-12)) <= 1.03 or mine.sum() < 1e-6


@pytest.mark.parametrize("grid", [g for g in GRIDS if g.bits < 8], ids=str)
def test_scales_are_those_of_least_squares_for_their_codes(grid: Grid) -> None:
    weight = normal(16, 64)
    found = quantize(weight, grid, by_row(weight))
    shifted = found.codes.astype(np.float64) - (0 if found.zero_point is None else found.zero_point.astype(np.float64))
    ideal = (shifted * weight).sum(1) / np.square(shifted).sum(1)
    np.testing.assert_allclose(found.scale[:, 0], ideal, rtol=0.02)
    refitted = np.square(shifted * ideal[:, None] - weight).sum()
    assert np.square(found.dequantize() - weight).sum() <= refitted * 1.002


def test_large_groups_at_eight_bits_are_clipped_where_that_pays() -> None:
    weight = normal(1, 200_000)
    found = quantize(weight, Grid(8), by_row(weight))
    assert found.scale[0, 0] * 127 < np.abs(weight).max() * 0.97
    assert found.error < error(weight, *max_abs(weight, Grid(8)), Grid(8)).sum() / np.square(weight).sum() * 0.97


@pytest.mark.parametrize("grid", [Grid(8), Grid(8, False)], ids=str)
@pytest.mark.parametrize("shape", [(64, 256), (16, 4096), (512, 32)])
def test_expected_error_is_close_to_the_error_of_gaussian_weights(grid: Grid, shape: tuple[int, int]) -> None:
    weight = normal(*shape)
    expected = expected_error(weight, grid, by_row(weight))
    assert expected == pytest.approx(quantize(weight, grid, by_row(weight)).error, rel=0.1)


def test_expected_error_of_special_weights() -> None:
    assert expected_error(np.zeros((4, 8), np.float32), Grid(8), Groups((4, 8), (1,))) == 0
    broken = normal(4, 8)
    broken[1, 1] = np.nan
    assert np.isnan(expected_error(broken, Grid(8), Groups((4, 8), (1,))))


# ------------------------------------------------------------------------- which weights share a scale


@pytest.mark.parametrize(
    ("dims", "own", "size", "shape", "shared"),
    [
        ((64, 10), (1,), 32, (2, 32, 10), (1,)),
        ((10, 64), (0,), 32, (10, 2, 32), (2,)),
        ((96, 10), (1,), 64, (2, 48, 10), (1,)),  # the largest divisor
        ((10, 4, 3, 3), (0,), 12, (10, 3, 12), (2,)),  # channels and kernel flattened
        ((7, 10), (1,), 32, (7, 10), (0,)),  # nothing of 8 or more divides
        ((13, 10), (1,), 32, (1, 13, 10), (1,)),  # a short axis is one block
        ((17, 10), (1,), 16, (17, 10), (0,)),
        ((3, 64, 10), (0, 2), 32, (3, 2, 32, 10), (2,)),
        ((16, 10, 4, 4), (1,), 8, (16, 10, 2, 8), (0, 3)),  # ConvTranspose: outputs on the second axis
        ((64, 32), (), 64, (32, 64), (1,)),
        ((64, 32), (0, 1), 32, (64, 32), ()),
    ],
)  # fmt: skip
def test_blocks(
    dims: tuple[int, ...], own: tuple[int, ...], size: int, shape: tuple[int, ...], shared: tuple[int, ...]
) -> None:
    found = per_block(dims, own, size)
    assert (found.shape, found.shared) == (shape, shared)


@given(
    dims=st.lists(st.integers(1, 24), min_size=1, max_size=4).map(tuple),
    own=st.sets(st.integers(0, 3)),
    size=st.integers(8, 64),
)
def test_blocks_keep_every_weight_and_never_mix_channels(dims: tuple[int, ...], own: set[int], size: int) -> None:
    mine = tuple(sorted(a for a in own if a < len(dims)))
    groups = per_block(dims, mine, size)
    assert np.prod(groups.shape) == np.prod(dims)
    assert groups.members * np.prod(groups.scale_shape) == np.prod(dims)
    channel = np.zeros(dims, np.int64)
    for axis in mine:
        index = np.arange(dims[axis]).reshape([-1 if a == axis else 1 for a in range(len(dims))])
        channel = channel * dims[axis] + index
    view = channel.reshape(groups.shape)
    assert (view.min(groups.shared) == view.max(groups.shared)).all()


@pytest.mark.parametrize(
    ("own", "scales", "members"),
    [((), (1, 1, 1), 24), ((0,), (2, 1, 1), 12), ((0, 2), (2, 1, 4), 3), ((0, 1, 2), (2, 3, 4), 1)],
)
def test_channels(own: tuple[int, ...], scales: tuple[int, ...], members: int) -> None:
    groups = per_channel((2, 3, 4), own)
    assert (groups.scale_shape, groups.members) == (scales, members)


# ------------------------------------------------------------------------- errors that cancel


@settings(deadline=None)
@given(
    scaled=npst.arrays(
        np.float32, st.tuples(st.integers(1, 6), st.integers(1, 30)), elements=st.floats(-9, 9, width=32)
    ),
    bits=st.sampled_from([8, 4, 2]),
)
def test_sums_are_kept_to_half_a_step_unless_codes_run_out(scaled: np.ndarray, bits: int) -> None:
    grid = Grid(bits)
    codes = np.clip(np.rint(scaled), grid.low, grid.high)
    better = cancelled(scaled, codes, grid.low, grid.high)
    moved = better - codes
    assert set(np.unique(moved)) <= {-1, 0, 1}
    assert better.min() >= grid.low
    assert better.max() <= grid.high
    before, after = np.abs((scaled - codes).sum(1)), np.abs((scaled - better).sum(1))
    assert (after <= before + 1e-3).all()
    clipped = (scaled < grid.low - 0.5) | (scaled > grid.high + 0.5) | (better == grid.low) | (better == grid.high)
    assert (after[~clipped.any(1)] <= 0.5 + 1e-3).all()
    assert (moved * np.sign(scaled - codes) >= 0).all()  # only towards the weight


@given(weight=npst.arrays(np.float32, (3, 2, 12), elements=st.floats(-1, 1, width=32)), grid=grids)
def test_the_cheapest_codes_are_moved(weight: np.ndarray, grid: Grid) -> None:
    groups = Groups(weight.shape, (1, 2))
    nearest, kept = quantize(weight, grid, groups), quantize(weight, grid, groups, keep_sums=True)
    step = np.abs(kept.scale).astype(np.float64)
    assert (np.abs(kept.codes.astype(int) - nearest.codes.astype(int)) <= 1).all()
    sums = [np.abs((q.dequantize().astype(np.float64) - weight).sum((1, 2), keepdims=True)) for q in (nearest, kept)]
    assert (sums[1] <= sums[0] + 1e-4 * step).all()
    assert kept.error >= nearest.error * (1 - 1e-3)


@pytest.mark.parametrize("shared", [(1,), (0,), (0, 1)])
def test_sums_are_kept_along_whichever_axes_share_a_scale(shared: tuple[int, ...]) -> None:
    weight = normal(24, 36)
    found = quantize(weight, Grid(4), Groups(weight.shape, shared), keep_sums=True)
    rest = (found.dequantize().astype(np.float64) - weight) / np.abs(found.scale)
    inside = (np.abs(found.codes) < 7).all(shared)
    assert (np.abs(rest.sum(shared))[inside] <= 0.5 + 1e-3).all()
    assert np.abs(rest.sum(shared)).max() < 1.5
