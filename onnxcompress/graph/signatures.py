"""Whether nodes have the inputs and attributes that their operators ask for, as far as the installed onnx knows them.

Who reads a node need not ask then whether the second input of a MatMul is there, or whether a ``perm`` is a list.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import onnx

from onnxcompress.errors import ModelError
from onnxcompress.graph.scopes import subgraphs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_HINT = "The file is damaged or was made by hand; export the model again."
_UNREAL = 1 << 16  # no operator set has such a version
_STANDARD = ("", "ai.onnx")

_Functions = frozenset[tuple[str, str]]


def check_signatures(proto: onnx.ModelProto) -> None:
    """Check nodes at every depth.

    Raises:
        ModelError: an operator set is of no possible version, a node has fewer inputs than its operator needs, or an
            attribute of another type.
    """
    own = frozenset((function.domain, function.name) for function in proto.functions)
    _check(proto.graph.node, _versions(proto.opset_import), own)
    for function in proto.functions:
        _check(function.node, _versions(function.opset_import), own)


def _versions(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    found = {}
    for known in imports:
        if known.domain in _STANDARD and not 0 < known.version < _UNREAL:
            raise ModelError(f"the model declares the opset {known.version}, and there is none of that number", _HINT)
        found["" if known.domain in _STANDARD else known.domain] = min(max(known.version, 1), _UNREAL)
    return found


def _check(nodes: Iterable[onnx.NodeProto], versions: Mapping[str, int], own: _Functions) -> None:
    for node in nodes:
        domain = "" if node.domain in _STANDARD else node.domain
        if (node.domain, node.op_type) not in own:
            _check_node(node, _schema(node.op_type, domain, versions.get(domain, _UNREAL)))
        for graph in subgraphs(node):
            _check(graph.node, versions, own)


def _check_node(node: onnx.NodeProto, schema: onnx.defs.OpSchema | None) -> None:
    if schema is None:
        return
    label = next(filter(None, node.output), node.name)
    if len(node.input) < schema.min_input:
        raise ModelError(
            f"the node {label!r} ({node.op_type}) has {len(node.input)} inputs and needs {schema.min_input}", _HINT
        )
    known = schema.attributes
    for attribute in node.attribute:
        declared = known.get(attribute.name) if attribute.type else None  # models of IR version 1 have no types
        wanted = None if declared is None else int(declared.type)  # type: ignore[call-overload] # an enumeration
        if wanted not in (None, attribute.type):
            raise ModelError(
                f"the node {label!r} ({node.op_type}) has the attribute {attribute.name!r} in a wrong type",
                _HINT,
            )


@cache
def _schema(op: str, domain: str, version: int) -> onnx.defs.OpSchema | None:
    """The operator as it was in a version of its set; None for one that onnx does not know."""
    try:
        return onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        return None
