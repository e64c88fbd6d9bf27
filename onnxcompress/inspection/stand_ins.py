"""A model with the shapes of another one, but not its large weights, so that a run takes neither memory nor time.

Values of weights do not change shapes, as a rule. What reads a large weight W (rows, columns) becomes something cheap:

    MatMul(x, W), Gemm(x, W)  ->  Expand(x[..., :1], [columns])
    Gather(W, indices)        ->  Gather(one row, indices - indices)

and any other reader gets a tensor of one constant in its place. The runtime would make that while it loads, for all
weights at once; so it is computed from a random number, which it does not fold. It shares those that are alike.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import onnx
from onnx import helper

from onnxcompress.graph.bodies import integer, is_standard
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.scopes import attribute_value, subgraphs

if TYPE_CHECKING:
    from collections.abc import Iterator

_LARGE = 1 << 20  # bytes of a weight that is left out
_WHOLE = 64 << 20  # bytes of all weights that are simply run as they are
_LONGEST_ROW = 1 << 16
_OPSET = 10  # Slice with inputs
_FLOATS = (Tensor.FLOAT, Tensor.DOUBLE, Tensor.FLOAT16, Tensor.BFLOAT16)
_PREFIX = "onnxcompress_blank"
_Blank = tuple[int, tuple[int, ...]]  # type of elements, shape


def without_weights(model: Model) -> Model:
    """A copy to run; large weights are left out where that makes a difference."""
    twin = model.copy()
    small = sum(model.nbytes(t) for t in model.tensors()) <= _WHOLE
    if small or model.opset < _OPSET:
        return twin
    large: dict[str, _Blank] = {
        t.name: (t.data_type, tuple(t.dims))
        for t in twin.proto.graph.initializer
        if t.data_type in _FLOATS and model.nbytes(t) >= _LARGE
    }
    _Replacing(twin.proto.graph, large).run()
    return twin


class _Replacing:
    """The nodes of a graph written anew, in which readers of large weights do not need them."""

    def __init__(self, graph: onnx.GraphProto, large: dict[str, _Blank]) -> None:
        self._graph, self._large = graph, large
        self._blank = dict(large)  # and what only turns or converts them
        self._needed = {output.name for output in graph.output}
        self._made: list[onnx.NodeProto] = []
        self._moving: set[int] = set()  # places in what was made
        self._constants: dict[tuple[int, ...], str] = {}

    def run(self) -> None:
        """Replace the nodes and take the weights away."""
        for node in self._graph.node:
            if not (self._move(node) or self._matmul(node) or self._gather(node)):
                self._needed |= {name for name in _reads(node) if name in self._blank}
                self._made.append(node)
        kept = list(reversed(list(self._still_needed())))
        nodes = [*self._stand_ins(), *kept]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        for field in (self._graph.initializer, self._graph.input):
            for index in reversed([i for i, item in enumerate(field) if item.name in self._large]):
                del field[index]
        del self._graph.node[:]
        self._graph.node.extend(copies)

    def _still_needed(self) -> Iterator[onnx.NodeProto]:
        """What was made, the last first, without what moves values that nobody reads any more."""
        for index in reversed(range(len(self._made))):
            node = self._made[index]
            if index not in self._moving or node.output[0] in self._needed:
                self._needed |= set(node.input) & set(self._blank)
                yield node

    def _stand_ins(self) -> Iterator[onnx.NodeProto]:
        """Tensors of one constant, for readers that need one."""
        left = {name: blank for name, blank in self._large.items() if name in self._needed}
        if not left:
            return
        yield helper.make_node("RandomUniform", [], [_PREFIX], shape=[1], low=0.01, high=0.0101, seed=0.0)
        for kind in dict.fromkeys(kind for kind, _ in left.values()):
            yield helper.make_node("Cast", [_PREFIX], [f"{_PREFIX}_type_{kind}"], to=kind)
        for name, (kind, dims) in left.items():
            yield helper.make_node("Expand", [f"{_PREFIX}_type_{kind}", self._constant(dims)], [name])

    def _constant(self, values: tuple[int, ...]) -> str:
        if values not in self._constants:
            name = f"{_PREFIX}_constant_{len(self._constants)}"
            self._graph.initializer.append(helper.make_tensor(name, Tensor.INT64, [len(values)], values))
            self._constants[values] = name
        return self._constants[values]

    # ---------------------------------------------------------------------------- readers

    def _reads_blank(self, node: onnx.NodeProto, index: int) -> bool:
        return index < len(node.input) and node.input[index] in self._blank

    def _move(self, node: onnx.NodeProto) -> bool:
        """A weight that is turned or converted is a weight like any other."""
        if not is_standard(node, "Transpose", "Identity", "Cast") or not self._reads_blank(node, 0):
            return False
        kind, dims = self._blank[node.input[0]]
        if node.op_type == "Transpose":
            order = [int(i) for i in attribute_value(node, "perm") or reversed(range(len(dims)))]  # type: ignore[attr-defined]
            if sorted(order) != list(range(len(dims))):
                return False
            dims = tuple(dims[i] for i in order)
        self._blank[node.output[0]] = (integer(node, "to", kind), dims)
        self._moving.add(len(self._made))
        self._made.append(node)
        return True

    def _matmul(self, node: onnx.NodeProto) -> bool:
        if not is_standard(node, "MatMul", "Gemm") or not self._reads_blank(node, 1) or self._reads_blank(node, 0):
            return False
        dims = self._blank[node.input[1]][1]
        if len(dims) != 2 or integer(node, "transA", 0):
            return False
        first, output = f"{node.output[0]}_{_PREFIX}", node.output[0]
        ends = (self._constant((0,)), self._constant((1,)), self._constant((-1,)))
        self._made.append(helper.make_node("Slice", [node.input[0], *ends], [first]))
        columns = dims[0 if integer(node, "transB", 0) else 1]
        self._made.append(helper.make_node("Expand", [first, self._constant((columns,))], [output], name=node.name))
        return True

    def _gather(self, node: onnx.NodeProto) -> bool:
        if not is_standard(node, "Gather") or not self._reads_blank(node, 0) or integer(node, "axis", 0) != 0:
            return False
        kind, dims = self._blank[node.input[0]]
        if not 2 <= len(dims) <= 4 or math.prod(dims[1:]) > _LONGEST_ROW:
            return False
        row, zeros = (f"{node.output[0]}_{_PREFIX}_{word}" for word in ("row", "zeros"))
        self._graph.initializer.append(helper.make_tensor(row, kind, [1, *dims[1:]], [0.01] * math.prod(dims[1:])))
        self._made.append(helper.make_node("Sub", [node.input[1], node.input[1]], [zeros]))
        self._made.append(helper.make_node("Gather", [row, zeros], [node.output[0]], name=node.name))
        return True


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for graph in subgraphs(node):
        for inner in graph.node:
            yield from _reads(inner)
        yield from (output.name for output in graph.output)
