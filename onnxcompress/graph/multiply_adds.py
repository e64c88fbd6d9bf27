"""Multiply-adds of the layers of a model, and what is left of them when channels are removed.

A layer multiplies each of its weights once for every position that it is applied to: pixels of a convolution's output
(of its input where it is transposed), rows of a matrix product. So with the weight W

    multiply-adds = positions · |W|,   and what is left of them is positions · Π (length of an axis − removed from it)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxcompress.graph.channel_layers import LAYERS
from onnxcompress.graph.channel_ties import reader_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

    from onnxcompress.graph.channel_group import Group, Places
    from onnxcompress.graph.channel_world import World

Cuts = dict[tuple[str, int], int]  # of layers (by their first output) and axes of their weights: how much is removed


@dataclass(frozen=True)
class Layer:
    """A layer with a stored weight: its node, which input the weight is, its shape, and the positions of a call."""

    node: onnx.NodeProto
    index: int
    dims: tuple[int, ...]
    positions: float

    @property
    def name(self) -> str:
        """Its first output."""
        return reader_name(self.node)

    @property
    def weight(self) -> str:
        """The stored tensor."""
        return str(self.node.input[self.index])

    def left(self, cuts: Mapping[tuple[str, int], int]) -> tuple[int, ...]:
        """The shape of the weight once something is removed."""
        return tuple(n - cuts.get((self.name, axis), 0) for axis, n in enumerate(self.dims))


def watched(world: World) -> list[str]:
    """The values whose shapes `layers` wants to know."""
    found = _found(world)
    return list(
        dict.fromkeys(node.input[0] if node.op_type == "ConvTranspose" else reader_name(node) for node in found)
    )


def layers(world: World, shapes: Mapping[str, Sequence[int]]) -> list[Layer]:
    """The layers of the main graph with a stored weight; a layer whose shapes are not known has one position."""
    found = []
    for node in _found(world):
        index = _weight_input(world, node)
        tensor = world.constant(node, index)
        if tensor is not None and math.prod(tensor.dims):
            dims = tuple(tensor.dims)
            found.append(Layer(node, index, dims, _positions(node, index, dims, shapes)))
    return found


def total(found: Sequence[Layer], cuts: Mapping[tuple[str, int], int] | None = None) -> float:
    """Multiply-adds of layers; ``cuts``: what is removed from the axes of their weights."""
    return sum(layer.positions * math.prod(layer.left(cuts or {})) for layer in found)


def cut_places(group: Group, found: Sequence[Layer]) -> dict[tuple[str, int], Places]:
    """The axes of layers' weights that have channels of a group, with the places of each channel."""
    return {
        (layer.name, slot.axis): slot.places
        for slot in group.slots
        for layer in found
        if layer.weight == slot.tensor and (slot.everywhere or slot.reader == layer.name)
    }


def _found(world: World) -> list[onnx.NodeProto]:
    nodes = [n for n in world.model.proto.graph.node if n.op_type in LAYERS and n.domain in ("", "ai.onnx")]
    return [n for n in nodes if _weight_input(world, n) >= 0]


def _weight_input(world: World, node: onnx.NodeProto) -> int:
    """Which input is the only one of the first two that is stored; -1 where there is none, or both are."""
    stored = [i for i in (0, 1) if world.constant(node, i) is not None]
    return stored[0] if len(stored) == 1 and (stored[0] == 1 or not node.op_type.startswith("Conv")) else -1


def _positions(node: onnx.NodeProto, index: int, dims: Sequence[int], shapes: Mapping[str, Sequence[int]]) -> float:
    seen = shapes.get(node.input[0] if node.op_type == "ConvTranspose" else reader_name(node))
    if not seen:
        return 1.0
    if node.op_type.startswith("Conv"):
        return math.prod(seen) / max(seen[1], 1)
    if node.op_type == "Gemm":
        return float(seen[0] if index == 1 else seen[-1])
    summed = dims[0] if len(dims) == 1 else dims[-2 if index == 1 else -1]
    return math.prod(seen) * summed / math.prod(dims)
