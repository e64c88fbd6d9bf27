"""Looks at a model file: everything is put together here, each part is found where its name says."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

import onnx

from onnxcompress.graph.interface import interface
from onnxcompress.graph.model import Model
from onnxcompress.graph.payload import element_count
from onnxcompress.graph.scopes import Scopes
from onnxcompress.graph.shapes import NOT_INFERRED
from onnxcompress.inspection import arithmetic, liveness, remarks
from onnxcompress.inspection.facts import FunctionFacts, Inspection, Options, PortFacts, StoredFacts
from onnxcompress.inspection.groups import by_dtype, by_operator
from onnxcompress.inspection.prospects import prospects
from onnxcompress.inspection.shapes import Shapes, find
from onnxcompress.inspection.statistics import statistics
from onnxcompress.inspection.stored import Stored, stored_tensors
from onnxcompress.provenance import tool
from onnxcompress.verify.facts import model_facts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from onnxcompress.graph.interface import ValueSpec
    from onnxcompress.inspection.arithmetic import Counted
    from onnxcompress.report import ModelFacts

_STANDARD = ("", "ai.onnx", "ai.onnx.ml")


def inspect(path: Path, options: Options | None = None) -> Inspection:
    """Everything that can be said of a model file.

    Raises:
        UsageError: there is no such file.
        ModelError: it is no usable model.
    """
    options = options or Options()
    model = Model.open(path)
    flat = _inlined(model)
    scopes = Scopes(model.proto)
    flat_scopes = scopes if flat is model else Scopes(flat.proto)
    options.progress.start("running it once" if options.run else "inferring shapes")
    shapes = find(flat, flat_scopes, options)
    counted = arithmetic.counted(flat_scopes, shapes.tables)
    facts = model_facts(model, macs=arithmetic.total(counted) if _known(counted) else None)
    tensors = _tensors(model, list(stored_tensors(scopes, flat_scopes)), counted, facts.size_bytes, options)
    options.progress.finish()
    facts = dataclasses.replace(facts, nonzero=_nonzero(tensors, facts.parameters))
    return _put_together(model, scopes, flat_scopes, shapes, counted, facts, tensors)


def _inlined(model: Model) -> Model:
    """The model with its functions written out where they are called; as it is where that cannot be done."""
    if not model.proto.functions:
        return model
    from onnx import inliner

    twin = model.copy()
    try:
        twin.adopt(inliner.inline_local_functions(twin.proto))
    except NOT_INFERRED:
        return model
    return twin


def _known(counted: Sequence[Counted]) -> bool:
    return not counted or any(item.macs is not None for item in counted)


def _put_together(
    model: Model,
    scopes: Scopes,
    flat_scopes: Scopes,
    shapes: Shapes,
    counted: Sequence[Counted],
    facts: ModelFacts,
    tensors: tuple[StoredFacts, ...],
) -> Inspection:
    proto, ports = model.proto, interface(model.proto)
    live = liveness.activations(flat_scopes, shapes.tables[0], shapes.types)
    uncounted = sum(item.macs is None for item in counted)
    integers = remarks.quantized_operators(proto, scopes)
    functions, domains = _functions(proto), _domains(proto, scopes)
    notes = (
        *shapes.notes,
        *remarks.structure(scopes, functions, domains),
        *remarks.contents(tensors, integers),
        *remarks.counting(uncounted, live, ran=shapes.source == "run"),
    )
    return Inspection(
        tool=tool(), model=facts, producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        ir_version=proto.ir_version, opsets={o.domain or "ai.onnx": o.version for o in proto.opset_import},
        metadata={entry.key: entry.value for entry in proto.metadata_props},
        nodes=sum(len(scope.body.node) for scope in scopes.all), subgraphs=_subgraphs(scopes), functions=functions,
        domains=domains, inputs=_ports(ports.inputs, shapes), outputs=_ports(ports.outputs, shapes),
        shapes_from=shapes.source, uncounted=uncounted, activations=live,
        by_dtype=by_dtype(tensors, facts.size_bytes), by_operator=by_operator(flat_scopes, tensors, counted, facts),
        tensors=tensors, notes=notes,
        prospects=prospects(
            tensors, facts.size_bytes, folded=len(liveness.folded_nodes(flat_scopes)), integers=bool(integers)
        ),
    )  # fmt: skip


# ------------------------------------------------------------------------- structure


def _subgraphs(scopes: Scopes) -> int:
    return sum(scope.parent is not None for scope in scopes.all)


def _functions(proto: onnx.ModelProto) -> tuple[FunctionFacts, ...]:
    return tuple(FunctionFacts(f"{f.domain}::{f.name}", len(f.node)) for f in proto.functions)


def _domains(proto: onnx.ModelProto, scopes: Scopes) -> dict[str, int]:
    """Nodes of other domains than the standard ones, calls of the model's own functions left out."""
    own = {(f.domain, f.name) for f in proto.functions}
    nodes = (node for scope in scopes.all for node in scope.body.node)
    return dict(Counter(n.domain for n in nodes if n.domain not in _STANDARD and (n.domain, n.op_type) not in own))


