"""Padding does not count: positions that an attention mask hides are no part of what layers see.

A batch of texts is padded to its longest one, and what a model computes at padded positions means nothing. Where the
model takes a mask (batch, sequence) of zeros and ones, a value (batch, sequence, ...) is watched as

    kept = mask ≠ 0,   x' = x where kept, else 0,   count = Σ kept.

That the axes are those of the mask, and that it holds nothing but zeros and ones, is tested in each call while the
model runs: otherwise all positions of that call count.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxcompress.graph.interface import interface

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from onnxcompress.graph.model import Model

    _Maker = Callable[..., onnx.NodeProto]
    _Namer = Callable[[str], str]

OPSET = 9  # of Where and ConstantOfShape
_NAME = re.compile(r"mask")
_OTHER = re.compile(r"pad|masked|head|causal|future|label")  # marks what to hide, or something else than positions
_GIVEN = re.compile(r"(attention|input|token)_?mask$|^mask$", re.IGNORECASE)  # of calls, in which values tell more
_TYPES = frozenset({"bool", "int8", "uint8", "int32", "int64"})


@dataclass(frozen=True)
class Masked:
    """A masked copy of a value.

    ``value`` has the shape of the original, zero at hidden positions; ``kept`` is bool (batch, sequence, 1, ...), and
    ``count`` an int64 scalar. ``nodes`` and ``constants`` belong into the graph that has the value.
    """

    value: str
    kept: str
    count: str
    nodes: tuple[onnx.NodeProto, ...]
    constants: tuple[onnx.TensorProto, ...]


def padding_mask(model: Model) -> str | None:
    """The input that tells which positions are no padding; None where there is none, or several that could be."""
    if model.opset < OPSET:
        return None
    found = []
    for spec in interface(model.proto).inputs:
        name = spec.name.lower()
        fits = spec.dtype is not None and np.dtype(spec.dtype).name in _TYPES and len(spec.shape or ()) == 2
        if fits and _NAME.search(name) and not _OTHER.search(name):
            found.append(spec.name)
    return found[0] if len(found) == 1 else None


def kept_positions(feeds: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The positions ``(batch, time)`` of a call that count, if an input says so and some do not."""
    for name, array in feeds.items():
        if array.ndim == 2 and array.dtype.kind in "iubf" and _GIVEN.search(name):
            keep: np.ndarray = array != 0
            if not keep.all() and np.array_equal(array[keep], np.ones(np.count_nonzero(keep))):
                return keep
    return None


def masked(value: str, rank: int, mask: str, prefix: str) -> Masked:
    """A copy of a value in which padding is zero.

    Args:
        value: a float32 value (batch, sequence, ...) of the main graph.
        rank: its number of axes, at least 2.
        mask: the input from `padding_mask`.
        prefix: begins the names of all that is added.
    """

    def name(word: str) -> str:
        return f"{prefix}_{word}"

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(op, inputs, [name(output)], name=name(f"{output}_node"), **attributes)

    constants: dict[str, np.ndarray] = {
        "two": np.array([0, 1], np.int64),
        "none": np.array(0, np.int64),
        "spread": np.array([0, 0] + [1] * (rank - 2), np.int64),
        "hidden": np.array(0, np.float32),
    }
    nodes = [
        *_applies(node, name, value, mask),
        node("If", [name("applies")], "flags", **_branches(mask, name("leading"), prefix)),
        node("Reshape", [name("flags"), name("spread")], "kept"),
        node("Where", [name("kept"), value, name("hidden")], "value"),
        node("Cast", [name("flags")], "ones", to=onnx.TensorProto.INT64),
        node("ReduceSum", [name("ones")], "count", keepdims=0),
    ]
    tensors = tuple(numpy_helper.from_array(array, name(word)) for word, array in constants.items())
    return Masked(name("value"), name("kept"), name("count"), tuple(nodes), tensors)


def _applies(node: _Maker, name: _Namer, value: str, mask: str) -> list[onnx.NodeProto]:
    """Whether Σ(m² − m) + Σ|leading − shape of m| = 0: zeros and ones, on the leading axes of the value."""
    return [
        node("Shape", [value], "shape"),
        node("Gather", [name("shape"), name("two")], "leading"),
        node("Shape", [mask], "mask_shape"),
        node("Sub", [name("leading"), name("mask_shape")], "unlike"),
        node("Abs", [name("unlike")], "distance"),
        node("ReduceSum", [name("distance")], "misfit", keepdims=0),
        node("Cast", [mask], "numbers", to=onnx.TensorProto.INT64),
        node("Mul", [name("numbers"), name("numbers")], "squares"),
        node("Sub", [name("squares"), name("numbers")], "beyond"),
        node("ReduceSum", [name("beyond")], "excess", keepdims=0),
        node("Add", [name("misfit"), name("excess")], "faults"),
        node("Equal", [name("faults"), name("none")], "applies"),
    ]


def _branches(mask: str, leading: str, prefix: str) -> dict[str, onnx.GraphProto]:
    true = numpy_helper.from_array(np.array([True]), "")
    bodies: dict[str, tuple[str, list[str], dict[str, Any]]] = {
        "then": ("Cast", [mask], {"to": onnx.TensorProto.BOOL}),
        "else": ("ConstantOfShape", [leading], {"value": true}),
    }
    graphs = {}
    for word, (op, inputs, attributes) in bodies.items():
        output = f"{prefix}_{word}"
        info = helper.make_tensor_value_info(output, onnx.TensorProto.BOOL, [None, None])
        nodes = [helper.make_node(op, inputs, [output], name=f"{output}_node", **attributes)]
        graphs[f"{word}_branch"] = helper.make_graph(nodes, output, [], [info])
    return graphs
