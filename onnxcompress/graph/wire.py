"""ONNX files on the wire: large tensors stay in the file while everything else is parsed.

A serialized protobuf message is a sequence of fields, each a key ``number << 3 | wire_type`` followed by its
value; a nested message is a length and that many bytes
(https://protobuf.dev/programming-guides/encoding). `cut` walks the nesting down to every TensorProto, leaves
large ``raw_data`` out and notes where in the file it lies; what remains is a small ordinary ModelProto.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnxcompress.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

Buffer = memoryview

LARGE = 1024  # bytes from which a tensor's data stays in the file
PAYLOAD_KEY = f"payload:{secrets.token_hex(8)}"  # unguessable, so no file can pretend to hold one
MAX_DEPTH = 64  # nested messages; protobuf itself gives up at 100

# message -> {field number: message of that field}, the ways that lead to tensors (onnx.proto)
_WAYS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_DATA_TYPE, _FLOAT_DATA, _RAW_DATA = 2, 4, 9
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Span:
    """A range of bytes in a file."""

    offset: int
    length: int


def encode_varint(value: int) -> bytes:
    """Base-128 varint, least significant group first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field_head(number: int, length: int) -> bytes:
    """Key and length prefix of a length-delimited field."""
    return encode_varint(number << 3 | _LENGTH) + encode_varint(length)


def _truncated() -> ModelError:
    return ModelError(
        "the file is not a complete ONNX model: its contents end in the middle of a field",
        "Copy or export the model again; the file may be truncated or no ONNX file at all.",
    )


class _Reader:
    """Varints and fields of one buffer, with every bound checked."""

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer

    def varint(self, position: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            if position >= end or shift > 63:
                raise _truncated()
            byte = self.buffer[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
            shift += 7

    def fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
        """Yields (number, wire type, start of the field, start of its value, end of its value)."""
        position = start
        while position < end:
            begin = position
            key, position = self.varint(position, end)
            wire = key & 7
            if wire == _LENGTH:
                length, position = self.varint(position, end)
                value, position = position, position + length
            elif wire == _VARINT:
                value = position
                _, position = self.varint(position, end)
            elif wire in (_FIXED32, _FIXED64):
                value, position = position, position + (4 if wire == _FIXED32 else 8)
            else:
                raise _truncated()
            if position > end or key >> 3 == 0:
                raise _truncated()
            yield key >> 3, wire, begin, value, position


class _Cutter(_Reader):
    """One walk over a serialized model."""

    def __init__(self, buffer: Buffer) -> None:
        super().__init__(buffer)
        self.spans: list[Span] = []

    def message(self, kind: str, start: int, end: int, depth: int = 0) -> bytes:
        """The bytes of a message without the large tensor data in it."""
        if depth > MAX_DEPTH:
            raise ModelError(
                f"the model nests graphs more than {MAX_DEPTH // 3} deep",
                "Such depth is not found in real models; inline the nested graphs first.",
            )
        if kind == "Tensor":
            return self.tensor(start, end)
        ways = _WAYS[kind]
        out, copied = bytearray(), start
        for number, wire, begin, value, stop in self.fields(start, end):
            if wire == _LENGTH and stop - value >= LARGE and number in ways:
                inner = self.message(ways[number], value, stop, depth + 1)
                out += self.buffer[copied:begin]
                out += field_head(number, len(inner))
                out += inner
                copied = stop
        out += self.buffer[copied:end]
        return bytes(out)

    def tensor(self, start: int, end: int) -> bytes:
        out, copied, data_type = bytearray(), start, 0
        for number, wire, begin, value, stop in self.fields(start, end):
            if number == _DATA_TYPE and wire == _VARINT:
                data_type, _ = self.varint(value, stop)
            # packed float_data has the same bytes as raw_data: little-endian float32
            packed = number == _FLOAT_DATA and data_type == onnx.TensorProto.FLOAT
            if wire == _LENGTH and stop - value >= LARGE and (number == _RAW_DATA or packed):
                out += self.buffer[copied:begin]
                out += _reference(len(self.spans))
                self.spans.append(Span(value, stop - value))
                copied = stop
        out += self.buffer[copied:end]
        return bytes(out)


def _reference(index: int) -> bytes:
    """The fields that stand in a tensor in place of its data."""
    tensor = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key=PAYLOAD_KEY, value=str(index))
    return bytes(tensor.SerializeToString())


def cut(buffer: Buffer) -> tuple[bytes, list[Span]]:
    """Split a serialized model into its structure and the places of its large tensors.

    Returns:
        The serialized ModelProto in which each large tensor carries its index into the list in an
        ``external_data`` entry `PAYLOAD_KEY`, and the list.

    Raises:
        ModelError: the bytes are no complete protobuf message, or nest too deep.
    """
    cutter = _Cutter(buffer)
    return cutter.message("Model", 0, len(buffer)), cutter.spans


def little_endian(array: np.ndarray) -> bytes | memoryview:
    """The values as ONNX ``raw_data``: little-endian, row-major."""
    array = np.ascontiguousarray(array)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return array.reshape(-1).view(np.uint8).data if array.size else b""
