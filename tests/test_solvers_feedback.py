"""Rounding with error feedback: the codes of the plain loop, never worse than rounding, whatever there is to see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from onnxcompress.solvers.feedback import assembled, feedback, nearest
from onnxcompress.solvers.groups import Grid, Groups
from onnxcompress.solvers.metric import decoded, plain_error, relative_error, upper_factor
from onnxcompress.solvers.scales import weighted_scales
from tests.small_models import normal

if TYPE_CHECKING:
    from onnxcompress.solvers.grid import Quantized

GRIDS = [Grid(bits, symmetric) for bits in (8, 4, 3, 2, 1) for symmetric in (True, False)] + [Grid(2, True, True)]
KINDS = ["rows", "blocks", "all"]


def groups_of(kind: str, out: int, inputs: int) -> Groups:
    if kind == "blocks":
        return Groups((out, 4, inputs // 4), (2,))
    return Groups((out, inputs), (1,) if kind == "rows" else (0, 1))


def gram(inputs: int, seed: int = 0, samples: int | None = None) -> np.ndarray:
    """Inputs that are correlated, not centred, and of which some are large."""
    draw = np.random.default_rng(seed)
    X = draw.standard_normal((samples or 4 * inputs, inputs)) @ draw.standard_normal((inputs, inputs))
    X = (X / np.sqrt(inputs) + draw.standard_normal(inputs) / 2) * np.exp(draw.standard_normal(inputs) / 2)
    X[:, :: max(4, inputs // 3)] *= 10
    H: np.ndarray = X.T @ X / len(X)
    return H


def error(W: np.ndarray, H: np.ndarray, found: Quantized, grid: Grid) -> float:
    return relative_error(W, decoded(found, grid), H)


def rounded(W: np.ndarray, H: np.ndarray, grid: Grid, groups: Groups) -> Quantized:
    scale, zero = weighted_scales(W, np.diagonal(H, axis1=-2, axis2=-1), grid, groups)
    return assembled(W, nearest(W, scale, zero, grid, groups), scale, zero, grid, groups)


def column_by_column(W: np.ndarray, H: np.ndarray, start: Quantized, grid: Grid, damping: float = 0.01) -> np.ndarray:
    """The loop of the paper, with the Cholesky factor of the inverse, in float64; Ŵ."""
    out, inputs = W.shape
    full = (out, start.scale.shape[1] if start.scale.ndim == 3 else 1)
    scale = np.repeat(np.broadcast_to(start.scale.reshape(-1, full[1]), full), inputs // full[1], 1).astype(np.float64)
    zero = np.full(start.scale.shape, grid.middle) if start.zero_point is None else start.zero_point
    zero = np.repeat(np.broadcast_to(zero.reshape(-1, full[1]), full), inputs // full[1], 1).astype(np.float64)
    order = np.argsort(-H.diagonal(), kind="stable")
    Hd = H[np.ix_(order, order)] + damping * H.diagonal().mean() * np.eye(inputs)
    U = np.linalg.cholesky(np.linalg.inv(Hd)).T
    V, W_hat = W[:, order].astype(np.float64), np.empty(W.shape)
    for j in range(inputs):
        s, z = scale[:, order[j]], zero[:, order[j]]
        q = np.clip(np.rint(V[:, j] / s + z), grid.low, grid.high)
        W_hat[:, j] = s * (q - z)
        V[:, j:] -= np.outer((V[:, j] - W_hat[:, j]) / U[j, j], U[j, j:])
    return W_hat[:, np.argsort(order)]


# ------------------------------------------------------------------------- scales


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_scales_are_about_the_best_there_are(grid: Grid, kind: str) -> None:
    W, h = normal(6, 48), np.exp(normal(48, seed=1))
    groups = groups_of(kind, *W.shape)
    scale, zero = weighted_scales(W, h, grid, groups)
    assert scale.shape == groups.scale_shape
    V, counted = W.reshape(groups.shape), np.broadcast_to(h, W.shape).reshape(groups.shape).astype(np.float64)

    def lost(s: np.ndarray, z: np.ndarray | float) -> np.ndarray:
        q = np.clip(np.rint(V / s + z), grid.low, grid.high)
        total: np.ndarray = (counted * np.square(V - s * (q - z))).sum(groups.shared, keepdims=True)
        return total

    mine = lost(scale.astype(np.float64), grid.middle if zero is None else zero.astype(np.float64))
    widest = (V.max(groups.shared, keepdims=True) - V.min(groups.shared, keepdims=True)) * 1.2
    best = np.full(groups.scale_shape, np.inf)
    zeros = [grid.middle] if zero is None else list(np.linspace(0, grid.high, 17 if grid.bits < 3 else 16))
    zeros = zeros if grid.bits == 1 else [float(z) for z in np.unique(np.rint(zeros))]
    for z in zeros:
        for part in np.linspace(0.15, 1, 60):
            s = widest * part / max(1, grid.high if not grid.symmetric else grid.high - grid.low)
            best = np.minimum(best, np.minimum(lost(s, z), lost(-s, z) if grid.symmetric else np.inf))
    few = grid.bits == 8 or groups.members < 24  # weights that may have a lucky scale
    assert mine.sum() <= best.sum() * (1.2 if few else 1.05)
    assert np.median(mine / best) <= (1.5 if few else 1.05)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_zero_and_constant_weights_have_scales(grid: Grid) -> None:
    for value in (0.0, 3.0, -1e-3, 1e30, -1e-30):
        W = np.full((4, 16), value, np.float32)
        scale, zero = weighted_scales(W, np.ones(16), grid, groups_of("rows", 4, 16), np.dtype(np.float32))
        assert np.isfinite(scale).all()
        assert (scale != 0).all()
        if 1e-20 < abs(value) < 1e20 and (zero is not None or not grid.ternary):
            found = assembled(W, nearest(W, scale, zero, grid, groups_of("rows", 4, 16)), scale, zero, grid,
                              groups_of("rows", 4, 16))  # fmt: skip
            np.testing.assert_allclose(decoded(found, grid).reshape(W.shape), W, rtol=2e-3)


def test_one_scale_for_a_large_weight_is_found_from_a_part_of_it() -> None:
    W = normal(3000, 500)
    scale, _ = weighted_scales(W, np.ones(500), Grid(4), groups_of("all", *W.shape))
    assert abs(scale.item()) == pytest.approx(0.335, rel=0.05)  # the step that suits a Gaussian


# ------------------------------------------------------------------------- feedback


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_codes_are_those_of_the_plain_loop(grid: Grid, kind: str) -> None:
    W, H = normal(24, 136), gram(136)
    groups = groups_of(kind, *W.shape)
    found = feedback(W, H, grid, groups)
    mine, theirs = decoded(found, grid).reshape(W.shape), column_by_column(W, H, found, grid)
    rows = np.isclose(mine, theirs, rtol=1e-4, atol=1e-5).all(1)  # a tie that falls the other way changes what follows
    assert rows.mean() > (0.5 if grid.bits == 8 else 0.85)
    assert relative_error(W, mine, H) == pytest.approx(relative_error(W, theirs, H), rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_no_row_is_worse_and_most_are_far_better(grid: Grid, kind: str) -> None:
    W, H = normal(32, 64), gram(64)
    groups = groups_of(kind, *W.shape)
    near, found = rounded(W, H, grid, groups), feedback(W, H, grid, groups)
    np.testing.assert_allclose(near.scale, found.scale, rtol=1e-3)
    each = [np.square((W - decoded(q, grid).reshape(W.shape)) @ np.linalg.cholesky(H)).sum(1) for q in (near, found)]
    assert (each[1] <= each[0] * (1 + 1e-4)).all()
    assert each[1].sum() < each[0].sum() * 0.75
    assert found.codes.dtype == grid.dtype
    assert found.codes.min() >= grid.low
    assert found.codes.max() <= grid.high
    assert found.error == pytest.approx(plain_error(W, decoded(found, grid)))


@settings(max_examples=60, deadline=None)
@given(
    W=npst.arrays(np.float32, st.tuples(st.integers(1, 4), st.sampled_from([4, 8, 36])),
                  elements=st.floats(-1e3, 1e3, width=32)),
    grid=st.sampled_from(GRIDS),
    kind=st.sampled_from(KINDS),
    samples=st.integers(1, 40),
    size=st.sampled_from([1e-12, 1.0, 1e12]),
)  # fmt: skip
def test_any_weight_and_any_inputs(W: np.ndarray, grid: Grid, kind: str, samples: int, size: float) -> None:
    H = gram(W.shape[1], samples=samples) * size
    groups = groups_of(kind, *W.shape)
    found = feedback(W, H, grid, groups)
    assert np.isfinite(decoded(found, grid)).all()
    before, after = error(W, H, rounded(W, H, grid, groups), grid), error(W, H, found, grid)
    assert after <= before * (1 + 1e-3) + 1e-9


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_inputs_that_are_never_seen_are_rounded(grid: Grid) -> None:
    W, H = normal(8, 40), gram(40)
    dead = np.arange(0, 40, 3)
    H[dead], H[:, dead] = 0, 0
    groups = groups_of("rows", *W.shape)
    found = feedback(W, H, grid, groups)
    near = nearest(W, found.scale, found.zero_point, grid, groups)
    np.testing.assert_array_equal(found.codes[:, dead], near[:, dead])
    alive = np.setdiff1d(np.arange(40), dead)
    alone = feedback(W[:, alive], H[np.ix_(alive, alive)], grid, groups_of("rows", 8, len(alive)), damping=0)
    assert error(W, H, found, grid) <= relative_error(W[:, alive], decoded(alone, grid), H[np.ix_(alive, alive)]) * 1.2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_nothing_seen_or_everything_alike_is_rounding(grid: Grid, kind: str) -> None:
    W = normal(8, 40)
    groups = groups_of(kind, *W.shape)
    for H in (np.zeros((40, 40)), 7 * np.eye(40)):
        found, near = feedback(W, H, grid, groups), rounded(W, np.eye(40), grid, groups)
        np.testing.assert_array_equal(found.codes, near.codes)


@pytest.mark.parametrize("samples", [1, 3])
def test_few_samples_leave_hardly_any_error(samples: int) -> None:
    W, H = normal(16, 64), gram(64, samples=samples)
    found = feedback(W, H, Grid(4), groups_of("rows", 16, 64), damping=1e-4)
    assert error(W, H, found, Grid(4)) < 0.1 * error(W, H, rounded(W, H, Grid(4), groups_of("rows", 16, 64)), Grid(4))


def test_a_matrix_that_is_not_quite_positive_is_damped_more() -> None:
    W, H = normal(8, 48), gram(48, samples=5)
    H -= 0.05 * H.diagonal().mean() * np.eye(48)
    found = feedback(W, H, Grid(4), groups_of("rows", 8, 48))
    assert np.isfinite(decoded(found, Grid(4))).all()
    with pytest.raises(ValueError, match="negative"):
        feedback(W, 1e9 * np.ones((48, 48)) - (1e9 - 1) * np.eye(48), Grid(4), groups_of("rows", 8, 48))


def test_what_is_not_finite_or_does_not_fit_is_refused() -> None:
    W, H, groups = normal(8, 16), gram(16), groups_of("rows", 8, 16)
    broken, unseen = W.copy(), H.copy()
    broken[1, 2], unseen[3, 3] = np.nan, np.inf
    for weight, matrix in ((broken, H), (W, unseen), (W, np.eye(15)), (W, np.zeros((3, 16, 16)))):
        with pytest.raises(ValueError, match=r"finite|fit"):
            feedback(weight, matrix, Grid(4), groups)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize(("parts", "inputs"), [(3, 36), (12, 9), (12, 4)])
def test_groups_of_channels_are_layers_of_their_own(grid: Grid, parts: int, inputs: int) -> None:
    W, H = normal(12, inputs), np.stack([gram(inputs, seed) for seed in range(parts)])
    together, rows = feedback(W, H, grid, groups_of("rows", 12, inputs)), 12 // parts
    for part in range(parts):
        mine = slice(part * rows, (part + 1) * rows)
        alone = feedback(W[mine], H[part], grid, groups_of("rows", rows, inputs))
        np.testing.assert_allclose(together.scale[mine], alone.scale, rtol=1e-5)
        assert error(W[mine], H[part], alone, grid) == pytest.approx(
            relative_error(W[mine], decoded(together, grid)[mine], H[part]), rel=1e-2, abs=1e-9
        )


def test_the_order_in_which_inputs_are_numbered_does_not_matter() -> None:
    W, H = normal(16, 80), gram(80)
    moved = np.random.default_rng(1).permutation(80)
    groups = groups_of("rows", 16, 80)
    found, other = feedback(W, H, Grid(3), groups), feedback(W[:, moved], H[np.ix_(moved, moved)], Grid(3), groups)
    assert (found.codes[:, moved] == other.codes).mean() > 0.98


def test_scales_are_rounded_before_codes_are_found() -> None:
    W, H = normal(16, 64, scale=0.05), gram(64)
    for grid in GRIDS:
        found = feedback(W, H, grid, groups_of("rows", 16, 64), np.dtype(np.float16))
        assert found.scale.dtype == np.float16
        exact = feedback(W, H, grid, groups_of("rows", 16, 64))
        assert error(W, H, found, grid) < error(W, H, exact, grid) * 1.2


# ------------------------------------------------------------------------- the metric


def test_relative_error_is_that_of_the_outputs() -> None:
    X, W, W_hat = normal(50, 12).astype(np.float64), normal(6, 12, seed=1), normal(6, 12, seed=2)
    seen = np.square(X @ (W - W_hat).T.astype(np.float64)).sum() / np.square(X @ W.T.astype(np.float64)).sum()
    assert relative_error(W, W_hat, X.T @ X / 50) == pytest.approx(seen, rel=1e-5)
    assert relative_error(W, W_hat, np.stack([X.T @ X] * 3)) == pytest.approx(seen, rel=1e-5)
    assert relative_error(W * 0, W * 0, X.T @ X) == 0
    assert relative_error(W * 0, W, X.T @ X) == np.inf


@pytest.mark.parametrize("samples", [1, 8, 200])
def test_the_factor_of_a_damped_matrix(samples: int) -> None:
    H = gram(20, samples=samples)
    R = upper_factor(H, 0.01)
    np.testing.assert_array_equal(np.tril(R, -1), 0)
    np.testing.assert_allclose(R @ R.T, H + 0.01 * H.diagonal().mean() * np.eye(20), rtol=1e-8, atol=1e-8)
