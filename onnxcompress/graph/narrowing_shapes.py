"""Shapes that a Concat joins, with other stored elements for some of their readers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from onnxcompress.graph.channel_ties import reader_name
from onnxcompress.graph.constants import overridable
from onnxcompress.graph.scopes import Scopes, constant_tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnxcompress.graph.edit import Namer
    from onnxcompress.graph.model import Model, Tensor

Joined = dict[tuple[int, int], int]  # input of the Concat and place in it -> new element


def stored(scopes: Scopes, name: str) -> Tensor:
    """A stored tensor of the main graph.

    Raises:
        ValueError: there is none of that name.
    """
    main = scopes.main
    if name in main.initializers:
        return main.initializers[name]
    tensor = constant_tensor(main.constants[name]) if name in main.constants else None
    if tensor is None:
        raise ValueError(f"{name!r} is not a stored tensor")
    return tensor


def rejoin(
    model: Model, twin: Model, scopes: Scopes, wanted: Mapping[tuple[str, int], Joined], namer: Namer
) -> None:  # fmt: skip
    """Let readers (by first output and input) read a shape with other elements: a copy of the Concat for each kind."""
    if not any(wanted.values()):
        return
    nodes = {reader_name(node): node for node in twin.proto.graph.node}
    copies: dict[str, dict[tuple[object, ...], onnx.NodeProto]] = {}
    for (reader, index), elements in wanted.items():
        name = nodes[reader].input[index]
        changed = {place: value for place, value in elements.items() if _element(model, scopes, name, place) != value}
        if changed:
            made = copies.setdefault(name, {})
            key = tuple(sorted(changed.items()))
            if key not in made:
                made[key] = _copy(model, twin, scopes, name, changed, namer)
            nodes[reader].input[index] = made[key].output[0]
    _insert(twin, {name: list(made.values()) for name, made in copies.items()})


def _element(model: Model, scopes: Scopes, joined: str, place: tuple[int, int]) -> int:
    part = scopes.main.producers[joined].input[place[0]]
    return int(model.array(stored(scopes, part)).reshape(-1)[place[1]])


def _copy(
    model: Model, twin: Model, scopes: Scopes, joined: str, changed: Joined, namer: Namer
) -> onnx.NodeProto:  # fmt: skip
    node = onnx.NodeProto()
    node.CopyFrom(scopes.main.producers[joined])
    for index in sorted({index for index, _ in changed}):
        values = model.array(stored(scopes, node.input[index])).copy()
        flat = values.reshape(-1)
        for position in range(flat.size):
            flat[position] = changed.get((index, position), flat[position])
        tensor = twin.proto.graph.initializer.add(name=namer(f"{node.input[index]}_narrowed"))
        twin.set_array(tensor, flat.reshape(values.shape))
        node.input[index] = tensor.name
    node.output[0] = namer(f"{joined}_narrowed")
    node.name = namer(f"{node.name}_narrowed") if node.name else ""
    return node


def _insert(twin: Model, copies: Mapping[str, list[onnx.NodeProto]]) -> None:
    """Put copies behind the nodes that they are of, in their place where nothing reads these any more."""
    graph = twin.proto.graph
    replaced = set(copies) - _read(twin)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        name = reader_name(node)
        nodes += ([] if name in replaced else [node]) + copies.get(name, [])
    parts = {part for node in graph.node if reader_name(node) in replaced for part in node.input}
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    own = {tensor.name for tensor in graph.initializer} - overridable(twin.proto)
    unread = (parts & own) - _read(twin)
    for listed in (graph.initializer, graph.input, graph.value_info):
        for index in reversed([i for i, item in enumerate(listed) if item.name in unread | replaced]):
            del listed[index]


def _read(twin: Model) -> set[str]:
    """Every name that anything reads."""
    scopes = Scopes(twin.proto)
    outputs = {output.name for output in twin.proto.graph.output}
    return outputs | {name for scope in scopes.all for name in scope.defined if scopes.uses(scope, name)}
