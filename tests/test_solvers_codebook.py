"""Tables that weights share: as good as clusters can be, better with feedback, and whole in all their parts."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from onnxcompress.solvers.clusters import nearest_entries, scalar_table, vector_table
from onnxcompress.solvers.codebook import Shared, codebook
from onnxcompress.solvers.metric import plain_error, relative_error
from tests.small_models import normal
from tests.test_solvers_feedback import gram, groups_of

if TYPE_CHECKING:
    from onnxcompress.solvers.groups import Groups


def error(W: np.ndarray, H: np.ndarray, found: Shared, groups: Groups | None = None) -> float:
    return relative_error(W, found.dequantize(groups, (W.shape[0], W.shape[1])), H)


# ------------------------------------------------------------------------- clusters


@pytest.mark.parametrize("entries", [2, 3, 4])
def test_single_values_are_clustered_nearly_as_well_as_can_be(entries: int) -> None:
    ratios = []
    for seed in range(20):
        v, h = np.sort(normal(14, seed=seed)), np.exp(normal(14, seed=seed + 50))
        best = np.inf
        for cuts in itertools.combinations(range(1, 14), entries - 1):
            parts = np.split(np.arange(14), cuts)
            best = min(best, sum(float((h[p] * (v[p] - np.average(v[p], weights=h[p])) ** 2).sum()) for p in parts))
        table = scalar_table(v, h, entries)
        ratios.append((h * np.square(v[:, None] - table).min(1)).sum() / best)
    assert min(ratios) > 1 - 1e-4
    assert np.median(ratios) < 1.15


def test_the_table_of_a_gaussian_is_that_of_the_textbook() -> None:
    v = normal(200_000)
    for entries, noise in ((2, 0.3634), (4, 0.1175), (8, 0.03454), (16, 0.009497)):  # J. Max, 1960
        table = scalar_table(v, np.ones_like(v), entries, 200)
        assert (np.diff(table) > 0).all()
        assert np.square(v[:, None] - table).min(1).mean() == pytest.approx(noise, rel=0.02)


@given(kinds=st.sets(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_values_of_few_kinds_are_all_in_the_table(kinds: set[float], seed: int) -> None:
    draw = np.random.default_rng(seed)
    v = draw.choice(np.array(sorted(kinds), np.float32), 50)
    table = scalar_table(v, draw.random(50) + 0.1, 8)
    assert np.isin(v, table).all()


@pytest.mark.parametrize("length", [2, 3, 4])
def test_vectors_go_to_the_nearest_entry_and_entries_to_the_mean(length: int) -> None:
    v, h = normal(600, length), np.exp(normal(600, length, seed=1))
    table = vector_table(v, h, 16, iterations=60)
    near, far = nearest_entries(v, h, table)
    distance = (h[:, None] * np.square(v[:, None] - table)).sum(2)
    np.testing.assert_allclose(distance[np.arange(600), near], distance.min(1), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(far, distance.min(1), rtol=1e-2, atol=1e-4)
    for entry in range(16):
        own = near == entry
        assert own.any()
        np.testing.assert_allclose(table[entry], np.average(v[own], axis=0, weights=h[own]), atol=0.05)


def test_tables_of_vectors_come_from_their_seed() -> None:
    v, h = normal(5000, 4), np.ones((5000, 4), np.float32)
    np.testing.assert_array_equal(vector_table(v, h, 16, 3), vector_table(v, h, 16, 3))
    assert not np.array_equal(vector_table(v, h, 16, 3), vector_table(v, h, 16, 4))


# ------------------------------------------------------------------------- codebooks


@pytest.mark.parametrize("kind", ["none", "rows", "blocks", "all"])
@pytest.mark.parametrize(("bits", "length"), [(8, 1), (4, 1), (1, 1), (6, 2), (4, 4), (5, 3)])
def test_feedback_is_far_better_than_the_nearest_entry(bits: int, length: int, kind: str) -> None:
    W, H = normal(48, 72 if length == 3 else 64), gram(72 if length == 3 else 64)
    groups = None if kind == "none" else groups_of(kind, *W.shape)
    plain, found = codebook(W, None, bits, length, groups), codebook(W, H, bits, length, groups)
    assert found.indices.shape == (W.size // length,)
    assert found.indices.dtype == np.uint8
    assert found.indices.max() < 1 << bits
    assert found.table.shape == (1 << bits, length)
    assert found.table.dtype == np.float32
    assert np.isfinite(found.table).all()
    assert (found.scale is None) == (groups is None)
    if found.scale is not None and groups is not None:
        assert found.scale.shape == groups.scale_shape
    assert error(W, H, found, groups) < error(W, H, plain, groups) * 0.8
    assert plain.error < found.error == pytest.approx(plain_error(W, found.dequantize(groups, W.shape)))


@pytest.mark.parametrize("length", [1, 2])
def test_feedback_and_the_table_fitted_to_it_both_help(length: int) -> None:
    W, H = normal(64, 96), gram(96)
    weighted = codebook(W, np.diag(H.diagonal()), 4, length, rounds=0)
    errors = [error(W, H, codebook(W, H, 4, length, rounds=n)) for n in (0, 1, 3)]
    assert errors[0] < error(W, H, weighted)
    assert errors[1] < errors[0] * 0.8
    assert errors[2] <= errors[1]


def test_the_table_is_at_its_minimum_for_the_places() -> None:
    W, H = normal(64, 32), gram(32)
    found = codebook(W, H, 2)
    least = error(W, H, found)
    for entry, part in itertools.product(range(4), (0.97, 1.03)):
        table = found.table.copy()
        table[entry] *= part
        assert error(W, H, Shared(found.indices, table, None, 0)) >= least * (1 - 1e-4)


@settings(max_examples=60, deadline=None)
@given(
    W=npst.arrays(np.float32, st.tuples(st.integers(1, 4), st.sampled_from([4, 8, 36])),
                  elements=st.floats(-1e3, 1e3, width=32)),
    bits=st.integers(1, 8),
    length=st.sampled_from([1, 2, 4]),
    samples=st.integers(0, 40),
)  # fmt: skip
def test_any_weight_and_any_inputs(W: np.ndarray, bits: int, length: int, samples: int) -> None:
    H = gram(W.shape[1], samples=samples) if samples else np.zeros((W.shape[1], W.shape[1]))
    found = codebook(W, H, bits, length, groups_of("rows", *W.shape), iterations=4)
    assert np.isfinite(found.dequantize(groups_of("rows", *W.shape), (W.shape[0], W.shape[1]))).all()
    if len(np.unique(W)) <= 1 << bits:
        exact = codebook(W, None, bits, iterations=4)
        np.testing.assert_allclose(exact.dequantize(None, (W.shape[0], W.shape[1])), W, rtol=0, atol=1e-35)


@pytest.mark.parametrize("size", [2.0**115, 2.0**-100])
def test_the_size_of_the_weights_does_not_matter(size: float) -> None:
    W, H = normal(16, 32), gram(32)
    for length, groups in ((1, None), (2, None), (1, groups_of("rows", 16, 32))):
        found, other = (codebook(w, H, 4, length, groups) for w in (W, W * np.float32(size)))
        np.testing.assert_array_equal(found.indices, other.indices)
        ratio = other.dequantize(groups, (16, 32)) / found.dequantize(groups, (16, 32))
        np.testing.assert_allclose(ratio, size, rtol=1e-5)


def test_groups_of_channels_share_the_table() -> None:
    W = normal(24, 16)
    H = np.stack([gram(16, seed) for seed in range(6)])
    for length in (1, 2):
        found, plain = codebook(W, H, 4, length), codebook(W, None, 4, length)
        assert error(W, H, found) < error(W, H, plain) * 0.8
        same, one = codebook(W, np.stack([H[0]] * 6), 4, length), codebook(W, H[0], 4, length)
        assert error(W, H[0], same) == pytest.approx(error(W, H[0], one), rel=0.02)


def test_what_does_not_fit_is_refused() -> None:
    W, H = normal(4, 16), gram(16)
    broken, blocks = W * np.float32(np.nan), groups_of("blocks", 4, 16)
    for arguments in ((W, H, 0), (W, H, 9), (W, H, 4, 3), (W, H, 4, 0), (W, gram(15), 4), (broken, H, 4),
                      (W, H * np.nan, 4), (W, H, 4, 8, blocks)):  # fmt: skip
        with pytest.raises(ValueError, match=r"finite|fit|no table"):
            codebook(*arguments)
