"""Quantized models of a few layers: what is quantized, what is recorded, and that they compute the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxcompress
from onnxcompress.graph.scopes import Scopes
from tests.small_models import Arrays, normal, operators, outputs, proto, sqnr, write

if TYPE_CHECKING:
    from pathlib import Path

    from onnxcompress.report import LayerRecord


@dataclass(frozen=True)
class Quantized:
    """Both models and what is recorded of the step."""

    before: Path
    after: Path
    layers: dict[str, LayerRecord]
    notes: tuple[str, ...]

    @property
    def ratio(self) -> float:
        return self.after.stat().st_size / self.before.stat().st_size

    @property
    def proto(self) -> onnx.ModelProto:
        return onnx.load(self.after)

    def sqnr(self, feeds: Arrays) -> float:
        """Of the worst output."""
        expected, given = outputs(self.before, feeds), outputs(self.after, feeds)
        return min(sqnr(expected[name], given[name]) for name in expected)


def quantize(model: onnx.ModelProto, folder: Path, **options: Any) -> Quantized:
    """The model quantized as it is, not verified; which every test does for itself."""
    before = write(model, folder)
    result = onnxcompress.quantize(before, simplify=False, verify=False, force=True, **options)
    assert result.path is not None
    step = result.report.steps[-1]
    return Quantized(before, result.path, {r.name: r for r in step.layers}, step.notes)


# name -> graph, shapes of the weights, input
LAYERS: dict[str, tuple[str, dict[str, tuple[int, ...]], tuple[int, ...]]] = {
    "matmul": ("y = MatMul(x, w)", {"w": (64, 48)}, (5, 64)),
    "matmul left": ("y = MatMul(w, x)", {"w": (48, 64)}, (64, 5)),
    "matmul batched": ("y = MatMul(x, w)", {"w": (4, 32, 24)}, (4, 5, 32)),
    "gemm": ("y = Gemm(x, w, b)", {"w": (64, 48), "b": (48,)}, (5, 64)),
    "gemm transB": ("y = Gemm<transB = 1>(x, w, b)", {"w": (48, 64), "b": (48,)}, (5, 64)),
    "gemm transA": ("y = Gemm<transA = 1>(x, w, b)", {"w": (64, 48), "b": (48,)}, (64, 5)),
    "gemm alpha beta": (
        "y = Gemm<alpha = 0.5, beta = 2.0, transB = 1>(x, w, b)", {"w": (48, 64), "b": (48,)}, (5, 64)
    ),
    "gemm as A": ("y = Gemm(w, x)", {"w": (48, 64)}, (64, 5)),
    "conv 1-D": ("y = Conv(x, w, b)", {"w": (32, 16, 5), "b": (32,)}, (2, 16, 30)),
    "conv 2-D": ("y = Conv(x, w, b)", {"w": (32, 16, 3, 3), "b": (32,)}, (2, 16, 9, 9)),
    "conv 3-D": ("y = Conv(x, w)", {"w": (16, 8, 3, 3, 3)}, (1, 8, 6, 6, 6)),
    "conv 1x1": ("y = Conv(x, w)", {"w": (64, 48, 1, 1)}, (1, 48, 7, 7)),
    "conv grouped": ("y = Conv<group = 4>(x, w)", {"w": (64, 16, 3, 3)}, (1, 64, 7, 7)),
    "conv depthwise": ("y = Conv<group = 256>(x, w)", {"w": (256, 1, 3, 3)}, (1, 256, 7, 7)),
    "convtranspose": ("y = ConvTranspose<strides = [2, 2]>(x, w)", {"w": (24, 16, 3, 3)}, (1, 24, 5, 5)),
    "convtranspose grouped": ("y = ConvTranspose<group = 4>(x, w)", {"w": (32, 16, 3, 3)}, (1, 32, 5, 5)),
    "lstm": (
        "y = LSTM<hidden_size = 16>(x, w, r, b)",
        {"w": (1, 64, 24), "r": (1, 64, 16), "b": (1, 128)},
        (7, 2, 24),
    ),
    "lstm both ways": (
        'y = LSTM<hidden_size = 16, direction = "bidirectional">(x, w, r)',
        {"w": (2, 64, 24), "r": (2, 64, 16)},
        (7, 2, 24),
    ),
    "gru": ("y = GRU<hidden_size = 24>(x, w, r)", {"w": (1, 72, 24), "r": (1, 72, 24)}, (7, 2, 24)),
    "rnn": ("y = RNN<hidden_size = 48>(x, w, r)", {"w": (1, 48, 24), "r": (1, 48, 48)}, (4, 2, 24)),
    "einsum": ('y = Einsum<equation = "bi,ij->bj">(x, w)', {"w": (64, 48)}, (5, 64)),
    "transposed": ("t = Transpose<perm = [1, 0]>(w) y = MatMul(x, t)", {"w": (48, 64)}, (5, 64)),
    "identity": ("t = Identity(w) y = MatMul(x, t)", {"w": (64, 48)}, (5, 64)),
    "reshaped": ("t = Reshape(w, shape) y = MatMul(x, t)", {"w": (4, 16, 48)}, (5, 64)),
    "sliced": ("t = Slice(w, zeros, ends) y = MatMul(x, t)", {"w": (64, 48)}, (5, 40)),
    "concatenated": ("t = Concat<axis = 0>(w, v) y = MatMul(x, t)", {"w": (64, 48), "v": (64, 48)}, (5, 128)),
    "twice": ("h = MatMul(x, w) y = MatMul(h, w)", {"w": (64, 64)}, (5, 64)),
    "both ways": ("h = MatMul(x, w) t = Transpose(w) y = MatMul(h, t)", {"w": (64, 64)}, (5, 64)),
    "two": ("h = MatMul(x, w) y = MatMul(h, v)", {"w": (64, 48), "v": (48, 32)}, (5, 64)),
}  # fmt: skip
LOOKUPS: dict[str, tuple[str, tuple[int, ...], str]] = {
    "gather": ("y = Gather(w, i)", (100, 32), "gather"),
    "gather axis 1": ("y = Gather<axis = 1>(w, i)", (32, 100), "decode"),
    "gather of a transpose": ("t = Transpose(w) y = Gather<axis = 1>(t, i)", (100, 32), "decode"),
    "gather behind a cast": ("t = Cast<to = 1>(w) y = Gather(t, i)", (100, 32), "decode"),
    "tied": ("e = Gather(w, i) t = Transpose(w) y = MatMul(e, t)", (100, 32), "gather"),
    "tied gemm": ("e = Gather(w, i) y = Gemm<transB = 1>(e, w)", (100, 32), "gather"),
}
SHAPES: dict[str, np.ndarray] = {
    "shape": np.array([64, 48]),
    "zeros": np.array([0, 0]),
    "ends": np.array([40, 48]),
}


def layer(kind: str, *, opset: int = 17, dtype: Any = np.float32) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of `LAYERS` and feeds for it. Weights have the size that trained ones have."""
    body, shapes, x = LAYERS[kind]
    name = {"float32": "float", "float64": "double"}.get(np.dtype(dtype).name, np.dtype(dtype).name)
    weights = {n: normal(*s, seed=k, scale=0.2).astype(dtype) for k, (n, s) in enumerate(shapes.items(), 1)}
    weights |= {n: a for n, a in SHAPES.items() if n in body}
    dims = ", ".join(map(str, x))
    text = f"g ({name}[{dims}] x) => ({name}[] y) {{ {body} }}"
    model, feeds = proto(text, weights, opset=opset, ir=8 if opset < 21 else 10), {"x": normal(*x).astype(dtype)}
    shape = model.graph.output[0].type.tensor_type.shape
    for axis in range(outputs(model, feeds)["y"].ndim):
        shape.dim.add(dim_param=f"axis_{axis}")
    return model, feeds


