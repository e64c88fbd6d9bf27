"""The self-decoding form: stored as codes, decoded by constant nodes that a runtime folds once, when it loads.

    W = reshape(s · (cast(q) − z)),   divided by the migration of a weight that has one

Only Cast, Sub, Mul and Reshape are used (Floor and Concat besides where several codes share a byte), so any opset
and any runtime can read it. ONNX Runtime folds it to the float tensor that was there before: a smaller file, at
exactly the original's speed and memory. DequantizeLinear would not do: it is kept at load and run on every call.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from onnxcompress.forms import residual
from onnxcompress.forms.base import Writing, edit_source, small
from onnxcompress.forms.packing import unpacking_nodes
from onnxcompress.graph.edit import Edit, NewTensor
from onnxcompress.graph.model import Tensor

if TYPE_CHECKING:
    from onnxcompress.forms.stored import Stored

NAME = "decode"


def decoding(writing: Writing, stored: Stored) -> tuple[list[onnx.NodeProto], list[NewTensor]]:
    """The nodes that turn stored codes into the weight under its old name, and the constants that they need."""
    chain = Chain(writing)
    value = chain.add("Cast", [stored.codes.name], "i", to=Tensor.FLOAT)
    value = chain.unpacked(value, stored)
    value = chain.shifted(value, stored.zero_point.name if stored.zero_point else None)
    scale = stored.scale.name
    if stored.scale.data_type != Tensor.FLOAT:
        scale = chain.add("Cast", [scale], "f", to=Tensor.FLOAT)
    value = chain.add("Mul", [value, scale], "w")
    if writing.groups.shape != writing.dims:
        value = chain.shaped(value, writing.dims)
    if writing.migration is not None:
        below = chain.constant("m", reciprocals(writing.migration))
        value = chain.add("Mul", [value, chain.add("Cast", [below], "mf", to=Tensor.FLOAT)], "u")
    if writing.residual is not None:
        value = residual.added(chain, stored, value)
    finished(chain, value)
    return chain.nodes, chain.tensors


def reciprocals(migration: np.ndarray) -> np.ndarray:
    """What decoded weights are multiplied by, as float16, in which a migration has to be `exact`."""
    return (1 / migration).astype(np.float16)


def exact(migration: np.ndarray) -> np.ndarray:
    """The migration, float32, whose reciprocals are float16 exactly."""
    return (1 / reciprocals(np.clip(migration, 1e-3, 1e3)).astype(np.float32)).astype(np.float32)


def finished(chain: Chain, value: str) -> None:
    """The nodes that give values in the stored order the order, the type and the name of the weight."""
    writing = chain.writing
    weight = writing.weight
    if writing.flipped:
        value = chain.add("Transpose", [value], "t", perm=[1, 0])
    if weight.tensor.data_type != Tensor.FLOAT:
        chain.add("Cast", [value], "typed", to=weight.tensor.data_type)
    # the last node takes the name of the weight, so that no reader has to change
    chain.nodes[-1].output[0] = weight.name


class Chain:
    """Collects nodes, one after the other, from codes to values."""

    def __init__(self, writing: Writing) -> None:
        self.writing = writing
        self.stem = writing.weight.name
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[NewTensor] = []

    def add(self, op: str, inputs: list[str], word: str, **attributes: Any) -> str:
        """One more node; returns the name of its output."""
        output = self.writing.namer(f"{self.stem}.{word}")
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))  # unnamed: names take bytes
        return output

    def constant(self, word: str, values: np.ndarray) -> str:
        """One more small constant; returns its name."""
        tensor = small(self.writing.namer(f"{self.stem}.{word}"), values)
        self.tensors.append(tensor)
        return tensor.name

    def unpacked(self, value: str, stored: Stored) -> str:
        """Codes one by one, in the shape of the groups, from packed bytes."""
        bits, shape = self.writing.grid.stored_bits, self.writing.groups.shape
        if bits == 8:
            return value
        value = self.planes(value, bits, -1 if stored.by_row else 0)
        if stored.by_row:
            return value  # whole bytes to a row: its last axis is as long as it was
        count = math.prod(shape)
        if count % (8 // bits):  # a Gather has the same form in every opset, unlike Slice
            value = self.add("Gather", [value, self.constant("index", np.arange(count))], "cut", axis=0)
        return self.shaped(value, shape)

    def planes(self, value: str, bits: int, axis: int) -> str:
        """Packed bytes, cast to float, taken apart along ``axis``."""
        nodes, tensors, value = unpacking_nodes(value, bits, axis, self.stem, self.writing.namer)
        self.nodes += nodes
        self.tensors += tensors
        return value

    def shifted(self, value: str, zero_point: str | None) -> str:
        """Codes less their zero point."""
        grid = self.writing.grid
        if zero_point is not None:
            return self.add("Sub", [value, self.add("Cast", [zero_point], "zi", to=Tensor.FLOAT)], "d")
        if grid.bits < 8:
            zero = np.array(grid.offset + grid.middle, np.float32)
            return self.add("Sub", [value, self.constant("zero", zero)], "d")
        return value

    def shaped(self, value: str, wanted: tuple[int, ...]) -> str:
        """The same values in another shape."""
        return self.add("Reshape", [value, self.constant("dims", np.array(wanted, np.int64))], "r")


def write_float(writing: Writing, data_type: int) -> Edit:
    """The edit that stores a weight in a shorter float type and casts it back when it is loaded."""
    weight = writing.weight
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(data_type))
    stored = NewTensor(
        writing.namer(f"{weight.name}.h"),
        data_type,
        weight.dims,
        lambda: writing.values().astype(np.float32).astype(dtype),
    )
    cast = helper.make_node("Cast", [stored.name], [weight.name], to=weight.tensor.data_type)
    return Edit(weight.scope, (stored,), (cast,), **edit_source(weight))  # type: ignore[arg-type]
