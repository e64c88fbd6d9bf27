"""Residual blocks: sums y = x + f(x), of which f can be taken out while the shapes stay as they are.

A sum counts as a block where one operand x is computed on the way to the other, both have one shape, and f holds a
layer with a stored weight. What f needs besides x stays in the model only where something else reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
from onnx import helper

from onnxcompress.graph.dead import remove_dead
from onnxcompress.graph.edit import Namer
from onnxcompress.graph.scopes import Scopes, subgraphs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np

    from onnxcompress.graph.model import Model
    from onnxcompress.graph.multiply_adds import Layer

_WINDOWS = ("Conv", "ConvTranspose")  # their channels are on axis 1


@dataclass(frozen=True)
class Block:
    """One sum.

    Attributes:
        output: what it is called, y.
        shortcut: the operand that stays, x.
        axis: the axis of channels, from the end.
        layers: names (first outputs) of the layers with weights that go with f.
    """

    output: str
    shortcut: str
    axis: int
    layers: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Bridge:
    """What stands in for a block: y ≈ a x + c, ``scale`` and ``shift`` (channels,); None for 1 and 0."""

    scale: np.ndarray | None = None
    shift: np.ndarray | None = None


def sums(model: Model) -> list[onnx.NodeProto]:
    """The sums of the main graph that may be blocks, before anything is known of shapes."""
    return [n for n in model.proto.graph.node if n.op_type == "Add" and n.domain in ("", "ai.onnx")]


def residual_blocks(model: Model, shapes: Mapping[str, Sequence[int]], layers: Sequence[Layer]) -> list[Block]:
    """The blocks of the main graph, in its order.

    Args:
        model: the model.
        shapes: shapes that values had in some call; a sum counts only where both of its operands are known.
        layers: the layers with stored weights.
    """
    graph = model.proto.graph
    producers = {o: n for n in graph.node for o in n.output if o}
    own = {layer.name: layer for layer in layers}
    found = []
    for node in sums(model):
        known = [tuple(shapes[n]) for n in node.input if n in shapes]
        if len(known) != 2 or known[0] != known[1] or len(known[0]) < 2 or node.input[0] == node.input[1]:
            continue
        for x, branch in (tuple(node.input), tuple(reversed(node.input))):
            if x in producers and not _leads_to(producers, branch, x):
                continue
            gone = _gone(model, node, x)
            inside = tuple(name for name in own if name in gone)
            if inside and _leads_to(producers, branch, x):
                windows = any(own[name].node.op_type in _WINDOWS for name in inside)
                found.append(Block(node.output[0], x, 1 - len(known[0]) if windows else -1, inside))
                break
    return found


def _reads(node: onnx.NodeProto) -> Iterable[str]:
    """What a node reads, its bodies included."""
    yield from filter(None, node.input)
    for graph in subgraphs(node):
        for inner in graph.node:
            yield from _reads(inner)


def _leads_to(producers: Mapping[str, onnx.NodeProto], end: str, start: str) -> bool:
    """Whether ``start`` is needed for ``end``."""
    work, seen = [end], {end}
    while work:
        name = work.pop()
        if name == start:
            return True
        node = producers.get(name)
        for read in _reads(node) if node is not None else ():
            if read not in seen:
                seen.add(read)
                work.append(read)
    return False


def _gone(model: Model, node: onnx.NodeProto, shortcut: str) -> set[str]:
    """First outputs of the nodes that nothing needs any more once the shortcut stands in for the sum."""
    proto = onnx.ModelProto()
    proto.CopyFrom(_structure(model))
    before = {n.output[0] for n in proto.graph.node if n.output}
    _replaced(proto.graph, node.output[0], [helper.make_node("Identity", [shortcut], [node.output[0]])])
    remove_dead(proto)
    return before - {n.output[0] for n in proto.graph.node if n.output} - {node.output[0]}


def _structure(model: Model) -> onnx.ModelProto:
    """The nodes, inputs and outputs of a model, without what is stored."""
    proto = onnx.ModelProto(ir_version=model.proto.ir_version, opset_import=model.proto.opset_import)
    proto.functions.extend(model.proto.functions)
    proto.graph.node.extend(model.proto.graph.node)
    proto.graph.input.extend(model.proto.graph.input)
    proto.graph.output.extend(model.proto.graph.output)
    proto.graph.initializer.extend(
        onnx.TensorProto(name=t.name, data_type=t.data_type, dims=[0]) for t in model.proto.graph.initializer
    )
    return proto


def _replaced(graph: onnx.GraphProto, output: str, nodes: Sequence[onnx.NodeProto]) -> None:
    place = next(i for i, n in enumerate(graph.node) if n.output[:1] == [output])
    del graph.node[place]
    for offset, node in enumerate(nodes):
        graph.node.insert(place + offset, node)


def without(model: Model, bridges: Mapping[Block, Bridge]) -> Model:
    """A copy of a model in which each block gives what its bridge makes of the shortcut."""
    made = model.copy()
    namer = Namer(Scopes(made.proto).names() | {n.name for n in made.proto.graph.node})
    for block, bridge in bridges.items():
        nodes, value = [], block.shortcut
        for op, word, constant in (("Mul", "scale", bridge.scale), ("Add", "shift", bridge.shift)):
            if constant is None:
                continue
            stored, after = namer(f"{block.output}.{word}"), namer(f"{block.output}.{op.lower()}")
            tensor = made.proto.graph.initializer.add(name=stored)
            made.set_array(tensor, constant.reshape(-1, *[1] * (-1 - block.axis)))
            nodes.append(helper.make_node(op, [value, stored], [after], name=after))
            value = after
        if not nodes:
            nodes.append(helper.make_node("Identity", [value], [block.output]))
        nodes[-1].output[0] = block.output
        _replaced(made.proto.graph, block.output, nodes)
    remove_dead(made.proto)
    return made
