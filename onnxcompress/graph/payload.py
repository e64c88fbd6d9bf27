"""Where the values of a large tensor come from: a range of a file, or a computation that waits until it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxcompress.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_SUB_BYTE_BITS = {
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
    **{
        getattr(onnx.TensorProto, n): b
        for n, b in (("FLOAT4E2M1", 4), ("INT2", 2), ("UINT2", 2), ("FLOAT6E2M3", 6), ("FLOAT6E3M2", 6))
        if hasattr(onnx.TensorProto, n)
    },
}


def element_count(dims: tuple[int, ...] | list[int]) -> int:
    """Number of elements of a shape."""
    count = 1
    for dim in dims:
        count *= dim
    return count


def stored_bytes(data_type: int, dims: tuple[int, ...] | list[int]) -> int:
    """Bytes that a tensor takes as raw data; sub-byte types are packed and rounded up."""
    count = element_count(dims)
    if data_type in _SUB_BYTE_BITS:
        return (count * _SUB_BYTE_BITS[data_type] + 7) // 8
    return count * np.dtype(helper.tensor_dtype_to_np_dtype(data_type)).itemsize


class Payload(Protocol):
    """The values of one tensor."""

    def read(self, data_type: int, dims: tuple[int, ...]) -> np.ndarray:
        """All values, as an array of that type and shape."""


@dataclass(frozen=True)
class FileRange:
    """Raw data in a file."""

    path: Path
    offset: int
    length: int

    def read(self, data_type: int, dims: tuple[int, ...]) -> np.ndarray:
        """Read the range.

        Raises:
            ModelError: the file has become shorter since it was opened.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset)
            raw = np.fromfile(file, np.uint8, self.length)
        if raw.size != self.length:
            raise ModelError(f"{self.path} has become shorter while it was read", "Do not change the model meanwhile.")
        if data_type in _SUB_BYTE_BITS:
            tensor = onnx.TensorProto(data_type=data_type, dims=dims, raw_data=raw.tobytes())
            return numpy_helper.to_array(tensor)
        return raw.view(helper.tensor_dtype_to_np_dtype(data_type)).reshape(dims)

    def view(self, data_type: int, dims: tuple[int, ...]) -> np.ndarray:
        """The values where they are, mapped for as long as the array lives; their address may be unaligned.

        For whoever reads them once, in parts: nothing is copied.
        """
        if data_type in _SUB_BYTE_BITS or not self.length:
            return self.read(data_type, dims)
        raw = np.memmap(self.path, np.uint8, "r", self.offset, (self.length,))
        return np.asarray(raw).view(helper.tensor_dtype_to_np_dtype(data_type)).reshape(dims)


@dataclass(frozen=True)
class Computed:
    """Values computed when they are needed, each time anew, so that only one tensor is in memory."""

    compute: Callable[[], np.ndarray]

    def read(self, data_type: int, dims: tuple[int, ...]) -> np.ndarray:
        """Run the computation and check that it kept its promise of type and shape."""
        array = self.compute()
        expected = np.dtype(helper.tensor_dtype_to_np_dtype(data_type))
        if array.shape != tuple(dims) or array.dtype != expected:
            raise AssertionError(f"computed {array.dtype}{array.shape}, promised {expected}{tuple(dims)}")
        return array
