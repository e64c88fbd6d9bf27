"""Constant nodes become initializers, so that there is one kind of stored tensor to look at.

Values move, they are not copied. Constants that are outputs of a graph stay nodes, since such an output has
to be computed there; so do constants in local functions, which can hold no initializers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from onnxcompress.graph.bodies import graphs, is_standard
from onnxcompress.graph.scopes import Scopes, constant_tensor

if TYPE_CHECKING:
    from onnxcompress.graph.model import Model

INITIALIZER_IR = 4  # from this IR version on an initializer need not be an input as well


def lift_constants(model: Model) -> int:
    """Turn Constant nodes that hold a tensor into initializers of the same graph; returns how many."""
    nested = model.proto.ir_version >= INITIALIZER_IR
    inner_first = reversed(list(graphs(Scopes(model.proto))))
    return sum(_lift(graph) for scope, graph in inner_first if nested or scope.parent is None)


def _lift(graph: onnx.GraphProto) -> int:
    outputs = {o.name for o in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        tensor = constant_tensor(node) if is_standard(node, "Constant") else None
        if tensor is None or node.output[0] in outputs:
            kept.append(node)
            continue
        stored = graph.initializer.add()
        stored.CopyFrom(tensor)
        stored.name = node.output[0]
    lifted = len(graph.node) - len(kept)
    if lifted:
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in kept]
        del graph.node[:]
        graph.node.extend(copies)
    return lifted


def declare_initializers(proto: onnx.ModelProto) -> None:
    """Before IR version 4 every initializer has to be declared as an input, which nested graphs cannot do."""
    if proto.ir_version >= INITIALIZER_IR:
        return
    stored = {t.name: t for t in proto.graph.initializer}
    if any(graph.initializer for scope, graph in graphs(Scopes(proto)) if scope.parent is not None):
        proto.ir_version = INITIALIZER_IR
        for index in reversed([i for i, v in enumerate(proto.graph.input) if v.name in stored]):
            del proto.graph.input[index]
        return
    declared = {i.name: i for i in proto.graph.input}
    for name, tensor in stored.items():
        info = onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims)
        if name in declared:
            declared[name].type.CopyFrom(info.type)
        else:
            proto.graph.input.append(info)


class StoredTensors:
    """The stored tensors of the main graph that nobody can replace, by name."""

    def __init__(self, model: Model, scopes: Scopes) -> None:
        self._main, self._overridable = scopes.main, overridable(model.proto)

    def get(self, name: str) -> onnx.TensorProto | None:
        """The initializer, or the value of the Constant node, of that name."""
        if name in self._main.initializers:
            return None if name in self._overridable else self._main.initializers[name]
        return constant_tensor(self._main.constants[name]) if name in self._main.constants else None


def overridable(proto: onnx.ModelProto) -> set[str]:
    """Initializers that a caller may replace: from IR version 4 on, those that are inputs as well."""
    if proto.ir_version < INITIALIZER_IR:
        return set()
    return {i.name for i in proto.graph.input} & {t.name for t in proto.graph.initializer}
