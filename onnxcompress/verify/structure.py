"""What must hold of the file itself: valid ONNX, the same interface, the metadata kept, no larger.

A dimension may be named otherwise, but a fixed one stays fixed and a dynamic one dynamic. Only that of an
output may become fixed: it follows from the inputs, and whether it was written down depends on who wrote the
file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from onnxcompress.graph.interface import Dim, ValueSpec, interface
from onnxcompress.report import BudgetResult
from onnxcompress.verify.facts import size_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxcompress.graph.model import Model

_OWN_METADATA = "onnxcompress."


def structure_checks(original: Model, compressed: Model) -> tuple[BudgetResult, ...]:
    """The standing checks that need no run. What a result says of its own making does not count as its size."""
    before, after = size_bytes(original), size_bytes(compressed)
    told = sum(p.ByteSize() + 8 for p in compressed.proto.metadata_props if p.key.startswith(_OWN_METADATA))
    return (
        _check("checker", "valid ONNX", _new_fault(original, compressed)),
        _check("interface", "as in the original", interface_difference(original.proto, compressed.proto)),
        _check("metadata", "kept", metadata_difference(original.proto, compressed.proto)),
        BudgetResult("size", float(before), float(after), after - told <= before),
    )


def _check(name: str, wanted: str, fault: str | None) -> BudgetResult:
    return BudgetResult(name, wanted, fault or wanted, fault is None)


def interface_difference(original: onnx.ModelProto, compressed: onnx.ModelProto) -> str | None:
    """The first difference of inputs or outputs, in words."""
    a, b = interface(original), interface(compressed)
    return (
        _ports_difference("input", a.inputs, b.inputs)
        or _ports_difference("output", a.outputs, b.outputs)
        or _other_types(original, compressed)
    )


def _ports_difference(kind: str, a: Sequence[ValueSpec], b: Sequence[ValueSpec]) -> str | None:
    names = [p.name for p in a], [p.name for p in b]
    if names[0] != names[1]:
        return f"the {kind}s are {', '.join(names[1]) or 'none'} instead of {', '.join(names[0]) or 'none'}"
    for x, y in zip(a, b, strict=True):
        if x.elem_type != y.elem_type:
            return f"{kind} {x.name!r} has the type {_type(y)} instead of {_type(x)}"
        if x.shape is not None and not _same_dims(x.shape, y.shape, may_settle=kind == "output"):
            return f"{kind} {x.name!r} has the shape {_shape(y.shape)} instead of {_shape(x.shape)}"
    return None


def _same_dims(a: tuple[Dim, ...], b: tuple[Dim, ...] | None, *, may_settle: bool) -> bool:
    if b is None or len(a) != len(b):
        return False
    fixed = [(isinstance(x, int), isinstance(y, int), x == y) for x, y in zip(a, b, strict=True)]
    return all(same if before and after else before == after or (after and may_settle) for before, after, same in fixed)


def _other_types(original: onnx.ModelProto, compressed: onnx.ModelProto) -> str | None:
    """A difference of a type that is no tensor: sequence, map, optional."""
    for a, b in zip(original.graph.output, compressed.graph.output, strict=True):
        kinds = a.type.WhichOneof("value"), b.type.WhichOneof("value")
        if kinds[0] != kinds[1]:
            return f"output {a.name!r} is a {kinds[1]} instead of a {kinds[0]}"
    return None


def _type(spec: ValueSpec) -> str:
    return onnx.TensorProto.DataType.Name(spec.elem_type) if spec.elem_type else "unknown"


def _shape(dims: tuple[Dim, ...] | None) -> str:
    return "unknown" if dims is None else "[" + ", ".join("?" if d is None else str(d) for d in dims) + "]"


def metadata_difference(original: onnx.ModelProto, compressed: onnx.ModelProto) -> str | None:
    """Entries of the original that are gone or changed, in words; our own do not count."""
    kept = {p.key: p.value for p in compressed.metadata_props}
    lost = [
        p.key for p in original.metadata_props if not p.key.startswith(_OWN_METADATA) and kept.get(p.key) != p.value
    ]
    return f"lost or changed: {', '.join(lost[:5])}" if lost else None


def _new_fault(original: Model, compressed: Model) -> str | None:
    """What the ONNX checker objects to, unless it already objects to the original."""
    fault = checker_fault(compressed)
    return fault if fault and not checker_fault(original) else None


def checker_fault(model: Model) -> str | None:
    """What the ONNX checker objects to; it sees the structure, with the data of large tensors left out."""
    twin = model.copy()
    for tensor in twin.tensors():
        if not twin.has_data(tensor):  # an empty tensor is complete without data
            tensor.dims[:] = [0] * len(tensor.dims)
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    try:
        onnx.checker.check_model(twin.proto)
    except (onnx.checker.ValidationError, ValueError) as error:
        return " ".join(str(error).split())[:300]
    return None
