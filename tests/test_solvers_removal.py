"""Removal of channels against brute force: what it costs, which go, and how the rest takes over."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxcompress.solvers.metric import damped
from onnxcompress.solvers.removal import DAMPING, Reader, lost, refitted, removal
from tests.small_models import examples

Array = np.ndarray


def problem(seed: int, channels: int, size: int, *, rows: int = 5, groups: int = 1, extra: int = 0) -> Reader:
    """Weights, the Gram matrix of inputs that go together, and blocks; ``extra`` inputs belong to no channel."""
    rng = np.random.default_rng(seed)
    inputs = channels * size + extra
    X = rng.standard_normal((groups, 3 * inputs, inputs)) @ rng.standard_normal((groups, inputs, inputs))
    X += rng.standard_normal((groups, 1, inputs))
    blocks = tuple(np.arange(c * size, (c + 1) * size) for c in range(channels))
    W = rng.standard_normal((groups, rows, inputs))
    return Reader(W, X.transpose(0, 2, 1) @ X / X.shape[1], blocks)


def metric(reader: Reader) -> Array:
    return np.stack([damped(H, DAMPING) for H in reader.H])


def cost(reader: Reader, channels: tuple[int, ...]) -> float:
    """The least error without these channels, from the normal equations of each row."""
    D = metric(reader)
    gone = np.concatenate([reader.blocks[c] for c in channels])
    kept = np.setdiff1d(np.arange(D.shape[-1]), gone)
    error = 0.0
    for w, d in zip(reader.W, D, strict=True):
        L = np.linalg.cholesky(d).T  # ‖L w‖² = wᵀ d w
        for row in w:
            fit, *_ = np.linalg.lstsq(L[:, kept], L @ row, rcond=None)
            error += float(np.square(L @ row - L[:, kept] @ fit).sum())
    return error / float(((reader.W @ D) * reader.W).sum())


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("size", [1, 3])
def test_first_to_go_is_the_cheapest_and_costs_what_it_costs(size: int, groups: int) -> None:
    for seed in range(5):
        reader = problem(seed, 7, size, groups=groups, extra=1)
        found = removal([reader], range(1, 7))
        single = [cost(reader, (c,)) for c in range(7)]
        assert found.order[0] == int(np.argmin(single))
        for stop, error in zip(found.stops, found.errors, strict=True):
            assert error == pytest.approx(cost(reader, found.order[:stop]), rel=1e-6)


def test_what_goes_is_near_the_best_choice_there_is() -> None:
    ratios = []
    for seed in range(20):
        reader = problem(seed, 8, 2)
        found = removal([reader], [1, 2, 3])
        best = min(cost(reader, chosen) for chosen in combinations(range(8), 3))
        ratios.append(found.errors[-1] / best)
    assert min(ratios) >= 1 - 1e-9
    assert np.median(ratios) < 1.1
    assert max(ratios) < 1.6


def test_independent_channels_go_by_their_power() -> None:
    rng = np.random.default_rng(0)
    W, powers = rng.standard_normal((1, 4, 10)), rng.random((1, 10)) + 0.1
    blocks = tuple(np.array([c]) for c in range(10))
    expected = np.argsort(np.square(W[0]).sum(axis=0) * powers[0])
    for H in (powers, np.diag(powers[0])[None]):
        found = removal([Reader(W, H, blocks)], [3, 9], damping=1e-12)
        assert list(found.order) == list(expected[:9])
        total = (np.square(W[0]).sum(axis=0) * powers[0]).sum()
        assert found.errors[0] == pytest.approx((np.square(W[0]).sum(axis=0) * powers[0])[expected[:3]].sum() / total)


def test_a_channel_that_another_one_repeats_costs_next_to_nothing() -> None:
    rng = np.random.default_rng(1)
    X = rng.standard_normal((500, 6))
    X[:, 5] = X[:, 2]
    W = rng.standard_normal((1, 4, 6))
    W[0, :, 5] *= 3  # by its size it would be the last to go
    reader = Reader(W, (X.T @ X / 500)[None], tuple(np.array([c]) for c in range(6)))
    found = removal([reader], [1, 2])
    assert found.order[0] in (2, 5)
    assert found.errors[0] < 0.02 < found.errors[1]
    made = refitted(W, reader.H, np.array([found.order[0]]))
    assert lost(W, made, reader.H) < 1e-3 * lost(W, np.zeros_like(W), reader.H)


def test_readers_are_heard_alike_whatever_their_size() -> None:
    one, other = problem(0, 6, 1), problem(1, 6, 1)
    loud = Reader(1e3 * other.W, other.H, other.blocks)
    assert removal([one, other], [4]).order == removal([one, loud], [4]).order
    both = removal([one, other], [1])
    assert both.errors[0] == pytest.approx(min(cost(one, (c,)) + cost(other, (c,)) for c in range(6)), rel=1e-6)


def test_a_reader_may_not_see_a_channel_at_all() -> None:
    reader = problem(0, 4, 2)
    blind = Reader(reader.W, reader.H, (reader.blocks[0], np.array([], np.int64), *reader.blocks[2:]))
    assert removal([blind], [1]).order == (1,)
    assert removal([blind], [1]).errors == (0.0,)


def test_dead_readers_cost_nothing() -> None:
    reader = problem(0, 4, 2)
    dead = Reader(np.zeros_like(reader.W), reader.H, reader.blocks)
    assert removal([dead], [2, 3]).errors == (0.0, 0.0)
    assert removal([dead, reader], [2]).order == removal([reader], [2]).order


@pytest.mark.parametrize("stops", [[], [0], [2, 2], [3, 1], [9]])
def test_what_cannot_go(stops: list[int]) -> None:
    with pytest.raises(ValueError, match="cannot go"):
        removal([problem(0, 4, 1)], stops)
    with pytest.raises(ValueError, match="cannot go"):
        removal([problem(0, 4, 1), problem(0, 5, 1)], [1])


@given(seed=st.integers(0, 10_000), channels=st.integers(2, 12), size=st.integers(1, 4), part=st.integers(1, 11))
@examples(40)
def test_refit_is_never_worse_than_plain_removal(seed: int, channels: int, size: int, part: int) -> None:
    reader = problem(seed, channels, size, groups=1 + seed % 2, extra=seed % 3)
    gone = np.concatenate([reader.blocks[c] for c in range(min(part, channels - 1))])
    plain = reader.W.copy()
    plain[:, :, gone] = 0
    found = refitted(reader.W, reader.H, gone)
    assert not found[:, :, gone].any()
    assert lost(reader.W, found, reader.H) <= lost(reader.W, plain, reader.H) * (1 + 1e-9)
    np.testing.assert_array_equal(refitted(reader.W, np.diagonal(reader.H, axis1=1, axis2=2), gone), plain)
    chosen = tuple(range(min(part, channels - 1)))
    own = lost(reader.W, found, metric(reader)) / lost(reader.W, np.zeros_like(found), metric(reader))
    assert own == pytest.approx(cost(reader, chosen), rel=1e-6, abs=1e-9)


@given(seed=st.integers(0, 10_000), channels=st.integers(2, 200), size=st.integers(1, 3))
@examples(30)
def test_errors_grow(seed: int, channels: int, size: int) -> None:
    reader = problem(seed, channels, size, rows=2)
    found = removal([reader], range(1, channels))
    assert sorted(found.order) == sorted(set(found.order))
    assert all(a <= b for a, b in zip(found.errors, found.errors[1:], strict=False))
    assert found.errors[0] >= 0
    assert found.errors[-1] <= 1 + 1e-6
