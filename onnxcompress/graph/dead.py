"""What no output depends on: nodes, stored tensors and local functions that can go.

Inputs and outputs of the model stay, and so do initializers that a caller may override: they are inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.graph.bodies import graphs
from onnxcompress.graph.constants import overridable
from onnxcompress.graph.scopes import Scope, Scopes, subgraphs

if TYPE_CHECKING:
    import onnx


def remove_dead(proto: onnx.ModelProto) -> int:
    """Remove everything that no output needs; returns how many nodes, tensors and functions that were."""
    scopes = Scopes(proto)
    live = _Live(scopes)
    live.reach(proto.graph)
    kept = overridable(proto)
    removed = 0
    for scope, graph in reversed(list(graphs(scopes))):  # inner ones first
        removed += _sweep(scope, graph, live, kept if scope.parent is None else set())
    return removed + remove_unused_functions(proto)


class _Live:
    """The values and nodes that the outputs of the model depend on."""

    def __init__(self, scopes: Scopes) -> None:
        self._of_graph = {id(graph): scope for scope, graph in graphs(scopes)}
        self._open: list[tuple[Scope, str]] = []
        self.values: set[tuple[int, str]] = set()
        self.nodes: set[int] = set()

    def _add_outputs(self, graph: onnx.GraphProto) -> None:
        self._open += [(self._of_graph[id(graph)], o.name) for o in graph.output]

    def reach(self, main: onnx.GraphProto) -> None:
        self._add_outputs(main)
        while self._open:
            scope, name = self._open.pop()
            owner = scope.resolve(name)
            if owner is None or (id(owner), name) in self.values:
                continue
            self.values.add((id(owner), name))
            node = owner.producers.get(name)
            if node is not None and id(node) not in self.nodes:
                self.nodes.add(id(node))
                self._open += [(owner, n) for n in node.input if n]
                for graph in subgraphs(node):
                    self._add_outputs(graph)


def _sweep(scope: Scope, graph: onnx.GraphProto, live: _Live, kept: set[str]) -> int:
    dead = [i for i, n in enumerate(graph.node) if any(n.output) and id(n) not in live.nodes]
    for index in reversed(dead):
        del graph.node[index]
    read = kept | {name for owner, name in live.values if owner == id(scope)}
    unread = [i for i, t in enumerate(graph.initializer) if t.name not in read]
    gone = {graph.initializer[i].name for i in unread}
    for index in reversed(unread):
        del graph.initializer[index]
    for index in reversed([i for i, v in enumerate(graph.input) if v.name in gone]):
        del graph.input[index]
    _forget_types(graph)
    return len(dead) + len(unread)


def _forget_types(graph: onnx.GraphProto) -> None:
    """Drop recorded types of values that no longer exist."""
    here = {name for node in graph.node for name in node.output} | {t.name for t in graph.initializer}
    for index in reversed([i for i, v in enumerate(graph.value_info) if v.name not in here]):
        del graph.value_info[index]


def remove_unused_functions(proto: onnx.ModelProto) -> int:
    """Remove local functions that nothing calls, with the imports of domains that only they had."""
    bodies = {(f.domain, f.name): f for f in proto.functions}
    called: set[tuple[str, str]] = set()
    work: list[onnx.NodeProto] = list(proto.graph.node)
    while work:
        node = work.pop()
        work += [inner for graph in subgraphs(node) for inner in graph.node]
        key = (node.domain, node.op_type)
        if key in bodies and key not in called:
            called.add(key)
            work += bodies[key].node
    unused = [i for i, f in enumerate(proto.functions) if (f.domain, f.name) not in called]
    own = {proto.functions[i].domain for i in unused}
    for index in reversed(unused):
        del proto.functions[index]
    stale = own - used_domains(proto) - {f.domain for f in proto.functions}
    for index in reversed([i for i, o in enumerate(proto.opset_import) if o.domain in stale]):
        del proto.opset_import[index]
    return len(unused)


def used_domains(proto: onnx.ModelProto) -> set[str]:
    """The domains of all nodes outside of local functions; the default one is always among them."""
    found = {""}
    work: list[onnx.NodeProto] = list(proto.graph.node)
    while work:
        node = work.pop()
        found.add("" if node.domain == "ai.onnx" else node.domain)
        work += [inner for graph in subgraphs(node) for inner in graph.node]
    return found
