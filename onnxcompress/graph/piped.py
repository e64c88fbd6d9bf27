"""A model that comes through a pipe, written to a file first: a pipe cannot be read twice, nor at any place."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, BinaryIO

import onnx
from google.protobuf.message import DecodeError

from onnxcompress.errors import ModelError
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.wire import PAYLOAD_KEY, cut

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = 2**31 - 1  # bytes of one protobuf message
_BLOCK = 1 << 20


def spool(stream: BinaryIO, path: Path, limit: int = LIMIT) -> None:
    """Write a model from a stream to a file.

    Args:
        stream: where the model comes from; not read further than ``limit``.
        path: the file to write, in a folder with nothing else in it.
        limit: the most bytes to take.

    Raises:
        ModelError: there is nothing, too much, or a model that keeps weights in other files.
    """
    size = 0
    with path.open("wb") as file:
        while block := stream.read(_BLOCK):
            size += len(block)
            if size > limit:
                raise ModelError(
                    f"standard input holds more than {limit} bytes, more than one ONNX file can",
                    "Give the path of the file, with its external data beside it.",
                )
            file.write(block)
    if not size:
        raise ModelError("standard input is empty", "Pipe a model into it, or give the path of a file.")
    if _refers_elsewhere(path):
        raise ModelError(
            "the model on standard input keeps weights in external data, which do not come with it",
            "Give the path of the file, with its external data beside it.",
        )


def _refers_elsewhere(path: Path) -> bool:
    """Whether tensors lie outside of the file; one that is no model is judged when it is opened."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as view,
    ):
        try:
            model = Model(onnx.ModelProto.FromString(cut(view)[0]))
        except (ModelError, DecodeError, UnicodeDecodeError):
            return False
    return any(
        tensor.data_location == Tensor.EXTERNAL and not any(e.key == PAYLOAD_KEY for e in tensor.external_data)
        for tensor in model.tensors()
    )
