"""Values matched by their place in the graph, for models whose names were lost.

Both graphs are written as a list of nodes in the order in which a walk back from the outputs meets them, which does not
depend on the order in the file. Nodes that only quantize, dequantize or compute constants are left out. A node is told
by its operator, by those of the nodes before it, and by the content of stored tensors that both models have. The
longest common runs of the two lists are matched (Ratcliff & Obershelp 1988), and what is left between them once more by
operators alone.
"""

from __future__ import annotations

import difflib
import hashlib
from typing import TYPE_CHECKING

import onnx

from onnxcompress.graph.scopes import constant_tensor

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from onnxcompress.comparing.lineage import Lineage
    from onnxcompress.graph.model import Model

_LEFT_OUT = frozenset({"QuantizeLinear", "DequantizeLinear", "Identity"})
_MOST = 4000  # nodes, beyond which the alignment takes too long


def by_place(models: tuple[Model, Model], a: Lineage, b: Lineage) -> dict[str, str]:
    """Names of the first model with those of the second at the same place; none for very large models."""
    lists = [_ordered(graph) for graph in (a, b)]
    if max(map(len, lists)) > _MOST:
        return {}
    contents = [_contents(model, graph) for model, graph in zip(models, (a, b), strict=True)]
    shared = set(contents[0].values()) & set(contents[1].values())
    keys = [
        [_key(node, graph, stored, shared) for node in nodes]
        for nodes, graph, stored in zip(lists, (a, b), contents, strict=True)
    ]
    found: dict[str, str] = {}
    for tag, i, j, k, m in _opcodes(*keys):
        if tag == "equal":
            _pair(lists[0][i:j], lists[1][k:m], found)
        elif tag == "replace":
            one, other = lists[0][i:j], lists[1][k:m]
            for word, *ends in _opcodes([n.op_type for n in one], [n.op_type for n in other]):
                if word == "equal":
                    _pair(one[ends[0] : ends[1]], other[ends[2] : ends[3]], found)
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


def _key(node: onnx.NodeProto, graph: Lineage, stored: dict[str, str], shared: set[str]) -> Hashable:
    before = tuple(_before(name, graph) for name in node.input if name not in graph.constant)
    weights = tuple(stored[n] for n in node.input if n in stored and stored[n] in shared)
    return node.op_type, before, weights


def _before(name: str, graph: Lineage) -> str:
    node = graph.producers.get(name)
    while node is not None and node.op_type in _LEFT_OUT and node.input:
        node = graph.producers.get(node.input[0])
    return "input" if node is None else node.op_type
