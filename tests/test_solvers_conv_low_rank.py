"""Convolutions as chains: they compute the same, and no worse than the plain decompositions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.solvers import low_rank
from onnxcompress.solvers.conv_low_rank import _Turns, error, output, spatial, tucker
from tests.small_models import normal
from tests.test_solvers_feedback import gram

SHAPES = [(7, 5, 3, 3), (4, 9, 1, 3), (6, 4, 5, 2), (1, 3, 3, 3), (5, 1, 3, 3), (6, 8, 1, 1)]


def windows(x: np.ndarray, kh: int, kw: int) -> np.ndarray:
    """(positions, I·kh·kw) of all windows inside x (I, height, width)."""
    views = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), axis=(1, 2))
    return views.transpose(1, 2, 0, 3, 4).reshape(-1, x.shape[0] * kh * kw)


def conv(x: np.ndarray, W: np.ndarray) -> np.ndarray:
    """Stride 1, no padding: (O, height', width')."""
    kh, kw = W.shape[2:]
    y: np.ndarray = W.reshape(len(W), -1) @ windows(x, kh, kw).T
    return y.reshape(len(W), x.shape[1] - kh + 1, x.shape[2] - kw + 1)


def from_spatial(vertical: np.ndarray, horizontal: np.ndarray) -> np.ndarray:
    product: np.ndarray = np.einsum("orb,ria->oiab", horizontal[:, :, 0], vertical[..., 0])
    return product


def from_tucker(first: np.ndarray, core: np.ndarray, last: np.ndarray) -> np.ndarray:
    product: np.ndarray = np.einsum("or,rsab,si->oiab", last[..., 0, 0], core, first[..., 0, 0])
    return product


def from_output(core: np.ndarray, last: np.ndarray) -> np.ndarray:
    product: np.ndarray = np.einsum("or,riab->oiab", last[..., 0, 0], core)
    return product


def seen(shape: tuple[int, ...], samples: int | None = None) -> np.ndarray:
    return gram(int(np.prod(shape[1:])), samples=samples)


def smooth(shape: tuple[int, int, int, int], seed: int = 0) -> np.ndarray:
    """What windows of an image whose neighbours are alike have, channels mixed."""
    _, inputs, kh, kw = shape
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((inputs, 40, 40)).cumsum(axis=1).cumsum(axis=2) / 10
    x = np.tensordot(draw.standard_normal((inputs, inputs)), x, axes=1) + draw.standard_normal(x.shape) / 3
    X = windows(x, kh, kw)
    H: np.ndarray = X.T @ X / len(X)
    return H


def ranks(shape: tuple[int, int, int, int], part: float) -> tuple[int, int, int]:
    """For rows and columns, and the two of an inner kernel."""
    outs, ins, kh, kw = shape
    rank_in = max(1, round(part * min(ins, outs * kh * kw)))
    return (
        max(1, round(part * min(outs * kw, ins * kh))),
        rank_in,
        max(1, round(part * min(outs, rank_in * kh * kw))),
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("whitened", [True, False])
def test_a_chain_computes_what_its_product_does(shape: tuple[int, int, int, int], whitened: bool) -> None:
    W, H, x = normal(*shape), seen(shape) if whitened else None, normal(shape[1], 9, 8)
    rank, rank_in, rank_out = ranks(shape, 0.6)
    chain: tuple[np.ndarray, ...]
    for chain, product in (
        (made := spatial(W, H, rank), from_spatial(*made)),
        (three := tucker(W, H, rank_in, rank_out), from_tucker(*three)),
        (two := output(W, H, rank_out), from_output(*two)),
    ):
        assert all(kernel.dtype == np.float32 and kernel.ndim == 4 for kernel in chain)
        assert all(kernel.flags.c_contiguous for kernel in chain[:2])
        assert product.shape == shape
        y = x
        for kernel in chain:
            y = conv(y, kernel)
        np.testing.assert_allclose(y, conv(x, product), atol=1e-4 * (1 + np.abs(y).max()))


def test_shapes() -> None:
    W = normal(7, 5, 3, 2)
    assert [k.shape for k in spatial(W, None, 4)] == [(4, 5, 3, 1), (7, 4, 1, 2)]
    assert [k.shape for k in tucker(W, None, 3, 4)] == [(3, 5, 1, 1), (4, 3, 3, 2), (7, 4, 1, 1)]
    assert [k.shape for k in output(W, None, 4)] == [(4, 5, 3, 2), (7, 4, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("samples", [None, 0, 3, 200])
def test_the_full_rank_is_exact(shape: tuple[int, int, int, int], samples: int | None) -> None:
    W = normal(*shape)
    size = W[0].size
    H = None if samples is None else seen(shape, samples) if samples else np.zeros((size, size))
    rank, rank_in, rank_out = ranks(shape, 1.0)
    for V in (
        from_spatial(*spatial(W, H, rank)),
        from_tucker(*tucker(W, H, rank_in, rank_out)),
        from_output(*output(W, H, min(shape[0], size))),
    ):
        np.testing.assert_allclose(V, W, atol=1e-5)


@pytest.mark.parametrize("whitened", [True, False])
def test_a_kernel_of_the_rank_is_found_exactly(whitened: bool) -> None:
    shape = (12, 10, 3, 3)
    H = seen(shape) if whitened else None
    of_rows = from_spatial(normal(4, 10, 3, 1), normal(12, 4, 1, 3, seed=1))
    inner = from_tucker(normal(3, 10, 1, 1), normal(5, 3, 3, 3, seed=1), normal(12, 5, 1, 1, seed=2))
    outer = from_output(normal(5, 10, 3, 3), normal(12, 5, 1, 1, seed=1))
    for W, V in (
        (of_rows, from_spatial(*spatial(of_rows, H, 4))),
        (inner, from_tucker(*tucker(inner, H, 3, 5))),
        (outer, from_output(*output(outer, H, 5))),
    ):
        np.testing.assert_allclose(V, W, atol=1e-5 * np.abs(W).max())
        assert error(W, V, H) < 1e-10 * error(W, 0 * W, H)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (6, 5, 3, 3))),
    part=st.floats(0, 1),
    samples=st.integers(0, 60),
    seed=st.integers(0, 99),
)
def test_never_worse_than_the_plain_decomposition(
    shape: tuple[int, int, int, int], part: float, samples: int, seed: int
) -> None:
    W = normal(*shape, seed=seed)
    H = gram(W[0].size, seed, samples) if samples else np.zeros((W[0].size,) * 2)
    rank, rank_in, rank_out = ranks(shape, part)
    slack = 1e-10 * error(W, 0 * W, H)
    start = error(W, from_spatial(*spatial(W, None, rank)), H)
    turns = [error(W, from_spatial(*spatial(W, H, rank, sweeps)), H) for sweeps in (0, 1, 3)]
    for before, after in zip([start, *turns], turns, strict=False):
        assert after <= before * (1 + 1e-5) + slack
    plain, mine = (error(W, from_tucker(*tucker(W, metric, rank_in, rank_out)), H) for metric in (None, H))
    assert mine <= plain * (1 + 1e-5) + slack


@pytest.mark.parametrize("shape", [(12, 8, 3, 3), (8, 12, 3, 2)])
def test_what_is_seen_counts(shape: tuple[int, int, int, int]) -> None:
    W = normal(*shape)
    for H in (seen(shape), smooth(shape)):
        rank, rank_in, rank_out = ranks(shape, 0.5)
        plain, mine = (error(W, from_spatial(*spatial(W, metric, rank)), H) for metric in (None, H))
        assert mine < 0.7 * plain
        plain, mine = (error(W, from_tucker(*tucker(W, metric, rank_in, rank_out)), H) for metric in (None, H))
        assert mine < 0.7 * plain
        plain, mine = (error(W, from_output(*output(W, metric, rank_out)), H) for metric in (None, H))
        assert mine < 0.9 * plain
        assert mine == pytest.approx(low_rank.spectrum(W.reshape(len(W), -1), H)[rank_out:].sum(), rel=1e-4)


@pytest.mark.parametrize("shape", [(9, 6, 3, 3), (5, 4, 2, 3)])
def test_a_turn_is_least_squares_for_rows_and_nearly_for_columns(shape: tuple[int, int, int, int]) -> None:
    outs, ins, kh, kw = shape
    W, draw = normal(*shape).astype(np.float64), np.random.default_rng(0)
    for H in (seen(shape), smooth(shape)):
        root = np.linalg.cholesky(H)
        target = (W.reshape(outs, -1) @ root).ravel()
        left, right = draw.standard_normal((outs * kw, 4)), draw.standard_normal((4, ins * kh))

        def whitened(left: np.ndarray, right: np.ndarray, root: np.ndarray = root) -> np.ndarray:
            V = (left @ right).reshape(outs, kw, ins * kh).transpose(0, 2, 1).reshape(outs, -1)
            found: np.ndarray = (V @ root).ravel()
            return found

        def least(columns: list[np.ndarray], target: np.ndarray = target) -> float:
            A = np.stack(columns, axis=1)
            return float(np.square(A @ np.linalg.lstsq(A, target, rcond=None)[0] - target).sum())

        turns = _Turns(W.reshape(outs, -1), H, kw)
        rows = turns._left(left, right)
        units = np.eye(left.size).reshape(-1, *left.shape)
        expected = least([whitened(unit, right) for unit in units])
        assert np.square(whitened(rows, right) - target).sum() == pytest.approx(expected, rel=1e-6)
        before = np.square(whitened(left, right) - target).sum()
        units = np.eye(right.size).reshape(-1, *right.shape)
        expected = least([whitened(left, unit) for unit in units])
        after = np.square(whitened(left, turns._right(left, right)) - target).sum()
        assert after - expected < 0.03 * (before - expected)


def test_core_and_last_are_the_best_for_the_first() -> None:
    shape = (9, 6, 3, 3)
    W, H = normal(*shape), seen(shape)
    first, core, last = (k.astype(np.float64) for k in tucker(W, H, 4, 5))
    np.testing.assert_allclose(first[..., 0, 0] @ first[..., 0, 0].T, np.eye(4), atol=1e-5)
    least = error(W, from_tucker(first, core, last), H)
    draw = np.random.default_rng(0)
    for size in (1e-3, 1e-2, 1e-1):
        for _ in range(20):
            other = (k + size * draw.standard_normal(k.shape) for k in (core, last))
            assert error(W, from_tucker(first, *other), H) > least * (1 - 1e-6)
    # From any other start, exact solutions for the one and the other in turns arrive at no less.
    P = np.einsum("si,ab->saib", first[..., 0, 0], np.eye(9)).reshape(36, 54)
    inner, target = P @ H @ P.T, W.reshape(9, -1) @ H @ P.T
    L: np.ndarray = draw.standard_normal((9, 5))
    C: np.ndarray = draw.standard_normal((5, 36))
    for _ in range(200):
        L = np.linalg.solve(C @ inner @ C.T, C @ target.T).T
        C = np.linalg.solve(L.T @ L, L.T @ np.linalg.solve(inner, target.T).T)
    V = ((L @ C) @ P).reshape(shape)
    assert least == pytest.approx(error(W, V, H), rel=1e-3)


def test_inputs_are_chosen_as_they_are_seen() -> None:
    W = np.zeros((4, 2, 3, 3), np.float32)
    W[:, 0], W[:, 1] = 3, normal(4, 3, 3)
    H = np.diag(np.repeat([0.01, 1.0], 9))
    without = error(W, W * np.array([0, 1])[:, None, None], H)
    assert error(W, from_tucker(*tucker(W, H, 1, 4)), H) <= without
    # Here what is large in each position cancels over all of them.
    W[:, 0], W[:, 1] = 0, 3 * normal(4, 3, 3)
    W[:, :, 0, 0], W[:, :, 2, 2] = [1, 0], [-1, 0]
    H = np.eye(18)
    H[:9, :9] = 1000
    assert error(W, from_tucker(*tucker(W, H, 1, 4)), H) < 1e-6 * error(W, 0 * W, H)


def test_inputs_are_chosen_for_the_outputs_that_are_kept() -> None:
    W = np.zeros((10, 2, 3, 3), np.float32)
    W[np.arange(9), 1, np.arange(9) // 3, np.arange(9) % 3] = 1  # more in all, but nothing for one output
    W[9, 0, 1, 1] = 2
    assert error(W, from_tucker(*tucker(W, None, 1, 1)), None) == pytest.approx(9)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scales_do_not_matter(scale: float) -> None:
    shape = (6, 5, 3, 3)
    W, H = normal(*shape), seen(shape)

    def solve(w: np.ndarray, h: np.ndarray) -> np.ndarray:
        return np.stack([from_spatial(*spatial(w, h, 5)), from_tucker(*tucker(w, h, 3, 4))])

    V = solve(W, H)
    np.testing.assert_allclose(solve(W * np.float32(scale), H) / scale, V, atol=1e-3)
    np.testing.assert_allclose(solve(W, H * scale), V, atol=1e-3)


def test_the_error() -> None:
    W, V, x = normal(3, 2, 3, 3), normal(3, 2, 3, 3, seed=1), normal(2, 12, 11)
    X = windows(x, 3, 3).astype(np.float64)
    expected = np.square(conv(x, W).astype(np.float64) - conv(x, V)).sum() / len(X)
    assert error(W, V, X.T @ X / len(X)) == pytest.approx(expected, rel=1e-4)
    assert error(W, V, None) == pytest.approx(np.square(W - V).sum(), rel=1e-5)


def test_what_is_not_finite_or_does_not_fit_is_refused() -> None:
    W, H = normal(4, 3, 2, 2), gram(12)
    wrong = r"finite|no factors|no product|no inner"
    for weight, metric in ((W, gram(11)), (W[0], None), (W * np.float32(np.nan), None), (W, H * np.inf)):
        for call in (
            lambda w, h: spatial(w, h, 1),
            lambda w, h: tucker(w, h, 1, 1),
            lambda w, h: output(w, h, 1),
            lambda w, h: error(w, w, h),
        ):
            with pytest.raises(ValueError, match=wrong):
                call(weight, metric)
    for rank in (0, 7):
        with pytest.raises(ValueError, match=wrong):
            spatial(W, H, rank)
        with pytest.raises(ValueError, match=wrong):
            output(W, H, rank)
    for rank_in, rank_out in ((0, 1), (1, 0), (4, 1), (1, 5)):
        with pytest.raises(ValueError, match=wrong):
            tucker(W, H, rank_in, rank_out)
    with pytest.raises(ValueError, match="take the place"):
        error(W, W[:2], H)
