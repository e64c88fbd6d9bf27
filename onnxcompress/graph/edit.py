"""Changes of a model as values: a pass says what is to change, and one loop here changes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from onnxcompress.graph.model import Model, Tensor
    from onnxcompress.graph.scopes import Scope

_INITIALIZER_IR = 4  # from this IR on an initializer need not be an input as well


@dataclass(frozen=True)
class NewTensor:
    """A tensor to be stored; its values are computed when it is written."""

    name: str
    data_type: int
    dims: tuple[int, ...]
    compute: Callable[[], np.ndarray]


@dataclass(frozen=True, eq=False)
class Replacement:
    """Nodes that come in the place of one node. Those in ``shared`` are left out where they stand already."""

    scope: Scope
    node: onnx.NodeProto
    nodes: tuple[onnx.NodeProto, ...]
    shared: tuple[onnx.NodeProto, ...] = ()


@dataclass(frozen=True, eq=False)
class Rewire:
    """One input of a node reads another value."""

    node: onnx.NodeProto
    index: int
    name: str


@dataclass(frozen=True, eq=False)
class Edit:
    """All that happens to one weight.

    ``prelude`` are nodes over constants alone, put at the head of ``scope``; ``removed`` are nodes and
    ``dropped`` the initializers of that scope that nothing reads any more.
    """

    scope: Scope
    tensors: tuple[NewTensor, ...] = ()
    prelude: tuple[onnx.NodeProto, ...] = ()
    replaced: tuple[Replacement, ...] = ()
    rewired: tuple[Rewire, ...] = ()
    removed: tuple[onnx.NodeProto, ...] = ()
    dropped: tuple[str, ...] = ()
    domains: tuple[tuple[str, int], ...] = ()
    min_opset: int = 1


@dataclass
class _ScopeChange:
    """What all edits together do to one scope."""

    scope: Scope
    prelude: list[onnx.NodeProto] = field(default_factory=list)
    replaced: dict[int, Replacement] = field(default_factory=dict)
    removed: set[int] = field(default_factory=set)
    dropped: set[str] = field(default_factory=set)
    tensors: list[NewTensor] = field(default_factory=list)


def apply(model: Model, edits: Sequence[Edit]) -> None:
    """Carry out all edits. They must come from one reading of the model and not overlap."""
    changes: dict[int, _ScopeChange] = {}

    def change(scope: Scope) -> _ScopeChange:
        return changes.setdefault(id(scope), _ScopeChange(scope))

    for edit in edits:
        for rewire in edit.rewired:
            rewire.node.input[rewire.index] = rewire.name
        here = change(edit.scope)
        here.prelude += edit.prelude
        here.tensors += edit.tensors
        here.removed |= {id(n) for n in edit.removed}
        here.dropped |= set(edit.dropped)
        for replacement in edit.replaced:
            change(replacement.scope).replaced[id(replacement.node)] = replacement
        for domain, version in edit.domains:
            _import(model.proto, domain, version)
    # inner scopes first: rebuilding the nodes of an outer graph copies the graphs within them
    for entry in sorted(changes.values(), key=lambda c: -len(c.scope.path)):
        _rebuild(model, entry)
    _clean_value_info(changes.values())
    if any(c.tensors for c in changes.values()):
        keep_initializers_constant(model.proto)


def _rebuild(model: Model, change: _ScopeChange) -> None:
    body = change.scope.body
    nodes: list[onnx.NodeProto] = []
    if change.scope.is_function:
        nodes += [_constant(model, t) for t in change.tensors]
    nodes += change.prelude
    standing: set[str] = set()
    for node in body.node:
        if id(node) in change.removed:
            continue
        replacement = change.replaced.get(id(node))
        if replacement is None:
            nodes.append(node)
            continue
        for shared in replacement.shared:
            if shared.output[0] not in standing:
                standing.add(shared.output[0])
                nodes.append(shared)
        nodes += replacement.nodes
    kept = _renamed(nodes, {id(n) for n in body.node})
    del body.node[:]
    body.node.extend(kept)
    if isinstance(body, onnx.GraphProto):
        _rebuild_initializers(model, body, change)


def _renamed(nodes: Sequence[onnx.NodeProto], old: set[int]) -> list[onnx.NodeProto]:
    """Copies of the nodes; new ones are numbered where another has their name, which ONNX Runtime would not load."""
    namer = Namer({n.name for n in nodes if n.name and id(n) in old})
    kept = []
    for original in nodes:
        copy = _copied(original)
        if copy.name and id(original) not in old:
            copy.name = namer(copy.name)
        kept.append(copy)
    return kept


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _rebuild_initializers(model: Model, graph: onnx.GraphProto, change: _ScopeChange) -> None:
    for index in reversed([i for i, t in enumerate(graph.initializer) if t.name in change.dropped]):
        del graph.initializer[index]
    for index in reversed([i for i, v in enumerate(graph.input) if v.name in change.dropped]):
        del graph.input[index]
    for new in change.tensors:
        _fill(model, graph.initializer.add(name=new.name), new)


def _fill(model: Model, tensor: Tensor, new: NewTensor) -> None:
    size = int(np.prod(new.dims, dtype=np.int64))
    if size <= 64:  # small ones are stored at once, as ordinary tensors
        model.set_array(tensor, new.compute())
    else:
        model.set_lazy(tensor, new.data_type, new.dims, new.compute)


def _constant(model: Model, new: NewTensor) -> onnx.NodeProto:
    node = onnx.NodeProto(op_type="Constant", output=[new.name], name=new.name)
    attribute = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    attribute.t.name = new.name
    _fill(model, attribute.t, new)
    return node


def _clean_value_info(changes: Iterable[_ScopeChange]) -> None:
    """Drop recorded types of values that no longer exist: a runtime would complain of them."""
    for change in changes:
        body = change.scope.body
        here = {name for node in body.node for name in node.output}
        if isinstance(body, onnx.GraphProto):
            here |= {t.name for t in body.initializer} | {i.name for i in body.input}
        for index in reversed([i for i, v in enumerate(body.value_info) if v.name not in here]):
            del body.value_info[index]


def keep_initializers_constant(proto: onnx.ModelProto) -> None:
    """Raise IR versions in which every initializer has to be an input as well."""
    if proto.ir_version < _INITIALIZER_IR:
        proto.ir_version = _INITIALIZER_IR
        stored = {t.name for t in proto.graph.initializer}
        for index in reversed([i for i, v in enumerate(proto.graph.input) if v.name in stored]):
            del proto.graph.input[index]


def _import(proto: onnx.ModelProto, domain: str, version: int) -> None:
    if all(o.domain != domain for o in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(domain, version))
    for function in proto.functions:
        if all(o.domain != domain for o in function.opset_import):
            function.opset_import.append(helper.make_opsetid(domain, version))


class Namer:
    """New names that no value or node of the model has."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = set(taken)

    def __call__(self, wish: str) -> str:
        """That name, or one with a number after it; it is taken from now on."""
        name, count = wish, 1
        while name in self._taken:
            count += 1
            name = f"{wish}_{count}"
        self._taken.add(name)
        return name
