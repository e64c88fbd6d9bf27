"""Undo the writing out of operators for which ONNX Runtime's CPU has no kernel of that type.

An operator that the standard defines as a function (GroupNormalization, Softmax in half precision) is
replaced by its body, whose values are called ``_inlfunc_…``. That belongs to the one processor. The operator
comes back as the producer of its output, and what it replaces is dead code then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.graph.bodies import graphs
from onnxcompress.graph.dead import remove_dead
from onnxcompress.graph.scopes import Scope, Scopes

if TYPE_CHECKING:
    import onnx

_MARK = "_inlfunc_"


def collapse(proto: onnx.ModelProto, original: onnx.ModelProto) -> bool:
    """Put such operators back; False where some of what they were written out to is left."""
    functions = tuple(f"{_MARK}{f.name}_" for f in original.functions)
    if not _written_out(proto, functions):
        return True
    authored = {n.output[0]: n for _, graph in graphs(Scopes(original)) for n in graph.node if n.output}
    for scope, graph in graphs(Scopes(proto)):
        _collapse_in(scope, graph, authored)
    remove_dead(proto)
    return not _written_out(proto, functions)


def _written_out(proto: onnx.ModelProto, functions: tuple[str, ...]) -> bool:
    """True where values of operators' bodies are left; those of local functions may be."""
    names = (name for _, graph in graphs(Scopes(proto)) for node in graph.node for name in node.output)
    return any(name.startswith(_MARK) and not name.startswith(functions) for name in names)


def _collapse_in(scope: Scope, graph: onnx.GraphProto, authored: dict[str, onnx.NodeProto]) -> None:
    later = {name for node in graph.node for name in node.output}
    for node in graph.node:
        source = authored.get(node.output[0]) if node.output else None
        if source is not None and len(source.output) == 1 and any(n.startswith(_MARK) for n in node.input):
            needed = [name for name in source.input if name]
            if later.isdisjoint(needed) and all(scope.resolve(name) is not None for name in needed):
                node.CopyFrom(source)
        later.difference_update(node.output)
