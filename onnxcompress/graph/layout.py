"""The parts of a serialized model in order: bytes that are there, and the places of values still to come.

The size of every tensor follows from its dims and type, so the length prefixes of the graph and of whatever else
encloses a large tensor are known before any value is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.wire import field_head

if TYPE_CHECKING:
    from collections.abc import Iterator

_RAW_DATA = 9


@dataclass(frozen=True)
class Values:
    """The place of a large tensor's values in the stream."""

    tensor: Tensor
    length: int


Part = bytes | Values


def size(parts: list[Part]) -> int:
    """Bytes of all parts."""
    return sum(len(p) if isinstance(p, bytes) else p.length for p in parts)


class Layout:
    """The parts of a serialized model, in order."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def tensor(self, tensor: Tensor) -> list[Part]:
        """One TensorProto."""
        if self.model.has_data(tensor):
            return [tensor.SerializeToString(deterministic=True)]
        head = Tensor()
        head.CopyFrom(tensor)
        del head.external_data[:]
        head.ClearField("data_location")
        length = self.model.nbytes(tensor)
        return [
            head.SerializeToString(deterministic=True) + field_head(_RAW_DATA, length),
            Values(tensor, length),
        ]

    def _field(self, number: int, parts: list[Part]) -> Iterator[Part]:
        yield field_head(number, size(parts))
        yield from parts

    def graph(self, graph: onnx.GraphProto) -> list[Part]:
        """One GraphProto."""
        rest = onnx.GraphProto()
        rest.CopyFrom(graph)
        for name in ("initializer", "node", "sparse_initializer"):
            rest.ClearField(name)
        parts: list[Part] = []
        for node in graph.node:
            parts += self._field(1, self.node(node))
        parts.append(rest.SerializeToString(deterministic=True))
        for tensor in graph.initializer:
            parts += self._field(5, self.tensor(tensor))
        for sparse in graph.sparse_initializer:
            parts += self._field(15, self.sparse(sparse))
        return parts

    def sparse(self, sparse: onnx.SparseTensorProto) -> list[Part]:
        """One SparseTensorProto."""
        rest = onnx.SparseTensorProto(dims=sparse.dims)
        parts: list[Part] = [rest.SerializeToString(deterministic=True)]
        parts += self._field(1, self.tensor(sparse.values))
        parts += self._field(2, self.tensor(sparse.indices))
        return parts

    def node(self, node: onnx.NodeProto) -> list[Part]:
        """One NodeProto."""
        if not any(_may_hold_tensors(a) for a in node.attribute):
            return [node.SerializeToString(deterministic=True)]
        rest = onnx.NodeProto()
        rest.CopyFrom(node)
        rest.ClearField("attribute")
        parts: list[Part] = [rest.SerializeToString(deterministic=True)]
        for attribute in node.attribute:
            parts += self._field(5, self.attribute(attribute))
        return parts

    def attribute(self, attribute: onnx.AttributeProto) -> list[Part]:
        """One AttributeProto."""
        if not _may_hold_tensors(attribute):
            return [attribute.SerializeToString(deterministic=True)]
        rest = onnx.AttributeProto()
        rest.CopyFrom(attribute)
        for name in ("t", "g", "tensors", "graphs", "sparse_tensor", "sparse_tensors"):
            rest.ClearField(name)
        parts: list[Part] = [rest.SerializeToString(deterministic=True)]
        if attribute.HasField("t"):
            parts += self._field(5, self.tensor(attribute.t))
        if attribute.HasField("g"):
            parts += self._field(6, self.graph(attribute.g))
        for tensor in attribute.tensors:
            parts += self._field(10, self.tensor(tensor))
        for graph in attribute.graphs:
            parts += self._field(11, self.graph(graph))
        if attribute.HasField("sparse_tensor"):
            parts += self._field(22, self.sparse(attribute.sparse_tensor))
        for sparse in attribute.sparse_tensors:
            parts += self._field(23, self.sparse(sparse))
        return parts

    def function(self, function: onnx.FunctionProto) -> list[Part]:
        """One FunctionProto."""
        rest = onnx.FunctionProto()
        rest.CopyFrom(function)
        rest.ClearField("node")
        parts: list[Part] = [rest.SerializeToString(deterministic=True)]
        for node in function.node:
            parts += self._field(7, self.node(node))
        return parts

    def whole(self) -> list[Part]:
        """The ModelProto."""
        proto = self.model.proto
        rest = onnx.ModelProto()
        rest.CopyFrom(proto)
        rest.ClearField("graph")
        rest.ClearField("functions")
        parts: list[Part] = [rest.SerializeToString(deterministic=True)]
        parts += self._field(7, self.graph(proto.graph))
        for function in proto.functions:
            parts += self._field(25, self.function(function))
        return parts


def _may_hold_tensors(attribute: onnx.AttributeProto) -> bool:
    kinds = onnx.AttributeProto
    return attribute.type in (
        kinds.TENSOR, kinds.GRAPH, kinds.TENSORS, kinds.GRAPHS, kinds.SPARSE_TENSOR, kinds.SPARSE_TENSORS
    )  # fmt: skip
