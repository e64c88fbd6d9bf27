"""Low-rank factors: nothing of their rank leaves less in the metric of what the layer sees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from onnxcompress.solvers.low_rank import Factors, factors, joint, rank_for_energy, spectrum
from onnxcompress.solvers.low_rank_residual import plus
from tests.small_models import normal
from tests.test_solvers_feedback import gram

SHAPES = [(12, 20), (20, 12), (15, 15), (1, 9), (9, 1)]


def loss(W: np.ndarray, V: np.ndarray, H: np.ndarray | None) -> float:
    E = W.astype(np.float64) - V
    return float(np.trace(E @ (np.eye(W.shape[1]) if H is None else H) @ E.T))


def root(H: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(H)
    found: np.ndarray = vectors * np.sqrt(np.maximum(values, 0))
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seen", [True, False])
def test_the_spectrum_is_that_of_the_whitened_weight(shape: tuple[int, int], seen: bool) -> None:
    W, H = normal(*shape), gram(shape[1]) if seen else None
    whitened = W.astype(np.float64) if H is None else W @ root(H)
    expected = np.square(np.linalg.svd(whitened, compute_uv=False))
    found = spectrum(W, H)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12 * expected[0])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("rank", [1, 4, 11])
def test_the_error_is_the_tail_and_no_other_of_the_rank_does_better(
    shape: tuple[int, int], seen: bool, rank: int
) -> None:
    rank = min(rank, *shape)
    W, H = normal(*shape), gram(shape[1]) if seen else None
    found = factors(W, H, rank)
    assert (found.left.shape, found.right.shape) == ((shape[0], rank), (rank, shape[1]))
    assert found.left.dtype == found.right.dtype == np.float32
    energy, least = loss(W, 0 * W, H), loss(W, found.product, H)
    assert least == pytest.approx(spectrum(W, H)[rank:].sum(), rel=1e-4, abs=1e-9 * energy)
    draw = np.random.default_rng(0)
    for size in (1e-3, 1e-2, 1e-1, 1):
        for _ in range(5):
            A, B = (M + size * draw.standard_normal(M.shape) for M in (found.left, found.right))
            assert loss(W, A @ B, H) >= least * (1 - 1e-5) - 1e-9 * energy


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_no_step_along_the_gradient_does_better(shape: tuple[int, int]) -> None:
    W, H = normal(*shape), gram(shape[1])
    found = factors(W, H, 3)
    left, right = found.left.astype(np.float64), found.right.astype(np.float64)
    E = (left @ right - W) @ H
    scale = np.linalg.norm(W @ H)
    assert np.linalg.norm(E @ right.T) < 1e-5 * scale * np.linalg.norm(right)
    assert np.linalg.norm(left.T @ E) < 1e-5 * scale * np.linalg.norm(left)


def test_the_metric_counts() -> None:
    W, H = normal(24, 40), gram(40)
    assert loss(W, factors(W, H, 6).product, H) < 0.8 * loss(W, factors(W, None, 6).product, H)
    assert loss(W, factors(W, None, 6).product, None) < loss(W, factors(W, H, 6).product, None)
    np.testing.assert_allclose(factors(W, np.eye(40), 6).product, factors(W, None, 6).product, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("samples", [None, 0, 1, 3, 40])
def test_the_full_rank_is_exact_whatever_is_seen(shape: tuple[int, int], samples: int | None) -> None:
    W, n = normal(*shape), shape[1]
    H = None if samples is None else gram(n, samples=samples) if samples else np.zeros((n, n))
    np.testing.assert_allclose(factors(W, H, min(shape)).product, W, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_few_samples_are_met_exactly_and_the_rest_of_the_rank_is_not_wasted(shape: tuple[int, int]) -> None:
    W, H = normal(*shape), gram(shape[1], samples=3)
    found = factors(W, H, 6)
    assert loss(W, found.product, H) < 1e-11 * loss(W, 0 * W, H)
    seen = factors(W, H, 3).product
    assert loss(W, found.product, None) == pytest.approx(spectrum(W - seen, None)[3:].sum(), rel=1e-3)


def test_unused_inputs_and_none_at_all() -> None:
    W, H = normal(12, 20), gram(20)
    H[5:] = H[:, 5:] = 0
    assert loss(W, factors(W, H, 5).product, H) < 1e-11 * loss(W, 0 * W, H)
    zero = np.zeros((20, 20))
    assert not spectrum(W, zero).any()
    np.testing.assert_allclose(factors(W, zero, 4).product, factors(W, None, 4).product, atol=1e-5)
    assert not factors(0 * W, H, 4).product.any()


@settings(max_examples=80, deadline=None)
@given(
    W=npst.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.floats(-9, 9, width=32)),
    samples=st.integers(-1, 12),
    part=st.floats(0, 1),
)
def test_any_weight_any_metric(W: np.ndarray, samples: int, part: float) -> None:
    n = W.shape[1]
    H = None if samples < 0 else gram(n, samples=samples) if samples else np.zeros((n, n))
    rank = 1 + round(part * (min(W.shape) - 1))
    found = factors(W, H, rank)
    energy = loss(W, 0 * W, H)
    assert loss(W, found.product, H) == pytest.approx(spectrum(W, H)[rank:].sum(), rel=1e-3, abs=1e-10 * energy + 1e-30)
    norms = np.linalg.norm(found.left, axis=0), np.linalg.norm(found.right, axis=1)
    np.testing.assert_allclose(*norms, rtol=1e-4, atol=1e-20)
    largest = np.abs(found.left).argmax(axis=0)
    assert (found.left[largest, np.arange(rank)] >= 0).all()
    angles = found.left.T.astype(np.float64) @ found.left
    np.testing.assert_allclose(angles - np.diag(np.diag(angles)), 0, atol=1e-4 * (1 + angles.max()))


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_scales_do_not_matter(shape: tuple[int, int]) -> None:
    W, H = normal(*shape), gram(shape[1])
    V = factors(W, H, 4).product
    np.testing.assert_allclose(factors(W, 1e-9 * H, 4).product, V, atol=1e-5)
    np.testing.assert_allclose(factors(1e6 * W, H, 4).product / 1e6, V, atol=1e-5)
    np.testing.assert_allclose(spectrum(4 * W, 2 * H), 32 * spectrum(W, H), rtol=1e-8)
    D = np.exp(np.random.default_rng(1).standard_normal(shape[1]))  # the same layer, its inputs in other units
    np.testing.assert_allclose(factors(W / D, H * D * D[:, None], 4).product * D, V, atol=1e-4)
    assert np.array_equal(factors(W, H, 4).left, factors(W, H, 4).left)


def test_layers_that_share_an_input() -> None:
    H = gram(20)
    Ws, weights = [normal(8, 20, seed=1), normal(12, 20, seed=2), normal(3, 20, seed=3)], [1.0, 0.25, 9.0]
    right, lefts = joint(Ws, H, 5, weights)
    assert right.shape == (5, 20)
    assert [left.shape for left in lefts] == [(8, 5), (12, 5), (3, 5)]
    stack = np.concatenate([np.sqrt(w) * W for w, W in zip(weights, Ws, strict=True)])
    once = factors(stack, H, 5).product
    mine = np.concatenate([np.sqrt(w) * (left @ right) for w, left in zip(weights, lefts, strict=True)])
    np.testing.assert_allclose(mine, once, atol=1e-5)
    total = sum(w * loss(W, left @ right, H) for w, W, left in zip(weights, Ws, lefts, strict=True))
    assert total == pytest.approx(spectrum(stack, H)[5:].sum(), rel=1e-4)
    np.testing.assert_allclose(np.linalg.norm(np.concatenate(lefts), axis=0), np.linalg.norm(right, axis=1), rtol=1e-5)
    alone = joint(Ws[:1], None, 3, [7.0])
    np.testing.assert_allclose(alone[1][0] @ alone[0], factors(Ws[0], None, 3).product, atol=1e-6)


def test_what_counts_more_loses_less() -> None:
    H, Ws = gram(20), [normal(8, 20, seed=1), normal(8, 20, seed=2)]
    errors = []
    for weight in (0.01, 1.0, 100.0):
        right, lefts = joint(Ws, H, 5, [weight, 1.0])
        errors.append(loss(Ws[0], lefts[0] @ right, H))
    assert errors[2] < errors[1] < errors[0]


@settings(deadline=None)
@given(
    values=npst.arrays(np.float64, st.integers(1, 12), elements=st.floats(0, 1e6, allow_subnormal=False)),
    share=st.floats(1e-6, 1),
)
def test_the_least_rank_that_keeps_a_share(values: np.ndarray, share: float) -> None:
    falling = np.sort(values)[::-1]
    rank = rank_for_energy(falling, share)
    total = falling.sum()
    assert 1 <= rank <= len(values)
    assert falling[:rank].sum() >= total * (share - 2e-12)
    assert rank == 1 or falling[: rank - 1].sum() < total * (share + 1e-12)


def test_all_of_the_energy() -> None:
    assert rank_for_energy(np.array([4.0, 2.0, 1.0, 1.0]), 0.75) == 2
    assert rank_for_energy(np.array([4.0, 2.0, 0.0, 0.0]), 1) == 2
    assert rank_for_energy(np.zeros(3), 0.5) == 1
    thin = normal(20, 3) @ normal(3, 30)
    assert rank_for_energy(spectrum(thin, gram(30)), 1 - 1e-9) == 3
    assert rank_for_energy(spectrum(thin, gram(30)), 1) == 3
    assert (spectrum(thin, gram(30)) >= 0).all()
    for share, values in ((0.0, np.ones(2)), (1.1, np.ones(2)), (float("nan"), np.ones(2)), (0.5, np.ones(0))):
        with pytest.raises(ValueError, match="no rank"):
            rank_for_energy(values, share)


def test_what_is_not_finite_or_does_not_fit_is_refused() -> None:
    W, H = normal(4, 6), gram(6)
    for weight, metric, rank in ((W, H, 0), (W, H, 5), (W.T, None, 5), (W, gram(5), 2), (W[0], None, 1),
                                 (W * np.float32(np.nan), H, 1), (W / np.float32(1e-3) * np.inf, None, 1),
                                 (W, H * np.nan, 1)):  # fmt: skip
        with pytest.raises(ValueError, match=r"finite|no product|no factors"):
            factors(weight, metric, rank)
    with pytest.raises(ValueError, match="no factors"):
        spectrum(W, gram(5))
    for layers, weights in (([], []), ([W], [1.0, 2.0]), ([W, W], [1.0, 0.0]), ([W, W[:, :5]], [1.0, 1.0])):
        with pytest.raises(ValueError, match=r"weights|one input"):
            joint(layers, None, 1, weights)
    with pytest.raises(ValueError, match="no product"):
        joint([W, W], H, 7, [1.0, 1.0])


# ----------------------------------------------------------------------------------------- with a matrix of a set


def rounded(R: np.ndarray) -> np.ndarray:
    step = np.maximum(np.abs(R).max(axis=1, keepdims=True), 1e-9) / 3
    found: np.ndarray = np.round(R / step) * step
    return found


def sparse(R: np.ndarray) -> np.ndarray:
    """The tenth that is largest."""
    found: np.ndarray = np.where(np.abs(R) >= np.quantile(np.abs(R), 0.9), R, 0)
    return found


@pytest.mark.parametrize("project", [rounded, sparse])
@pytest.mark.parametrize("seen", [True, False])
def test_a_product_and_a_matrix_of_a_set(project: object, seen: bool) -> None:
    assert callable(project)
    W, H = normal(24, 40), gram(40) if seen else None
    errors = []
    for sweeps in (1, 2, 6):
        both, Q = plus(W, H, 5, project, sweeps=sweeps)
        errors.append(loss(W, both.product + Q, H))
    assert isinstance(both, Factors)
    assert errors[2] <= errors[1] <= errors[0]
    assert errors[0] < 0.9 * loss(W, project(W), H)
    assert errors[2] < loss(W, factors(W, H, 5).product, H)


def test_a_thin_matrix_with_few_large_values_is_taken_apart() -> None:
    draw = np.random.default_rng(0)
    thin = normal(60, 2, seed=1) @ normal(2, 80, seed=2)
    few = np.where(draw.random(thin.shape) < 0.02, 30.0, 0.0)
    both, Q = plus(thin + few, None, 2, lambda R: np.where(np.abs(R) > 12, R, 0), sweeps=40)
    np.testing.assert_allclose(both.product + Q, thin + few, atol=0.2)
    assert np.array_equal(Q != 0, few != 0)


def test_turns_that_gain_nothing_are_the_last() -> None:
    calls = []

    def project(R: np.ndarray) -> np.ndarray:
        calls.append(R)
        return np.zeros_like(R)

    W = normal(8, 9)
    both, Q = plus(W, None, 3, project, sweeps=9)
    assert len(calls) == 2
    assert not Q.any()
    np.testing.assert_array_equal(both.product, factors(W, None, 3).product)
    with pytest.raises(ValueError, match="projection"):
        plus(W, None, 3, lambda R: R[0])
