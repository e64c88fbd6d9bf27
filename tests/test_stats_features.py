"""Statistics of features are those of numpy over all calls, whatever the axis and the opset; padding does not count."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from onnxcompress.errors import DataError
from onnxcompress.graph.model import Model
from onnxcompress.stats.features import Features, features
from onnxcompress.stats.masks import padding_mask
from tests.small_models import check_words, normal, proto

ROWS = "g (float[b, n, 6] x) => (float[b, n, 4] y) { h = MatMul(x, w) y = Tanh(h) }"
MASKED = ('g (float[b, n, 6] x, int64[b, n] attention_mask) => (float[b, n, 4] y) '
          "{ h = MatMul(x, w) y = Tanh(h) }")  # fmt: skip
IMAGE = "g (float[b, 3, n, 7] x) => (float[] y) { y = Relu(x) }"


def rows(opset: int = 17) -> Model:
    return Model(proto(ROWS, {"w": normal(6, 4, seed=1)}, opset=opset))


def like(found: Features, x: np.ndarray) -> None:
    """The statistics are those of positions (positions, features)."""
    exact = x.astype(np.float64)
    np.testing.assert_allclose(found.low, exact.min(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.high, exact.max(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.square, np.square(exact).mean(0), rtol=1e-5, atol=1e-6)
    assert found.count == len(x)
    assert all(a.dtype == np.float64 for a in (found.low, found.high, found.mean, found.square))


@pytest.mark.parametrize("opset", [7, 12, 13, 17, 18, 21])
@pytest.mark.parametrize("axis", [2, -1, 0])
def test_as_numpy_says(opset: int, axis: int) -> None:
    calls = [{"x": normal(2, n, 6, seed=n)} for n in (3, 1, 8)]
    found = features(rows(opset), {"x": (3, axis), "h": (3, axis)}, calls, threads=1)
    w = normal(6, 4, seed=1)
    for name, values in (("x", [c["x"] for c in calls]), ("h", [c["x"] @ w for c in calls])):
        like(found[name], np.concatenate([np.moveaxis(v, axis, -1).reshape(-1, v.shape[axis]) for v in values]))


def test_images_outputs_and_few_axes() -> None:
    x = normal(2, 3, 5, 7)
    found = features(Model(proto(IMAGE)), {"y": (4, 1), "x": (4, -3)}, [{"x": x}, {"x": x}])
    flat = np.moveaxis(x, 1, -1).reshape(-1, 3)
    like(found["x"], np.concatenate([flat, flat]))
    like(found["y"], np.maximum(np.concatenate([flat, flat]), 0))
    one = Model(proto("g (float[6] x) => (float[6] y) { y = Neg(x) }"))
    calls = [{"x": normal(6, seed=seed)} for seed in range(3)]
    like(features(one, {"x": (1, 0)}, calls)["x"], np.stack([c["x"] for c in calls]))


def test_half_precision() -> None:
    model = Model(proto("g (float16[n, 6] x) => (float16[] y) { y = Neg(x) }"))
    x = normal(5, 6).astype(np.float16)
    like(features(model, {"x": (2, 1)}, [{"x": x}])["x"], x)


def test_sums_do_not_lose_small_numbers_among_large_ones() -> None:
    x = np.full((1, 4096, 6), 1e-2, np.float32)
    x[0, 0] = 1e5
    found = features(rows(), {"x": (3, 2)}, [{"x": x}])["x"]
    np.testing.assert_allclose(found.square, (1e10 + 4095 * np.float64(np.float32(1e-2)) ** 2) / 4096, rtol=1e-12)


def test_squares_of_large_numbers_do_not_overflow() -> None:
    found = features(Model(proto(IMAGE)), {"x": (4, 1)}, [{"x": np.full((1, 3, 2, 7), 1e30, np.float32)}])["x"]
    np.testing.assert_allclose(found.square, 1e60, rtol=1e-6)


@pytest.mark.parametrize("opset", [9, 13, 18])
def test_padding_does_not_count(opset: int) -> None:
    model = Model(proto(MASKED, {"w": normal(6, 4, seed=1)}, opset=opset))
    mask = padding_mask(model)
    assert mask == "attention_mask"
    calls = []
    for n in (2, 5):
        kept = np.arange(n) < np.array([[n], [1], [0]])
        x = normal(3, n, 6, seed=n) + np.float32(3)
        calls.append({"x": np.where(kept[..., None], x, np.float32(100)), "attention_mask": kept.astype(np.int64)})
    seen = np.concatenate([c["x"][c["attention_mask"] > 0] for c in calls])
    found = features(model, {"x": (3, 2), "h": (3, 2)}, calls, mask=mask)
    like(found["x"], seen)
    like(found["h"], seen @ normal(6, 4, seed=1))
    everything = features(model, {"x": (3, 2)}, calls)["x"]
    np.testing.assert_array_equal(everything.high, 100)
    along = features(model, {"x": (3, 0)}, [calls[0]], mask=mask)["x"]  # another axis: the mask says nothing
    assert along.count == 12


def test_a_call_of_padding_alone_is_passed_over() -> None:
    model = Model(proto(MASKED, {"w": normal(6, 4, seed=1)}))
    x = normal(1, 2, 6)
    calls = [{"x": x, "attention_mask": np.full((1, 2), on, np.int64)} for on in (0, 1)]
    like(features(model, {"x": (3, 2)}, calls, mask="attention_mask")["x"], x[0])
    with pytest.raises(DataError) as caught:
        features(model, {"x": (3, 2)}, calls[:1], mask="attention_mask")
    check_words(caught.value)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_an_error_that_names_them(wrong: float) -> None:
    calls = [{"x": normal(1, 4, 6)}, {"x": normal(1, 4, 6)}]
    calls[1]["x"][0, 2, 3] = wrong
    with pytest.raises(DataError, match="'x' is NaN or infinite in sample 1") as caught:
        features(rows(), {"x": (3, 2)}, calls)
    check_words(caught.value)


def test_no_calls_no_values_and_no_change() -> None:
    model = rows()
    before = model.proto.SerializeToString()
    with pytest.raises(DataError):
        features(model, {"x": (3, 2)}, [])
    assert features(model, {}, [{"x": normal(1, 2, 6)}]) == {}
    features(model, {"x": (3, 2)}, [{"x": normal(1, 2, 6)}])
    assert model.proto.SerializeToString() == before
    assert numpy_helper.to_array(model.proto.graph.initializer[0]).shape == (6, 4)
