"""How many bytes of values are alive at once when the nodes of the main graph run in the order of the file.

A value lives from the node that makes it to the last one that reads it, an output to the end; inputs live from the
start. Operators that only look at a value in another way take no memory of their own, but keep it alive. What can be
computed once, from stored tensors alone, is none of it. The runtime may do better (it writes over what it no longer
needs) or worse (scratch memory of kernels, bodies of subgraphs): it is an estimate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.graph.bodies import is_standard
from onnxcompress.graph.payload import stored_bytes
from onnxcompress.graph.scopes import Scope, Scopes, subgraphs
from onnxcompress.inspection.facts import Activations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import onnx

    from onnxcompress.inspection.facts import Shape

_VIEWS = ("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Dropout")
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")
_FLOAT = 1  # of onnx.TensorProto; for types that nothing tells


def folded_nodes(scopes: Scopes) -> list[onnx.NodeProto]:
    """The nodes of the main graph that compute from stored tensors alone, those that hold one left out."""
    main = scopes.main
    fixed = set(main.initializers) - {i.name for i in main.body.input if hasattr(i, "name")}
    found = []
    for node in main.body.node:
        if is_standard(node, *_RANDOM) or any(True for _ in subgraphs(node)):
            continue
        if all(name in fixed for name in node.input if name):
            fixed.update(node.output)
            if not is_standard(node, "Constant"):
                found.append(node)
    return found


def activations(scopes: Scopes, shapes: Mapping[str, Shape], types: Mapping[str, int]) -> Activations | None:
    """The peak; None where no shape is known."""
    main = scopes.main
    fixed = {name for node in folded_nodes(scopes) for name in node.output} | set(main.initializers)
    fixed |= {name for node in main.body.node if is_standard(node, "Constant") for name in node.output}
    walk = _Walk(main, fixed, shapes, types)
    return walk.peak() if walk.known else None


class _Walk:
    """The nodes in order, with the buffers that are alive."""

    def __init__(self, main: Scope, fixed: set[str], shapes: Mapping[str, Shape], types: Mapping[str, int]) -> None:
        self._nodes = [n for n in main.body.node if not all(name in fixed for name in n.output)]
        self._fixed, self._shapes, self._types = fixed, shapes, types
        self._owner: dict[str, str] = {}  # value -> the value whose bytes it has
        self._inputs = [i.name for i in main.body.input if i.name not in fixed]
        self._outputs = [o.name for o in main.body.output]
        for node in self._nodes:
            view = is_standard(node, *_VIEWS) and bool(node.input) and node.input[0] not in fixed
            for index, name in enumerate(node.output):
                self._owner[name] = self._root(node.input[0]) if view and index == 0 else name
        self.known = any(name in shapes for node in self._nodes for name in node.output)

    def peak(self) -> Activations:
        """The most that is alive at a node: what it reads, what it makes, and what waits for others."""
        last = self._last_reads()
        alive = {name: self._bytes(name) for name in self._inputs}
        best, where, unknown = sum(b or 0 for b in alive.values()), "", sum(b is None for b in alive.values())
        now = best
        for index, node in enumerate(self._nodes):
            for name in node.output:
                if name and self._root(name) == name and name not in self._fixed:
                    alive[name] = self._bytes(name)
                    unknown += alive[name] is None
                    now += alive[name] or 0
            if now > best:
                best, where = now, node.name or node.output[0]
            touched = {self._root(n) for n in (*_reads(node), *node.output)}
            for name in [n for n in touched if n in alive and last.get(n, index) <= index]:
                now -= alive.pop(name) or 0
        return Activations(best, where, unknown)

    def _root(self, name: str) -> str:
        return self._owner.get(name, name)

    def _last_reads(self) -> dict[str, int]:
        """For each buffer, the last node that reads it; outputs are read after all of them."""
        last: dict[str, int] = {}
        for index, node in enumerate(self._nodes):
            for name in _reads(node):
                last[self._root(name)] = index
        return {**last, **{self._root(name): len(self._nodes) for name in self._outputs}}

    def _bytes(self, name: str) -> int | None:
        shape = self._shapes.get(name)
        return None if shape is None else stored_bytes(self._types.get(name) or _FLOAT, shape)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, in the graphs that it holds as well."""
    yield from node.input
    for graph in subgraphs(node):
        for inner in graph.node:
            yield from _reads(inner)
        yield from (output.name for output in graph.output)
