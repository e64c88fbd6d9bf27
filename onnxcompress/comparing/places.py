"""Values matched by their place in the graph, for models whose names were lost.

Both graphs are written as a list of nodes in the order in which a walk back from the outputs meets them, which does not
depend on the order in the file. Nodes that only quantize, dequantize or compute constants are left out. A node is told
by its operator, by those of the nodes before it, by the number of stored values behind its weights, and by their
content where both models have it. The longest common runs of the two lists are matched (Ratcliff & Obershelp 1988), and
what is left between them once more by operators and numbers alone.
"""

from __future__ import annotations

import difflib
import hashlib
from typing import TYPE_CHECKING, NamedTuple

import onnx

from onnxcompress.graph.scopes import constant_tensor

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from onnxcompress.comparing.lineage import Lineage
    from onnxcompress.graph.model import Model

_LEFT_OUT = frozenset({"QuantizeLinear", "DequantizeLinear", "Identity"})
_TELLING = 64  # stored values from which on their number tells something
_MOST = 4000  # nodes, beyond which the alignment takes too long


def by_place(models: tuple[Model, Model], a: Lineage, b: Lineage) -> dict[str, str]:
    """Names of the first model with those of the second at the same place; none for very large models."""
    lists = [_ordered(graph) for graph in (a, b)]
    if max(map(len, lists)) > _MOST:
        return {}
    stored = [_contents(model, graph) for model, graph in zip(models, (a, b), strict=True)]
    shared = set(stored[0].values()) & set(stored[1].values())
    told = [
        [_Told.of(node, graph, known, shared) for node in nodes]
        for nodes, graph, known in zip(lists, (a, b), stored, strict=True)
    ]
    found: dict[str, str] = {}
    for tag, i, j, k, m in _opcodes(*told):
        if tag == "equal":
            _pair(lists[0][i:j], lists[1][k:m], found)
        elif tag == "replace":
            one, other = ([t.short for t in part] for part in (told[0][i:j], told[1][k:m]))
            for word, *ends in _opcodes(one, other):
                if word == "equal":
                    _pair(lists[0][i + ends[0] : i + ends[1]], lists[1][k + ends[2] : k + ends[3]], found)
    return {x: y for x, y in found.items() if x not in a.constant and y not in b.constant}


def _opcodes(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[tuple[str, int, int, int, int]]:
    return list(difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes())


def _pair(one: Sequence[onnx.NodeProto], other: Sequence[onnx.NodeProto], found: dict[str, str]) -> None:
    for x, y in zip(one, other, strict=True):
        found.update((m, n) for m, n in zip(x.output, y.output, strict=False) if m and n)


def _ordered(graph: Lineage) -> list[onnx.NodeProto]:
    """Nodes behind the outputs, each after those that it reads."""
    found: list[onnx.NodeProto] = []
    seen: set[int] = set()
    for output in graph.outputs:
        waiting = [(output, False)]
        while waiting:
            name, done = waiting.pop()
            node = graph.producers.get(name)
            if node is None or (id(node) in seen and not done):
                continue
            if done:
                found.append(node)
                continue
            seen.add(id(node))
            waiting.append((name, True))
            waiting += [(read, False) for read in reversed(graph.reads(node))]
    return [n for n in found if n.op_type not in _LEFT_OUT and any(o and o not in graph.constant for o in n.output)]


def _contents(model: Model, graph: Lineage) -> dict[str, str]:
    """A digest of each stored tensor of the main graph."""
    tensors = {t.name: t for t in model.proto.graph.initializer}
    for node in graph.nodes:
        tensor = constant_tensor(node) if node.op_type == "Constant" else None
        if tensor is not None:
            tensors[node.output[0]] = tensor
    return {
        name: f"{tensor.data_type} {list(tensor.dims)} {hashlib.sha256(model.array(tensor).tobytes()).hexdigest()}"
        for name, tensor in tensors.items()
        if tensor.data_type != onnx.TensorProto.STRING
    }


class _Told(NamedTuple):
    """What a node is told by."""

    op: str
    numbers: tuple[int, ...]
    before: tuple[str, ...]
    contents: tuple[str, ...]

    @property
    def short(self) -> tuple[str, tuple[int, ...]]:
        return self.op, self.numbers

    @classmethod
    def of(cls, node: onnx.NodeProto, graph: Lineage, stored: dict[str, str], shared: set[str]) -> _Told:
        before = tuple(_before(name, graph) for name in node.input if name and name not in graph.constant)
        contents = tuple(stored[n] for n in node.input if n in stored and stored[n] in shared)
        numbers = (_largest(n, graph) for n in node.input if n in graph.constant)
        return cls(node.op_type, tuple(n for n in numbers if n >= _TELLING), before, contents)


def _largest(name: str, graph: Lineage) -> int:
    """Values of the largest stored tensor behind a constant."""
    nodes, ends = graph.back(name, lambda _: False)
    stored = {n for node in nodes for n in graph.reads(node) if n in graph.stored} | set(ends) | {name}
    return max((graph.counts.get(n, 0) for n in stored), default=0)


def _before(name: str, graph: Lineage) -> str:
    node = graph.producers.get(name)
    while node is not None and node.op_type in _LEFT_OUT and node.input:
        node = graph.producers.get(node.input[0])
    return "input" if node is None else node.op_type
