"""Walks over the graphs of a model, and readers of a value given something else to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from onnxcompress.graph.scopes import Scope, Scopes, Use, attribute_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def graphs(scopes: Scopes) -> Iterator[tuple[Scope, onnx.GraphProto]]:
    """The main graph and all subgraphs, outer ones first; bodies of local functions are left out."""
    for scope in scopes.all:
        if isinstance(scope.body, onnx.GraphProto):
            yield scope, scope.body


def at_output(uses: Iterable[Use]) -> bool:
    """True where a graph hands the value on as one of its outputs."""
    return any(use.node is None for use in uses)


def redirect(uses: Iterable[Use], name: str) -> None:
    """Let nodes read another value."""
    for use in uses:
        if use.node is not None:
            use.node.input[use.index] = name


def is_standard(node: onnx.NodeProto, *operators: str) -> bool:
    """True for a node of the default domain that is one of these operators (any, where none are named)."""
    return node.domain in ("", "ai.onnx") and (not operators or node.op_type in operators)


def integer(node: onnx.NodeProto, name: str, default: int) -> int:
    """The value of an integer attribute."""
    value = attribute_value(node, name)
    return value if isinstance(value, int) else default


def number(node: onnx.NodeProto, name: str, default: float) -> float:
    """The value of a float attribute."""
    value = attribute_value(node, name)
    return float(value) if isinstance(value, (int, float)) else default


def innermost(scopes: list[Scope]) -> Scope:
    """The innermost scope that encloses all of these."""
    lines = [_line(scope) for scope in scopes]
    common = lines[0][0]
    for level in zip(*lines, strict=False):
        if any(scope is not level[0] for scope in level):
            break
        common = level[0]
    return common


def _line(scope: Scope) -> list[Scope]:
    """The scopes from the main graph down to this one."""
    line = [scope]
    while line[0].parent is not None:
        line.insert(0, line[0].parent)
    return line
