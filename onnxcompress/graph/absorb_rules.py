"""What a scale of each feature means to one operator: constants that take it, or a value that hands it on.

Axes are counted from the end (−1 is the last one), so that they are the same for every constant that broadcasts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxcompress.graph.bodies import integer, is_standard
from onnxcompress.graph.constants import StoredTensors
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.scopes import Scopes, attribute_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

LAYERS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
FACTORS = ("Mul", "Div")
_NORMS = ("LayerNormalization", "RMSNormalization", "BatchNormalization", "InstanceNormalization")
_ELEMENTWISE = ("Relu", "LeakyRelu", "PRelu", "Identity", "Dropout")
_GLOBAL_POOLS, _POOLS = ("GlobalAveragePool", "GlobalMaxPool"), ("MaxPool", "AveragePool")
_SCALED_TYPES = (Tensor.FLOAT, Tensor.DOUBLE)  # half precision could overflow
_PADS_INPUT = 11  # opset from which pads are an input


class Refused(Exception):
    """A scale is not taken; the message says why."""


@dataclass(frozen=True)
class Operand:
    """A stored constant that takes a scale of ``features`` features.

    ``reader`` is the first output of the node that reads it, as input ``index``. The features lie along ``axis`` of
    the constant, from the start; in ``groups`` groups, along axis 1 for each group of indices of axis 0.
    """

    name: str
    reader: str
    index: int
    dims: tuple[int, ...]
    axis: int
    features: int
    groups: int = 1

    @property
    def elements(self) -> int:
        """Number of values."""
        return math.prod(self.dims)


class World:
    """A model with what is known of its values."""

    def __init__(self, model: Model, scopes: Scopes, known_ranks: Mapping[str, int]) -> None:
        self.model, self.scopes, self.ranks = model, scopes, known_ranks
        self._stored = StoredTensors(model, self.scopes)

    def stored(self, name: str) -> Tensor | None:
        """A tensor of the main graph that nobody can replace."""
        return self._stored.get(name)

    def constant(self, node: onnx.NodeProto, index: int) -> Tensor | None:
        """The stored tensor that a node reads there, if it is one."""
        return self.stored(node.input[index]) if index < len(node.input) and node.input[index] else None

    def operand(self, node: onnx.NodeProto, index: int, axis: int, *, groups: int = 1) -> Operand:
        """The constant that a node reads there, to be scaled along an axis.

        Raises:
            Refused: it is no stored float tensor that can be scaled.
        """
        name = node.input[index]
        tensor = self.constant(node, index)
        if tensor is None:
            raise Refused(f"{name!r}, which {node.op_type} reads, is not stored or may be replaced by a caller")
        if tensor.data_type not in _SCALED_TYPES:
            raise Refused(f"{name!r} is not stored as float32")
        dims = tuple(tensor.dims)
        if not 0 <= axis < len(dims) or dims[0] % groups:
            raise Refused(f"{name!r} has no axis of features")
        return Operand(name, node.output[0], index, dims, axis, dims[axis] * (groups if axis == 1 else 1), groups)

    def require_axis(self, value: str, axis: int, wanted: int, rank: int | None = None) -> None:
        """Features have to lie along that axis, counted from the start; ``rank`` as far as the node itself says it.

        Raises:
            Refused: they do not, or the number of axes is not known.
        """
        known = self.ranks.get(value) if rank is None else rank
        if known is None:
            raise Refused(f"the number of axes of {value!r} is not known")
        if axis != wanted - known:
            raise Refused(f"the features of {value!r} lie along another axis than those of its layer")


def feature_axis(world: World, value: str) -> int:
    """The axis of the features of a value, from the end, as its first layer says.

    Raises:
        Refused: no layer with a stored weight reads it.
    """
    for use in world.scopes.uses(world.scopes.main, value):
        if use.node is None or use.index != 0 or not is_standard(use.node, *LAYERS):
            continue
        weight = world.constant(use.node, 1)
        if weight is not None:
            return 1 - len(weight.dims) if use.node.op_type.startswith("Conv") else -1
    raise Refused("no layer with a stored weight reads it")


# ------------------------------------------------------------------------- constants that take a scale


def consuming(world: World, node: onnx.NodeProto, index: int, axis: int) -> Operand | None:
    """The weight that takes s where a node reads a scaled value; None where it is no such layer.

    Raises:
        Refused: it is, but its weight cannot take it.
    """
    if not is_standard(node, *LAYERS) or index != 0:
        return None
    value = node.input[0]
    if node.op_type == "Gemm":
        if integer(node, "transA", 0):
            raise Refused(f"a Gemm reads {value!r} turned over")
        world.require_axis(value, axis, 1, 2)
        return world.operand(node, 1, integer(node, "transB", 0))
    weight = world.operand(node, 1, 0)
    rank = len(weight.dims)
    if node.op_type == "MatMul":
        world.require_axis(value, axis, 0, 1)
        return world.operand(node, 1, max(0, rank - 2))
    world.require_axis(value, axis, 1, rank)
    if node.op_type == "ConvTranspose":
        return weight
    return world.operand(node, 1, 1, groups=integer(node, "group", 1))


def producing(world: World, node: onnx.NodeProto, axis: int) -> tuple[list[Operand], tuple[str, ...]] | None:
    """The constants that take 1/s where a node computes a scaled value, and inputs to be divided as well.

    None where it has no such constants.

    Raises:
        Refused: it has, but they cannot take it.
    """
    if is_standard(node, *LAYERS):
        return _layer(world, node, axis), ()
    if is_standard(node, *_NORMS):
        return _norm(world, node, axis), ()
    if is_standard(node, "Add", "Sub", "Mul"):
        return _arithmetic(world, node, axis)
    return None


def _layer(world: World, node: onnx.NodeProto, axis: int) -> list[Operand]:
    value, weight = node.output[0], world.operand(node, 1, 0)
    rank, biased = len(weight.dims), len(node.input) > 2 and bool(node.input[2])
    if node.op_type in ("MatMul", "Gemm"):
        if rank < 2 or axis != -1:
            raise Refused(f"the features of {value!r} lie along another axis than those of its layer")
        turned = node.op_type == "Gemm" and integer(node, "transB", 0) == 1
        found = [world.operand(node, 1, 0 if turned else rank - 1)]
        return [*found, _vector(world, node, 2, axis, found[0].features)] if biased else found
    world.require_axis(value, axis, 1, rank)
    if node.op_type == "ConvTranspose" and integer(node, "group", 1) != 1:
        raise Refused(f"{value!r} comes from a ConvTranspose in groups")
    found = [world.operand(node, 1, 0 if node.op_type == "Conv" else 1)]
    return [*found, world.operand(node, 2, 0)] if biased else found


def _norm(world: World, node: onnx.NodeProto, axis: int) -> list[Operand]:
    """Scale and shift behind the normalization; statistics stay as they are."""
    present = [i for i in (1, 2) if i < len(node.input) and node.input[i]]
    if node.op_type in ("BatchNormalization", "InstanceNormalization"):
        world.require_axis(node.output[0], axis, 1)
        return [world.operand(node, i, 0) for i in present]
    first = world.operand(node, 1, 0)
    if -axis > len(first.dims):
        raise Refused(f"{first.name!r} has no axis of features")
    return [_vector(world, node, i, axis, first.dims[axis]) for i in present]


def _arithmetic(world: World, node: onnx.NodeProto, axis: int) -> tuple[list[Operand], tuple[str, ...]] | None:
    """A sum with a constant, which is divided as the other summand is; a product with one of each feature."""
    stored = [i for i in (0, 1) if world.constant(node, i) is not None]
    if len(stored) != 1:
        return None
    (place,) = stored
    dims = tuple(world.constant(node, place).dims)  # type: ignore[union-attr]
    count = dims[axis] if len(dims) >= -axis else 1
    if node.op_type == "Mul":
        return None if count == 1 else ([_vector(world, node, place, axis, count)], ())
    if count == 1:
        raise Refused(f"{node.op_type} in {node.output[0]!r} has one constant for all features")
    return [_vector(world, node, place, axis, count)], (node.input[1 - place],)


def _vector(world: World, node: onnx.NodeProto, index: int, axis: int, features: int) -> Operand:
    """A constant that broadcasts, with a value for each feature."""
    rank = len(t.dims) if (t := world.constant(node, index)) is not None else 0
    found = world.operand(node, index, rank + axis)
    if found.features != features:
        raise Refused(f"{found.name!r} does not have a value for each feature")
    return found


# ------------------------------------------------------------------------- values that hand a scale on


def passing_down(world: World, node: onnx.NodeProto, index: int, axis: int) -> int | None:
    """The axis of the features at the output of a node that hands on the scale of an input; None where it does not."""
    if not is_standard(node):
        return None
    if node.op_type in ("Add", "Sub"):  # what is added has to be stored: it is looked at from the output
        return axis if world.constant(node, 1 - index) is not None else None
    if node.op_type in FACTORS:
        return axis if index == 0 or node.op_type == "Mul" else None
    return _moved(world, node, axis, down=True) if index == 0 else None


def passing_up(world: World, node: onnx.NodeProto, axis: int, side: int) -> tuple[str, int] | None:
    """The input whose scale a node hands on, and the axis of its features; ``side``: which of two factors."""
    if not is_standard(node):
        return None
    if node.op_type == "Mul":
        stored = [i for i in (0, 1) if world.constant(node, i) is not None]
        return node.input[1 - stored[0] if stored else side], axis
    if node.op_type == "Div":
        return node.input[0], axis
    moved = _moved(world, node, axis, down=False)
    return None if moved is None else (node.input[0], moved)


def _moved(world: World, node: onnx.NodeProto, axis: int, *, down: bool) -> int | None:
    """Where features that lie along an axis on one side of a node lie on the other; None where they are mixed."""
    op = node.op_type
    if op in _ELEMENTWISE:
        return axis
    if op in _POOLS:
        kernel = attribute_value(node, "kernel_shape", [])
        return axis if axis == -1 - len(kernel) else None  # type: ignore[arg-type]
    if op in _GLOBAL_POOLS:
        rank = world.ranks.get(node.input[0])
        return axis if rank is not None and axis == 1 - rank else None
    if op == "Pad":
        return axis if _pads_by_zero(world, node, axis) else None
    if op == "Transpose":
        order = [int(i) for i in attribute_value(node, "perm", [])]  # type: ignore[attr-defined]
        place = axis % len(order) if order else 0
        return ((order.index(place) if down else order[place]) - len(order)) if order else None
    if op == "Flatten":
        return _flattened(world, node, axis, down=down)
    return axis if op == "Reshape" and axis == -1 and last_length(world, node) is not None else None


def _pads_by_zero(world: World, node: onnx.NodeProto, axis: int) -> bool:
    """Whether other axes are padded, by zero or by values that are there."""
    if world.model.opset < _PADS_INPUT:
        given, fill = attribute_value(node, "pads", []), attribute_value(node, "value", 0.0)
        pads = [int(n) for n in given]  # type: ignore[attr-defined]
    else:
        numbers = world.constant(node, 1)
        named = len(node.input) > 2 and bool(node.input[2])
        value = world.constant(node, 2) if named else None
        if numbers is None or (named and value is None) or (len(node.input) > 3 and node.input[3]):
            return False
        pads = [int(n) for n in world.model.array(numbers)]
        fill = 0.0 if value is None else float(world.model.array(value).reshape(-1)[0])
    rank = len(pads) // 2
    by_zero = fill == 0 or attribute_value(node, "mode", b"constant") != b"constant"
    return by_zero and -axis <= rank and not pads[axis] and not pads[axis - rank]


def _flattened(world: World, node: onnx.NodeProto, axis: int, *, down: bool) -> int | None:
    """Behind a global pool every feature is a single value, so flattening keeps them apart."""
    pool = world.scopes.main.producers.get(node.input[0])
    rank = world.ranks.get(node.input[0])
    if pool is None or rank is None or not is_standard(pool, *_GLOBAL_POOLS) or integer(node, "axis", 1) != 1:
        return None
    before, after = 1 - rank, -1
    if axis != (before if down else after):
        return None
    return after if down else before


def last_length(world: World, node: onnx.NodeProto) -> int | None:
    """Length of the last axis behind a Reshape; if it is that of all features, positions alone have moved."""
    shape = world.constant(node, 1)
    length = 0 if shape is None or not math.prod(shape.dims) else int(world.model.array(shape).reshape(-1)[-1])
    return length if length > 0 else None
