"""Every way in which a pass can break a model is found, and sound models of all kinds are let through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import parser

from onnxcompress.errors import OnnxCompressError
from onnxcompress.graph.interface import interface
from onnxcompress.graph.model import Model
from onnxcompress.guards import GuardFailure, check, findings

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = """<ir_version: 9, opset_import: ["" : 17, "own" : 1]>
    g (float[batch,4] x, bool c, float[4] v) => (float[batch,4] y, int64[n] k)
    <float[4] w = {1, 2, 3, 4}, float[4] v = {1, 2, 3, 4}> {
    a = Add(x, w) b = own.f(a) z = If(c) <
        then_branch = t () => (p) <float[4] w2 = {1, 2, 3, 4}> { p = Mul(b, w2) },
        else_branch = e () => (q) { r = Neg(b) q = Add(r, v) }>
    y = Relu(z) k = Shape(z) }
    <domain: "own", opset_import: ["" : 17]> f (p) => (q) { h = Exp(p) q = Neg(h) }"""

Graph = onnx.GraphProto


def sound() -> Model:
    return Model(parser.parse_model(TEXT))


def then(proto: onnx.ModelProto) -> Graph:
    graphs: dict[str, Graph] = {a.name: a.g for a in proto.graph.node[2].attribute}
    return graphs["then_branch"]


def rename_output(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].name = proto.graph.node[3].output[0] = "other"


def swap_outputs(proto: onnx.ModelProto) -> None:
    outputs = [onnx.ValueInfoProto.FromString(o.SerializeToString()) for o in reversed(proto.graph.output)]
    del proto.graph.output[:]
    proto.graph.output.extend(outputs)


def fix_dimension(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def change_type(proto: onnx.ModelProto) -> None:
    proto.graph.output[1].type.tensor_type.elem_type = onnx.TensorProto.INT32


def drop_shape(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].type.tensor_type.ClearField("shape")


def drop_input(proto: onnx.ModelProto) -> None:
    del proto.graph.input[1]


def drop_initializer(proto: onnx.ModelProto) -> None:
    del proto.graph.initializer[0]


def drop_node(proto: onnx.ModelProto) -> None:
    del proto.graph.node[0]


def swap_nodes(proto: onnx.ModelProto) -> None:
    first = onnx.NodeProto.FromString(proto.graph.node[0].SerializeToString())
    del proto.graph.node[0]
    proto.graph.node.insert(1, first)


def call_twice(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].name = proto.graph.node[2].name = "n"


def define_twice(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].output[0] = "a"


def overwrite_initializer(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.add(name="b", data_type=1, dims=[1], float_data=[1.0])


def store_twice(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(proto.graph.initializer[0])


def lose_in_branch(proto: onnx.ModelProto) -> None:
    del then(proto).initializer[0]


def lose_output_of_branch(proto: onnx.ModelProto) -> None:
    then(proto).output[0].name = "nowhere"


def read_from_other_branch(proto: onnx.ModelProto) -> None:
    then(proto).node[0].input[0] = "r"


def read_in_function(proto: onnx.ModelProto) -> None:
    proto.functions[0].node[0].input[0] = "w"


def lose_output_of_function(proto: onnx.ModelProto) -> None:
    del proto.functions[0].node[1]


def use_unknown_domain(proto: onnx.ModelProto) -> None:
    then(proto).node[0].domain = "com.microsoft"


def use_unknown_domain_in_function(proto: onnx.ModelProto) -> None:
    proto.functions[0].node[0].domain = "com.microsoft"


def drop_import(proto: onnx.ModelProto) -> None:
    del proto.opset_import[1]


def lose_values(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].ClearField("float_data")
    proto.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL


BREAKS: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "an output renamed": (rename_output, "outputs are"),
    "outputs swapped": (swap_outputs, "outputs are"),
    "a dynamic dimension fixed": (fix_dimension, "input 'x' has the shape (1, 4) in place of ('batch', 4)"),
    "a type changed": (change_type, "output 'k' has the type int32 in place of int64"),
    "a shape dropped": (drop_shape, "output 'y' has the shape None"),
    "an input dropped": (drop_input, "inputs are"),
    "an initializer dropped": (drop_initializer, "reads 'w', which is not defined"),
    "a node dropped": (drop_node, "reads 'a', which is not defined"),
    "nodes out of order": (swap_nodes, "reads 'a', which is not defined before"),
    "a name of two nodes": (call_twice, "two nodes called 'n'"),
    "a name defined twice": (define_twice, "defines 'a' twice"),
    "a node that overwrites an initializer": (overwrite_initializer, "defines 'b' twice"),
    "an initializer stored twice": (store_twice, "two initializers called 'w'"),
    "a weight of a branch lost": (lose_in_branch, "reads 'w2'"),
    "an output of a branch lost": (lose_output_of_branch, "output 'nowhere'"),
    "a value of another branch": (read_from_other_branch, "reads 'r'"),
    "a function that reads the graph": (read_in_function, "reads 'w'"),
    "an output of a function lost": (lose_output_of_function, "output 'q' of the function 'f'"),
    "a domain without an import": (use_unknown_domain, "domain 'com.microsoft' of Mul"),
    "the same in a function": (use_unknown_domain_in_function, "domain 'com.microsoft' of Exp"),
    "an import dropped": (drop_import, "domain 'own'"),
    "values lost": (lose_values, "tensor 'w' has lost its values"),
}


def test_a_sound_model_passes() -> None:
    model = sound()
    assert list(findings(interface(model.proto), model)) == []


@pytest.mark.parametrize(("break_it", "told"), BREAKS.values(), ids=BREAKS)
def test_a_broken_model_is_found(break_it: Callable[[onnx.ModelProto], None], told: str) -> None:
    model = sound()
    before = interface(model.proto)
    break_it(model.proto)
    with pytest.raises(GuardFailure) as caught:
        check(before, model, "quantize")
    assert "the pass 'quantize' has broken the model" in caught.value.message
    assert told in caught.value.message
    assert isinstance(caught.value, OnnxCompressError)
    assert caught.value.hint


def test_large_tensors_need_no_values_in_the_structure() -> None:
    model = sound()
    model.set_lazy(model.proto.graph.initializer[0], onnx.TensorProto.FLOAT, (4,), lambda: np.ones(4, np.float32))
    check(interface(model.proto), model, "quantize")


def test_an_initializer_may_become_constant_and_an_unused_one_may_go() -> None:
    """An input that only overrides an initializer is no input that a caller has to give."""
    model = sound()
    before = interface(model.proto)
    del model.proto.graph.input[2]
    check(before, model, "quantize")


def test_both_names_of_the_default_domain_are_one() -> None:
    model = sound()
    model.proto.graph.node[0].domain = "ai.onnx"
    check(interface(model.proto), model, "quantize")


def test_an_output_may_be_an_input() -> None:
    model = Model(parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => (float[1] x) {}'))
    check(interface(model.proto), model, "simplify")
