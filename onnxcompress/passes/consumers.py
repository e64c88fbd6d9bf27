"""The stored weights that read channels: as solvers see them, with what they see, and refitted without some channels.

A bias that belongs to a weight alone is refitted with it. It is one more input that is the same always,

    W x + b = [W, b/κ] [x; κ],   E[[x; κ][x; κ]ᵀ] = [[H, κ m], [κ mᵀ, κ²]],   m = E[x],

that no channel owns; κ is larger than inputs, so that the damping of H does not hold it back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.errors import ModelError
from onnxcompress.graph.bodies import integer
from onnxcompress.graph.channel_ties import reader_name
from onnxcompress.graph.scopes import attribute_value
from onnxcompress.passes.rounding import shrunk
from onnxcompress.solvers.removal import Reader, refitted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

    from onnxcompress.graph.channel_group import Group, Places, Slot
    from onnxcompress.graph.channel_world import World
    from onnxcompress.stats.archive import Archive

Array = np.ndarray
_LOUD = 3.0  # κ, in terms of the root mean square of inputs


@dataclass(frozen=True, eq=False)
class Consumer:
    """A stored weight that reads channels along an axis.

    ``nodes`` read it; ``groups`` are those of a convolution. ``places``: for each group of channels, by number, the
    places of each channel. ``sole``: nothing else reads the weight, so that it may change; ``bias`` then changes too.
    """

    world: World
    tensor: str
    axis: int
    nodes: tuple[onnx.NodeProto, ...]
    places: dict[int, Places]
    sole: bool
    bias: str | None = None
    powers: Array | None = None
    dims: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Look up the shape."""
        stored = self.world.stored(self.tensor)
        object.__setattr__(self, "dims", tuple(stored.dims) if stored is not None else ())

    @property
    def convolution(self) -> bool:
        """Whether the axis is followed by those of a kernel."""
        return self.nodes[0].op_type == "Conv"

    @property
    def groups(self) -> int:
        """Groups of a convolution, 1 else."""
        return integer(self.nodes[0], "group", 1) if self.convolution else 1

    @property
    def _width(self) -> int:
        return math.prod(self.dims[1:]) if self.convolution else self.dims[self.axis]

    def values(self) -> Array:
        """The weight as it is stored."""
        tensor = self.world.stored(self.tensor)
        if tensor is None:
            raise ValueError(f"{self.tensor} is not a stored tensor")
        return self.world.model.view(tensor)

    def rows(self, values: Array) -> Array:
        """A weight as (groups, rows, in), float64, a copy."""
        moved = values if self.convolution else np.moveaxis(values, self.axis, -1)
        return np.array(moved.reshape(self.groups, -1, self._width), np.float64, order="C")

    def stored(self, rows: Array) -> Array:
        """The inverse of `rows`, in the type of the weight."""
        dtype = self.values().dtype
        if self.convolution:
            return np.ascontiguousarray(rows.reshape(self.dims).astype(dtype))
        others = [n for a, n in enumerate(self.dims) if a != self.axis]
        moved = np.moveaxis(rows.reshape(*others, self.dims[self.axis]), -1, self.axis)
        return np.ascontiguousarray(moved.astype(dtype))

    def inputs(self, places: Sequence[int]) -> Array:
        """The inputs of a row that are at some places of the axis."""
        kernel = math.prod(self.dims[2:]) if self.convolution else 1
        found: Array = (np.asarray(places, np.int64)[:, None] * kernel + np.arange(kernel)).reshape(-1)
        return found

    def spread(self, features: Array) -> Array:
        """Numbers of features of what is read, as numbers of the inputs of rows (groups, in)."""
        kernel = math.prod(self.dims[2:]) if self.convolution else 1
        return np.repeat(features.reshape(self.groups, -1), kernel, axis=1)

    def reader(self, number: int, archive: Archive | None) -> Reader:
        """What a solver is to know of it; inputs of which nothing is known count alike.

        Raises:
            ModelError: a weight is not finite.
        """
        blocks = tuple(self.inputs(places) for places in self.places[number])
        W = self.rows(self.values())
        if not np.isfinite(W).all():
            raise ModelError(f"the weight {self.tensor!r} holds NaN or infinity", "Export the model again.")
        known = self._metric(archive)
        if known is not None:
            return Reader(*self._with_bias(W, *known)[:2], blocks)
        powers = np.ones((len(W), W.shape[-1])) if self.powers is None else self.spread(self.powers)
        return Reader(W, powers, blocks)

    def without(self, gone: Mapping[int, Sequence[int]], archive: Archive | None) -> dict[str, Array]:
        """The tensors that change when channels of groups (by number) go: the weight, and perhaps its bias."""
        places = [p for n, channels in gone.items() if n in self.places for c in channels for p in self.places[n][c]]
        index = self.inputs(sorted(places))
        W = self.rows(self.values())
        known = self._metric(archive)
        if known is None:
            W[:, :, index] = 0
            return {self.tensor: self.stored(W)}
        full, H, level = self._with_bias(W, *known)
        found = refitted(full, H, index)
        changed = {self.tensor: self.stored(found[:, :, : W.shape[-1]])}
        if self.bias is not None:
            dtype = self._bias().dtype
            changed[self.bias] = (found[:, :, -1].reshape(-1) * level).astype(dtype)
        return changed

    def _bias(self) -> Array:
        tensor = self.world.stored(self.bias or "")
        if tensor is None:
            raise ValueError(f"{self.bias} is not a stored tensor")
        return self.world.model.array(tensor)

    def _metric(self, archive: Archive | None) -> tuple[Array, Array] | None:
        """E[x xᵀ] (groups, in, in) and E[x] (groups, in); None where they are not known."""
        names = [node.output[0] for node in self.nodes]
        if archive is None or not all(name in archive for name in names):
            return None
        total, means = None, []
        for name in names:
            gram = archive.gram(name)
            H = gram.matrix.reshape(-1, *gram.matrix.shape[-2:])
            mean = gram.mean.reshape(len(H), -1)
            outer = mean[:, :, None] * mean[:, None, :]
            H = shrunk(H - outer, gram.positions) + outer
            if (len(H), H.shape[-1]) != (self.groups, self._width):
                return None
            total = H if total is None else total + H
            means.append(mean)
        if total is None or not np.diagonal(total, axis1=1, axis2=2).any():
            return None
        return total / len(names), np.mean(means, axis=0)

    def _with_bias(self, W: Array, H: Array, mean: Array) -> tuple[Array, Array, float]:
        """Weights and metric with the bias as one more input, and the size of that."""
        if self.bias is None:
            return W, H, 1.0
        level = _LOUD * math.sqrt(float(np.diagonal(H, axis1=1, axis2=2).mean()))
        column = self._bias().astype(np.float64).reshape(*W.shape[:2], 1) / level
        side = mean[:, :, None] * level
        corner = np.full((len(H), 1, 1), level**2)
        return np.concatenate([W, column], axis=2), np.block([[H, side], [side.transpose(0, 2, 1), corner]]), level


