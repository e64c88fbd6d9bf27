"""Constant nodes, one after the other, from what is stored of a weight to its values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper

from onnxcompress.forms.base import small
from onnxcompress.forms.packing import packed_length, unpacking_nodes
from onnxcompress.graph.model import Tensor

if TYPE_CHECKING:
    import onnx

    from onnxcompress.forms.base import Writing
    from onnxcompress.graph.edit import NewTensor

SHIFT_OPSET = 11  # of BitShift


class Chain:
    """Collects nodes, one after the other, from codes to values."""

    def __init__(self, writing: Writing) -> None:
        self.writing = writing
        self._stem = min(writing.weight.name, writing.namer("c"), key=len)  # names take bytes, and there are many
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[NewTensor] = []

    def add(self, op: str, inputs: list[str], word: str, **attributes: Any) -> str:
        """One more node; returns the name of its output."""
        output = self.writing.namer(f"{self._stem}.{word}")
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))  # unnamed: names take bytes
        return output

    def constant(self, word: str, values: np.ndarray) -> str:
        """One more small constant; returns its name."""
        tensor = small(self.writing.namer(f"{self._stem}.{word}"), values)
        self.tensors.append(tensor)
        return tensor.name

    def unpacked(self, stored: str, *, by_row: bool) -> str:
        """Codes one by one as floats, in the shape of the groups, from packed bytes."""
        bits, shape = self.writing.grid.stored_bits, self.writing.groups.shape
        if bits == 8:
            return self.add("Cast", [stored], "i", to=Tensor.FLOAT)
        if by_row:  # whole bytes to a row: its last axis is as long as it was
            return self._planes(stored, bits, -1)
        count = math.prod(shape)
        value = self.apart(stored, (packed_length(count, bits),), bits, Tensor.FLOAT)
        if count % (8 // bits):  # a Gather has the same form in every opset, unlike Slice
            value = self.add("Gather", [value, self.constant("index", np.arange(count))], "cut", axis=0)
        return self.shaped(value, shape)

    def apart(self, stored: str, dims: tuple[int, ...], bits: int, kind: int) -> str:
        """Packed bytes of ``dims`` taken apart along the first axis, (8 / bits · dims[0], ...), of type ``kind``."""
        if self.writing.model.opset < SHIFT_OPSET and kind == Tensor.FLOAT:
            return self._planes(stored, bits, 0)
        each, ones = 8 // bits, (1,) * len(dims)
        shifts = self.constant("shifts", (bits * np.arange(each)).astype(np.uint8).reshape(each, *ones))
        value = self.add("BitShift", [self.shaped(stored, (1, *dims)), shifts], "above", direction="RIGHT")
        value = self.add("Mod", [value, self.constant("base", np.array(1 << bits, np.uint8))], "plane")
        return self.add("Cast", [self.shaped(value, (each * dims[0], *dims[1:]))], "codes", to=kind)

    def _planes(self, stored: str, bits: int, axis: int) -> str:
        """The same along any axis, in any opset, as floats."""
        value = self.add("Cast", [stored], "i", to=Tensor.FLOAT)
        nodes, tensors, value = unpacking_nodes(value, bits, axis, self._stem, self.writing.namer)
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

    def cut(self, value: str, length: int, count: int) -> str:
        """The first ``count`` of so many values along the first axis. Needs opset 10, in which bounds are inputs."""
        if length == count:
            return value
        bounds = (("from", 0), ("to", count), ("along", 0))
        inputs = [self.constant(word, np.array([bound], np.int64)) for word, bound in bounds]
        return self.add("Slice", [value, *inputs], "cut")
