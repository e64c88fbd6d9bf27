"""Large tensors that stay out of ONNX Runtime's hands while it rewrites the graph around them.

They ride along as inputs of the graph: known type and shape, no values. So they cost no memory and are never
folded, transposed or copied (a tied embedding that is stored once stays stored once). Afterwards each is a
stored tensor again, with the same values. Initializers that a caller may override ride along too, whatever
their size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from onnxcompress.graph.bodies import at_output, graphs, innermost, is_standard, redirect
from onnxcompress.graph.constants import overridable
from onnxcompress.graph.edit import Namer
from onnxcompress.graph.layers import FLOAT_TYPES
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.scopes import Scope, Scopes

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEST = 1 << 26  # bytes that may go through the runtime in all
# operators that gain nothing from values known beforehand
_INDIFFERENT = frozenset({"MatMul", "Gemm", "Gather", "LSTM", "GRU", "RNN"})


@dataclass(frozen=True, eq=False)
class _Candidate:
    scope: Scope
    graph: onnx.GraphProto
    tensor: Tensor
    must: bool  # rides whatever the size of the model


@dataclass(frozen=True)
class Riders:
    """The model without its riders, which are inputs now, and the riders by the name of that input."""

    model: Model
    tensors: dict[str, Tensor]
    nested: frozenset[str]  # those that were stored in a subgraph


def take_out(model: Model, through: int) -> Riders | None:
    """Make inputs of the tensors that ride along; None where what is left is still too large.

    Tensors of up to ``through`` bytes never ride, larger ones do if knowing their values gains nothing.
    """
    twin = model.copy()
    scopes = Scopes(twin.proto)
    candidates = list(_candidates(twin, scopes, through))
    held = sum(map(twin.nbytes, twin.tensors())) - sum(twin.nbytes(c.tensor) for c in candidates if c.must)
    chosen = [c for c in candidates if c.must or held > MODEST]
    if held > MODEST and held - sum(twin.nbytes(c.tensor) for c in candidates if not c.must) > MODEST:
        return None
    namer = Namer(scopes.names())
    tensors, nested = {}, set()
    for candidate in chosen:
        name = candidate.tensor.name
        if candidate.scope.parent is not None:
            name = _rename(scopes, candidate, namer)
            nested.add(name)
        tensors[name] = _detach(twin, candidate, name)
    return Riders(twin, tensors, frozenset(nested))


def _candidates(model: Model, scopes: Scopes, through: int) -> Iterator[_Candidate]:
    fixed = overridable(model.proto)
    for scope, graph in graphs(scopes):
        for name, tensor in scope.initializers.items():
            large = model.nbytes(tensor) > through and tensor.data_type != Tensor.STRING
            if scope.parent is None and name in fixed:
                yield _Candidate(scope, graph, tensor, must=True)
            elif large and not at_output(scopes.uses(scope, name)):
                yield _Candidate(scope, graph, tensor, must=_gains_nothing(scopes, scope, tensor))


def _gains_nothing(scopes: Scopes, scope: Scope, tensor: Tensor) -> bool:
    """True where the values would not help, or where folding them could store them twice."""
    nodes = [use.node for use in scopes.uses(scope, tensor.name) if use.node is not None]
    if not all(is_standard(node) for node in nodes):
        return False  # kernels beyond the standard may demand to see their weights
    plain = tensor.data_type in FLOAT_TYPES and len(nodes) == 1
    return not plain or nodes[0].op_type in _INDIFFERENT


def _rename(scopes: Scopes, candidate: _Candidate, namer: Namer) -> str:
    """A name for a tensor of a subgraph that the main graph can define as well."""
    name = namer(candidate.tensor.name)
    redirect(scopes.uses(candidate.scope, candidate.tensor.name), name)
    return name


def _detach(model: Model, candidate: _Candidate, name: str) -> Tensor:
    kept = Tensor()
    kept.CopyFrom(candidate.tensor)
    kept.name = name
    candidate.graph.initializer.remove(candidate.tensor)
    if all(i.name != name for i in model.proto.graph.input):
        info = onnx.helper.make_tensor_value_info(name, kept.data_type, kept.dims)
        model.proto.graph.input.append(info)
    return kept


def put_back(proto: onnx.ModelProto, riders: Riders) -> None:
    """Store the riders again: those of subgraphs in the innermost graph that holds all their readers."""
    scopes = Scopes(proto)
    for name, tensor in riders.tensors.items():
        graph = proto.graph
        uses = scopes.uses(scopes.main, name)
        if name in riders.nested and uses and not at_output(uses):
            body = innermost([u.scope for u in uses]).body
            graph = body if isinstance(body, onnx.GraphProto) else graph
        graph.initializer.add().CopyFrom(tensor)
