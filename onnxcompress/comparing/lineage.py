"""The values of a main graph: what makes each, what it is made from, and which are the same in every call."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from onnxcompress.graph.bodies import is_standard
from onnxcompress.graph.interface import interface
from onnxcompress.graph.payload import element_count
from onnxcompress.graph.scopes import constant_tensor, subgraphs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import onnx

    from onnxcompress.graph.model import Model


class Lineage:
    """Nodes of a main graph in their order, which is topological; ``counts``: numbers of values of stored tensors."""

    def __init__(self, model: Model) -> None:
        graph = model.proto.graph
        self.nodes = list(graph.node)
        self.inputs = tuple(spec.name for spec in interface(model.proto).inputs)
        self.outputs = tuple(output.name for output in graph.output)
        self.producers: dict[str, onnx.NodeProto] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self.stored = {t.name for t in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
        self.constant = set(self.stored)
        self.counts = {t.name: element_count(list(t.dims)) for t in graph.initializer}
        self._reads: dict[int, tuple[str, ...]] = {}
        for node in self.nodes:
            self._enter(node)
        self.variable = tuple(n for node in self.nodes for n in node.output if n and n not in self.constant)

    def _enter(self, node: onnx.NodeProto) -> None:
        known = self.producers.keys() | self.stored | set(self.inputs)
        reads = tuple(dict.fromkeys(name for name in _read(node) if name in known))
        self._reads[id(node)] = reads
        for name in reads:
            self.readers[name].append(node)
        fixed = is_standard(node, "Constant") or (bool(reads) and all(name in self.constant for name in reads))
        tensor = constant_tensor(node) if is_standard(node, "Constant") else None
        if tensor is not None:
            self.stored.add(node.output[0])
            self.counts[node.output[0]] = element_count(list(tensor.dims))
        if fixed and not _random(node):
            self.constant.update(node.output)
        self.producers.update(dict.fromkeys((name for name in node.output if name), node))

    def reads(self, node: onnx.NodeProto) -> tuple[str, ...]:
        """Values of the main graph that a node reads, those that its inner graphs read included."""
        return self._reads[id(node)]

    def back(self, value: str, stop: Callable[[str], bool]) -> tuple[list[onnx.NodeProto], list[str]]:
        """The nodes that make a value from others, in order, and those others.

        Args:
            value: where to begin; it is not asked whether to stop there.
            stop: whether to go no further behind a value. Inputs and stored tensors always end the way.
        """
        found: dict[int, onnx.NodeProto] = {}
        ends: dict[str, None] = {}
        waiting = [value]
        while waiting:
            node = self.producers.get(waiting.pop())
            if node is None or id(node) in found:
                continue
            found[id(node)] = node
            for name in self.reads(node):
                if name in self.stored and name not in self.producers:
                    continue
                if name not in self.producers or stop(name):
                    ends[name] = None
                else:
                    waiting.append(name)
        return [node for node in self.nodes if id(node) in found], list(ends)


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """All names in a node and below; those of inner graphs may shadow outer ones, which then count as read."""
    yield from node.input
    for graph in subgraphs(node):
        for inner in graph.node:
            yield from _read(inner)
        yield from (output.name for output in graph.output)


def _random(node: onnx.NodeProto) -> bool:
    return node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial")
