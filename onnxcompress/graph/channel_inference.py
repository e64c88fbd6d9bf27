"""Shapes inferred from the inputs of a model alone, with names for lengths that are not known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import onnx

from onnxcompress.graph.bodies import is_standard
from onnxcompress.graph.shapes import NOT_INFERRED, skeleton

if TYPE_CHECKING:
    from onnxcompress.graph.model import Model

_KEEPING = ("GroupNormalization", "MeanVarianceNormalization")  # a function, whose shapes are lost in its body
_KEEPING_CONTRIBUTED = ("Gelu", "QuickGelu")  # of com.microsoft, which onnx does not know
Dim = int | str  # a length, or a name that equal unknown lengths share


def tells_more(dims: list[Dim], shape: tuple[Dim, ...] | None) -> bool:
    """True where lengths are known that were not."""
    if shape is None or len(shape) != len(dims):
        return shape is None
    return any(isinstance(new, int) and not isinstance(old, int) for new, old in zip(dims, shape, strict=True))


def remaining(before: tuple[Dim, ...], others: list[Dim]) -> int | None:
    """The length that is left for one axis of a Reshape; None where unknown lengths do not cancel out."""
    left = list(others)
    values = 1
    for dim in before:
        if isinstance(dim, int):
            values *= dim
        elif dim in left:
            left.remove(dim)
        else:
            return None
    parts = math.prod(dim for dim in left if isinstance(dim, int))
    whole = all(isinstance(dim, int) for dim in left) and parts > 0 and values % parts == 0
    return values // parts if whole else None


def unclaimed(model: Model) -> onnx.ModelProto:
    """A model without what the file claims of the shapes of values other than its inputs.

    Operators that keep a shape but of which onnx cannot tell this are replaced: it is a model to infer shapes of only.
    """
    proto = skeleton(model)
    del proto.graph.value_info[:]
    for node in proto.graph.node:
        if _keeps_shape(node):
            node.CopyFrom(onnx.helper.make_node("Identity", node.input[:1], node.output[:1]))
    for output in proto.graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    return proto


def _keeps_shape(node: onnx.NodeProto) -> bool:
    contributed = node.domain == "com.microsoft" and node.op_type in _KEEPING_CONTRIBUTED
    return len(node.output) == 1 and bool(node.input) and (contributed or is_standard(node, *_KEEPING))


def stated(proto: onnx.ModelProto, name: str, elem_type: int, dims: list[Dim]) -> onnx.ValueInfoProto:
    """The shape of a value to infer further from; names that an inference made up are not taken to the next one."""
    shapes = [i.type.tensor_type.shape.dim for i in proto.graph.input]
    declared = {f"={dim.dim_param}" for shape in shapes for dim in shape if dim.dim_param}
    given: list[Dim] = []
    for axis, dim in enumerate(dims):
        known = isinstance(dim, int) or dim in declared
        given.append((dim if isinstance(dim, int) else dim[1:]) if known else f"{name}[{axis}]")
    return onnx.helper.make_tensor_value_info(name, elem_type, given)


def inferred(proto: onnx.ModelProto) -> tuple[dict[str, tuple[Dim, ...]], dict[str, int]]:
    """Shapes of values as they follow from the inputs, and types of elements."""
    try:
        graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    except NOT_INFERRED:
        return {}, {}
    found: dict[str, tuple[Dim, ...]] = {}
    types: dict[str, int] = {}
    for info in (*graph.input, *graph.value_info, *graph.output):
        types[info.name] = info.type.tensor_type.elem_type
        if info.type.HasField("tensor_type") and info.type.tensor_type.HasField("shape"):
            dims = enumerate(info.type.tensor_type.shape.dim)
            found[info.name] = tuple(_dim(d, f"{info.name}[{i}]") for i, d in dims)
    return found, types


def _dim(dim: onnx.TensorShapeProto.Dimension, name: str) -> Dim:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return f"={dim.dim_param}" if dim.dim_param else name
