"""Which stored tensors of two models are the same weight, found by their places in graphs that agree.

Two graphs agree where the same operators with the same attributes stand in the same order and read the same values.
Names do not count: a value of one is a value of the other where it comes out of, or goes into, the same place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from onnxcompress.errors import ModelError
from onnxcompress.graph.model import Tensor
from onnxcompress.graph.scopes import subgraphs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnxcompress.graph.model import Model

Pair = tuple[Tensor, Tensor]
_HINT = "Only models of one architecture can be mixed; --ensemble averages the outputs of any that fit."


def pairs(first: Model, second: Model) -> list[Pair]:
    """Every stored tensor of the first model with that of the second which stands in its place.

    Raises:
        ModelError: the graphs do not agree; the first difference is named.
    """
    functions = [[f.SerializeToString(deterministic=True) for f in m.proto.functions] for m in (first, second)]
    if functions[0] != functions[1]:
        raise _differ(first, second, "they have other functions of their own")
    walk = _Walk(first, second)
    walk.graph(first.proto.graph, second.proto.graph)
    return walk.found


class _Walk:
    def __init__(self, first: Model, second: Model) -> None:
        self._models = first, second
        self._names: dict[str, str] = {"": ""}
        self._stored: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}
        self.found: list[Pair] = []

    def graph(self, a: onnx.GraphProto, b: onnx.GraphProto) -> None:
        """Walk two graphs that should agree, and those within their nodes."""
        for known, graph in zip(self._stored, (a, b), strict=True):
            known.update({t.name: t for t in graph.initializer})
        if a.sparse_initializer or b.sparse_initializer:
            raise self._differ("sparse initializers are not compared")
        inputs = [[i.name for i in g.input if i.name not in s] for g, s in zip((a, b), self._stored, strict=True)]
        if len(inputs[0]) != len(inputs[1]) or len(a.output) != len(b.output):
            raise self._differ("their inputs or outputs are not as many")
        self._names.update(zip(*inputs, strict=True))
        if len(a.node) != len(b.node):
            raise self._differ(f"one has {len(a.node)} nodes and the other {len(b.node)}")
        for x, y in zip(a.node, b.node, strict=True):
            self._node(x, y)
        for one, other in zip(a.output, b.output, strict=True):
            self._same(one.name, other.name, "an output")

    def _node(self, x: onnx.NodeProto, y: onnx.NodeProto) -> None:
        where = f"the node {x.name or x.output[0]!r}"
        if (x.op_type, x.domain) != (y.op_type, y.domain):
            raise self._differ(f"{where} is {x.op_type} in one and {y.op_type} in the other")
        if len(x.input) != len(y.input) or len(x.output) != len(y.output):
            raise self._differ(f"{where} has other inputs or outputs")
        for one, other in zip(x.input, y.input, strict=True):
            self._same(one, other, where)
        self._attributes(x, y, where)
        self._names.update(zip(x.output, y.output, strict=True))
        for one_graph, other_graph in zip(subgraphs(x), subgraphs(y), strict=True):
            self.graph(one_graph, other_graph)

    def _attributes(self, x: onnx.NodeProto, y: onnx.NodeProto, where: str) -> None:
        plain = [list(_plain(node)) for node in (x, y)]
        tensors = [list(_tensors(node)) for node in (x, y)]
        graphs = [sum(1 for _ in subgraphs(node)) for node in (x, y)]
        if plain[0] != plain[1] or len(tensors[0]) != len(tensors[1]) or graphs[0] != graphs[1]:
            raise self._differ(f"{where} has other attributes")
        for one, other in zip(*tensors, strict=True):
            self._pair(one, other, where)

    def _same(self, one: str, other: str, where: str) -> None:
        """Take two names for one value, unless they are known to be none."""
        if one not in self._names and one in self._stored[0] and other in self._stored[1]:
            self._names[one] = other
            self._pair(self._stored[0][one], self._stored[1][other], where)
        elif self._names.get(one) != other:
            raise self._differ(f"{where} reads other values")

    def _pair(self, one: Tensor, other: Tensor, where: str) -> None:
        if one.data_type != other.data_type or list(one.dims) != list(other.dims):
            shapes = f"{list(one.dims)} and {list(other.dims)}"
            raise self._differ(f"{one.name or where!r} is stored in other types or shapes, {shapes}")
        self.found.append((one, other))

    def _differ(self, what: str) -> ModelError:
        return _differ(*self._models, what)


def _differ(first: Model, second: Model, what: str) -> ModelError:
    return ModelError(f"the graphs of {first.path} and {second.path} differ: {what}", _HINT)


def _plain(node: onnx.NodeProto) -> Iterator[bytes]:
    """The attributes that hold neither graphs nor tensors."""
    held = onnx.AttributeProto
    for attribute in sorted(node.attribute, key=lambda a: a.name):
        if attribute.type not in (held.GRAPH, held.GRAPHS, held.TENSOR, held.TENSORS):
            yield attribute.SerializeToString(deterministic=True)


def _tensors(node: onnx.NodeProto) -> Sequence[Tensor]:
    found = []
    for attribute in sorted(node.attribute, key=lambda a: a.name):
        found += [attribute.t] if attribute.type == onnx.AttributeProto.TENSOR else list(attribute.tensors)
    return found
