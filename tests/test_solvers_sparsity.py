"""Sparse weights in the metric of what a layer sees: against brute force, and by what has to hold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.solvers.metric import row_errors, stacked
from onnxcompress.solvers.sparsity import fitted, pruned
from onnxcompress.solvers.supports import Pattern

Array = np.ndarray
ANY = Pattern()


def problem(seed: int, out: int, inputs: int, groups: int = 0) -> tuple[Array, Array]:
    """Weights and a Gram matrix of inputs that go together."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(max(groups, 1), 4 * inputs, inputs)) @ rng.normal(size=(max(groups, 1), inputs, inputs))
    H = np.einsum("gni,gnj->gij", x, x) / (4 * inputs)
    return rng.normal(size=(out, inputs)).astype(np.float32), H if groups else H[0]


def lost(W: Array, X: Array, H: Array) -> float:
    W3, H3 = stacked(W, H)
    return float(row_errors((W3 - X.reshape(W3.shape)).astype(np.float64), H3).sum())


def best_values(w: Array, H: Array, kept: list[int]) -> Array:
    """The exact optimum on a support."""
    x = np.zeros(len(w))
    if kept:
        x[kept] = np.linalg.solve(H[np.ix_(kept, kept)], (H @ w)[kept])
    return x


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 6))
def test_values_on_a_support_are_the_best(seed: int, zeros: int) -> None:
    W, H = problem(seed, 3, 7)
    kept = ANY.support(np.abs(W), 3 * zeros)
    found = fitted(W[None], H[None], kept[None], damping=1e-9, steps=60)[0]
    exact = np.stack(
        [best_values(w.astype(np.float64), H, list(np.flatnonzero(k))) for w, k in zip(W, kept, strict=True)]
    )
    assert lost(W, found, H) <= lost(W, exact.astype(np.float32), H) * 1.01 + 1e-6 * lost(W, 0 * W, H)
    assert not found[~kept].any()


def test_single_rows_come_near_the_best_of_all_supports() -> None:
    totals = np.zeros(3)
    for seed in range(30):
        W, H = problem(seed, 1, 8)
        best = min(
            lost(W, best_values(W[0].astype(np.float64), H, list(kept))[None].astype(np.float32), H)
            for kept in itertools.combinations(range(8), 4)
        )
        plain = lost(W, np.where(ANY.support(np.abs(W), 4), W, 0), H)
        totals += [best, lost(W, pruned(W, H, ANY, 4, damping=1e-6, steps=40), H), plain]
    assert totals[1] < 2 * totals[0]
    assert totals[1] < 0.3 * totals[2]


PATTERNS = ["unstructured", "2:4", "1:4", "4:8", "block 2x4", "block 1x8", "block 4x1"]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(PATTERNS), st.sampled_from([0, 4]), st.floats(0.1, 0.95))
def test_patterns_hold_and_the_error_is_below_that_of_magnitudes(
    seed: int, text: str, groups: int, share: float
) -> None:
    W, H = problem(seed, 16, 32, groups)
    pattern, zeros = Pattern.of(text), int(share * W.size)
    found = pruned(W, H, pattern, zeros)
    assert found.shape == W.shape
    assert np.isfinite(found).all()
    assert np.count_nonzero(found) <= pattern.kept(16, 32, zeros)
    if pattern.ratio is not None:
        n, m = pattern.ratio
        assert (np.count_nonzero(found.reshape(-1, m), axis=1) <= n).all()
    else:
        rows, columns = pattern.block
        blocks = (found != 0).reshape(16 // rows, rows, 32 // columns, columns).any(axis=(1, 3))
        assert np.count_nonzero(blocks) * rows * columns <= pattern.kept(16, 32, zeros)
    plain = np.where(pattern.support(np.square(W), zeros), W, 0)
    assert lost(W, found, H) <= lost(W, plain, H) * 1.0001


def test_inputs_that_go_together_take_over_from_each_other() -> None:
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(500, 16)), 2, axis=1)  # each input is there twice
    W = rng.normal(size=(8, 32)).astype(np.float32)
    H = x.T @ x / 500
    found = pruned(W, H, ANY, 128)
    assert lost(W, found, H) < 0.02 * lost(W, 0 * W, H)
    assert lost(W, np.where(ANY.support(np.abs(W), 128), W, 0), H) > 0.05 * lost(W, 0 * W, H)


@pytest.mark.parametrize("H", [np.zeros((16, 16)), np.diag([1.0] * 8 + [0.0] * 8)])
def test_inputs_that_were_never_seen_go_by_size(H: Array) -> None:
    W = np.random.default_rng(1).normal(size=(4, 16)).astype(np.float32)
    found = pruned(W, H, ANY, 32)
    assert np.isfinite(found).all()
    assert np.count_nonzero(found) <= 32


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    W, H = problem(0, 4, 8)
    with pytest.raises(ValueError, match="finite"):
        pruned(np.where(W.max() == W, np.float32(bad), W), H, ANY, 4)
    with pytest.raises(ValueError, match="finite"):
        pruned(W, H * bad, ANY, 4)


@pytest.mark.parametrize("text", ["", "2", "4:4", "5:4", "0:4", "block 1x1", "block 0x4", "2:4:8", "block 4"])
def test_other_words_are_no_patterns(text: str) -> None:
    with pytest.raises(ValueError, match=r"pattern|block|kept"):
        Pattern.of(text)


def test_patterns_say_what_they_need() -> None:
    assert Pattern.of("2:4").lacking(3, 10) == "10 inputs do not divide by 4"
    assert Pattern.of("block 4x8").lacking(6, 16) == "6 outputs do not divide by 4"
    assert Pattern.of("block 4x8").lacking(8, 16) is None
    assert [Pattern.of(text).text for text in PATTERNS] == PATTERNS


@pytest.mark.parametrize("zeros", [0, 1, 7, 24, 47, 48])
def test_of_equal_scores_as_many_stay_as_asked_all_over(zeros: int) -> None:
    kept = Pattern().support(np.ones((6, 8), np.float32), zeros)
    assert np.count_nonzero(kept) == 48 - zeros
    assert np.ptp(kept.sum(axis=1)) <= 2  # no row pays for the others
