"""Each form, in a model of one layer, computes what its weight says, by the operators meant."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.forms import blockwise, decode, dynamic, fused, gather
from onnxcompress.forms.assemble import assemble, available
from onnxcompress.forms.base import Writing
from onnxcompress.graph import edit, writer
from onnxcompress.graph.layers import Leaf, weights
from onnxcompress.graph.model import Model
from onnxcompress.graph.scopes import Scopes
from onnxcompress.solvers.grid import quantize
from onnxcompress.solvers.groups import Grid, Groups, per_block, per_channel
from tests.runtime_versions import needs_form
from tests.small_models import Arrays, normal, operators, optimized, outputs, proto, sqnr

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

F16, F32 = np.dtype(np.float16), np.dtype(np.float32)
MATMUL = "g (float[m, 64] x) => (float[m, 48] y) { y = MatMul(x, w) }"
FUNCTION = """<domain: "local", opset_import: ["": 17]>
    f (p) => (q) { k = Constant<value = float[1] {1}>() q = MatMul(p, k) }"""
EMBEDDING = "g (int64[n] i) => (float[n, 48] y) { y = Gather(w, i) }"


@dataclass(frozen=True)
class Made:
    """A model before, the same with the weight as its codes say, and with the weight in a form."""

    original: onnx.ModelProto
    rounded: onnx.ModelProto
    written: bytes

    @property
    def proto(self) -> onnx.ModelProto:
        return onnx.load_from_string(self.written)

    def both(self, feeds: Arrays) -> tuple[np.ndarray, np.ndarray]:
        """Outputs of the rounded and of the written model."""
        return outputs(self.rounded, feeds)["y"], outputs(self.written, feeds)["y"]


def write(
    original: onnx.ModelProto,
    forms: str | Mapping[str, str],
    grid: Grid,
    groups: Groups,
    scale: np.dtype = F32,
    *,
    flipped: bool = False,
    name: str = "w",
) -> Made:
    """The weight of that name in a form, or in one for each operator that reads it."""
    model = Model(original).copy()
    scopes = Scopes(model.proto)
    weight = next(w for w in weights(model, scopes) if w.name == name)
    values = model.array(weight.tensor)
    writing = Writing(model, weight, grid, groups, edit.Namer(scopes.names()), flipped)
    choice: dict[Leaf, str] = {leaf: forms if isinstance(forms, str) else forms[leaf.op] for leaf in weight.leaves}
    for leaf, form in choice.items():
        assert form in available(writing, leaf)
    edit.apply(model, [assemble(writing, scale, choice).edit])
    rounded = onnx.ModelProto()
    rounded.CopyFrom(original)
    code = quantize(values.T if flipped else values, grid, groups, scale).dequantize()
    code = code.reshape(values.shape[::-1]).T if flipped else code.reshape(values.shape)
    twin = Model(rounded)
    for stored in twin.tensors():
        if stored.name == name:
            stored.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(code.astype(values.dtype)), name))
    return Made(original, rounded, writer.to_bytes(model))


def one(text: str, *shape: int, dtype: object = np.float32, opset: int = 17) -> onnx.ModelProto:
    return proto(text, {"w": normal(*shape, seed=1).astype(dtype)}, opset=opset)  # type: ignore[call-overload]


def grouped(kind: str, dims: tuple[int, ...], own: tuple[int, ...]) -> Groups:
    """Groups by a word: ``tensor``, ``channel``, or the size of a block."""
    if kind == "tensor":
        return per_channel(dims, ())
    return per_channel(dims, own) if kind == "channel" else per_block(dims, own, int(kind))


# ------------------------------------------------------------------------- decode


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("kind", ["tensor", "channel", "16", "32"])
def test_decode_gives_the_weight_and_is_folded(tmp_path: Path, bits: int, symmetric: bool, kind: str) -> None:
    made = write(one(MATMUL, 64, 48), decode.NAME, Grid(bits, symmetric), grouped(kind, (64, 48), (1,)))
    wanted, given = made.both({"x": normal(5, 64)})
    np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-5)
    assert optimized(made.written, tmp_path) == {"MatMul": 1}


@pytest.mark.parametrize(
    ("x", "call", "dims", "own"),
    [
        ("m, 32", "Gemm<transB = 1, alpha = 0.5>(x, w)", (48, 32), (0,)),
        ("2, 8, 20", "Conv(x, w)", (24, 8, 3), (0,)),
        ("2, 24, 9, 9", "Conv<group = 24>(x, w)", (24, 1, 3, 3), (0,)),
        ("1, 4, 6, 6, 6", "Conv(x, w)", (8, 4, 3, 3, 3), (0,)),
        ("2, 8, 6, 6", "ConvTranspose(x, w)", (8, 12, 3, 3), (1,)),
        ("3, m, 16", "MatMul(x, w)", (3, 16, 20), (0, 2)),
        ("5, m, 12", "LSTM<hidden_size = 8>(x, w, r)", (1, 32, 12), (0, 1)),
        ("m, 31", "MatMul(x, w)", (31, 17), (1,)),
    ],
)
@pytest.mark.parametrize(("bits", "symmetric"), [(8, True), (4, True), (4, False), (2, True)])
def test_decode_of_other_layers(
    tmp_path: Path, x: str, call: str, dims: tuple[int, ...], own: tuple[int, ...], bits: int, symmetric: bool
) -> None:
    text = f"g (float[{x}] x) => (float[] y) {{ y = {call} }}"
    original = proto(text, {"w": normal(*dims, seed=1), **({"r": normal(1, 32, 8)} if "LSTM" in call else {})})
    made = write(original, decode.NAME, Grid(bits, symmetric), per_block(dims, own, 16), F16)
    shape = [d.dim_value or 3 for d in original.graph.input[0].type.tensor_type.shape.dim]
    wanted, given = made.both({"x": normal(*shape)})
    np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-4)
    layout = {"ReorderInput", "ReorderOutput"}  # of the runtime, which keeps images in its own order
    assert set(optimized(made.written, tmp_path)) - layout == {re.split("[<(]", call)[0]}


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 21, 22])
@pytest.mark.parametrize(("bits", "symmetric"), [(8, True), (4, False), (2, True)])
def test_decode_at_any_opset(tmp_path: Path, opset: int, bits: int, symmetric: bool) -> None:
    original = one(MATMUL, 64, 48, opset=opset)
    made = write(original, decode.NAME, Grid(bits, symmetric), per_block((64, 48), (1,), 32))
    onnx.checker.check_model(made.proto, full_check=True)
    wanted, given = made.both({"x": normal(5, 64)})
    np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-5)
    assert optimized(made.written, tmp_path) == {"MatMul": 1}


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("scale", [F16, F32])
def test_decode_keeps_the_type_of_the_weight(tmp_path: Path, dtype: type, scale: np.dtype) -> None:
    name = "double" if dtype is np.float64 else "float16"
    original = one(MATMUL.replace("float", name), 64, 48, dtype=dtype)
    made = write(original, decode.NAME, Grid(8), per_channel((64, 48), (1,)), scale)
    wanted, given = made.both({"x": normal(5, 64).astype(dtype)})
    assert given.dtype == dtype
    np.testing.assert_allclose(
        given, wanted, rtol=1e-2 if dtype is np.float16 else 1e-6, atol=0.02 if dtype is np.float16 else 1e-6
    )
    assert "Mul" not in optimized(made.written, tmp_path)


def test_decode_of_bfloat16() -> None:
    original = one(
        "g (float[m, 64] x) => (float[m, 48] y) { f = Cast<to = 1>(w) y = MatMul(x, f) }",
        64,
        48,
        dtype=ml_dtypes.bfloat16,
    )
    made = write(original, decode.NAME, Grid(8), per_channel((64, 48), (1,)), F32)
    wanted, given = made.both({"x": normal(5, 64)})
    assert sqnr(wanted, given) > 45


def test_decode_stores_a_transpose_and_turns_it_back(tmp_path: Path) -> None:
    text = "g (float[m, 64] x) => (float[m, 48] y) { y = Gemm<transB = 1>(x, w) }"
    made = write(one(text, 48, 64), decode.NAME, Grid(8), per_channel((64, 48), (1,)), flipped=True)
    wanted, given = made.both({"x": normal(5, 64)})
    np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-5)
    assert optimized(made.written, tmp_path) == {"Gemm": 1}


def test_decode_in_a_body_and_in_a_function() -> None:
    text = """g (float[5, 32] x, bool c) => (float[5, 40] y) {
        y = If(c) <
            then_branch = t () => (float[5, 40] a) { a = MatMul(x, w) },
            else_branch = e () => (float[5, 40] b) { b = local.f(x) }
        >
    }
    """
    original = proto(text + FUNCTION)
    original.graph.node[0].attribute[0].g.initializer.append(numpy_helper.from_array(normal(32, 40), "w"))
    original.functions[0].node[0].attribute[0].t.CopyFrom(numpy_helper.from_array(normal(32, 40, seed=2), "k"))
    for name in ("w", "k"):
        made = write(original, decode.NAME, Grid(4), per_block((32, 40), (1,), 32), name=name)
        for condition in (True, False):
            wanted, given = made.both({"x": normal(5, 32), "c": np.array(condition)})
            np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "dtype"), [(TensorProto.FLOAT16, np.float16), (TensorProto.BFLOAT16, ml_dtypes.bfloat16)]
)
def test_shorter_floats_are_cast_back_when_loaded(tmp_path: Path, kind: int, dtype: type) -> None:
    model = Model(one(MATMUL, 64, 48)).copy()
    scopes = Scopes(model.proto)
    (weight,) = weights(model, scopes)
    writing = Writing(model, weight, Grid(8), Groups((64, 48), ()), edit.Namer(scopes.names()))
    edit.apply(model, [decode.write_float(writing, kind)])
    data = writer.to_bytes(model)
    wanted = normal(5, 64) @ normal(64, 48, seed=1).astype(dtype).astype(np.float32)
    np.testing.assert_allclose(outputs(data, {"x": normal(5, 64)})["y"], wanted, rtol=1e-4, atol=1e-4)
    assert optimized(data, tmp_path) == {"MatMul": 1}
    assert len(data) < 64 * 48 * 2 + 500


# ------------------------------------------------------------------------- gather


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("kind", ["channel", "16"])
@pytest.mark.parametrize("scale", [F32, F16], ids=["float32", "float16"])
def test_gather_gives_the_rows_and_keeps_codes_in_memory(
    tmp_path: Path, bits: int, symmetric: bool, kind: str, scale: np.dtype
) -> None:
    made = write(one(EMBEDDING, 30, 48), gather.NAME, Grid(bits, symmetric), grouped(kind, (30, 48), (0,)), scale)
    wanted, given = made.both({"i": np.array([0, 29, 3, -1, -30, 3])})
    np.testing.assert_allclose(given, wanted, rtol=1e-6, atol=1e-6)
    optimized(made.written, tmp_path)
    left = onnx.load(tmp_path / "optimized.onnx").graph.initializer
    assert max(len(t.raw_data) for t in left) <= 30 * 48 * bits // 8


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,), (2, 1, 2)], ids=str)
@pytest.mark.parametrize("kind", ["channel", "16"])
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_gather_takes_indices_of_any_shape(shape: tuple[int, ...], kind: str, dtype: type) -> None:
    dims = ", ".join(map(str, shape))
    original = one(f"g ({np.dtype(dtype).name}[{dims}] i) => (float[] y) {{ y = Gather(w, i) }}", 30, 48)
    made = write(original, gather.NAME, Grid(4), grouped(kind, (30, 48), (0,)))
    wanted, given = made.both({"i": np.random.default_rng(0).integers(-30, 30, shape).astype(dtype)})
    assert given.shape == (*shape, 48)
    np.testing.assert_allclose(given, wanted, rtol=1e-6, atol=1e-6)


def test_gather_of_tables_of_three_axes_and_of_float16() -> None:
    text = "g (int64[n] i) => (float16[] y) { y = Gather(w, i) }"
    made = write(one(text, 30, 4, 16, dtype=np.float16), gather.NAME, Grid(8), per_channel((30, 4, 16), (0,)))
    wanted, given = made.both({"i": np.array([3, -2])})
    assert given.shape == (2, 4, 16)
    np.testing.assert_allclose(given, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("opset", [7, 11, 13, 21])
def test_gather_at_any_opset(opset: int) -> None:
    made = write(
        one(EMBEDDING, 30, 48, opset=opset),
        gather.NAME,
        Grid(4, symmetric=False),
        per_block((30, 48), (0,), 16),
    )
    onnx.checker.check_model(made.proto, full_check=True)
    wanted, given = made.both({"i": np.array([0, 29, 3])})
    np.testing.assert_allclose(given, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", ["channel", "32"])
def test_a_table_tied_to_an_output_layer_is_stored_once(tmp_path: Path, bits: int, kind: str) -> None:
    text = "g (int64[n] i) => (float[] y) { e = Gather(w, i) t = Transpose<perm = [1, 0]>(w) y = MatMul(e, t) }"
    original = one(text, 96, 64)
    forms = {"Gather": gather.NAME, "MatMul": decode.NAME}
    made = write(original, forms, Grid(bits), grouped(kind, (96, 64), (0,)))
    wanted, given = made.both({"i": np.array([0, 95, -3])})
    np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-4)
    assert len(made.written) < 96 * 64 * bits / 8 * 1.35 + 1200
    assert optimized(made.written, tmp_path)["MatMul"] + optimized(made.written, tmp_path)["FusedMatMul"] == 1


# ------------------------------------------------------------------------- products of codes

PRODUCTS = {
    "matmul": (MATMUL, (64, 48)),
    "gemm": ("g (float[m, 64] x) => (float[m, 48] y) { y = Gemm(x, w, b) }", (64, 48)),
    "gemm transposed": ("g (float[m, 64] x) => (float[m, 48] y) { y = Gemm<transB = 1>(x, w, b) }", (48, 64)),
    "transposed": ("g (float[m, 64] x) => (float[m, 48] y) { t = Transpose(w) y = MatMul(x, t) }", (48, 64)),
    "batched": ("g (float[2, m, 64] x) => (float[2, m, 48] y) { y = MatMul(x, w) }", (64, 48)),
}


def product(kind: str, opset: int = 17) -> tuple[onnx.ModelProto, tuple[int, ...], int, np.ndarray]:
    """A model, the shape of its weight, the axis of the inputs, and an input with features of other sizes."""
    text, dims = PRODUCTS[kind]
    more = {"b": normal(48, seed=3)} if "b)" in text else {}
    x = normal(2, 7, 64) if kind == "batched" else normal(7, 64)
    x[..., 5] *= 30
    return proto(text, {"w": normal(*dims, seed=1), **more}, opset=opset), dims, 0 if dims[0] == 64 else 1, x


@pytest.mark.parametrize("kind", PRODUCTS)
@pytest.mark.parametrize(("form", "floor"), [(dynamic.TWO_PASSES, 60), (dynamic.ONE_PASS, 25)])
def test_dynamic_products_come_close_and_are_fused(tmp_path: Path, kind: str, form: str, floor: float) -> None:
    original, dims, axis, x = product(kind)
    made = write(original, form, Grid(8), Groups(dims, (axis,)))
    wanted, given = made.both({"x": x})
    assert sqnr(wanted, given) > floor
    if form == dynamic.TWO_PASSES:
        np.testing.assert_allclose(given, wanted, atol=1e-3 * np.abs(wanted).max())
    left = optimized(made.written, tmp_path)
    assert left["DynamicQuantizeMatMul"] + left["MatMulIntegerToFloat"] == (1 if form == dynamic.ONE_PASS else 2)
    assert not {"MatMul", "Gemm", "MatMulInteger", "FusedMatMul"} & set(left)
    assert {n.domain for n in made.proto.graph.node} == {""}


@pytest.mark.parametrize("kind", PRODUCTS)
def test_fused_products_become_blockwise_ones(tmp_path: Path, kind: str) -> None:
    needs_form(fused.NAME, 8)
    original, dims, axis, x = product(kind)
    made = write(original, fused.NAME, Grid(8), Groups(dims, (axis,)))
    wanted, given = made.both({"x": x})
    assert sqnr(wanted, given) > 30  # the runtime rounds activations, block by block
    left = optimized(made.written, tmp_path)
    assert left["MatMulNBits"] == 1
    assert not {"MatMul", "Gemm", "DequantizeLinear"} & set(left)
    assert {n.domain for n in made.proto.graph.node} == {""}


@pytest.mark.parametrize("kind", PRODUCTS)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("groups", ["channel", "16", "32", "64"])
def test_blockwise_products_read_codes_as_they_are_stored(tmp_path: Path, kind: str, bits: int, groups: str) -> None:
    original, dims, axis, x = product(kind)
    made = write(original, blockwise.NAME, Grid(bits), grouped(groups, dims, (1 - axis,)), F16)
    wanted, given = made.both({"x": x})
    assert sqnr(wanted, given) > 30
    left = optimized(made.written, tmp_path)
    assert left["MatMulNBits"] == 1
    assert not {"MatMul", "Gemm", "Transpose", "Cast"} & set(left)


def test_readers_of_one_activation_share_its_codes(tmp_path: Path) -> None:
    text = "g (float[m, 64] x) => (float[m, 48] y) { a = MatMul(x, w) b = MatMul(x, w) y = Add(a, b) }"
    made = write(one(text, 64, 48), dynamic.TWO_PASSES, Grid(8), per_channel((64, 48), (1,)))
    assert operators(made.proto)["DynamicQuantizeLinear"] == 2
    wanted, given = made.both({"x": normal(7, 64)})
    assert sqnr(wanted, given) > 60
    assert optimized(made.written, tmp_path)["MatMul"] == 0


IN_BODIES = """g (float[m, 64] x, bool c) => (float[] y) { y = If(c) <
    then_branch = t () => (float[] a) { z = Neg(x) a = MatMul(z, w) },
    else_branch = e () => (float[] b) { b = MatMul(x, v) }
> }"""


@pytest.mark.parametrize(
    ("name", "form"),
    [(name, form) for name in "wv" for form in (dynamic.TWO_PASSES, dynamic.ONE_PASS, blockwise.NAME)]
    + [("v", fused.NAME)],
)
def test_products_in_a_body(name: str, form: str) -> None:
    original = one(IN_BODIES, 64, 48)
    original.graph.node[0].attribute[1].g.initializer.append(numpy_helper.from_array(normal(64, 48), "v"))
    made = write(original, form, Grid(8), per_channel((64, 48), (1,)), name=name)
    for condition in (True, False):
        wanted, given = made.both({"x": normal(7, 64), "c": np.array(condition)})
        assert sqnr(wanted, given) > 25


@pytest.mark.parametrize("form", [dynamic.TWO_PASSES, dynamic.ONE_PASS, blockwise.NAME, fused.NAME])
def test_products_in_a_function(form: str) -> None:
    text = "g (float[m, 64] x) => (float[] y) { z = local.f(x) n = Neg(x) v = local.f(n) y = Sub(z, v) } "
    original = proto(text + FUNCTION)
    original.functions[0].node[0].attribute[0].t.CopyFrom(numpy_helper.from_array(normal(64, 48), "k"))
    made = write(original, form, Grid(8), per_channel((64, 48), (1,)), name="k")
    wanted, given = made.both({"x": normal(7, 64)})
    assert sqnr(wanted, given) > 25


@pytest.mark.parametrize("own", [0, 1])
def test_a_weight_that_is_read_both_ways_has_integer_products_one_way(own: int) -> None:
    """Scales along the outputs of one lie along the inputs of the other, a mistake that no shape shows."""
    text = "g (float[m, 64] x) => (float[m, 64] y) { h = MatMul(x, w) t = Transpose(w) y = MatMul(h, t) }"
    model = Model(one(text, 64, 64))
    scopes = Scopes(model.proto)
    (weight,) = weights(model, scopes)
    writing = Writing(model, weight, Grid(8), per_channel((64, 64), (own,)), edit.Namer(scopes.names()))
    offered = [set(available(writing, leaf)) == {decode.NAME} for leaf in weight.leaves]
    assert offered == [own == 0, own == 1]


@pytest.mark.parametrize(
    ("form", "opset"),
    [
        (dynamic.TWO_PASSES, dynamic.MIN_OPSET),
        (dynamic.ONE_PASS, dynamic.MIN_OPSET),
        (fused.NAME, fused.MIN_OPSET),
        (blockwise.NAME, 9),
    ],
)
def test_forms_are_valid_at_the_opset_that_they_state(form: str, opset: int) -> None:
    original, dims, axis, x = product("gemm transposed", opset)
    made = write(original, form, Grid(8), Groups(dims, (axis,)))
    onnx.checker.check_model(made.proto)
    wanted, given = made.both({"x": x})
    assert sqnr(wanted, given) > 25


@pytest.mark.parametrize("form", [dynamic.TWO_PASSES, dynamic.ONE_PASS, fused.NAME, blockwise.NAME])
@pytest.mark.parametrize("value", [0.0, 7.0])
def test_constant_activations_do_no_harm(form: str, value: float) -> None:
    made = write(one(MATMUL, 64, 48), form, Grid(8), per_channel((64, 48), (1,)))
    wanted, given = made.both({"x": np.full((3, 64), value, np.float32)})
    np.testing.assert_allclose(given, wanted, atol=0.03 * np.abs(wanted).max() + 1e-6)


@pytest.mark.parametrize(
    ("call", "dims", "shared"),
    [
        ("y = Gemm<alpha = 2.0>(x, w)", (64, 48), 0),
        ("y = Gemm<transA = 1>(x, w)", (64, 48), 0),
        ("y = MatMul(w, x)", (64, 48), 1),
        ("y = MatMul(x, w)", (3, 8, 48), 1),
        ("f = Cast<to = 11>(w) y = MatMul(x, f)", (64, 48), 0),
        ("t = Slice(w, s, e) y = MatMul(x, t)", (64, 48), 0),
        ("y = MatMul(x, w)", (64, 48), 1),  # scales along the inputs
        ("y = Gather<axis = 1>(w, x)", (64, 48), 0),
        ("y = com.microsoft.MatMul(x, w)", (64, 48), 0),
    ],
)
@pytest.mark.parametrize("grid", [Grid(8), Grid(4), Grid(8, symmetric=False), Grid(2)], ids=str)
def test_only_decode_fits_where_a_form_would_compute_something_else(
    call: str, dims: tuple[int, ...], shared: int, grid: Grid
) -> None:
    more = {"s": np.zeros(2, np.int64), "e": np.full(2, 40)}
    model = Model(proto(f"g (float x) => (float[] y) {{ {call} }}", {"w": normal(*dims), **more}))
    scopes = Scopes(model.proto)
    (weight,) = weights(model, scopes)
    writing = Writing(model, weight, grid, Groups(dims, (shared,)), edit.Namer(scopes.names()))
    assert available(writing, weight.leaves[0]) == (decode.NAME,)


@pytest.mark.parametrize("grid", [Grid(8, symmetric=False), Grid(4), Grid(2), Grid(4, symmetric=False)], ids=str)
def test_integer_products_are_for_symmetric_codes_of_eight_bits(grid: Grid) -> None:
    model = Model(one(MATMUL, 64, 48))
    scopes = Scopes(model.proto)
    (weight,) = weights(model, scopes)
    writing = Writing(model, weight, grid, per_channel((64, 48), (1,)), edit.Namer(scopes.names()))
    offered = available(writing, weight.leaves[0])
    assert not {dynamic.ONE_PASS, dynamic.TWO_PASSES, fused.NAME} & set(offered)
    assert (blockwise.NAME in offered) == (grid.symmetric and grid.bits == 4)


def test_everything_else_of_the_model_stays() -> None:
    original = one(MATMUL, 64, 48)
    helper.set_model_props(original, {"author": "nobody"})
    made = write(original, fused.NAME, Grid(8), per_channel((64, 48), (1,))).proto
    assert made.metadata_props == original.metadata_props
    assert (made.graph.input, made.graph.output) == (original.graph.input, original.graph.output)
