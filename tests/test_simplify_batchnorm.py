"""Batch normalization goes into every kind of layer, and stays where that would be wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.graph.batchnorm import fold_batchnorm
from tests.simplifying import operators, outputs, parsed, simplified, stored

if TYPE_CHECKING:
    from onnxcompress.graph.model import Model

RNG = np.random.default_rng(0)


def parameters(channels: int) -> dict[str, np.ndarray]:
    """Scale, shift, mean and variance, far from the identity."""
    names = ("s", "b", "m")
    made = {n: RNG.normal(size=channels).astype(np.float32) for n in names}
    return {**made, "v": RNG.uniform(0.1, 3, channels).astype(np.float32)}


def weight(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def folded(model: Model) -> Model:
    """Our own folding alone, so that it is not ONNX Runtime's that is tested."""
    result = model.copy()
    fold_batchnorm(result)
    return result


CONV = """g (float[2,4,5,5] x) => (float[2,4,5,5] y) {
    h = Conv(x, w) y = BatchNormalization(h, s, b, m, v) }"""
IMAGE, LINE, ROW = (2, 4, 5, 5), (2, 4, 9), (3, 4)
FOLDED = {
    "Conv": (IMAGE, "Conv(x, w)", weight(6, 4, 3, 3)),
    "Conv with groups": (IMAGE, "Conv<group = 2>(x, w)", weight(6, 2, 3, 3)),
    "Conv of one axis": (LINE, "Conv(x, w)", weight(6, 4, 3)),
    "Conv with a bias": (IMAGE, "Conv(x, w, c)", weight(6, 4, 1, 1)),
    "ConvTranspose": (IMAGE, "ConvTranspose(x, w)", weight(4, 6, 2, 2)),
    "ConvTranspose with groups": (IMAGE, "ConvTranspose<group = 2>(x, w)", weight(4, 3, 2, 2)),
    "Gemm": (ROW, "Gemm(x, w)", weight(4, 6)),
    "Gemm with alpha, beta and a bias": (ROW, "Gemm<alpha = 0.5, beta = 2.0>(x, w, c)", weight(4, 6)),
    "Gemm with a transposed weight": (ROW, "Gemm<transB = 1>(x, w, c)", weight(6, 4)),
    "MatMul": (ROW, "MatMul(x, w)", weight(4, 6)),
}


@pytest.mark.parametrize(("shape", "layer", "w"), FOLDED.values(), ids=FOLDED)
def test_fold(shape: tuple[int, ...], layer: str, w: np.ndarray) -> None:
    dims = ",".join("ABCD"[: len(shape)])
    norm = "BatchNormalization<epsilon = 0.01>(h, s, b, m, v)"
    model = parsed(
        f"g (float[{','.join(map(str, shape))}] x) => (float[{dims}] y) {{ h = {layer} y = {norm} }}",
        {"w": w, "c": weight(6), **parameters(6)},
    )
    result = folded(model)
    assert len(result.proto.graph.node) == 1
    assert stored(result)["w"].dtype == w.dtype
    feeds = {"x": weight(*shape)}
    np.testing.assert_allclose(outputs(result, feeds)["y"], outputs(model, feeds)["y"], rtol=1e-4, atol=1e-5)


KEPT = {
    "Relu between": "h = Conv(x, w) r = Relu(h) y = BatchNormalization(r, s, b, m, v) z = Neg(y)",
    "another reader": "h = Conv(x, w) y = BatchNormalization(h, s, b, m, v) z = Neg(h)",
    "a shared weight": "h = Conv(x, w) y = BatchNormalization(h, s, b, m, v) n = Neg(x) z = Conv(n, w)",
    "computed parameters": "h = Conv(x, w) t = ReduceMax<axes = [0, 2, 3], keepdims = 0>(h0) "
    "y = BatchNormalization(h, t, b, m, v) z = Neg(y)",
}


@pytest.mark.parametrize("body", KEPT.values(), ids=KEPT)
def test_kept(body: str) -> None:
    text = f"g (float[2,4,5,5] x, float[2,4,5,5] h0) => (float[2,4,5,5] y, float[2,4,5,5] z) {{ {body} }}"
    model = parsed(text, {"w": weight(4, 4, 1, 1), **parameters(4)})
    assert operators(folded(model)) == operators(model)


def test_kept_while_training() -> None:
    text = """g (float[2,4,5,5] x) => (float[2,4,5,5] y, float[4] p, float[4] q) {
        h = Conv(x, w) y, p, q = BatchNormalization<training_mode = 1>(h, s, b, m, v) }"""
    assert not fold_batchnorm(parsed(text, {"w": weight(4, 4, 1, 1), **parameters(4)}))


def test_kept_after_a_product_of_three_axes() -> None:
    text = """g (float[2,4,5] x) => (float[2,4,4] y) {
        h = MatMul(x, w) y = BatchNormalization(h, s, b, m, v) }"""
    assert not fold_batchnorm(parsed(text, {"w": weight(5, 4), **parameters(4)}))


@pytest.mark.parametrize("bad", [np.float32(-1), np.float32(np.nan), np.float32(np.inf)], ids=str)
def test_kept_with_a_variance_that_has_no_root(bad: np.float32) -> None:
    values = {"w": weight(4, 4, 1, 1), **parameters(4)}
    values["v"][2] = bad
    text = CONV
    assert not fold_batchnorm(parsed(text, values))


def test_weight_that_a_caller_may_override_is_kept() -> None:
    text = """g (float[2,4,5,5] x, float[4,4,1,1] w) => (float[2,4,5,5] y) {
        h = Conv(x, w) y = BatchNormalization(h, s, b, m, v) }"""
    assert not fold_batchnorm(parsed(text, {"w": weight(4, 4, 1, 1), **parameters(4)}))


def test_a_large_weight_keeps_its_name_and_is_folded_by_the_whole_pass() -> None:
    text = CONV.replace("2,4,5,5", "2,64,5,5")
    result = simplified(text, {"w": weight(64, 64, 1, 1), **parameters(64)})
    assert operators(result) == {"Conv": 1}
    assert "w" in stored(result)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 2**32 - 1))
def test_property_transposed_convolution(group: int, inputs: int, outs: int, biased: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    channels = group * outs
    values = {n: rng.normal(size=channels).astype(np.float32) for n in ("s", "b", "m", "c")}
    values["v"] = rng.uniform(0.1, 2, channels).astype(np.float32)
    values["w"] = rng.normal(size=(group * inputs, outs, 2)).astype(np.float32)
    call = f"ConvTranspose<group = {group}>(x, w{', c' if biased else ''})"
    text = f"g (float[A,B,C] x) => (float[A,D,E] y) {{ h = {call} y = BatchNormalization(h, s, b, m, v) }}"
    model = parsed(text, values)
    feeds = {"x": rng.normal(size=(2, group * inputs, 4)).astype(np.float32)}
    expected = outputs(model, feeds)["y"]
    given_ = outputs(folded(model), feeds)["y"]
    np.testing.assert_allclose(given_, expected, rtol=1e-3, atol=1e-4)
