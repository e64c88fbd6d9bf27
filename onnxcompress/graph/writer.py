"""Writing a model as a stream: tensors are computed and written one at a time, and the file appears at once.

The file is written under a temporary name in the target folder, synced, and renamed: a reader sees the old model or
the new one, never a part.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import onnx

from onnxcompress.errors import OnnxCompressError, RuntimeFailure, UsageError
from onnxcompress.graph import leftovers
from onnxcompress.graph.layout import Layout, Part, Values, size
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.payload import FileRange
from onnxcompress.graph.wire import little_endian

SINGLE_FILE_LIMIT = 2**31 - 2**20  # protobuf refuses messages of 2 GiB
_ALIGNMENT = 4096  # external tensors start on pages, so that a runtime can map them
_OWN_DATA = re.compile(r"\.[0-9a-f]{16}\.data$")

Told = Callable[[str, int], None]  # name and bytes of each large tensor as it is written


def serialized_size(model: Model) -> int:
    """Bytes of the model as a single file."""
    return size(Layout(model).whole())


def save(
    model: Model,
    path: Path,
    *,
    single_file_limit: int = SINGLE_FILE_LIMIT,
    told: Told | None = None,
    durable: bool = True,
    stem: str | None = None,
) -> None:
    """Write a model, with external data when one file cannot hold it.

    Args:
        model: the model; its large tensors are computed now, one at a time.
        path: the file to write, replaced at once if it exists.
        single_file_limit: size in bytes above which large tensors go to a file of their own.
        told: hears of each large tensor.
        durable: wait until the bytes are on the disk; scratch files need not.
        stem: the name that the model will have, which failures tell and the name of that file begins with; by default
            that of the path. The rest is a hash of its contents, so that no two models ever share one by mistake.

    Raises:
        UsageError: the folder cannot be written to.
        RuntimeFailure: the disk is full, or another failure of the system while writing.
    """
    with _spoken(path.with_name(stem or path.name)):
        if serialized_size(model) <= single_file_limit:
            _write(model, path, Layout(model).whole(), told, durable)
        else:
            _save_external(model, path, stem or path.name, told, durable)


def settled(model: Model) -> Model:
    """The model with its weights computed, for those who read them more than once."""
    return Model.scratch(lambda path: save(model, path, durable=False))


def publish(candidate: Path, target: Path, *, new: bool = False) -> None:
    """Give a finished model its name, in one instant, and remove the external data of the one it replaces.

    Args:
        candidate: the model, in the folder of the target.
        target: its name; of several processes that give it the last one wins.
        new: refuse where there is such a file by now.

    Raises:
        UsageError: there is.
    """
    with _spoken(target):
        if new and not _named(candidate, target):
            raise UsageError(
                f"{target} exists: something else wrote it in the meantime",
                "Choose another name with -o, or overwrite it with --force.",
            )
        old = set() if new else _own_data(target)
        with leftovers.marked(old):
            if not new:
                candidate.replace(target)
            _sync_folder(target.parent)
            _remove_unused(old)


def _named(candidate: Path, target: Path) -> bool:
    """Give a file a name if that is free; of several processes one alone gets it."""
    try:
        target.hardlink_to(candidate)
        candidate.unlink()
    except FileExistsError:
        return False
    except OSError:  # a file system without links, where a look has to do
        if target.exists():
            return False
        candidate.replace(target)
    return True


def discard(candidate: Path) -> None:
    """Remove a model that will not be published, with external data that nothing else refers to."""
    if candidate.exists():
        data = _own_data(candidate)
        with leftovers.marked(data):
            candidate.unlink()
            _remove_unused(data)


def tidy(folder: Path) -> None:
    """Remove what processes that were killed have left in a folder."""
    for path in leftovers.abandoned(folder):
        with contextlib.suppress(OSError):
            data = leftovers.marked_by(path)
            if data is None:
                discard(path)
            else:
                if _OWN_DATA.search(data.name) and not data.is_symlink():
                    _remove_unused({data})
                path.unlink()


def _remove_unused(files: set[Path]) -> None:
    """Remove those of these data files to which no model in their folder refers, and no other process will."""
    there = {file for file in files if file.is_file()}
    if not there:
        return
    folder = next(iter(there)).parent
    used = leftovers.marked_by_others(folder)
    for model in folder.glob("*.onnx"):
        data = _data_of(model)
        if data is None:  # it cannot be read now, so what it refers to is not known
            return
        used |= data
    for file in there - used:
        file.unlink(missing_ok=True)


def _own_data(path: Path) -> set[Path]:
    """The external data files of a model that this module wrote, as their names tell; none where it cannot be read."""
    return _data_of(path) or set()


def _data_of(path: Path) -> set[Path] | None:
    """The same; None where the machine cannot read it now."""
    if not path.exists():
        return set()
    try:
        payloads = [m.payload(t) for m in (Model.open(path),) for t in m.tensors()]
    except OnnxCompressError:
        return set()
    except (OSError, MemoryError):
        return None
    found = {p.path for p in payloads if isinstance(p, FileRange)} - {path}
    return {f for f in found if _OWN_DATA.search(f.name)}


def to_bytes(model: Model) -> bytes:
    """The model as one serialized message; for models that fit one."""
    return b"".join(p if isinstance(p, bytes) else bytes(_values(model, p)) for p in Layout(model).whole())


def _save_external(model: Model, path: Path, stem: str, told: Told | None, durable: bool) -> None:
    twin = model.copy()
    handle, name = leftovers.make(path)
    part = Path(name)
    moved: list[Tensor] = []
    digest = hashlib.sha256()
    try:
        with os.fdopen(handle, "wb") as file:
            for tensor in twin.tensors():
                if not twin.has_data(tensor):
                    _write_external(twin, tensor, file, digest, told)
                    moved.append(tensor)
            _sync(file, durable)
        data = path.with_name(f"{stem}.{digest.hexdigest()[:16]}.data")
        for tensor in moved:
            tensor.external_data.add(key="location", value=data.name)
        part.chmod(_default_mode())
        with leftovers.marked([data]):
            part.replace(data)  # which may be there already, with a model of the same weights
            try:
                _write(twin, path, [twin.proto.SerializeToString(deterministic=True)], None, durable)
            except BaseException:
                _remove_unused({data})
                raise
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _write_external(model: Model, tensor: Tensor, file: BinaryIO, digest: hashlib._Hash, told: Told | None) -> None:
    file.write(b"\0" * (-file.tell() % _ALIGNMENT))
    offset, length = file.tell(), model.nbytes(tensor)
    values = _values(model, Values(tensor, length))
    file.write(values)
    digest.update(values)
    del tensor.external_data[:]
    for key, value in (("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    if told:
        told(tensor.name, length)


def _values(model: Model, part: Values) -> bytes | memoryview:
    array = model.array(part.tensor)
    if model.nbytes(part.tensor) != array.nbytes:  # sub-byte types are packed on the way out
        return onnx.numpy_helper.from_array(array).raw_data
    return little_endian(array)


def _write(model: Model, path: Path, parts: list[Part], told: Told | None, durable: bool) -> None:
    handle, name = leftovers.make(path)
    part_file = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part if isinstance(part, bytes) else _values(model, part))
                if told and isinstance(part, Values):
                    told(part.tensor.name, part.length)
            _sync(file, durable)
        part_file.chmod(_default_mode())
        part_file.replace(path)
    except BaseException:
        part_file.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync(file: BinaryIO, durable: bool) -> None:
    file.flush()
    if durable:
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
        if error.errno == errno.ENOMEM:
            raise MemoryError from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RuntimeFailure(
                f"no room to write {path}", "Free some disk space or choose another folder."
            ) from error
        if isinstance(error, (PermissionError, FileNotFoundError, NotADirectoryError)) or error.errno == errno.EROFS:
            raise UsageError(
                f"cannot write to the folder {path.parent}",
                "Choose another one with -o, or change its permissions.",
            ) from error
        raise RuntimeFailure(f"writing {path} failed: {error.strerror}", "Choose another folder with -o.") from error