def consumers(world: World, groups: Mapping[int, Group]) -> list[Consumer]:
    """All weights that read channels of these groups; one that cannot change is there for each node that reads it."""
    found: dict[str, list[tuple[int, Slot]]] = {}
    for number, group in groups.items():
        for slot in group.slots:
            if slot.role == "consumer":
                found.setdefault(slot.tensor, []).append((number, slot))
    made = []
    for tensor, slots in found.items():
        first = slots[0][1]
        if _sole(world, tensor, slots):
            nodes = tuple(_nodes(world, [s for _, s in slots]).values())
            bias = _own_bias(world, nodes)
            made.append(Consumer(world, tensor, first.axis, nodes, {n: s.places for n, s in slots}, True, bias))
            continue
        for reader, node in _nodes(world, [s for _, s in slots]).items():
            own = {n: s for n, s in slots if s.reader == reader}
            axis = next(iter(own.values())).axis
            places = {n: s.places for n, s in own.items() if s.axis == axis}
            made.append(Consumer(world, tensor, axis, (node,), places, False))
    return made


def watchable(consumer: Consumer) -> bool:
    """Whether the Gram matrix of what it sees can be measured."""
    right = all(n.op_type in ("Conv", "MatMul", "Gemm") and n.input[1] == consumer.tensor for n in consumer.nodes)
    return right and (consumer.convolution or len(consumer.dims) == 2)


def _nodes(world: World, slots: Sequence[Slot]) -> dict[str, onnx.NodeProto]:
    return {s.reader: node for s in slots if (node := world.maker(s.reader)) is not None}


def _sole(world: World, tensor: str, slots: Sequence[tuple[int, Slot]]) -> bool:
    """Whether all that reads a tensor are layers that lose the same channels of their inputs."""
    uses = world.uses(tensor)
    if tensor not in world.scopes.main.initializers or any(
        use.node is None or use.scope is not world.scopes.main for use in uses
    ):
        return False
    readers = {(reader_name(use.node), use.index) for use in uses if use.node is not None}
    for number in {n for n, _ in slots}:
        own = [slot for n, slot in slots if n == number]
        if {(s.reader, s.index) for s in own} != readers or len({s.places for s in own}) > 1:
            return False
    kinds = {(n.op_type, integer(n, "group", 1)) for n in _nodes(world, [s for _, s in slots]).values()}
    return len({s.axis for _, s in slots}) == 1 and len(kinds) == 1


def _own_bias(world: World, nodes: Sequence[onnx.NodeProto]) -> str | None:
    """The stored bias of a layer, or what is added to it, if it belongs to this layer alone."""
    if len(nodes) != 1 or nodes[0].op_type not in ("Conv", "Gemm", "MatMul"):
        return None
    node, index = nodes[0], 2
    outputs = world.constant(node, 1)
    if node.op_type == "MatMul":
        uses = world.uses(node.output[0])
        if len(uses) != 1 or uses[0].node is None or uses[0].node.op_type != "Add":
            return None
        node, index = uses[0].node, 1 - uses[0].index
    scales = [attribute_value(node, name, 1.0) for name in ("alpha", "beta")]
    bias = world.constant(node, index)
    if bias is None or outputs is None or scales != [1.0, 1.0] or bias.name not in world.scopes.main.initializers:
        return None
    transposed = nodes[0].op_type == "Conv" or integer(nodes[0], "transB", 0)
    length = outputs.dims[0 if transposed else -1]
    whole = list(bias.dims) == [length] and bias.data_type == outputs.data_type
    return str(bias.name) if whole and len(world.uses(bias.name)) == 1 else None