def _ports(specs: Sequence[ValueSpec], shapes: Shapes) -> tuple[PortFacts, ...]:
    return tuple(
        PortFacts(s.name, "no tensor" if s.dtype is None else type_name(s.elem_type), s.shape, _seen(s, shapes))
        for s in specs
    )


def _seen(spec: ValueSpec, shapes: Shapes) -> tuple[int, ...] | None:
    return shapes.tables[0].get(spec.name)


def type_name(number: int) -> str:
    """``float32``, ``int8``, ``string``, ..."""
    name = str(onnx.TensorProto.DataType.Name(number)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


# ------------------------------------------------------------------------- tensors


def _tensors(
    model: Model, stored: Sequence[Stored], counted: Sequence[Counted], size_bytes: int, options: Options
) -> tuple[StoredFacts, ...]:
    """Facts of each tensor; its values are read here, a block at a time."""
    macs = _macs_by_weight(stored, counted)
    options.progress.start("reading tensors", len(stored))
    found = []
    for item in stored:
        options.progress.advance(item.name)
        nbytes = model.nbytes(item.tensor)
        readers = dict.fromkeys(u.node.name or u.node.output[0] for u in item.uses if u.node is not None)
        found.append(
            StoredFacts(
                name=item.name, operator=item.operator, readers=tuple(readers), layers=len(item.weight_uses),
                dtype=type_name(item.tensor.data_type), shape=tuple(item.tensor.dims), size_bytes=nbytes,
                share=nbytes / size_bytes, macs=macs.get(id(item)), statistics=statistics(model, item.tensor),
            )
        )  # fmt: skip
    return tuple(found)


def _macs_by_weight(stored: Sequence[Stored], counted: Sequence[Counted]) -> dict[int, int]:
    """The multiply-adds of layers, divided among the weights that each reads by their numbers of values."""
    known = {id(item.node): item.macs for item in counted if item.macs is not None}
    shares: dict[int, list[tuple[Stored, int]]] = {}
    for item in stored:
        for use in item.weight_uses:
            if id(use.node) in known:
                shares.setdefault(id(use.node), []).append((item, element_count(list(item.tensor.dims))))
    found: Counter[int] = Counter()
    for node, parts in shares.items():
        whole = sum(values for _, values in parts)
        for item, values in parts:
            found[id(item)] += round((known[node] or 0) * values / whole) if whole else 0
    return dict(found)


def _nonzero(tensors: Sequence[StoredFacts], parameters: int) -> int:
    """Parameters that are not zero; which tensors are none of them, see `verify.facts.count_parameters`."""
    counted = [t for t in tensors if t.statistics is not None and t.dtype not in ("int64", "bool", "string")]
    return parameters - sum(t.statistics.zeros for t in counted if t.statistics is not None)
