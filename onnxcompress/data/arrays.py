"""Arrays in ``.npy`` and ``.npz`` files, mapped from the file where they lie in it uncompressed.

``numpy.load`` reads the whole array of an archive; a set of calibration images may be larger than memory. So
the headers are read here (numpy's own parser), the size that a header claims is checked against the bytes
there are before anything is allocated, and arrays that were saved without compression are memory-mapped.
Object arrays, which would have to be unpickled, are refused. Formats:
https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html and PKWARE's APPNOTE 4.3.7 (local file
header).
"""

from __future__ import annotations

import io
import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Literal

import numpy as np
from numpy.lib import format as npy

from onnxcompress.data.bounded import refuse_bomb, refuse_crowded
from onnxcompress.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BROKEN = (
    ValueError,
    OSError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
    RuntimeError,
    struct.error,
    SyntaxError,  # the header is a literal of Python
    tokenize.TokenError,
)
_MOST_HEADER = 1 << 16


@dataclass(frozen=True)
class Header:
    """What an array file says of itself, and how many bytes that took."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    length: int


@contextmanager
def _readable(path: Path, what: str = "") -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise DataError(f"{path}{what} does not fit in memory", "Save it without compression.") from error
    except _BROKEN as error:
        raise DataError(f"{path}{what} cannot be read ({error})", "Write it again with numpy.") from error


def _header(file: IO[bytes], available: int, subject: str) -> Header:
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"array format {version} is not known")
    read, kind = (npy.read_array_header_1_0, "<H") if version == (1, 0) else (npy.read_array_header_2_0, "<I")
    count = file.read(struct.calcsize(kind))
    (own,) = struct.unpack(kind, count)
    if own > _MOST_HEADER:  # numpy would read all of it before it objects
        raise ValueError(f"a header of {own} bytes")
    shape, fortran, dtype = read(io.BytesIO(count + file.read(own)))
    length = npy.MAGIC_LEN + len(count) + own
    if dtype.hasobject:
        raise DataError(f"{subject} holds Python objects", "Save plain numbers or strings, not object arrays.")
    if min(shape, default=0) < 0 or not dtype.itemsize:
        raise ValueError(f"an array of the shape {list(shape)} and the type {dtype.str}")
    if math.prod(shape) * dtype.itemsize != available - length:
        raise DataError(f"{subject} is truncated or damaged", "Write it again with numpy.")
    return Header(shape, dtype, fortran, length)


def _mapped(path: Path, header: Header, offset: int) -> np.ndarray:
    if 0 in header.shape:
        return np.empty(header.shape, header.dtype)
    order: Literal["C", "F"] = "F" if header.fortran else "C"
    shape = header.shape or (1,)
    mapped = np.memmap(path, header.dtype, mode="r", offset=offset + header.length, shape=shape, order=order)
    return np.asarray(mapped.reshape(header.shape))


def open_npy(path: Path) -> np.ndarray:
    """The array of an ``.npy`` file, mapped."""
    with _readable(path):
        with path.open("rb") as file:
            header = _header(file, path.stat().st_size, str(path))
        return _mapped(path, header, 0)


class Archive:
    """The arrays of an ``.npz`` file by name; nothing but headers is read before an array is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._headers: dict[str, Header] = {}
        with _readable(path):
            refuse_crowded(path)
        with _readable(path), zipfile.ZipFile(path) as archive:
            refuse_bomb(path, archive.infolist())
            self._members = {i.filename.removesuffix(".npy"): i for i in archive.infolist() if not i.is_dir()}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays, in the order of the file."""
        return tuple(self._members)

    def header(self, name: str) -> Header:
        """Shape and type of one array."""
        if name not in self._headers:
            info = self._members[name]
            with (
                _readable(self.path, f" ({name})"),
                zipfile.ZipFile(self.path) as archive,
                archive.open(info) as member,
            ):
                self._headers[name] = _header(member, info.file_size, f"{self.path} ({name})")
        return self._headers[name]

    def array(self, name: str) -> np.ndarray:
        """One array: mapped where it was stored as it is, else decompressed."""
        header, info = self.header(name), self._members[name]
        with _readable(self.path, f" ({name})"):
            if info.compress_type == zipfile.ZIP_STORED:
                return _mapped(self.path, header, self._offset(info))
            with zipfile.ZipFile(self.path) as archive, archive.open(info) as member:
                return np.asarray(npy.read_array(member, allow_pickle=False))

    def _offset(self, info: zipfile.ZipInfo) -> int:
        with self.path.open("rb") as file:
            file.seek(info.header_offset)
            name_length, extra_length = struct.unpack("<26xHH", file.read(30))
        return info.header_offset + 30 + int(name_length) + int(extra_length)
