"""What each standard operator does to an axis of channels: elementwise operators, normalization, pools.

An operator without a rule has no ties, so that nothing it touches can be narrowed. Axes that a rule leaves out, such
as those that are normalized over, are not to be narrowed either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.graph import channel_layers, channel_moves, channel_shapes
from onnxcompress.graph.bodies import integer, is_standard
from onnxcompress.graph.channel_layers import broadcast
from onnxcompress.graph.channel_moves import identity
from onnxcompress.graph.channel_shapes import counted
from onnxcompress.graph.channel_ties import SHAPE_ELEMENT, Axis, End, Ties
from onnxcompress.graph.channel_world import Element, Length
from onnxcompress.graph.scopes import attribute_value, subgraphs

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from onnxcompress.graph.channel_world import Source, World

_UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil", "Celu", "Cos", "Cosh",
    "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log",
    "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
    "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip
_NARY = (
    "Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift", "Clip", "Div", "Equal", "Greater",
    "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "PRelu", "Sub", "Sum",
    "Where", "Xor",
)  # fmt: skip
_CONTRIBUTED = ("Gelu", "QuickGelu")  # elementwise, of com.microsoft
_POOLS = ("AveragePool", "MaxPool", "LpPool")
_GLOBAL_POOLS = ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
_NUMPY_BROADCAST = 7  # opset from which operators broadcast as numpy does
_INFERENCE_BY_DEFAULT = 7
_ONE_AXIS_SOFTMAX = 13
_SCALE_OF_CHANNELS = 21  # opset from which GroupNormalization has a scale for each channel, not for each group
_PADS_INPUT = 11


def ties_of(world: World, node: onnx.NodeProto) -> Ties:
    """All ties of a node of the main graph."""
    found = Ties(world, node)
    contributed = node.domain == "com.microsoft" and node.op_type in _CONTRIBUTED
    if next(subgraphs(node), None) is not None or not node.input or not (is_standard(node) or contributed):
        found.reason = f"{node.op_type} has no rule"
        return found
    rule = RULES.get(node.op_type)
    found.reason = f"{node.op_type} has no rule" if rule is None else f"{node.op_type} needs the whole axis"
    if rule is None:
        return found
    try:
        rule(found)
    except (ArithmeticError, LookupError, ValueError):  # attributes or shapes that no such operator can have
        found.ties.clear()
        found.seed, found.reason = None, f"{node.op_type} is malformed"
    return found


# ------------------------------------------------------------------------- elementwise


def _unary(ties: Ties) -> None:
    identity(ties)


def _nary(ties: Ties) -> None:
    node, world = ties.node, ties.world
    if world.model.opset < _NUMPY_BROADCAST and (integer(node, "broadcast", 0) or node.op_type == "PRelu"):
        ties.reason = f"{node.op_type} broadcasts in the way of old operator sets"
        return
    ties.reason = f"{node.op_type} reads values of unknown or unlike lengths along the axis"
    inputs = tuple(i for i, name in enumerate(node.input) if name)
    ranks = [len(world.shape(node.input[i]) or ()) for i in inputs]
    for back in range(-max(ranks), 0):
        broadcast(ties, inputs, back)


def _dropout(ties: Ties) -> None:
    trains = ties.world.constant(ties.node, 2)
    if ties.world.given(ties.node, 2) and (trains is None or ties.world.model.array(trains).any()):
        ties.reason = "Dropout in training mode"
        return
    identity(ties, outputs=(0, 1) if ties.uses(1) else (0,))


# ------------------------------------------------------------------------- normalization


def _batch_norm(ties: Ties) -> None:
    node, world = ties.node, ties.world
    old = world.model.opset < _INFERENCE_BY_DEFAULT and not integer(node, "is_test", 0)
    trains = old or integer(node, "training_mode", 0) or not integer(node, "spatial", 1)
    if trains or len(node.input) != 5 or any(ties.uses(i) for i in range(1, len(node.output))):
        ties.reason = "BatchNormalization in training mode"
        return
    shape = world.shape(node.input[0])
    if shape is None:
        ties.reason = f"the shape of {node.input[0]!r} is not known"
        return
    identity(ties, [1])
    length = world.length(node.input[0], 1)
    if length is not None:
        labels = np.arange(length)
        ties.along(1, 1, *[ties.read(i, 0, labels) for i in range(1, 5)])


def _instance_norm(ties: Ties) -> None:
    length = ties.world.length(ties.node.input[0], 1)
    ties.along(0, 0)
    ties.reason = "InstanceNormalization normalizes over the axis"
    if length is not None:
        labels = np.arange(length)
        ties.along(1, 1, ties.read(1, 0, labels), ties.read(2, 0, labels))


def _group_norm(ties: Ties) -> None:
    """Whole groups of channels can be removed."""
    node = ties.node
    channels, count = ties.world.length(node.input[0], 1), integer(node, "num_groups", 0)
    ties.along(0, 0)
    ties.reason = "GroupNormalization normalizes over the axis"
    if channels is not None and count > 0 and channels % count == 0:
        labels, groups = np.arange(channels) // (channels // count), np.arange(count)
        scales = labels if ties.world.model.opset >= _SCALE_OF_CHANNELS else groups
        ends = [ties.read(0, 1, labels), ties.made(1, labels), ties.read(1, 0, scales), ties.read(2, 0, scales)]
        ties.tie(*ends, ties.count("num_groups", 0, count, groups))


def _over_last(ties: Ties) -> None:
    """LayerNormalization and others that normalize over all axes from one on."""
    shape = ties.world.shape(ties.node.input[0])
    ties.reason = f"{ties.node.op_type} normalizes over the axis"
    if shape is None or any(ties.uses(i) for i in (1, 2)):
        return
    first = integer(ties.node, "axis", -1) % max(len(shape), 1)
    factors = [ties.world.shape(name) for name in ties.node.input[1:] if name]
    if all(factor is not None and len(factor) <= len(shape) - first for factor in factors):
        identity(ties, range(first, len(shape)))


def _over_channels(ties: Ties) -> None:
    """LocalResponseNormalization, which sums over channels nearby."""
    ties.along(0, 0)
    ties.reason = f"{ties.node.op_type} normalizes over the axis"


def _over_one(ties: Ties) -> None:
    """Softmax and others that normalize over one axis; in old operator sets over all from it on."""
    node, opset = ties.node, ties.world.model.opset
    shape = ties.world.shape(node.input[0])
    ties.reason = f"{node.op_type} normalizes over the axis"
    if shape is None:
        return
    old = opset < _ONE_AXIS_SOFTMAX and node.op_type != "LpNormalization"
    axis = integer(node, "axis", 1 if old else -1) % max(len(shape), 1)
    identity(ties, range(axis, len(shape)) if old else [axis])


# ------------------------------------------------------------------------- pools and sizes


def _pool(ties: Ties) -> None:
    """Pools keep samples and channels apart."""
    ties.reason = f"{ties.node.op_type} moves over the axis"
    if ties.uses(1):
        ties.reason = f"the indices that {ties.node.op_type} found are used"
        return
    ties.along(0, 0)
    ties.along(1, 1)


def _reduce(ties: Ties) -> None:
    world, node = ties.world, ties.node
    shape, axes = world.shape(node.input[0]), world.listed(node, "axes", 1)
    ties.reason = f"{node.op_type} reduces the axis"
    if shape is None or axes is None:
        return
    none = bool(integer(node, "noop_with_empty_axes", 0))
    gone = {a % len(shape) for a in axes} if axes else set() if none else set(range(len(shape)))
    _kept(ties, len(shape), gone)


def _arg(ties: Ties) -> None:
    shape = ties.world.shape(ties.node.input[0])
    ties.reason = f"{ties.node.op_type} reduces the axis"
    if shape is not None:
        _kept(ties, len(shape), {integer(ties.node, "axis", 0) % max(len(shape), 1)})


def _kept(ties: Ties, rank: int, gone: set[int]) -> None:
    kept = [axis for axis in range(rank) if axis not in gone]
    for after, before in enumerate(kept):
        ties.along(before, before if integer(ties.node, "keepdims", 1) else after)


def _pad(ties: Ties) -> None:
    """Pad with no padding along the axis."""
    world, node = ties.world, ties.node
    shape = world.shape(node.input[0])
    old = world.model.opset < _PADS_INPUT
    name = "pads" if attribute_value(node, "pads") is not None else "paddings"
    pads = world.listed(node, name, 1)
    axes = world.integers(node, 3) if world.given(node, 3) else list(range(len(shape or ())))
    ties.reason = f"{node.input[0]!r} is padded along the axis, or by what is not stored"
    if shape is None or not pads or axes is None or (old and world.given(node, 1)) or len(pads) != 2 * len(axes):
        return
    ends = zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True)
    identity(ties, {axis % len(shape) for axis, before, after in ends if before or after})


def _resize(ties: Ties) -> None:
    """Resize and Upsample with a scale of 1 along the axis, or a size that follows."""
    world, node = ties.world, ties.node
    shape = world.shape(node.input[0])
    mode = attribute_value(node, "coordinate_transformation_mode")
    how = attribute_value(node, "keep_aspect_ratio_policy")
    ties.reason = f"{node.input[0]!r} is resized along the axis, or to a size that cannot follow"
    if shape is None or mode in (b"tf_crop_and_resize", b"tf_half_pixel_for_nn") or how not in (None, b"stretch"):
        return
    given = attribute_value(node, "axes")
    axes = [int(a) % len(shape) for a in given] if given is not None else list(range(len(shape)))  # type: ignore[attr-defined]
    identity(ties, axes)
    if world.given(node, 3):
        sources = world.sources(node, 3)
        if sources is not None and len(sources) == len(axes):
            for position, (axis, source) in enumerate(zip(axes, sources, strict=True)):
                _resized(ties, axis, position, source)
        return
    scales = _scales(ties)
    if scales is not None and len(scales) == len(axes):
        for axis in [a for a, scale in zip(axes, scales, strict=True) if scale == 1]:
            ties.along(axis, axis)


def _scales(ties: Ties) -> list[float] | None:
    node, world = ties.node, ties.world
    given = attribute_value(node, "scales")
    if given is not None:
        return [float(n) for n in given]  # type: ignore[attr-defined]
    tensor = world.constant(node, 2 if len(node.input) > 2 else 1)
    return None if tensor is None else [float(n) for n in world.model.array(tensor).reshape(-1)]


def _resized(ties: Ties, axis: int, position: int, source: Source) -> None:
    length = ties.world.length(ties.node.input[0], axis)
    if length is None:
        return
    if isinstance(source, Element) and source.value == length:
        ties.along(axis, axis, counted(ties, source, position, np.arange(length), 3))
    elif isinstance(source, Length) and ties.world.length(source.value, source.axis) == length:
        there = Axis(source.value, source.axis)
        ties.along(axis, axis, End(there, np.arange(length), "rider", SHAPE_ELEMENT + position))


RULES: dict[str, Callable[[Ties], None]] = {
    **dict.fromkeys((*_UNARY, *_CONTRIBUTED), _unary), **dict.fromkeys(_NARY, _nary), "Dropout": _dropout,
    "BatchNormalization": _batch_norm, "InstanceNormalization": _instance_norm, "GroupNormalization": _group_norm,
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _over_last),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "LpNormalization"), _over_one),
    **dict.fromkeys((*_POOLS, *_GLOBAL_POOLS), _pool), **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg), **dict.fromkeys(("Resize", "Upsample"), _resize), "Pad": _pad,
    "LRN": _over_channels,
    **channel_layers.RULES, **channel_moves.RULES, **channel_shapes.RULES,
}  # fmt: skip
