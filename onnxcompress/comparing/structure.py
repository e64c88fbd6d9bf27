"""What differs in the files of two models, from what an inspection of each found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.comparing.facts import Both, Structure
from onnxcompress.comparing.ports import port_changes
from onnxcompress.comparing.tensors import Tensors, tensor_changes
from onnxcompress.graph.scopes import Scopes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from onnxcompress.graph.model import Model
    from onnxcompress.inspection.facts import Inspection


def structure(models: tuple[Model, Model], found: tuple[Inspection, Inspection]) -> Structure:
    """All differences that need no run."""
    a, b = (Tensors(m, Scopes(m.proto), i.tensors) for m, i in zip(models, found, strict=True))
    tensors, same = tensor_changes(a, b)
    facts = tuple(item for item in _facts(*found) if item.a != item.b)
    return Structure(facts, tuple(_operators(*found)), tensors, same, tuple(port_changes(*models)))


def _facts(a: Inspection, b: Inspection) -> Iterator[Both]:
    yield Both("size_bytes", a.model.size_bytes, b.model.size_bytes)
    yield Both("parameters", a.model.parameters, b.model.parameters)
    yield Both("macs", a.model.macs, b.model.macs)
    yield Both("nodes", a.nodes, b.nodes)
    yield Both("stored tensors", len(a.tensors), len(b.tensors))
    yield Both("subgraphs", a.subgraphs, b.subgraphs)
    yield Both("functions", len(a.functions), len(b.functions))
    yield Both("ir_version", a.ir_version, b.ir_version)
    yield Both("producer", a.producer, b.producer)
    yield from _entries("opset", a.opsets, b.opsets)
    yield from _entries("metadata", a.metadata, b.metadata)


def _entries(kind: str, a: Mapping[str, str | int], b: Mapping[str, str | int]) -> Iterator[Both]:
    for name in dict.fromkeys((*a, *b)):
        yield Both(f"{kind} {name}", a.get(name), b.get(name))


def _operators(a: Inspection, b: Inspection) -> Iterator[Both]:
    """Numbers of nodes that differ, the largest difference first."""
    one, other = ({o.name: o.nodes for o in found.by_operator if o.nodes} for found in (a, b))
    rows = [Both(name, one.get(name, 0), other.get(name, 0)) for name in dict.fromkeys((*one, *other))]
    yield from sorted(
        (row for row in rows if row.a != row.b), key=lambda row: (-abs(int(row.a or 0) - int(row.b or 0)), row.name)
    )
