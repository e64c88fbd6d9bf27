"""Zeros in patterns: the code for where they stand gives every value back, and is the cheapest one that fits."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxcompress.forms import decode, sparse, supports
from onnxcompress.forms.assemble import assemble
from onnxcompress.forms.base import Writing
from onnxcompress.forms.ratios import Ratio
from onnxcompress.forms.sparse import Blocks, Layout
from onnxcompress.graph import edit, writer
from onnxcompress.graph.layers import output_axes, weights
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.scopes import Scopes
from onnxcompress.passes.enriching import any_rows
from onnxcompress.solvers.groups import Grid, per_channel
from onnxcompress.solvers.supports import Pattern
from tests.small_models import examples, normal, optimized, outputs, proto

if TYPE_CHECKING:
    from pathlib import Path

    from onnxcompress.forms.supports import Support

Array = np.ndarray
LAYERS: dict[str, Any] = {  # text, shape of the input, shape of the weight for (out, in)
    "MatMul": ("g (float[m, i] x) => (float[a, b] y) { y = MatMul(x, w) }", lambda _o, i: (3, i), lambda o, i: (i, o)),
    "Gemm": (
        "g (float[m, i] x) => (float[a, b] y) { y = Gemm<transB = 1>(x, w) }",
        lambda _o, i: (3, i),
        lambda o, i: (o, i),
    ),
    "Conv": (
        "g (float[1, c, 3, 4] x) => (float[a, b, h, v] y) { y = Conv(x, w) }",
        lambda _o, i: (1, i, 3, 4),
        lambda o, i: (o, i, 1, 1),
    ),
    "ConvTranspose": (
        "g (float[1, c, 3, 4] x) => (float[a, b, h, v] y) { y = ConvTranspose(x, w) }",
        lambda _o, i: (1, i // 2, 3, 4),
        lambda o, i: (i // 2, o, 2, 1),
    ),
}
PATTERNS = ("1:2", "1:3", "2:3", "1:4", "2:4", "3:4", "4:8", "2:16", "block 1x8", "block 4x4", "block 6x1", "block 3x2")


def opened(kind: str, values: Array, opset: int = 17) -> tuple[onnx.ModelProto, Model, Writing]:
    """A layer with these rows (out, in) for its weight ``w``, and the way to write it."""
    text, _, shape = LAYERS[kind]
    dims = shape(*values.shape)
    own = {"MatMul": 1, "ConvTranspose": 1}.get(kind, 0)
    order = (own, *(a for a in range(len(dims)) if a != own))
    w = values.reshape([dims[a] for a in order]).transpose(np.argsort(order))
    original = proto(text, {"w": np.ascontiguousarray(w)}, opset=opset)
    model = Model(original).copy()
    (weight,) = weights(model, Scopes(model.proto))
    axes = output_axes(weight.leaves[0])
    assert axes is not None
    groups = per_channel(weight.dims, axes)
    return original, model, Writing(model, weight, Grid(8), groups, edit.Namer(Scopes(model.proto).names()))


def layout(writing: Writing) -> Layout:
    rows = any_rows(writing)
    assert rows is not None
    return supports.layout_of(rows)


def patterned(pattern: str, out: int, inputs: int, seed: int = 0, share: float = 0.6) -> Array:
    """Rows (out, in) with zeros in a pattern."""
    values = normal(out, inputs, seed=seed)
    return np.where(Pattern.of(pattern).support(np.abs(values), int(share * values.size)), values, 0).astype(np.float32)


def fitting(writing: Writing, pattern: Pattern, values: Array, more: int = 0) -> Support:
    """The code for a pattern that rows (out, in) have."""
    if pattern.ratio is not None:
        return Ratio(layout(writing), *pattern.ratio)
    (height, width), (out, inputs) = pattern.block, values.shape
    cells = values.reshape(out // height, height, inputs // width, width).any(axis=(1, 3))
    return Blocks(layout(writing), pattern.block, int(cells.sum()) + more)


def stored(values: Array, writing: Writing, support: Support, kind: int = Tensor.FLOAT) -> bytes:
    """The model with its weight stored so; rows (out, in) are given for its values."""
    restored = values.reshape([writing.dims[a] for a in layout(writing).order]).transpose(
        np.argsort(layout(writing).order)
    )
    made, _, _ = sparse.write(writing, support, kind, lambda: sparse.Kept(np.ascontiguousarray(restored)))
    edit.apply(writing.model, [made])
    return writer.to_bytes(writing.model)


def weight_in(made: bytes, feed: Array) -> Array:
    """The weight ``w`` as a runtime puts it together."""
    model = onnx.load_from_string(made)
    if any(t.name == "w" for t in model.graph.initializer):
        return onnx.numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "w"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("w", Tensor.FLOAT, None))
    return outputs(model, {"x": feed})["w"]


@examples(60)
@given(
    st.sampled_from(sorted(LAYERS)), st.sampled_from(PATTERNS), st.integers(1, 9), st.integers(1, 11),
    st.sampled_from([11, 17, 18, 21]), st.floats(0, 1), st.integers(0, 9),
)  # fmt: skip
def test_values_come_back_exactly(
    kind: str, text: str, tall: int, wide: int, opset: int, share: float, more: int
) -> None:
    pattern = Pattern.of(text)
    height, width = pattern.block[0] * tall, math.lcm(pattern.width, 2) * wide
    values = patterned(text, height, width, seed=more, share=share)
    values[np.random.default_rng(more).random(values.shape) < 0.1 * more] = 0  # fewer than the pattern lets stay
    _, model, writing = opened(kind, values, opset)
    expected = model.array(writing.weight.tensor).copy()
    made = stored(values, writing, fitting(writing, pattern, values, more))
    assert np.array_equal(weight_in(made, normal(*LAYERS[kind][1](height, width))), expected)


@pytest.mark.parametrize("opset", [11, 13, 18, 21])
@pytest.mark.parametrize("kind", sorted(LAYERS))
@pytest.mark.parametrize("pattern", ["1:4", "2:4", "2:8", "block 4x4"])
def test_nothing_of_it_is_left_once_a_model_is_loaded(kind: str, pattern: str, opset: int, tmp_path: Path) -> None:
    values = patterned(pattern, 24, 40)
    original, _, writing = opened(kind, values, opset)
    made = stored(values, writing, fitting(writing, Pattern.of(pattern), values))
    onnx.checker.check_model(onnx.load_from_string(made), full_check=True)
    x = {"x": normal(*LAYERS[kind][1](24, 40))}
    assert np.array_equal(outputs(original, x)["y"], outputs(made, x)["y"])
    left = optimized(made, tmp_path)
    assert left == optimized(original.SerializeToString(), tmp_path)
    assert left[kind] == 1


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("pattern", ["1:4", "2:4", "3:4", "4:8", "1:8", "block 4x4", "block 1x8"])
def test_the_code_of_a_pattern_takes_fewer_bytes_than_a_bit_for_each_weight(pattern: str, opset: int) -> None:
    values = patterned(pattern, 256, 192)
    kept = int(np.count_nonzero(values))
    made = {}
    for name in ("bits", "code"):
        _, model, writing = opened("MatMul", values, opset)
        single = Blocks.single(values.size, kept)
        found = supports.planned(layout(writing), Pattern.of(pattern), kept, 32)
        support = single if name == "bits" else found
        made[name] = stored(values, writing, support)
        assert abs(len(made[name]) - support.nbytes(32)) < 300
        seen = supports.recognised(layout(writing), model.array(writing.weight.tensor), 32)
    bits = {"1:4": 0.5, "2:4": 2 / 3, "3:4": 0.5, "4:8": 0.8, "1:8": 0.381, "block 4x4": 1 / 16, "block 1x8": 1 / 8}
    assert len(made["code"]) < len(made["bits"]) - (1 - bits[pattern]) * values.size / 8 + 700
    assert 4 * kept < len(made["code"]) < 4 * kept + values.size / 8
    assert found == seen


def test_a_pattern_is_recognised_by_its_zeros() -> None:
    for text in ("1:4", "2:4", "4:8", "block 4x4", "block 1x8", "block 16x1", "block 3x9"):
        pattern = Pattern.of(text)
        values = patterned(text, 96, 144, share=0.7)
        found = supports.recognised(Layout((96, 144), (0, 1), 96), values, 8)
        if isinstance(found, Ratio):
            assert (found.n, found.m) == pattern.ratio
        else:
            assert found.block == pattern.block
    anywhere = patterned("unstructured", 96, 144)
    single = Blocks.single(anywhere.size, int(np.count_nonzero(anywhere)))
    assert supports.recognised(Layout((96, 144), (0, 1), 96), anywhere, 8) == single
    assert supports.recognised(None, patterned("block 4x4", 96, 144), 8).layout.dims == (96 * 144,)
    for full in (np.ones((96, 144)), np.zeros((96, 144))):
        assert supports.recognised(Layout((96, 144), (0, 1), 96), full, 8).nbytes(8) > 0


def test_what_has_few_weights_or_many_ways_keeps_its_bits() -> None:
    small = supports.planned(Layout((8, 16), (0, 1), 8), Pattern.of("2:4"), 64, 32)
    many = supports.planned(Layout((512, 512), (0, 1), 512), Pattern.of("8:16"), 512 * 256, 32)
    assert isinstance(small, Blocks)
    assert isinstance(many, Blocks)


@pytest.mark.parametrize(
    ("ratio", "bits"), [((1, 4), 2), ((2, 4), 8 / 3), ((3, 4), 2), ((4, 8), 6.4), ((1, 3), 1.6), ((1, 8), 64 / 21)]
)
def test_words_waste_little(ratio: tuple[int, int], bits: float) -> None:
    dtype, codes, words = Ratio(Layout((960, ratio[1] * 10), (0, 1), 960), *ratio).packing
    assert 8 * dtype.itemsize / codes == bits
    assert words == math.ceil(9600 / codes)


@examples(60)
@given(st.integers(1, 8), st.integers(2, 32), st.integers(1, 200))
def test_words_hold_the_numbers_of_places(n: int, m: int, groups: int) -> None:
    if n >= m or math.comb(m, n) > 512:
        return
    ratio = Ratio(Layout((groups, m), (0, 1), groups), n, m)
    dtype, codes, words = ratio.packing
    assert words * codes >= groups
    assert ratio.ways**codes <= 1 << (8 * dtype.itemsize)
    values = patterned(f"{n}:{m}", groups, m)
    number = [int(w) for w in ratio.places(values.ravel()).ravel()]
    codes_found = [w // ratio.ways**j % ratio.ways for j in range(codes) for w in number][:groups]
    for row, code in zip(values, codes_found, strict=True):
        assert sum(math.comb(int(p), i + 1) for i, p in enumerate(np.flatnonzero(row))) == code


def test_more_values_than_a_ratio_lets_stay_are_no_silent_loss() -> None:
    ratio = Ratio(Layout((2, 4), (0, 1), 2), 1, 4)
    for view in (ratio.places, ratio.values):
        with pytest.raises(ValueError, match="1 were expected"):
            view(np.array([1, 0, 2, 0, 0, 0, 0, 3], np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("pattern", ["1:4", "2:4", "block 4x4"])
def test_other_types(pattern: str, dtype: type, tmp_path: Path) -> None:
    values: Array = patterned(pattern, 32, 48).astype(dtype)
    kind = "float16" if dtype == np.float16 else "double"
    text = f"g ({kind}[m, 48] x) => ({kind}[m, n] y) {{ y = MatMul(x, w) }}"
    original = proto(text, {"w": np.ascontiguousarray(values.T)})
    model = Model(original).copy()
    (weight,) = weights(model, Scopes(model.proto))
    writing = Writing(model, weight, Grid(8), per_channel(weight.dims, (1,)), edit.Namer(Scopes(model.proto).names()))
    made = stored(values, writing, fitting(writing, Pattern.of(pattern), values), weight.tensor.data_type)
    x: dict[str, Array] = {"x": normal(5, 48).astype(dtype)}
    assert np.array_equal(outputs(original, x)["y"], outputs(made, x)["y"])
    assert not {"ScatterElements", "Gather", "ConstantOfShape", "Transpose"} & set(optimized(made, tmp_path))


@pytest.mark.parametrize("kind", sorted(LAYERS))
@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("pattern", ["1:4", "2:4", "block 4x4", "block 3x1"])
def test_codes_of_few_bits_are_the_same_with_less_stored(kind: str, bits: int, pattern: str, tmp_path: Path) -> None:
    values = patterned(pattern, 51 if "3x" in pattern else 36, 52)
    made, sizes = {}, {}
    for name in ("all", "bits", "code"):
        _, model, writing = opened(kind, values)
        writing = dataclasses.replace(writing, grid=Grid(bits), keep_zeros=True)
        single = Blocks.single(values.size, int(np.count_nonzero(values)))
        support = single if name == "bits" else fitting(writing, Pattern.of(pattern), values)
        writing = dataclasses.replace(writing, sparse=None if name == "all" else support)
        found = assemble(writing, np.dtype(np.float32), dict.fromkeys(writing.weight.leaves, decode.NAME))
        edit.apply(model, [found.edit])
        made[name], sizes[name] = writer.to_bytes(model), found.nbytes
    feed = normal(*LAYERS[kind][1](*values.shape))
    whole = weight_in(made["all"], feed)
    assert np.array_equal(whole, weight_in(made["code"], feed))
    assert np.array_equal(whole, weight_in(made["bits"], feed))
    assert sizes["code"] < sizes["bits"]
    assert optimized(made["code"], tmp_path) == optimized(opened(kind, values)[0].SerializeToString(), tmp_path)
