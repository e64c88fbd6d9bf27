"""Writing a model as a stream: tensors are computed and written one at a time, and the file appears at once.

The size of every tensor follows from its dims and type, so the length prefixes of the graph and of whatever else
encloses a large tensor are known before any value is. The file is written under a temporary name in the target
folder, synced, and renamed: a reader sees the old model or the new one, never a part.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx

from onnxcompress.errors import RuntimeFailure, UsageError
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.wire import field_head, little_endian

SINGLE_FILE_LIMIT = 2**31 - 2**20  # protobuf refuses messages of 2 GiB
_ALIGNMENT = 4096  # external tensors start on pages, so that a runtime can map them
_RAW_DATA = 9

Told = Callable[[str, int], None]  # name and bytes of each large tensor as it is written


@dataclass(frozen=True)
class _Values:
    """The place of a large tensor's values in the stream."""

    tensor: Tensor
    length: int


_Part = bytes | _Values


def _size(parts: list[_Part]) -> int:
    return sum(len(p) if isinstance(p, bytes) else p.length for p in parts)


class _Layout:
    """The parts of a serialized model, in order."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def tensor(self, tensor: Tensor) -> list[_Part]:
        if self.model.has_data(tensor):
            return [tensor.SerializeToString(deterministic=True)]
        head = Tensor()
        head.CopyFrom(tensor)
        del head.external_data[:]
        head.ClearField("data_location")
        length = self.model.nbytes(tensor)
        return [
            head.SerializeToString(deterministic=True) + field_head(_RAW_DATA, length),
            _Values(tensor, length),
        ]

    def _field(self, number: int, parts: list[_Part]) -> Iterator[_Part]:
        yield field_head(number, _size(parts))
        yield from parts

    def graph(self, graph: onnx.GraphProto) -> list[_Part]:
        rest = onnx.GraphProto()
        rest.CopyFrom(graph)
        for name in ("initializer", "node", "sparse_initializer"):
            rest.ClearField(name)
        parts: list[_Part] = []
        for node in graph.node:
            parts += self._field(1, self.node(node))
        parts.append(rest.SerializeToString(deterministic=True))
        for tensor in graph.initializer:
            parts += self._field(5, self.tensor(tensor))
        for sparse in graph.sparse_initializer:
            parts += self._field(15, self.sparse(sparse))
        return parts

    def sparse(self, sparse: onnx.SparseTensorProto) -> list[_Part]:
        rest = onnx.SparseTensorProto(dims=sparse.dims)
        parts: list[_Part] = [rest.SerializeToString(deterministic=True)]
        parts += self._field(1, self.tensor(sparse.values))
        parts += self._field(2, self.tensor(sparse.indices))
        return parts

    def node(self, node: onnx.NodeProto) -> list[_Part]:
        if not any(_may_hold_tensors(a) for a in node.attribute):
            return [node.SerializeToString(deterministic=True)]
        rest = onnx.NodeProto()
        rest.CopyFrom(node)
        rest.ClearField("attribute")
        parts: list[_Part] = [rest.SerializeToString(deterministic=True)]
        for attribute in node.attribute:
            parts += self._field(5, self.attribute(attribute))
        return parts

    def attribute(self, attribute: onnx.AttributeProto) -> list[_Part]:
        if not _may_hold_tensors(attribute):
            return [attribute.SerializeToString(deterministic=True)]
        rest = onnx.AttributeProto()
        rest.CopyFrom(attribute)
        for name in ("t", "g", "tensors", "graphs", "sparse_tensor", "sparse_tensors"):
            rest.ClearField(name)
        parts: list[_Part] = [rest.SerializeToString(deterministic=True)]
        if attribute.HasField("t"):
            parts += self._field(5, self.tensor(attribute.t))
        if attribute.HasField("g"):
            parts += self._field(6, self.graph(attribute.g))
        for tensor in attribute.tensors:
            parts += self._field(10, self.tensor(tensor))
        for graph in attribute.graphs:
            parts += self._field(11, self.graph(graph))
        if attribute.HasField("sparse_tensor"):
            parts += self._field(22, self.sparse(attribute.sparse_tensor))
        for sparse in attribute.sparse_tensors:
            parts += self._field(23, self.sparse(sparse))
        return parts

    def function(self, function: onnx.FunctionProto) -> list[_Part]:
        rest = onnx.FunctionProto()
        rest.CopyFrom(function)
        rest.ClearField("node")
        parts: list[_Part] = [rest.SerializeToString(deterministic=True)]
        for node in function.node:
            parts += self._field(7, self.node(node))
        return parts

    def whole(self) -> list[_Part]:
        proto = self.model.proto
        rest = onnx.ModelProto()
        rest.CopyFrom(proto)
        rest.ClearField("graph")
        rest.ClearField("functions")
        parts: list[_Part] = [rest.SerializeToString(deterministic=True)]
        parts += self._field(7, self.graph(proto.graph))
        for function in proto.functions:
            parts += self._field(25, self.function(function))
        return parts


def _may_hold_tensors(attribute: onnx.AttributeProto) -> bool:
    kinds = onnx.AttributeProto
    return attribute.type in (
        kinds.TENSOR, kinds.GRAPH, kinds.TENSORS, kinds.GRAPHS, kinds.SPARSE_TENSOR, kinds.SPARSE_TENSORS
    )  # fmt: skip


def serialized_size(model: Model) -> int:
    """Bytes of the model as a single file."""
    return _size(_Layout(model).whole())


def save(model: Model, path: Path, *, single_file_limit: int = SINGLE_FILE_LIMIT, told: Told | None = None) -> None:
    """Write a model, with external data when one file cannot hold it.

    The external data get a name that no earlier output has, so that replacing the model file, the last thing
    done, is the one instant at which the new model takes the place of the old.

    Raises:
        UsageError: the folder cannot be written to.
        RuntimeFailure: the disk is full, or another failure of the system while writing.
    """
    with _spoken(path):
        if serialized_size(model) <= single_file_limit:
            _write(model, path, _Layout(model).whole(), told)
        else:
            _save_external(model, path, told)


def to_bytes(model: Model) -> bytes:
    """The model as one serialized message; for models that fit one."""
    return b"".join(p if isinstance(p, bytes) else bytes(_values(model, p)) for p in _Layout(model).whole())


def _save_external(model: Model, path: Path, told: Told | None) -> None:
    twin = model.copy()
    handle, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".data", dir=path.parent)
    data = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            for tensor in twin.tensors():
                if not twin.has_data(tensor):
                    _write_external(twin, tensor, file, data.name, told)
            _sync(file)
        data.chmod(_default_mode())
        old = _external_files(path)
        _write(twin, path, [twin.proto.SerializeToString(deterministic=True)], None)
    except BaseException:
        data.unlink(missing_ok=True)
        raise
    for stale in old - {data}:
        stale.unlink(missing_ok=True)


def _write_external(model: Model, tensor: Tensor, file: BinaryIO, name: str, told: Told | None) -> None:
    file.write(b"\0" * (-file.tell() % _ALIGNMENT))
    offset, length = file.tell(), model.nbytes(tensor)
    file.write(_values(model, _Values(tensor, length)))
    del tensor.external_data[:]
    for key, value in (("location", name), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    if told:
        told(tensor.name, length)


def _external_files(path: Path) -> set[Path]:
    """External data files that an earlier output at this path owns: those named after it."""
    return {p for p in path.parent.glob(f"{path.name}.*.data")} if path.exists() else set()


def _values(model: Model, part: _Values) -> bytes | memoryview:
    array = model.array(part.tensor)
    if model.nbytes(part.tensor) != array.nbytes:  # sub-byte types are packed on the way out
        return onnx.numpy_helper.from_array(array).raw_data
    return little_endian(array)


def _write(model: Model, path: Path, parts: list[_Part], told: Told | None) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    part_file = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part if isinstance(part, bytes) else _values(model, part))
                if told and isinstance(part, _Values):
                    told(part.tensor.name, part.length)
            _sync(file)
        part_file.chmod(_default_mode())
        part_file.replace(path)
    except BaseException:
        part_file.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _default_mode() -> int:
    """The permissions that a newly made file would have."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


@contextlib.contextmanager
def _spoken(path: Path) -> Iterator[None]:
    """Turns failures of the file system into sentences."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RuntimeFailure(f"no room to write {path}", "Free some disk space or choose another folder.") from error
        if isinstance(error, (PermissionError, FileNotFoundError, NotADirectoryError)) or error.errno == errno.EROFS:
            raise UsageError(
                f"cannot write to the folder {path.parent}", "Choose another one with -o, or change its permissions."
            ) from error
        raise RuntimeFailure(f"writing {path} failed: {error.strerror}", "Choose another folder with -o.") from error


