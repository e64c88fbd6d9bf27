"""Inputs and outputs of two models: what differs, and whether both can be run on the same calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.comparing.facts import PortChange
from onnxcompress.data.fit import describe, fixed
from onnxcompress.errors import ModelError
from onnxcompress.graph.interface import interface

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnxcompress.graph.interface import ValueSpec
    from onnxcompress.graph.model import Model


def port_changes(a: Model, b: Model) -> Iterator[PortChange]:
    """Inputs and outputs that are not declared alike; names of open dimensions do not count."""
    one, other = interface(a.proto), interface(b.proto)
    yield from _changes("input", one.inputs, other.inputs)
    yield from _changes("output", one.outputs, other.outputs)


def _changes(kind: str, a: Sequence[ValueSpec], b: Sequence[ValueSpec]) -> Iterator[PortChange]:
    one, other = {s.name: s for s in a}, {s.name: s for s in b}
    for name in dict.fromkeys((*one, *other)):
        x, y = one.get(name), other.get(name)
        if x is None or y is None or not _alike(x, y):
            said = [None if s is None else describe(s) for s in (x, y)]
            yield PortChange("input" if kind == "input" else "output", name, *said)


def _alike(x: ValueSpec, y: ValueSpec) -> bool:
    if x.elem_type != y.elem_type or (x.shape is None) != (y.shape is None):
        return False
    return [fixed(d) for d in x.shape or ()] == [fixed(d) for d in y.shape or ()]


def require_same_inputs(a: Model, b: Model) -> None:
    """Refuse models that cannot be run on the same calls; where one leaves a size open, the other may fix it.

    Raises:
        ModelError: inputs differ in name, type, rank or a fixed size.
    """
    one, other = ({s.name: s for s in interface(m.proto).inputs} for m in (a, b))
    for name in dict.fromkeys((*one, *other)):
        fault = _fault(name, one.get(name), other.get(name))
        if fault is not None:
            raise ModelError(
                f"the models take different inputs: {fault}",
                "Only models with the same inputs can be compared; rename or fix them in one of the models.",
            )


def _fault(name: str, x: ValueSpec | None, y: ValueSpec | None) -> str | None:
    if x is None or y is None:
        return f"only the {'second' if x is None else 'first'} has {name!r}"
    if x.elem_type != y.elem_type or not _fit(x.shape, y.shape):
        return f"{name!r} is {describe(x)} in the first and {describe(y)} in the second"
    return None


def _fit(x: Sequence[int | str | None] | None, y: Sequence[int | str | None] | None) -> bool:
    if x is None or y is None:
        return True
    pairs = [(fixed(m), fixed(n)) for m, n in zip(x, y, strict=False)]
    return len(x) == len(y) and all(m is None or n is None or m == n for m, n in pairs)
