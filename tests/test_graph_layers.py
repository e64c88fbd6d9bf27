"""Weights are found wherever they are stored, with their final readers and the axes as these see them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.graph.layers import Weight, is_layer, output_axes, weights
from onnxcompress.graph.model import Model
from onnxcompress.graph.scopes import Scopes
from tests.small_models import Arrays, normal, proto


def found(model: onnx.ModelProto) -> dict[str, Weight]:
    opened = Model(model)
    return {w.label: w for w in weights(opened, Scopes(opened.proto))}


def weight(body: str, shape: tuple[int, ...], more: Arrays | None = None, *, opset: int = 17) -> Weight:
    """The weight ``w`` of a graph with the input ``x`` and the output ``y``."""
    return found(proto(f"g (float x) => (float y) {{ {body} }}", {"w": normal(*shape), **(more or {})}, opset=opset))[
        "w"
    ]


@pytest.mark.parametrize(
    ("body", "shape", "axes"),
    [
        ("y = MatMul(x, w)", (8, 6), (1,)),
        ("y = MatMul(w, x)", (8, 6), (0,)),
        ("y = MatMul(x, w)", (3, 8, 6), (0, 2)),
        ("y = MatMul(w, x)", (2, 3, 8, 6), (0, 1, 2)),
        ("y = MatMul(x, w)", (8,), None),
        ("y = Gemm(x, w)", (8, 6), (1,)),
        ("y = Gemm<transB = 1>(x, w)", (8, 6), (0,)),
        ("y = Gemm<transB = 1>(w, x)", (8, 6), (0,)),
        ("y = Gemm<transA = 1>(w, x)", (8, 6), (1,)),
        ("y = Conv(x, w)", (8, 4, 3), (0,)),
        ("y = Conv(x, w)", (8, 4, 3, 3, 3), (0,)),
        ("y = ConvTranspose(x, w)", (8, 4, 3, 3), (1,)),
        ("y = LSTM<hidden_size = 4>(x, w, r)", (1, 16, 6), (0, 1)),
        ("y = Gather(w, x)", (8, 6), (0,)),
        ("y = Gather<axis = 1>(w, x)", (8, 6), (1,)),
        ("y = Gather<axis = -1>(w, x)", (8, 6), (1,)),
        ("t = Transpose<perm = [1, 0]>(w) y = MatMul(x, t)", (8, 6), (0,)),
        ("t = Transpose(w) y = MatMul(x, t)", (8, 6), (0,)),
        ("t = Transpose<perm = [2, 0, 1]>(w) y = MatMul(x, t)", (5, 6, 7), (1, 2)),
        ("a = Identity(w) t = Transpose(a) b = Transpose(t) y = Gemm<transB = 1>(x, b)", (8, 6), (0,)),
        ("t = Cast<to = 1>(w) y = MatMul(x, t)", (8, 6), (1,)),
        ("t = Slice(w, s, e) y = MatMul(x, t)", (8, 6), (1,)),
        ("t = Reshape(w, s) y = MatMul(x, t)", (8, 6), None),
        ("y = Relu(w)", (8, 6), None),
    ],
)  # fmt: skip
def test_axes_of_the_outputs(body: str, shape: tuple[int, ...], axes: tuple[int, ...] | None) -> None:
    more = {"s": np.zeros(2, np.int64), "e": np.full(2, 4), "r": normal(1, 16, 4)}
    (leaf,) = weight(body, shape, more).leaves
    found_axes = output_axes(leaf)
    assert (None if found_axes is None else tuple(sorted(found_axes))) == axes


@pytest.mark.parametrize(
    ("body", "ops", "plain"),
    [
        ("y = MatMul(x, w)", ["MatMul"], [True]),
        ("t = Transpose(w) y = MatMul(x, t)", ["MatMul"], [True]),
        ("t = Identity(w) y = MatMul(x, t)", ["MatMul"], [True]),
        ("t = Cast<to = 10>(w) y = MatMul(x, t)", ["MatMul"], [False]),
        ("a, b = Split(w) c = MatMul(x, a) y = Add(c, b)", ["MatMul", "Add"], [False, False]),
        ("t = Concat<axis = 0>(k, w) y = MatMul(x, t)", ["MatMul"], [False]),
        ("a = Gather(w, i) t = Transpose(w) y = MatMul(a, t)", ["Gather", "MatMul"], [True, True]),
        ("a = MatMul(x, w) y = MatMul(a, w)", ["MatMul", "MatMul"], [True, True]),
        ("a = MatMul(w, w) y = Identity(a)", ["MatMul", "MatMul"], [True, True]),
        ("y = Identity(w)", ["output"], [True]),
        ("s = Shape(w) y = Reshape(x, s)", ["Shape"], [True]),
        ("t = Reshape(x, w) y = Relu(t)", ["Reshape"], [True]),
        ("t = Unsqueeze(w, i) u = Squeeze(t, i) y = MatMul(x, u)", ["MatMul"], [False]),
        ("y = Relu(x)", [], []),
    ],
)
def test_final_readers(body: str, ops: list[str], plain: list[bool]) -> None:
    leaves = weight(body, (8, 8), {"k": normal(2, 8), "i": np.zeros(1, np.int64)}).leaves
    assert [leaf.op for leaf in leaves] == ops
    assert [leaf.plain for leaf in leaves] == plain


@pytest.mark.parametrize(
    ("body", "layer"),
    [
        ("y = MatMul(x, w)", True),
        ("y = Conv(x, w)", True),
        ("y = Conv(x, x, w)", False),
        ("y = Gemm(x, x, w)", False),
        ("y = LSTM<hidden_size = 4>(x, x, x, w)", False),
        ("y = Gather(x, w)", False),
        ("y = Add(x, w)", False),
        ("y = LayerNormalization(x, w)", False),
        ("y = Identity(w)", False),
    ],
)
def test_only_weights_of_layers_count_as_such(body: str, layer: bool) -> None:
    (leaf,) = weight(body, (8, 8)).leaves
    assert is_layer(leaf) == layer


def test_a_chain_is_the_nodes_between() -> None:
    (leaf,) = weight("a = Identity(w) b = Transpose(a) y = MatMul(x, b)", (8, 6)).leaves
    assert [n.op_type for n in leaf.chain] == ["Identity", "Transpose"]


def test_a_reader_in_a_body_keeps_the_weight_of_the_graph() -> None:
    model = proto(
        """g (bool c, float x) => (float y) { t = Transpose(w) y = If(c) <
            then_branch = p () => (float a) { a = MatMul(x, t) },
            else_branch = q () => (float b) { u = Transpose(w) b = MatMul(x, u) }
        > }""",
        {"w": normal(8, 6)},
    )
    leaves = found(model)["w"].leaves
    assert [leaf.op for leaf in leaves] == ["MatMul", "MatMul"]
    assert [leaf.use.scope.path for leaf in leaves] == [("y",), ("y",)]
    assert sorted(leaf.plain for leaf in leaves) == [False, True]  # one Transpose stands in the body


def test_weights_are_found_in_bodies_functions_and_constants() -> None:
    model = proto(
        """g (bool c, float x) => (float y) {
            z = If(c) <
                then_branch = p () => (float a) <float[2, 2] w = {1, 2, 3, 4}> { a = MatMul(x, w) },
                else_branch = q () => (float b) <float[2, 2] w = {1, 2, 3, 4}> { b = MatMul(x, w) }
            >
            k = Constant<value = float[2, 2] {1, 2, 3, 4}>()
            v = MatMul(z, k)
            y = local.f(v)
        }
        <domain: "local", opset_import: ["": 17]>
        f (p) => (q) { fk = Constant<value = float[2, 2] {1, 2, 3, 4}>() q = MatMul(p, fk) }"""
    )
    model.graph.node[0].name = "branching"
    labels = [w.label for w in weights(Model(model), Scopes(model))]
    assert labels == ["k", "branching/w", "branching/w", "local::f/fk"]


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
def test_all_float_types_are_weights(kind: int) -> None:
    model = proto("g (float x) => (float y) { y = MatMul(x, w) }")
    model.graph.initializer.append(helper.make_tensor("w", kind, [2, 2], [1, 2, 3, 4]))
    assert set(found(model)) == {"w"}


def test_integers_are_no_weights() -> None:
    model = proto("g (float x) => (float y) { y = Gather(w, x) }", {"w": np.zeros((4, 4), np.int8)})
    assert found(model) == {}


@pytest.mark.parametrize(("ir", "overridable"), [(3, False), (4, True), (8, True)])
def test_an_initializer_that_is_an_input_is_overridable_from_ir_4_on(ir: int, overridable: bool) -> None:
    model = proto("g (float x, float[2, 2] w) => (float y) { y = MatMul(x, w) }", {"w": normal(2, 2)}, ir=ir)
    assert found(model)["w"].overridable == overridable


def test_an_inner_initializer_of_the_name_of_an_input_is_not_overridable() -> None:
    model = proto(
        """g (bool c, float x, float[2, 2] w) => (float y) { y = If(c) <
            then_branch = p () => (float a) <float[2, 2] w = {1, 2, 3, 4}> { a = MatMul(x, w) },
            else_branch = q () => (float b) { b = MatMul(x, w) }> }""",
        {"w": normal(2, 2)},
    )
    assert {k: w.overridable for k, w in found(model).items()} == {"w": True, "y/w": False}


def test_operators_of_other_domains_are_readers_but_no_movers() -> None:
    model = proto("g (float x) => (float y) { y = com.microsoft.Transpose(w) }", {"w": normal(2, 2)})
    assert [leaf.op for leaf in found(model)["w"].leaves] == ["Transpose"]


def test_sparse_initializers_do_no_harm() -> None:
    model = proto("g (float x) => (float y) { y = MatMul(x, s) }")
    values = numpy_helper.from_array(normal(3), "s")
    indices = numpy_helper.from_array(np.arange(3, dtype=np.int64))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 4]))
    assert found(model) == {}
