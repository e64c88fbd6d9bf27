"""Who defines a name and who reads it, across nested graphs and local functions.

ONNX names are lexically scoped: a body of If, Loop or Scan sees the names of the graphs around it and may shadow
them; a local function sees nothing but its own (https://onnx.ai/onnx/repo-docs/IR.html).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from onnxcompress.graph.model import Tensor

Body = onnx.GraphProto | onnx.FunctionProto


@dataclass(eq=False)
class Scope:
    """One graph or function body. ``path`` names the nodes that enclose it, outermost first."""

    body: Body
    parent: Scope | None
    path: tuple[str, ...]
    defined: set[str] = field(default_factory=set)
    initializers: dict[str, Tensor] = field(default_factory=dict)
    constants: dict[str, onnx.NodeProto] = field(default_factory=dict)  # output name -> Constant node
    producers: dict[str, onnx.NodeProto] = field(default_factory=dict)

    @property
    def is_function(self) -> bool:
        """True for the body of a local function, which can hold no initializers."""
        return isinstance(self.body, onnx.FunctionProto)

    def resolve(self, name: str) -> Scope | None:
        """The scope that defines a name, seen from this one."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.defined:
                return scope
            scope = scope.parent
        return None


@dataclass(frozen=True, eq=False)
class Use:
    """One place that reads a value: an input of a node, or (``node`` None) an output of the graph."""

    scope: Scope
    node: onnx.NodeProto | None
    index: int


class Scopes:
    """All scopes of a model with the uses of every value, as they were when this was made."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.all: list[Scope] = []
        self._uses: dict[tuple[int, str], list[Use]] = {}
        self.main = self._enter(model.graph, None, ())
        for function in model.functions:
            self._enter(function, None, (f"{function.domain}::{function.name}",))
        for scope in self.all:
            self._note_uses(scope)

    def _enter(self, body: Body, parent: Scope | None, path: tuple[str, ...]) -> Scope:
        scope = Scope(body, parent, path)
        self.all.append(scope)
        if isinstance(body, onnx.GraphProto):
            scope.initializers = {t.name: t for t in body.initializer}
            scope.defined |= {i.name for i in body.input} | set(scope.initializers)
            scope.defined |= {s.values.name for s in body.sparse_initializer}
        else:
            scope.defined |= set(body.input)
        for node in body.node:
            for name in node.output:
                scope.defined.add(name)
                scope.producers[name] = node
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx") and constant_tensor(node) is not None:
                scope.constants[node.output[0]] = node
        for node in body.node:
            for graph in subgraphs(node):
                self._enter(graph, scope, (*path, node.name or node.output[0]))
        return scope

    def _note_uses(self, scope: Scope) -> None:
        for node in scope.body.node:
            for index, name in enumerate(node.input):
                if name:
                    self._note(name, Use(scope, node, index))
        outputs: Iterable[str] = (
            scope.body.output if isinstance(scope.body, onnx.FunctionProto) else [o.name for o in scope.body.output]
        )
        for index, name in enumerate(outputs):
            self._note(name, Use(scope, None, index))

    def _note(self, name: str, use: Use) -> None:
        owner = use.scope.resolve(name)
        if owner is not None:
            self._uses.setdefault((id(owner), name), []).append(use)

    def uses(self, scope: Scope, name: str) -> list[Use]:
        """Everything that reads the value of that name which ``scope`` defines."""
        return self._uses.get((id(scope), name), [])

    def names(self) -> set[str]:
        """Every name in use anywhere, so that new ones can avoid them."""
        return {name for scope in self.all for name in scope.defined}


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in the attributes of a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def constant_tensor(node: onnx.NodeProto) -> Tensor | None:
    """The tensor in the ``value`` of a Constant node; None for its other kinds of value."""
    for attribute in node.attribute:
        if attribute.name == "value" and attribute.HasField("t"):
            tensor: Tensor = attribute.t
            return tensor
    return None


def attribute_value(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """The value of an attribute as onnx gives it, or the default."""
    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return default
