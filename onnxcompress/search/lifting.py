"""Weights where a trial can reach them: every stored weight as an initializer of the main graph, if it may be one.

A trial hands weights to the model as inputs, which only the main graph has. Names of the graphs around a body are
visible in it, so a weight of a body, and the value of a Constant node, can be moved out wherever its name is unique.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import onnx

from onnxcompress.graph.layers import FLOAT_TYPES
from onnxcompress.graph.scopes import Scope, Scopes, constant_tensor

if TYPE_CHECKING:
    from onnxcompress.graph.model import Model, Tensor

_SEPARATE_INITIALIZERS = 4  # IR version from which initializers need be no inputs


def lifted(model: Model) -> Model:
    """A copy of the model whose float weights are initializers of the main graph, but for those of local functions."""
    twin = model.copy()
    graph = twin.proto.graph
    if twin.proto.ir_version < _SEPARATE_INITIALIZERS:
        stored = {t.name for t in graph.initializer}
        kept = [i for i in graph.input if i.name not in stored]
        del graph.input[:]
        graph.input.extend(kept)
        twin.proto.ir_version = _SEPARATE_INITIALIZERS
    scopes = Scopes(twin.proto)
    definers = Counter(name for scope in scopes.all for name in scope.defined)
    for scope in scopes.all:
        if _within_main(scope, scopes.main):
            _lift(scope, graph, definers)
    return twin


def _within_main(scope: Scope, main: Scope) -> bool:
    known: Scope | None = scope
    while known is not None and known is not main:
        known = known.parent
    return known is main


def _lift(scope: Scope, graph: onnx.GraphProto, definers: Counter[str]) -> None:
    body = scope.body
    if not isinstance(body, onnx.GraphProto):
        return
    outputs = {o.name for o in body.output}

    def movable(name: str) -> bool:
        return definers[name] == 1 and name not in outputs

    constants = {id(n): constant_tensor(n) for n in scope.constants.values() if movable(n.output[0])}
    kept = []
    for node in body.node:
        tensor = constants.get(id(node))
        if tensor is None or tensor.data_type not in FLOAT_TYPES:
            kept.append(node)
        else:
            _add(graph, tensor, node.output[0])
    if len(kept) < len(body.node):
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in kept]
        del body.node[:]
        body.node.extend(copies)
    if body is graph:
        return
    inside = {i.name for i in body.input}
    for index in reversed(range(len(body.initializer))):
        stored = body.initializer[index]
        if movable(stored.name) and stored.name not in inside and stored.data_type in FLOAT_TYPES:
            _add(graph, stored, stored.name)
            del body.initializer[index]


def _add(graph: onnx.GraphProto, tensor: Tensor, name: str) -> None:
    moved = graph.initializer.add()
    moved.CopyFrom(tensor)
    moved.name = name
