"""Ties of layers: what their weights read along one axis, and what they compute along another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.graph.bodies import integer
from onnxcompress.graph.channel_ties import Axis, End, Role, Ties
from onnxcompress.graph.channel_world import LARGEST

if TYPE_CHECKING:
    from collections.abc import Callable

LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm")


def weight_input(ties: Ties) -> int | None:
    """Which input of a layer is its stored weight; None where it has none, or nothing else."""
    world, node = ties.world, ties.node
    if node.op_type.startswith("Conv"):
        return 1 if world.constant(node, 1) is not None and world.constant(node, 0) is None else None
    stored = [i for i in (0, 1) if world.constant(node, i) is not None]
    return stored[0] if len(stored) == 1 else None


def _produced(ties: Ties, weight: End, *others: End) -> None:
    """The tie of what a layer computes; the layer is known by the outputs of its weight."""
    ties.tie(weight, *others)
    if weight_input(ties) is not None and isinstance(weight.port, Axis):
        ties.seed = weight.port


# ------------------------------------------------------------------------- convolutions


def conv(ties: Ties) -> None:
    """Conv, W (outputs, inputs / group, ...): ordinary, depthwise or in groups."""
    node, shape = ties.node, ties.world.shape(ties.node.input[1])
    if shape is None or not all(isinstance(n, int) for n in shape[:2]):
        ties.reason = f"the shape of {node.input[1]!r} is not known"
        return
    made, read, group = int(shape[0]), int(shape[1]), integer(node, "group", 1)
    ties.along(0, 0)
    ties.reason = "a Conv moves over the axis"
    if group < 1 or made % group:
        ties.reason = "a Conv has groups that do not fit its weight"
    elif group == 1:
        _consumed(ties, np.arange(read), 1)
        _conv_outputs(ties, np.arange(made), "producer")
    elif read == 1 or group > max(read, made // group):  # whole groups
        outputs = np.arange(made) // (made // group)
        inputs = ties.read(0, 1, np.arange(group * read) // read)
        groups = ties.count("group", 0, group, np.arange(group))
        _conv_outputs(ties, outputs, "rider", inputs, groups)
    else:  # the same places in each group
        _consumed(ties, np.arange(group * read) % read, 1)
        _conv_outputs(ties, np.arange(made) % (made // group), "producer")


def _conv_outputs(ties: Ties, labels: np.ndarray, role: Role, *more: End) -> None:
    weight = ties.read(1, 0, labels, role, plain=True)
    _produced(ties, weight, *_bias(ties, labels, role), ties.made(1, labels), *more)


def _bias(ties: Ties, labels: np.ndarray, role: Role) -> list[End]:
    return [ties.read(2, 0, labels, role)] if ties.world.given(ties.node, 2) else []


def _consumed(ties: Ties, inputs: np.ndarray, axis: int) -> None:
    """The tie of what a convolution without a group of its own for each input reads."""
    if ties.world.constant(ties.node, 1) is None:
        ties.reason = f"{ties.node.op_type} sums over the axis with no stored weight"
        return
    rows = np.arange(inputs.max(initial=-1) + 1)
    ties.tie(ties.read(1, axis, rows, "consumer", plain=True), ties.read(0, 1, inputs))


def conv_transpose(ties: Ties) -> None:
    """ConvTranspose, W (inputs, outputs / group, ...): ordinary, or with a group for each input."""
    node, shape = ties.node, ties.world.shape(ties.node.input[1])
    if shape is None or not all(isinstance(n, int) for n in shape[:2]):
        ties.reason = f"the shape of {node.input[1]!r} is not known"
        return
    read, made, group = int(shape[0]), int(shape[1]), integer(node, "group", 1)
    ties.along(0, 0)
    ties.reason = "a ConvTranspose moves over the axis"
    if group == 1:
        _consumed(ties, np.arange(read), 0)
        labels = np.arange(made)
        weight = ties.read(1, 1, labels, "producer", plain=True)
        _produced(ties, weight, *_bias(ties, labels, "producer"), ties.made(1, labels))
    elif group == read:
        labels = np.arange(read * made) // made
        groups = ties.count("group", 0, group, np.arange(group))
        inputs = ties.read(0, 1, np.arange(read))
        weight = ties.read(1, 0, np.arange(read), plain=True)
        _produced(ties, weight, inputs, *_bias(ties, labels, "rider"), ties.made(1, labels), groups)
    else:
        ties.reason = "a ConvTranspose has several inputs in each of its groups"


# ------------------------------------------------------------------------- matrix products


def gemm(ties: Ties) -> None:
    """Gemm: alpha · A·B + beta · C, either factor possibly transposed."""
    node, world = ties.node, ties.world
    shapes = [world.shape(node.input[i]) for i in (0, 1)]
    if any(shape is None or len(shape) != 2 for shape in shapes):
        ties.reason = f"the shapes that Gemm reads for {node.output[0]!r} are not known"
        return
    flipped = [bool(integer(node, "transA", 0)), bool(integer(node, "transB", 0))]
    _product(ties, (int(flipped[0]), int(not flipped[1])), (int(not flipped[0]), int(flipped[1])), 2)


def matmul(ties: Ties) -> None:
    """MatMul of at least two axes on both sides; the axes before the last two are broadcast."""
    node, world = ties.node, ties.world
    shapes = [world.shape(node.input[i]) for i in (0, 1)]
    ranks = [0 if shape is None else len(shape) for shape in shapes]
    if min(ranks) < 2:
        ties.reason = f"MatMul reads vectors or unknown shapes for {node.output[0]!r}"
        return
    rank = max(ranks)
    _product(ties, (ranks[0] - 2, ranks[1] - 1), (ranks[0] - 1, ranks[1] - 2), rank)
    for axis in range(rank - 2):
        broadcast(ties, (0, 1), axis - rank, heads=weight_input(ties) is None)


def _product(ties: Ties, outer: tuple[int, int], inner: tuple[int, int], rank: int) -> None:
    """The ties of a product: rows, columns, and what is summed over (by a stored weight alone)."""
    node, world = ties.node, ties.world
    weight = weight_input(ties)
    for index, after in ((0, rank - 2), (1, rank - 1)):
        length = world.length(node.input[index], outer[index])
        if length is None:
            continue
        labels = np.arange(length)
        ends = _addend(ties, after - rank, length) if node.op_type == "Gemm" else []
        if ends is None:
            continue
        if index == weight:
            own = ties.read(index, outer[index], labels, "producer", plain=True)
            _produced(ties, own, *ends, ties.made(after, labels))
        else:
            ties.tie(ties.read(index, outer[index], labels), *ends, ties.made(after, labels))
    ties.reason = f"{node.op_type} sums over the axis with no stored weight"
    summed = None if weight is None else world.length(node.input[weight], inner[weight])
    if weight is not None and summed is not None:
        labels = np.arange(summed)
        own = ties.read(weight, inner[weight], labels, "consumer", plain=True)
        ties.tie(own, ties.read(1 - weight, inner[1 - weight], labels))


def _addend(ties: Ties, back: int, length: int) -> list[End] | None:
    """The axis of C of a Gemm, if it has one there; None where that is not known."""
    world, node = ties.world, ties.node
    if not world.given(node, 2):
        return []
    shape = world.shape(node.input[2])
    if shape is None:
        return None
    if -back > len(shape) or shape[back] == 1:
        return []
    if shape[back] != length:
        return None
    role: Role = "producer" if weight_input(ties) == (1 if back == -1 else 0) else "rider"
    return [ties.read(2, len(shape) + back, np.arange(length), role)]


# ------------------------------------------------------------------------- broadcasting


def broadcast(ties: Ties, inputs: tuple[int, ...], back: int, *, heads: bool = False) -> None:
    """Tie an axis, counted from the end, of inputs that are broadcast to that of the output."""
    shapes = [ties.world.shape(ties.node.input[i]) for i in inputs]
    if any(shape is None for shape in shapes):
        return
    known = [() if shape is None else shape for shape in shapes]
    rank = max(len(shape) for shape in known)
    having = [(i, s) for i, s in zip(inputs, known, strict=True) if len(s) >= -back]
    there = [(i, s) for i, s in having if s[back] != 1] or having
    lengths = {s[back] for _, s in there}
    if len(lengths) != 1 or not isinstance(length := lengths.pop(), int) or length > LARGEST:
        return
    labels = np.arange(length)
    ends = [ties.read(i, len(s) + back, labels) for i, s in there]
    ties.tie(*ends, ties.made(rank + back, labels), heads=heads)


RULES: dict[str, Callable[[Ties], None]] = {
    "Conv": conv, "ConvTranspose": conv_transpose, "Gemm": gemm, "MatMul": matmul,
}  # fmt: skip
