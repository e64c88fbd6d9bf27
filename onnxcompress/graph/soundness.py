"""Whether a graph that was read can be one at all: nodes with results, names defined once, no cycles, data that fit.

What is found here is the fault of the file, so it is said before any pass touches the model.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import onnx

from onnxcompress.errors import ModelError
from onnxcompress.graph.payload import element_count, stored_bytes
from onnxcompress.graph.scopes import subgraphs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_HINT = "The file is damaged or was made by hand; export the model again."

# data types of one stored element per value; the others are packed or stored as pairs
_TYPED: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float_data",
    onnx.TensorProto.DOUBLE: "double_data",
    onnx.TensorProto.INT32: "int32_data",
    onnx.TensorProto.INT64: "int64_data",
    onnx.TensorProto.UINT64: "uint64_data",
    onnx.TensorProto.UINT32: "uint64_data",
    onnx.TensorProto.STRING: "string_data",
    **dict.fromkeys(
        (
            onnx.TensorProto.INT8,
            onnx.TensorProto.UINT8,
            onnx.TensorProto.INT16,
            onnx.TensorProto.UINT16,
            onnx.TensorProto.BOOL,
            onnx.TensorProto.FLOAT16,
            onnx.TensorProto.BFLOAT16,
        ),
        "int32_data",
    ),
}


def check_values(tensor: onnx.TensorProto) -> None:
    """Check that the values in a tensor itself are as many as its shape says, without making an array.

    Raises:
        ModelError: there are more or fewer.
    """
    if tensor.data_type not in _TYPED:
        return
    if tensor.HasField("raw_data"):
        fits = tensor.data_type != onnx.TensorProto.STRING and len(tensor.raw_data) == stored_bytes(
            tensor.data_type, tensor.dims
        )
    else:
        fits = len(getattr(tensor, _TYPED[tensor.data_type])) == element_count(list(tensor.dims))
    if not fits:
        raise ModelError(f"the tensor {tensor.name!r} holds data that do not fit its shape {list(tensor.dims)}", _HINT)


def check_graph(proto: onnx.ModelProto) -> None:
    """Check nodes and names at every depth.

    Raises:
        ModelError: a node has no output, a name is defined twice in one graph, two functions have one name, or nodes
            depend on each other in a circle or on a name that nothing defines.
    """
    _refuse(_graph(proto.graph))
    named = ["/".join(filter(None, (f.domain, f.name, f.overload))) for f in proto.functions]
    _once(named, "functions", "the model")
    for function in proto.functions:
        _refuse(_free(function.node, list(function.input), list(function.output)))


def _refuse(free: Mapping[str, onnx.NodeProto | None]) -> None:
    """Raise ModelError for the first name that is read and defined nowhere."""
    for name, reader in free.items():
        if reader is None:
            raise ModelError(f"the output {name!r} is not defined", _HINT)
        raise ModelError(
            f"the node {_label(reader)!r} ({reader.op_type}) reads {name!r}, which is not defined", _HINT
        )  # fmt: skip


def _graph(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto | None]:
    """The names that a graph reads from around it, each with a node that reads it; None for an output."""
    stored = [t.name for t in graph.initializer] + [s.values.name for s in graph.sparse_initializer]
    _once(stored, "initializers")
    inputs = [i.name for i in graph.input]
    _once(inputs, "inputs")
    return _free(graph.node, [*inputs, *stored], [o.name for o in graph.output])


def _free(
    nodes: Sequence[onnx.NodeProto], given: Sequence[str], outputs: Sequence[str]
) -> dict[str, onnx.NodeProto | None]:
    """The same for a list of nodes; ``given`` are its inputs and initializers.

    Graphs are sorted as a rule, and then one pass is enough: cycles are looked for only where one is not.
    """
    defined, late = set(given), list[tuple[onnx.NodeProto, list[str]]]()
    reads = [_reads(node) for node in nodes]
    for node, names in zip(nodes, reads, strict=True):
        if missing := [name for name in names if name and name not in defined]:
            late.append((node, missing))
        found = [name for name in node.output if name]
        if not found:
            raise ModelError(f"the node {node.name!r} ({node.op_type}) has no output", _HINT)
        for name in found:
            if name in defined:
                raise ModelError(f"the graph defines the name {name!r} twice", _HINT)
            defined.add(name)
    if any(name in defined for _, missing in late for name in missing):
        _acyclic(nodes, reads)
    free: dict[str, onnx.NodeProto | None] = {}
    for node, missing in late:
        free |= {name: node for name in missing if name not in defined and name not in free}
    return free | {name: None for name in outputs if name not in defined and name not in free}


def _reads(node: onnx.NodeProto) -> list[str]:
    """Every name that a node, or a graph in it, reads from around it."""
    names = list(node.input)
    for graph in subgraphs(node):
        names += _graph(graph)
    return names


def _label(node: onnx.NodeProto) -> str:
    return next(filter(None, node.output), node.name)


def _acyclic(nodes: Sequence[onnx.NodeProto], reads: Sequence[Iterable[str]]) -> None:
    """Take away nodes whose inputs are there until none is left (Kahn's algorithm), in linear time."""
    maker = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    waits = [{maker[name] for name in names if name in maker} for names in reads]
    readers: list[list[int]] = [[] for _ in nodes]
    for index, before in enumerate(waits):
        for other in before:
            readers[other].append(index)
    open_ = [len(before) for before in waits]
    ready = [index for index, count in enumerate(open_) if count == 0]
    done = 0
    while ready:
        done += 1
        for reader in readers[ready.pop()]:
            open_[reader] -= 1
            if open_[reader] == 0:
                ready.append(reader)
    if done < len(nodes):
        stuck = nodes[next(index for index, count in enumerate(open_) if count)]
        raise ModelError(f"the node {_label(stuck)!r} ({stuck.op_type}) depends on its own result", _HINT)


def _once(names: Sequence[str], kind: str, where: str = "a graph") -> None:
    """Raise ModelError for the first name that is there twice."""
    for name, count in Counter(names).items():
        if count > 1:
            raise ModelError(f"{where} has two {kind} called {name!r}", _HINT)
