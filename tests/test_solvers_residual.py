"""Thin factors of a residual: nothing of their rank leaves less in the metric of what the layer sees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from onnxcompress.solvers.feedback import feedback
from onnxcompress.solvers.grid import Quantized, quantize
from onnxcompress.solvers.groups import Grid
from onnxcompress.solvers.metric import decoded, relative_error
from onnxcompress.solvers.residual import alternating, thin_factors
from tests.small_models import normal
from tests.test_solvers_feedback import gram, groups_of

SHAPES = [(12, 20), (20, 12), (15, 15)]


def whitened(R: np.ndarray, H: np.ndarray, rank: int) -> float:
    """What Eckart and Young say is left at least, of all."""
    values = np.linalg.svd(R.astype(np.float64) @ np.linalg.cholesky(H), compute_uv=False)
    return float(np.square(values[rank:]).sum() / np.square(values).sum())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 4, 11])
def test_no_product_of_the_rank_leaves_less(shape: tuple[int, int], rank: int) -> None:
    R, H = normal(*shape), gram(shape[1])
    A, B = thin_factors(R, H, rank)
    assert (A.shape, B.shape) == ((shape[0], rank), (rank, shape[1]))
    assert A.dtype == B.dtype == np.float32
    mine = relative_error(R, A @ B, H)
    assert mine == pytest.approx(whitened(R, H, rank), rel=1e-3)
    draw = np.random.default_rng(0)
    for size in (1e-3, 1e-2, 1e-1, 1):
        for _ in range(10):
            other = (A + size * draw.standard_normal(A.shape)) @ (B + size * draw.standard_normal(B.shape))
            assert relative_error(R, other, H) > mine * (1 - 1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_without_inputs_it_is_the_plain_decomposition(shape: tuple[int, int]) -> None:
    R = normal(*shape)
    u, s, v = np.linalg.svd(R)
    expected = (u[:, :3] * s[:3]) @ v[:3]
    for H in (None, 5 * np.eye(shape[1]), np.zeros((shape[1], shape[1]))):
        A, B = thin_factors(R, H, 3)
        np.testing.assert_allclose(A @ B, expected, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(A, axis=0), np.linalg.norm(B, axis=1), rtol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_few_samples_are_met_exactly(shape: tuple[int, int]) -> None:
    R, H = normal(*shape), gram(shape[1], samples=3)
    A, B = thin_factors(R, H, 3)
    assert relative_error(R, A @ B, H) < 1e-7
    A, B = thin_factors(R, H, 6)  # what is left of the rank goes to what is not seen
    assert np.square(R - A @ B).sum() < np.square(R).sum() * 0.85


@settings(max_examples=60, deadline=None)
@given(
    R=npst.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.floats(-9, 9, width=32)),
    rank=st.integers(1, 8),
    samples=st.integers(0, 12),
)
def test_any_residual_any_rank(R: np.ndarray, rank: int, samples: int) -> None:
    H = gram(R.shape[1], samples=samples) if samples else None
    A, B = thin_factors(R, H, rank)
    assert (A.shape, B.shape) == ((len(R), rank), (rank, R.shape[1]))
    assert np.isfinite(A).all()
    assert np.isfinite(B).all()
    metric = np.eye(R.shape[1]) if H is None else H
    left = relative_error(R, A @ B, metric)
    assert left <= 1 + 1e-4 or not np.isfinite(left)
    if rank >= min(R.shape):
        np.testing.assert_allclose(A @ B, R, atol=1e-3)


def test_what_is_not_finite_or_does_not_fit_is_refused() -> None:
    R, H = normal(4, 6), gram(6)
    for residual, metric, rank in ((R, H, 0), (R, gram(5), 2), (R, np.stack([H, H]), 2), (R[0], H, 1),
                                   (R * np.float32(np.nan), H, 1), (R, H * np.nan, 1)):  # fmt: skip
        with pytest.raises(ValueError, match=r"finite|no product"):
            thin_factors(residual, metric, rank)


@pytest.mark.parametrize("grid", [Grid(4), Grid(2), Grid(1), Grid(3, False)], ids=str)
def test_turns_leave_less_than_one(grid: Grid) -> None:
    W, H = normal(24, 40), gram(40)
    groups = groups_of("rows", 24, 40)

    def solve(matrix: np.ndarray) -> Quantized:
        return feedback(matrix, H, grid, groups)

    def decode(found: Quantized) -> np.ndarray:
        return decoded(found, grid)

    errors = []
    for rounds in (1, 2, 5):
        found, A, B = alternating(W, H, 4, solve, rounds=rounds, decode=decode)
        errors.append(relative_error(W, decode(found).reshape(W.shape) + A @ B, H))
    alone = relative_error(W, decode(solve(W)), H)
    assert errors[0] < alone * 0.9
    assert errors[2] <= errors[1] <= errors[0]
    assert errors[2] < errors[0] * 0.95


def test_turns_without_inputs() -> None:
    W, groups = normal(24, 40), groups_of("rows", 24, 40)
    found, A, B = alternating(W, None, 4, lambda matrix: quantize(matrix, Grid(4), groups))
    rest = W - found.dequantize() - A @ B
    assert np.square(rest).sum() < np.square(W - quantize(W, Grid(4), groups).dequantize()).sum() * 0.8
