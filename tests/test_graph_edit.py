"""Edits reach their scope and nothing else, and what is left is a model that the guards accept."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxcompress.errors import ModelError
from onnxcompress.graph import edit, writer
from onnxcompress.graph.edit import Edit, Namer, NewTensor, Replacement, Rewire
from onnxcompress.graph.interface import interface
from onnxcompress.graph.model import Model
from onnxcompress.graph.opset import raised
from onnxcompress.graph.scopes import Scope, Scopes, subgraphs
from onnxcompress.guards import findings
from tests.small_models import normal, outputs, proto

BRANCHES = """g (bool c, float[2, 8] x) => (float[2, 8] y) {
    y = If(c) <
        then_branch = p () => (float[2, 8] a) { a = MatMul(x, w) },
        else_branch = q () => (float[2, 8] b) { b = MatMul(x, w) }
    >
}"""


def double(scope: Scope, name: str, values: np.ndarray) -> Edit:
    """Stores half of the weight and adds it to itself under its old name."""
    half = NewTensor(f"{name}_half", TensorProto.FLOAT, values.shape, lambda: values / 2)
    node = helper.make_node("Add", [half.name, half.name], [name])
    constant = scope.constants.get(name)
    return Edit(scope, (half,), (node,), dropped=(name,), removed=(constant,) if constant is not None else ())


def check(model: Model, before: onnx.ModelProto) -> None:
    assert list(findings(interface(before), model)) == []
    onnx.checker.check_model(onnx.load_from_string(writer.to_bytes(model)))


@pytest.mark.parametrize("ir", [3, 4, 8])
def test_a_tensor_is_replaced_under_its_name(ir: int) -> None:
    text = "g (float[2, 8] x, float[8, 8] w) => (float[2, 8] y) { y = MatMul(x, w) }"
    if ir >= 4:
        text = text.replace(", float[8, 8] w", "")
    original = proto(text, {"w": normal(8, 8)}, ir=ir, opset=8)
    model = Model(original).copy()
    edit.apply(model, [double(Scopes(model.proto).main, "w", normal(8, 8))])
    assert [t.name for t in model.proto.graph.initializer] == ["w_half"]
    assert [i.name for i in model.proto.graph.input] == ["x"]
    assert model.proto.ir_version == max(ir, 4)
    check(model, original)
    feeds = {"x": normal(2, 8)}
    np.testing.assert_array_equal(outputs(writer.to_bytes(model), feeds)["y"], outputs(original, feeds)["y"])


def test_a_new_node_takes_no_name_that_another_node_has() -> None:
    original = proto("g (float[2, 8] x) => (float[2, 8] y) { h = MatMul(x, w) y = Relu(h) }", {"w": normal(8, 8)})
    original.graph.node[1].name = "w"
    model = Model(original).copy()
    change = double(Scopes(model.proto).main, "w", normal(8, 8))
    change.prelude[0].name = "w"
    edit.apply(model, [change])
    assert [n.name for n in model.proto.graph.node] == ["w_2", "", "w"]
    check(model, original)
    feeds = {"x": normal(2, 8)}
    np.testing.assert_array_equal(outputs(writer.to_bytes(model), feeds)["y"], outputs(original, feeds)["y"])


@pytest.mark.parametrize("inner_first", [True, False])
def test_edits_inside_and_around_a_body_go_together(inner_first: bool) -> None:
    original = proto(BRANCHES, {"w": normal(8, 8)})
    inner = next(subgraphs(original.graph.node[0]))
    inner.initializer.append(onnx.numpy_helper.from_array(normal(8, 8, seed=1), "v"))
    inner.node[0].input[1] = "v"
    model = Model(original).copy()
    scopes = Scopes(model.proto)
    body = next(s for s in scopes.all if "v" in s.initializers)
    edits = [double(scopes.main, "w", normal(8, 8)), double(body, "v", normal(8, 8, seed=1))]
    edit.apply(model, edits[::-1] if inner_first else edits)
    check(model, original)
    for condition in (True, False):
        feeds = {"x": normal(2, 8), "c": np.array(condition)}
        np.testing.assert_array_equal(outputs(writer.to_bytes(model), feeds)["y"], outputs(original, feeds)["y"])


def test_functions_get_constants_in_place_of_initializers() -> None:
    original = proto(
        """g (float[2, 2] x) => (float[2, 2] y) { y = local.f(x) }
        <domain: "local", opset_import: ["": 17]>
        f (p) => (q) { k = Constant<value = float[2, 2] {1, 2, 3, 4}>() q = MatMul(p, k) }"""
    )
    model = Model(original).copy()
    scope = next(s for s in Scopes(model.proto).all if s.is_function)
    edit.apply(model, [double(scope, "k", np.array([[1, 2], [3, 4]], np.float32))])
    assert [n.op_type for n in model.proto.functions[0].node] == ["Constant", "Add", "MatMul"]
    check(model, original)
    feeds = {"x": normal(2, 2)}
    np.testing.assert_array_equal(outputs(writer.to_bytes(model), feeds)["y"], outputs(original, feeds)["y"])


def test_nodes_are_replaced_where_they_stand_and_shared_ones_stand_once() -> None:
    original = proto(
        "g (float[2, 8] x) => (float[2, 8] y, float[2, 8] z) { y = MatMul(x, w) z = MatMul(x, w) }",
        {"w": normal(8, 8)},
    )
    model = Model(original).copy()
    scope = Scopes(model.proto).main
    shared = helper.make_node("Neg", ["x"], ["negative"])
    replacements = []
    for node in scope.body.node:
        product = helper.make_node("MatMul", ["negative", "w"], [f"{node.output[0]}_p"])
        replacements.append(
            Replacement(scope, node, (product, helper.make_node("Neg", [product.output[0]], node.output)), (shared,))
        )
    edit.apply(model, [Edit(scope, replaced=tuple(replacements))])
    assert [n.op_type for n in model.proto.graph.node] == ["Neg", "MatMul", "Neg", "MatMul", "Neg"]
    check(model, original)


def test_inputs_are_rewired_and_stale_types_go() -> None:
    original = proto("g (float[2, 8] x) => (float[2, 8] y) { t = Neg(x) y = Abs(t) }")
    original.graph.value_info.append(helper.make_tensor_value_info("t", TensorProto.FLOAT, [2, 8]))
    model = Model(original).copy()
    scope = Scopes(model.proto).main
    neg, absolute = scope.body.node
    edit.apply(model, [Edit(scope, rewired=(Rewire(absolute, 0, "x"),), removed=(neg,))])
    assert [n.op_type for n in model.proto.graph.node] == ["Abs"]
    assert not model.proto.graph.value_info
    check(model, original)


def test_domains_are_imported_once_and_in_functions_too() -> None:
    original = proto(
        """g (float[2] x) => (float[2] y) { y = local.f(x) }
        <domain: "local", opset_import: ["": 17]>
        f (p) => (q) { q = Neg(p) }"""
    )
    model = Model(original).copy()
    scope = Scopes(model.proto).main
    edit.apply(model, [Edit(scope, domains=(("com.microsoft", 1),)), Edit(scope, domains=(("com.microsoft", 1),))])
    for imports in (model.proto.opset_import, model.proto.functions[0].opset_import):
        assert [o.domain for o in imports].count("com.microsoft") == 1


def test_new_names_avoid_all_others() -> None:
    namer = Namer({"w", "w_2"})
    assert [namer(n) for n in ("w", "w", "v", "v", "w_2")] == ["w_3", "w_4", "v", "v_2", "w_2_2"]


# ------------------------------------------------------------------------- operator sets


@pytest.mark.parametrize("opset", [7, 9, 11, 12])
def test_raising_keeps_large_weights_and_results(opset: int) -> None:
    text = """g (float[2, 32] x, float[32, 32] w) => (float[2, 32] y) {
        t = MatMul(x, w) y = Softmax<axis = 1>(t) }"""
    original = proto(text, {"w": normal(32, 32)}, opset=opset, ir=3)
    model = Model(original)
    model.set_array(model.proto.graph.initializer[0], normal(32, 32))  # large: its data leave the structure
    newer = raised(model, 13)
    assert newer.opset == 13
    assert model.opset == opset
    feeds = {"x": normal(2, 32)}
    np.testing.assert_allclose(
        outputs(writer.to_bytes(newer), feeds)["y"], outputs(writer.to_bytes(model), feeds)["y"], rtol=1e-5
    )


def test_raising_keeps_what_a_model_says_of_itself() -> None:
    original = proto("g (float[2, 8] x) => (float[2, 8] y) { y = MatMul(x, w) }", {"w": normal(8, 8)}, opset=11)
    helper.set_model_props(original, {"author": "nobody"})
    newer = raised(Model(original), 14).proto
    assert [(p.key, p.value) for p in newer.metadata_props] == [("author", "nobody")]
    assert newer.graph.name == "g"
    assert interface(newer) == interface(original)


@pytest.mark.parametrize("output", ["float[] y", "float[n, m] y", "float[2, m] y", "float[2, 8] y"])
def test_raising_keeps_the_shapes_that_are_declared(output: str) -> None:
    original = proto(f"g (float[2, 8] x) => ({output}) {{ y = MatMul(x, w) }}", {"w": normal(8, 8)}, opset=9)
    assert interface(raised(Model(original), 13).proto) == interface(original)


def test_what_cannot_be_raised_is_refused_in_words() -> None:
    original = proto("g (float[2, 8] x) => (float[2, 8] y) { y = NoSuchOperator(x) }", opset=11)
    with pytest.raises(ModelError, match="opset 13") as caught:
        raised(Model(original), 13)
    assert caught.value.hint


def test_local_functions_which_the_converter_would_lose_are_refused() -> None:
    text = """g (float[2] x) => (float[2] y) { y = local.f(x) }
        <domain: "local", opset_import: ["": 11]> f (p) => (q) { q = Neg(p) }"""
    with pytest.raises(ModelError, match="local functions"):
        raised(Model(proto(text, opset=11)), 13)
