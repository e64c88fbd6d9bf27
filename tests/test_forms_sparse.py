"""Weights with zeros come back as they were, from few bytes, and nothing of it is left once a model is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.forms import sparse
from onnxcompress.forms.base import Writing
from onnxcompress.graph import edit, writer
from onnxcompress.graph.layers import weights
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.scopes import Scopes
from onnxcompress.solvers.groups import Grid, Groups
from tests.small_models import normal, optimized, outputs, proto

if TYPE_CHECKING:
    from pathlib import Path

Array = np.ndarray


def with_zeros(*shape: int, share: float = 0.7, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < share, 0, normal(*shape, seed=seed)).astype(np.float32)


def written(original: onnx.ModelProto, kind: int = Tensor.FLOAT, more: int = 0) -> tuple[bytes, int]:
    """The model with its weight ``w`` in the sparse form, and the bytes that this takes."""
    model = Model(original).copy()
    (weight,) = [w for w in weights(model, Scopes(model.proto)) if w.name == "w"]
    values = model.array(weight.tensor)
    writing = Writing(model, weight, Grid(8), Groups(weight.dims, ()), edit.Namer(Scopes(model.proto).names()))
    made, nbytes, codes = sparse.write(
        writing, int(np.count_nonzero(values)) + more, kind, lambda: sparse.Kept(values.ravel(), 0.5)
    )
    edit.apply(model, [made])
    text = writer.to_bytes(model)
    assert codes.error == 0.5
    return text, nbytes


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 700), st.floats(0, 1), st.integers(0, 99), st.integers(0, 5))
def test_bits_and_values_are_told_apart_again(count: int, share: float, seed: int, more: int) -> None:
    flat = with_zeros(count, share=share, seed=seed)
    stored = sparse.values_of(flat, int(np.count_nonzero(flat)) + more)
    packed = sparse.mask_of(flat)
    bits = np.stack([(packed >> p) & 1 for p in range(8)]).reshape(128, -1).T.ravel()[:count]
    assert np.array_equal(bits, flat != 0)
    assert stored[0] == 0
    assert np.array_equal(stored[np.cumsum(bits) * bits], flat)


def test_more_values_than_expected_are_no_silent_loss() -> None:
    with pytest.raises(ValueError, match="2 were expected"):
        sparse.values_of(np.array([1, 0, 2, 3], np.float32), 2)


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 21])
@pytest.mark.parametrize(
    ("text", "dims", "feed"),
    [
        ("g (float[m, 64] x) => (float[m, n] y) { y = MatMul(x, w) }", (64, 48), (5, 64)),
        ("g (float[m, 33] x) => (float[m, n] y) { y = Gemm<transB = 1>(x, w, c) }", (48, 33), (5, 33)),
        ("g (float[1, 8, 9, 9] x) => (float[a, b, c, d] y) { y = Conv(x, w) }", (24, 8, 3, 3), (1, 8, 9, 9)),
    ],
)
@pytest.mark.parametrize("more", [0, 7])
def test_models_compute_the_same(
    text: str, dims: tuple[int, ...], feed: tuple[int, ...], opset: int, more: int, tmp_path: Path
) -> None:
    w = with_zeros(*dims)
    original = proto(text, {"w": w, "c": normal(48)} if "c)" in text else {"w": w}, opset=opset)
    made, nbytes = written(original, more=more)
    onnx.checker.check_model(onnx.load_from_string(made), full_check=True)
    x = {"x": normal(*feed)}
    assert np.array_equal(outputs(original, x)["y"], outputs(made, x)["y"])
    assert not {"GatherElements", "CumSum", "Cast", "Mul"} & set(optimized(made, tmp_path))
    kept = int(np.count_nonzero(w)) + more
    assert nbytes <= sparse.nbytes(w.size, kept, 32) <= nbytes + 1000


def test_half_precision_and_few_weights_take_few_bytes() -> None:
    w = with_zeros(256, 512, share=0.7)
    original = proto("g (float[m, 256] x) => (float[m, n] y) { y = MatMul(x, w) }", {"w": w}, opset=17)
    plain = len(original.SerializeToString())
    made, _ = written(original)
    half, _ = written(original, Tensor.FLOAT16)
    assert len(made) < 0.35 * plain
    assert len(half) < 0.20 * plain
    x = {"x": normal(3, 256)}
    assert np.abs(outputs(half, x)["y"] - outputs(original, x)["y"]).max() < 0.1


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_nothing_and_everything_may_be_zero(share: float) -> None:
    original = proto(
        "g (float[m, 64] x) => (float[m, n] y) { y = MatMul(x, w) }", {"w": with_zeros(64, 48, share=share)}
    )
    made, _ = written(original)
    x = {"x": normal(3, 64)}
    assert np.array_equal(outputs(original, x)["y"], outputs(made, x)["y"])
