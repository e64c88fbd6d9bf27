"""Nodes that only hand on their input are taken out of the way: Identity, Dropout at inference, idle Cast.

The readers of such a node read its input instead. Where the node feeds an output of the graph, whose name has
to stay, the producer of its input takes over that name. The nodes themselves become dead code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from onnxcompress.graph.bodies import at_output, graphs, is_standard, redirect
from onnxcompress.graph.scopes import Scope, Scopes, attribute_value, constant_tensor

if TYPE_CHECKING:
    from onnxcompress.graph.model import Model

_DROPOUT_BY_INPUT = 12  # from this opset on an input says whether Dropout trains


def bypass(model: Model) -> int:
    """Let readers skip nodes that change nothing; returns how many nodes lost all their readers."""
    return _readers_skip(model) + _producers_take_over(model)


def _readers_skip(model: Model) -> int:
    scopes = Scopes(model.proto)
    count = 0
    for scope, graph in graphs(scopes):
        for node in graph.node:  # in order, so that chains of such nodes end at their first input
            if not hands_on(model, scopes, scope, node):
                continue
            uses = scopes.uses(scope, node.output[0])
            owner = scope.resolve(node.input[0])
            seen = all(use.scope.resolve(node.input[0]) is owner for use in uses)
            if owner is None or not seen or at_output(uses):
                continue
            redirect(uses, node.input[0])
            scopes.uses(owner, node.input[0]).extend(uses)
            count += bool(uses)
            uses.clear()
    return count


def _producers_take_over(model: Model) -> int:
    """Give the names of graph outputs to the producers of what idle nodes hand on to them."""
    count = 0
    while _one_takes_over(model):
        count += 1
    return count


def _one_takes_over(model: Model) -> bool:
    scopes = Scopes(model.proto)
    for scope, graph in graphs(scopes):
        outputs = {o.name for o in graph.output}
        for node in graph.node:
            idle = not outputs.isdisjoint(node.output) and hands_on(model, scopes, scope, node)
            if idle and _take_over(scopes, scope, node):
                graph.node.remove(node)
                return True
    return False


def _take_over(scopes: Scopes, scope: Scope, node: onnx.NodeProto) -> bool:
    source, name = node.input[0], node.output[0]
    producer = scope.producers.get(source)
    uses = scopes.uses(scope, source)
    if producer is None or at_output(uses) or any(u.scope.resolve(name) is not scope for u in uses):
        return False
    redirect(uses, name)
    producer.output[list(producer.output).index(source)] = name
    return True


def hands_on(model: Model, scopes: Scopes, scope: Scope, node: onnx.NodeProto) -> bool:
    """True where the first output of a node always equals its first input, in type and in values."""
    if not is_standard(node) or not node.input or not node.input[0]:
        return False
    if node.op_type == "Identity":
        return True
    if node.op_type == "Dropout":
        masked = len(node.output) > 1 and bool(node.output[1]) and bool(scopes.uses(scope, node.output[1]))
        return not masked and not _trains(model, scope, node)
    if node.op_type == "Cast":
        known = _known_type(scope, node.input[0])
        return known is not None and known == attribute_value(node, "to")
    return False


def _trains(model: Model, scope: Scope, node: onnx.NodeProto) -> bool:
    """True where Dropout may drop values: only then is it more than an Identity."""
    if model.opset < _DROPOUT_BY_INPUT:
        return model.opset < 7 and not attribute_value(node, "is_test", 0)
    if len(node.input) < 3 or not node.input[2]:
        return False
    owner = scope.resolve(node.input[2])
    stored = owner.initializers.get(node.input[2]) if owner else None
    if owner is not None and node.input[2] in owner.constants:
        stored = constant_tensor(owner.constants[node.input[2]])
    declared = {i.name for i in model.proto.graph.input}
    return stored is None or node.input[2] in declared or bool(model.array(stored).any())


def _known_type(scope: Scope, name: str) -> int | None:
    """The element type of a value where it is plain to see: of a stored tensor, an input, or another Cast."""
    owner = scope.resolve(name)
    if owner is None or not isinstance(owner.body, onnx.GraphProto):
        return None
    if name in owner.initializers:
        return owner.initializers[name].data_type
    producer = owner.producers.get(name)
    if producer is not None:
        to = attribute_value(producer, "to") if producer.op_type == "Cast" else None
        return to if isinstance(to, int) else None
    for info in owner.body.input:
        if info.name == name and info.type.HasField("tensor_type"):
            return int(info.type.tensor_type.elem_type) or None
    return None
