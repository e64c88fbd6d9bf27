"""Descent on codes and learned rounding: never worse than the start, and at rest where no code could be better."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from onnxcompress.solvers.descent import descent
from onnxcompress.solvers.feedback import assembled, feedback
from onnxcompress.solvers.grid import Quantized
from onnxcompress.solvers.groups import Grid, Groups
from onnxcompress.solvers.learned import learned
from onnxcompress.solvers.metric import decoded, relative_error
from tests.small_models import normal
from tests.test_solvers_feedback import GRIDS, KINDS, error, gram, groups_of, rounded


def changed(W: np.ndarray, found: Quantized, codes: np.ndarray, grid: Grid, groups: Groups) -> Quantized:
    return assembled(W, codes, found.scale, found.zero_point, grid, groups)


def row_by_row(W: np.ndarray, H: np.ndarray, found: Quantized, grid: Grid) -> np.ndarray:
    E = W.astype(np.float64) - decoded(found, grid).reshape(W.shape)
    errors: np.ndarray = np.einsum("ri,ij,rj->r", E, H, E)
    return errors


# ------------------------------------------------------------------------- descent


@pytest.mark.parametrize("inputs", [1, 2, 4])
@pytest.mark.parametrize("grid", [g for g in GRIDS if g.bits <= 2], ids=str)
def test_no_single_code_could_be_better(grid: Grid, inputs: int) -> None:
    W, H = normal(20, inputs), gram(inputs)
    groups = groups_of("rows", 20, inputs)
    start = rounded(W, H, grid, groups)
    found = descent(W, H, start, grid, groups, sweeps=50, rescale=False)
    least = row_by_row(W, H, found, grid)
    for j, code in itertools.product(range(inputs), range(grid.low, grid.high + 1)):
        codes = found.codes.copy()
        codes[:, j] = code
        assert (row_by_row(W, H, changed(W, found, codes, grid, groups), grid) >= least * (1 - 1e-3) - 1e-9).all()


@pytest.mark.parametrize("grid", [g for g in GRIDS if g.bits <= 2], ids=str)
def test_it_is_near_the_best_of_all_combinations_and_stays_there(grid: Grid) -> None:
    W, H = normal(30, 4), gram(4, seed=3)
    groups = groups_of("rows", 30, 4)
    start = feedback(W, H, grid, groups)
    best, codes = np.full(30, np.inf), start.codes.copy()
    for combination in itertools.product(range(grid.low, grid.high + 1), repeat=4):
        every = np.broadcast_to(np.array(combination, grid.dtype), codes.shape)
        errors = row_by_row(W, H, changed(W, start, every, grid, groups), grid)
        codes[errors < best] = combination
        best = np.minimum(errors, best)
    found = descent(W, H, start, grid, groups, sweeps=20, rescale=False)
    mine = row_by_row(W, H, found, grid)
    assert (mine >= best * (1 - 1e-5) - 1e-12).all()
    assert mine.sum() <= best.sum() * 1.25
    top = changed(W, start, codes, grid, groups)
    kept = descent(W, H, top, grid, groups, rescale=False)
    np.testing.assert_allclose(row_by_row(W, H, kept, grid), best, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_each_sweep_makes_it_better(grid: Grid, kind: str) -> None:
    W, H = normal(24, 100), gram(100)
    groups = groups_of(kind, *W.shape)
    start = rounded(W, H, grid, groups)
    for rescale in (False, True):
        errors = [
            error(W, H, descent(W, H, start, grid, groups, sweeps=n, rescale=rescale), grid) for n in (0, 1, 3, 6)
        ]
        assert errors[0] == error(W, H, start, grid)
        assert errors[1] < errors[0] * 0.85
        assert errors[3] <= errors[2] * (1 + 1e-5)
        assert errors[2] < errors[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_it_goes_on_where_feedback_ends(grid: Grid, kind: str) -> None:
    W, H = normal(24, 72), gram(72)
    groups = groups_of(kind, *W.shape)
    start = feedback(W, H, grid, groups, np.dtype(np.float16))
    found = descent(W, H, start, grid, groups)
    assert error(W, H, found, grid) < error(W, H, start, grid)
    assert found.codes.dtype == grid.dtype
    assert found.scale.dtype == np.float16
    assert found.scale.shape == groups.scale_shape
    assert found.codes.min() >= grid.low
    assert found.codes.max() <= grid.high


def test_blocks_of_inputs_give_what_one_input_at_a_time_gives() -> None:
    W, H, grid, groups = normal(6, 90), gram(90), Grid(3), groups_of("rows", 6, 90)
    start = rounded(W, H, grid, groups)
    found = descent(W, H, start, grid, groups, sweeps=1)
    codes, scale = start.codes.astype(np.float64), start.scale.astype(np.float64)
    for j in range(90):
        best = codes[:, j] + ((W - codes * scale) @ H[:, j]) / H[j, j] / scale[:, 0]
        codes[:, j] = np.clip(np.rint(best), grid.low, grid.high)
    assert (found.codes == codes).mean() > 0.98
    assert error(W, H, found, grid) == pytest.approx(relative_error(W, codes * scale, H), rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", [Grid(4), Grid(4, False), Grid(1), Grid(2, True, True)], ids=str)
def test_scales_that_do_not_suit_are_mended(grid: Grid, kind: str) -> None:
    W, H = normal(16, 48), gram(48)
    groups = groups_of(kind, *W.shape)
    good = rounded(W, H, grid, groups)
    bad = Quantized(good.codes, good.scale * np.float32(1.3), good.zero_point, 0)
    found, rigid = (descent(W, H, bad, grid, groups, sweeps=6, rescale=r) for r in (True, False))
    assert error(W, H, found, grid) < error(W, H, rigid, grid)
    codes = found.codes.astype(np.float64) - (grid.middle if found.zero_point is None else found.zero_point)
    for part in (0.99, 1.01):
        other = (codes * found.scale * part).reshape(W.shape)
        assert error(W, H, found, grid) <= relative_error(W, other, H) * 1.01


# ------------------------------------------------------------------------- both


@settings(max_examples=60, deadline=None)
@given(
    W=npst.arrays(np.float32, st.tuples(st.integers(1, 4), st.sampled_from([4, 8, 36])),
                  elements=st.floats(-1e3, 1e3, width=32)),
    grid=st.sampled_from(GRIDS),
    kind=st.sampled_from(KINDS),
    samples=st.integers(0, 40),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_never_worse_from_any_start(W: np.ndarray, grid: Grid, kind: str, samples: int, seed: int) -> None:
    H = gram(W.shape[1], samples=samples) if samples else np.zeros((W.shape[1], W.shape[1]))
    groups = groups_of(kind, *W.shape)
    good = rounded(W, H, grid, groups)
    codes = np.random.default_rng(seed).integers(grid.low, grid.high + 1, W.shape).astype(grid.dtype)
    for start in (good, changed(W, good, codes, grid, groups)):
        before = error(W, H, start, grid)
        assert error(W, H, descent(W, H, start, grid, groups), grid) <= before * (1 + 1e-4) + 1e-9
        assert error(W, H, learned(W, H, start, grid, groups, steps=10), grid) <= before * (1 + 1e-4) + 1e-9


@pytest.mark.parametrize("solve", [partial(descent, sweeps=3), partial(learned, steps=30)], ids=["descent", "learned"])
@pytest.mark.parametrize("parts", [3, 12])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_groups_of_channels_are_layers_of_their_own(grid: Grid, parts: int, solve: Callable[..., Quantized]) -> None:
    W, H = normal(12, 16), np.stack([gram(16, seed) for seed in range(parts)])
    groups, rows = groups_of("rows", 12, 16), 12 // parts
    start = rounded(W, H, grid, groups)
    together = solve(W, H, start, grid, groups)
    for part in range(parts):
        mine = slice(part * rows, (part + 1) * rows)
        zero = None if start.zero_point is None else start.zero_point[mine]
        own = Quantized(start.codes[mine], start.scale[mine], zero, 0)
        alone = solve(W[mine], H[part], own, grid, groups_of("rows", rows, 16))
        assert error(W[mine], H[part], alone, grid) == pytest.approx(
            relative_error(W[mine], decoded(together, grid)[mine], H[part]), rel=0.02, abs=1e-9
        )


@pytest.mark.parametrize("size", [1e36, 1e30, 1e-30, 1e-40])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_weights_at_the_ends_of_their_type(grid: Grid, size: float) -> None:
    W, H = (normal(6, 36).astype(np.float64) * size).astype(np.float32), gram(36)
    groups = groups_of("rows", 6, 36)
    start = feedback(W, H, grid, groups)
    for found in (start, descent(W, H, start, grid, groups), learned(W, H, start, grid, groups, steps=3)):
        assert np.isfinite(decoded(found, grid)).all()
        assert found.codes.min() >= grid.low
        assert found.codes.max() <= grid.high


def test_dead_inputs_keep_their_codes() -> None:
    W, H, groups = normal(8, 40), gram(40), groups_of("rows", 8, 40)
    dead = np.arange(0, 40, 3)
    H[dead], H[:, dead] = 0, 0
    start = rounded(W, H, Grid(4), groups)
    for found in (descent(W, H, start, Grid(4), groups), learned(W, H, start, Grid(4), groups, steps=20)):
        np.testing.assert_array_equal(found.codes[:, dead], start.codes[:, dead])
        assert error(W, H, found, Grid(4)) < error(W, H, start, Grid(4))


@pytest.mark.parametrize("solve", [descent, learned])
def test_what_is_not_finite_or_does_not_fit_is_refused(solve: Callable[..., Quantized]) -> None:
    W, H, groups = normal(8, 16), gram(16), groups_of("rows", 8, 16)
    start = rounded(W, H, Grid(4), groups)
    broken, unseen = W.copy(), H.copy()
    broken[1, 2], unseen[3, 3] = np.nan, np.inf
    for weight, matrix in ((broken, H), (W, unseen), (W, np.eye(15))):
        with pytest.raises(ValueError, match=r"finite|fit"):
            solve(weight, matrix, start, Grid(4), groups)


# ------------------------------------------------------------------------- learned rounding


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_it_learns_to_be_far_better_than_rounding(grid: Grid) -> None:
    W, H = normal(24, 48), gram(48)
    groups = groups_of("rows", 24, 48)
    start = rounded(W, H, grid, groups)
    found = learned(W, H, start, grid, groups, steps=150)
    assert error(W, H, found, grid) < error(W, H, start, grid) * 0.8
    assert np.abs(found.codes.astype(int) - start.codes.astype(int)).max() <= 1
    np.testing.assert_array_equal(found.scale, start.scale)
    again = learned(W, H, start, grid, groups, steps=150)
    np.testing.assert_array_equal(found.codes, again.codes)
