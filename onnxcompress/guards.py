"""What must hold after every pass: a sound structure behind an unchanged interface.

* inputs and outputs: the same names, order, types and dimensions as before;
* every name that is read is defined, once, in a graph that the reader can see, and before it is read;
* every domain in use has its operator set imported;
* every stored tensor has its values: in itself or in a payload of the model.

What fails here is a defect of the pass, never of the user's model.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import onnx

from onnxcompress.errors import OnnxCompressError
from onnxcompress.graph.interface import Interface, ValueSpec, interface
from onnxcompress.graph.scopes import subgraphs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from onnxcompress.graph.model import Model


class GuardFailure(OnnxCompressError):
    """A pass has broken the model."""

    exit_code = 4


def check(before: Interface, model: Model, after: str) -> None:
    """Check a model after the pass of that name; ``before`` is the interface that it had when it was read.

    Raises:
        GuardFailure: something does not hold; the message names the pass and the first thing found.
    """
    for finding in findings(before, model):
        raise GuardFailure(
            f"the pass {after!r} has broken the model: {finding}",
            f"This is a defect of {after!r}: leave it out of the recipe, and report it with the model.",
        )


def findings(before: Interface, model: Model) -> Iterator[str]:
    """Everything that does not hold, as parts of a sentence."""
    now = interface(model.proto)
    yield from _changed("input", before.inputs, now.inputs)
    yield from _changed("output", before.outputs, now.outputs)
    yield from _unsound(model.proto)
    yield from _not_imported(model.proto)
    for tensor in model.tensors():
        if tensor.data_location == onnx.TensorProto.EXTERNAL and model.has_data(tensor):
            yield f"the tensor {tensor.name!r} has lost its values"


def _changed(kind: str, before: tuple[ValueSpec, ...], now: tuple[ValueSpec, ...]) -> Iterator[str]:
    if [v.name for v in before] != [v.name for v in now]:
        yield f"its {kind}s are {[v.name for v in now]} in place of {[v.name for v in before]}"
        return
    for old, new in zip(before, now, strict=True):
        if (old.dtype, old.elem_type) != (new.dtype, new.elem_type):
            yield f"the {kind} {old.name!r} has the type {new.dtype} in place of {old.dtype}"
        elif old.shape != new.shape:
            yield f"the {kind} {old.name!r} has the shape {new.shape} in place of {old.shape}"


# ------------------------------------------------------------------------- names


def _unsound(proto: onnx.ModelProto) -> Iterator[str]:
    yield from _graph(proto.graph, frozenset(), "the graph")
    for function in proto.functions:
        where = f"the function {function.name!r}"
        seen = set(function.input)
        yield from _nodes(function.node, seen, frozenset(), where)
        yield from (f"the output {o!r} of {where} is not defined" for o in function.output if o not in seen)


def _graph(graph: onnx.GraphProto, outer: frozenset[str], where: str) -> Iterator[str]:
    inputs = [i.name for i in graph.input]
    stored = [t.name for t in graph.initializer] + [s.values.name for s in graph.sparse_initializer]
    for kind, names in (("input", inputs), ("initializer", stored)):
        yield from (f"{where} has two {kind}s called {name!r}" for name in _repeated(names))
    called = [n.name for n in graph.node if n.name]
    yield from (f"{where} has two nodes called {name!r}" for name in _repeated(called))
    seen = {*inputs, *stored}
    yield from _nodes(graph.node, seen, outer, where)
    visible = outer | seen
    yield from (f"the output {o.name!r} of {where} is not defined" for o in graph.output if o.name not in visible)


def _nodes(nodes: Iterable[onnx.NodeProto], seen: set[str], outer: frozenset[str], where: str) -> Iterator[str]:
    """Problems of nodes in their order; the names that they define are added to ``seen``."""
    for node in nodes:
        label = f"the node {node.name or node.output[0]!r} ({node.op_type})" if node.output else node.op_type
        for name in node.input:
            if name and name not in seen and name not in outer:
                yield f"{label} in {where} reads {name!r}, which is not defined before it"
        for graph in subgraphs(node):
            yield from _graph(graph, outer | seen, f"a subgraph of {label}")
        for name in filter(None, node.output):
            if name in seen:
                yield f"{where} defines {name!r} twice"
            seen.add(name)


def _repeated(names: list[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


# ------------------------------------------------------------------------- operator sets


def _not_imported(proto: onnx.ModelProto) -> Iterator[str]:
    yield from _domains(proto.graph.node, {o.domain for o in proto.opset_import})
    for function in proto.functions:
        yield from _domains(function.node, {o.domain for o in function.opset_import})


def _domains(nodes: Iterable[onnx.NodeProto], imported: set[str]) -> Iterator[str]:
    """Domains of nodes that are not imported; the default one has two names."""
    imported = imported | ({"", "ai.onnx"} if imported & {"", "ai.onnx"} else set())
    for node in nodes:
        if node.domain not in imported:
            yield f"the domain {node.domain!r} of {node.op_type} is not imported"
        for graph in subgraphs(node):
            yield from _domains(graph.node, imported)