def lookup(kind: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    body, shape, _ = LOOKUPS[kind]
    model = proto(f"g (int64[n] i) => (float[] y) {{ {body} }}", {"w": normal(*shape, scale=0.2)})
    return model, {"i": np.array([0, 99, 5, 5, 17])}


def expect_done(made: Quantized, names: set[str]) -> None:
    """Those and no others are done; the rest has a reason."""
    assert {n for n, r in made.layers.items() if r.status == "done"} == names
    for record in made.layers.values():
        if record.status == "done":
            assert record.bytes_after < record.bytes_before
            assert record.form
            assert record.reason is None
        else:
            assert record.bytes_after == record.bytes_before
            assert record.reason


@pytest.mark.parametrize("kind", LAYERS)
def test_eight_bits(tmp_path: Path, kind: str) -> None:
    model, feeds = layer(kind)
    made = quantize(model, tmp_path)
    expect_done(made, {n for n in LAYERS[kind][1] if n != "b"})
    onnx.checker.check_model(made.proto, full_check=True)
    assert made.sqnr(feeds) > 36
    assert made.ratio < 0.4  # the models are small: names and nodes count
    for record in made.layers.values():
        if record.status == "done" and record.bits == 8:
            assert record.error == pytest.approx(3e-5, rel=1)


@pytest.mark.parametrize(("bits", "floor"), [(4, 15), (2, 4)])
@pytest.mark.parametrize("kind", [k for k in LAYERS if k not in ("two", "identity", "reshaped", "conv 1x1")])
def test_fewer_bits(tmp_path: Path, kind: str, bits: int, floor: float) -> None:
    model, feeds = layer(kind)
    made = quantize(model, tmp_path, bits=bits)
    expect_done(made, {n for n in LAYERS[kind][1] if n != "b"})
    assert made.sqnr(feeds) > floor - (5 if kind in ("twice", "both ways") else 0)


@pytest.mark.parametrize("kind", LOOKUPS)
@pytest.mark.parametrize(("bits", "floor"), [(8, 36), (4, 14)])
def test_embeddings_are_decoded_after_the_lookup_where_that_can_be(
    tmp_path: Path, kind: str, bits: int, floor: float
) -> None:
    model, feeds = lookup(kind)
    made = quantize(model, tmp_path, bits=bits)
    expect_done(made, {"w"})
    assert made.sqnr(feeds) > floor
    form = made.layers["w"].form or ""
    assert LOOKUPS[kind][2] in form
    codes = [t for t in made.proto.graph.initializer if len(t.raw_data) >= 100 * 32 * bits // 8]
    assert len(codes) == 1  # a tied table is stored once


@pytest.mark.parametrize(
    "option",
    [
        {"symmetric": False},
        {"symmetric": False, "bits": 4, "block_size": 32},
        {"per_tensor": True},
        {"block_size": 16},
        {"block_size": 0},
        {"scheme": "weight-only"},
        {"target": "portable"},
        {"scheme": "float16"},
        {"scheme": "bfloat16"},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["matmul", "gemm transB", "conv 2-D", "convtranspose", "lstm", "both ways"])
def test_options(tmp_path: Path, kind: str, option: dict[str, Any]) -> None:
    model, feeds = layer(kind)
    made = quantize(model, tmp_path, **option)
    expect_done(made, {n for n in LAYERS[kind][1] if n != "b"})
    floor = 14 if option.get("bits") == 4 else 50 if option.get("scheme") == "float16" else 30
    assert made.sqnr(feeds) > floor
    if option.get("target") == "portable" or option.get("scheme") == "weight-only":
        assert {n.domain for s in Scopes(made.proto).all for n in s.body.node} == {""}
    if "float16" in option.get("scheme", ""):
        assert {r.bits for r in made.layers.values() if r.status == "done"} == {16}
        assert made.ratio > 0.45


@pytest.mark.parametrize(
    "kind",
    [
        *("matmul", "gemm", "gemm transB", "transposed", "twice", "both ways"),
        *("matmul batched", "gemm alpha beta", "gemm transA", "conv 2-D", "lstm", "einsum", "sliced"),
    ],
)
@pytest.mark.parametrize(("activations", "floor"), [(16, 36), (8, 25)])
def test_the_dynamic_scheme_multiplies_integers_where_it_can(
    tmp_path: Path, kind: str, activations: int, floor: float
) -> None:
    model, feeds = layer(kind)
    made = quantize(model, tmp_path, scheme="dynamic", activation_bits=activations)
    expect_done(made, {n for n in LAYERS[kind][1] if n != "b"})
    assert made.sqnr(feeds) > floor
    products = {"matmul": 1, "gemm": 1, "gemm transB": 1, "transposed": 1, "twice": 2, "both ways": 1}.get(kind, 0)
    assert operators(made.proto)["MatMulInteger"] == products * (activations // 8)


@pytest.mark.parametrize("opset", range(7, 25))
@pytest.mark.parametrize("kind", ["matmul", "gemm transB", "conv 2-D", "gru"])
def test_any_opset_is_kept(tmp_path: Path, opset: int, kind: str) -> None:
    model, feeds = layer(kind, opset=opset)
    made = quantize(model, tmp_path)
    expect_done(made, {n for n in LAYERS[kind][1] if n != "b"})
    assert [o.version for o in made.proto.opset_import] == [opset]
    assert made.sqnr(feeds) > 36


@pytest.mark.parametrize(("opset", "raised"), [(9, 11), (10, 11), (11, 11), (17, 17)])
def test_the_opset_is_raised_for_a_form_that_needs_it_and_this_is_said(tmp_path: Path, opset: int, raised: int) -> None:
    model, feeds = layer("matmul", opset=opset)
    made = quantize(model, tmp_path, scheme="dynamic")
    assert [o.version for o in made.proto.opset_import] == [raised]
    assert made.sqnr(feeds) > 36
    assert any("raised" in note for note in made.notes) == (raised > opset)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("kind", ["matmul", "gemm transB", "conv 2-D"])
def test_other_float_types(tmp_path: Path, kind: str, dtype: Any) -> None:
    if dtype is np.float64 and kind == "conv 2-D":
        pytest.skip("ONNX Runtime has no Conv of doubles")
    if dtype is ml_dtypes.bfloat16:  # the runtime multiplies few bfloat16: cast to float32 first
        body, shapes, x = LAYERS[kind]
        casts = " ".join(f"{n}_f = Cast<to = 1>({n})" for n in shapes)
        call = body
        for n in shapes:
            call = call.replace(f" {n}", f" {n}_f")
        weights = {n: normal(*s, seed=3, scale=0.2).astype(dtype) for n, s in shapes.items()}
        model = proto(f"g (float[{', '.join(map(str, x))}] x) => (float[] y) {{ {casts} {call} }}", weights)
        feeds = {"x": normal(*x)}
    else:
        model, feeds = layer(kind, dtype=dtype)
    made = quantize(model, tmp_path)
    expect_done(made, {n for n in LAYERS[kind][1] if n != "b"})
    assert made.sqnr(feeds) > 34
    assert made.ratio < (0.4 if dtype is np.float64 else 0.8)


# ------------------------------------------------------------------------- where weights may lie


BODIES = {
    "if": """g (float[5, 64] x, bool c) => (float[5, 48] y) { y = If(c) <
        then_branch = t () => (float[5, 48] a) { a = MatMul(x, w) },
        else_branch = e () => (float[5, 48] b) { n = Neg(x) b = MatMul(n, w) }> }""",
    "loop": """g (float[5, 64] x, bool c) => (float[5, 64] y) <int64 three = {3}> {
        y = Loop(three, c, x) <body = b (int64 i, bool k, float[5, 64] h) => (bool k2, float[5, 64] v) {
            k2 = Identity(k) p = MatMul(h, w) v = Tanh(p) }> }""",
    "scan": """g (float[5, 64] x, bool c) => (float[5, 48] y) {
        y = Scan<num_scan_inputs = 1, body = b (float[64] r) => (float[48] v) { v = MatMul(r, w) }>(x) }""",
    "function": """g (float[5, 64] x, bool c) => (float[5, 48] y) { y = local.f(x) }
        <domain: "local", opset_import: ["": 17]> f (p) => (q) {
            k = Constant<value = float[1] {1}>() q = MatMul(p, k) }""",
    "constant": """g (float[5, 64] x, bool c) => (float[5, 48] y) {
        k = Constant<value = float[1] {1}>() y = MatMul(x, k) }""",
}


def body(kind: str, *, inside: bool) -> onnx.ModelProto:
    """A model whose weight lies in the main graph, or in the body that reads it."""
    square = kind == "loop"
    values = normal(64, 64 if square else 48, scale=0.1)
    model = proto(BODIES[kind])
    constants = [n for s in Scopes(model).all for n in s.body.node if n.op_type == "Constant"]
    if constants:
        constants[0].attribute[0].t.CopyFrom(numpy_helper.from_array(values))
        return model
    weight = numpy_helper.from_array(values, "w")
    graphs = [s.body for s in Scopes(model).all if isinstance(s.body, onnx.GraphProto)]
    for graph in graphs[1:] if inside else graphs[:1]:
        graph.initializer.append(weight)
    return model


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
@pytest.mark.parametrize("options", [{}, {"bits": 4}, {"scheme": "dynamic"}, {"scheme": "float16"}], ids=str)
def test_weights_in_bodies_functions_and_constants(
    tmp_path: Path, kind: str, inside: bool, options: dict[str, Any]
) -> None:
    made = quantize(body(kind, inside=inside), tmp_path, **options)
    done = [r for r in made.layers.values() if r.status == "done"]
    assert len(done) >= 1
    assert all(r.status == "done" for r in made.layers.values())
    for condition in (True, False):
        feeds = {"x": normal(5, 64), "c": np.array(condition)}
        assert made.sqnr(feeds) > (12 if options.get("bits") == 4 else 30)
    assert made.ratio < 0.8


def test_sequences_of_layers_keep_the_order_of_everything_else(tmp_path: Path) -> None:
    model = proto(
        """g (float[n, 64] x) => (float[n, 32] y, float[n, 48] h) {
            h = MatMul(x, w) r = Relu(h) s = Softmax(r) y = MatMul(s, v)
        }""",
        {"w": normal(64, 48), "v": normal(48, 32)},
    )
    helper.set_model_props(model, {"author": "nobody"})
    model.doc_string, model.producer_name = "a doc", "a producer"
    made = quantize(model, tmp_path).proto
    assert (made.graph.input, made.graph.output) == (model.graph.input, model.graph.output)
    assert (made.doc_string, made.producer_name) == ("a doc", "a producer")
    assert ("author", "nobody") in [(p.key, p.value) for p in made.metadata_props]
    assert [n.op_type for n in made.graph.node if n.op_type in ("MatMul", "Relu", "Softmax")] == [
        "MatMul", "Relu", "Softmax", "MatMul"
    ]  # fmt: skip


def test_names_that_are_taken_are_left_alone(tmp_path: Path) -> None:
    """Whatever a weight's parts are called, no value of the model may have the name already."""
    simple = proto("g (float[5, 64] x) => (float[] y) { y = MatMul(x, w) }", {"w": normal(64, 48)})
    parts = {n for s in Scopes(quantize(simple, tmp_path).proto).all for n in s.defined} - {"x", "y", "w"}
    assert parts
    model = proto("g (float[5, 64] x) => (float[] y) { h = MatMul(x, w) }", {"w": normal(64, 48)})
    value = "h"
    for name in sorted(parts):
        model.graph.node.append(helper.make_node("Neg", [value], [name]))
        value = name
    model.graph.node.append(helper.make_node("Neg", [value], ["y"]))
    made = quantize(model, tmp_path)
    assert made.sqnr({"x": normal(5, 64)}) > 36


def test_a_weight_of_ir_3_stops_being_an_input(tmp_path: Path) -> None:
    model = proto(
        "g (float[5, 64] x, float[64, 48] w) => (float[5, 48] y) { y = MatMul(x, w) }",
        {"w": normal(64, 48)},
        opset=8,
        ir=3,
    )
    made = quantize(model, tmp_path)
    expect_done(made, {"w"})
    assert [i.name for i in made.proto.graph.input] == ["x"]
    assert made.sqnr({"x": normal(5, 64)}) > 36


@pytest.mark.parametrize("large", [True, False])
def test_float_data_and_external_data(tmp_path: Path, large: bool) -> None:
    values = normal(64, 48)
    model = proto("g (float[5, 64] x) => (float[5, 48] y) { y = MatMul(x, w) }")
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, values.shape, values.reshape(-1)))
    if large:
        onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
        result = onnxcompress.quantize(tmp_path / "model.onnx", simplify=False, verify=False)
        assert result.path is not None
        made = Quantized(tmp_path / "model.onnx", result.path, {}, ())
    else:
        made = quantize(model, tmp_path)
    assert made.sqnr({"x": normal(5, 64)}) > 36
    assert made.after.stat().st_size < 64 * 48 * 1.5
