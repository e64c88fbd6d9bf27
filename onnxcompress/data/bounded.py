"""How much is read at once: a file may be far larger than it should be, or say that it unpacks to far more.

What is refused here is refused before it is read. An archive is a bomb when its packed arrays grow to more than
`MOST_UNPACKED` bytes, or to more than `MOST_RATIO` times the file where that is no small matter any more. Its
directory is measured by hand, since `zipfile` makes objects of all entries that it claims (APPNOTE 4.3.14 and
4.3.16: end of central directory, as it was and as it is beyond 4 GiB).
"""

from __future__ import annotations

import struct
import zipfile
from typing import TYPE_CHECKING

from onnxcompress.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MOST_UNPACKED = 2 << 30
MOST_RATIO = 100
SMALL = 256 << 20  # bytes that an archive may unpack to whatever its own size
MOST_DIRECTORY = 4 << 20  # bytes: some sixty thousand arrays
_TAIL = 22 + 20 + (1 << 16)  # the end of the directory, where it says that there is a larger one, the longest comment


def read_bounded(path: Path, most: int) -> bytes | None:
    """The bytes of a file, or None where there are more than ``most``; pipes and devices are read no further."""
    with path.open("rb") as file:
        found = file.read(most + 1)
    return found if len(found) <= most else None


def refuse_crowded(path: Path) -> None:
    """Refuse an archive whose directory alone would fill the memory.

    Raises:
        DataError: it is one.
    """
    if _directory_bytes(path) > MOST_DIRECTORY:
        raise DataError(f"{path} holds an absurd number of arrays", "Give one array for each input of the model.")


def _directory_bytes(path: Path) -> int:
    """What the end of an archive claims; 0 where there is no such end."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL))
        tail = file.read()
        at = tail.rfind(b"PK\5\6")
        if at < 0 or len(tail) < at + 22:
            return 0
        claims = [int(struct.unpack_from("<I", tail, at + 12)[0])]
        if at >= 20 and tail[at - 20 : at - 16] == b"PK\6\7":
            claims = []  # then zipfile goes by the larger record, which it looks for just before, or where this says
            for start in (max(0, size - len(tail)) + at - 20 - 56, struct.unpack_from("<Q", tail, at - 12)[0]):
                file.seek(min(start, size))
                record = file.read(56)
                if record[:4] == b"PK\6\6" and len(record) == 56:
                    claims.append(int(struct.unpack_from("<Q", record, 40)[0]))
    return max(claims, default=0)


def refuse_bomb(path: Path, members: Iterable[zipfile.ZipInfo]) -> None:
    """Refuse an archive whose packed members grow absurdly; members that are stored as they are do not count.

    Raises:
        DataError: it is one.
    """
    unpacked = sum(m.file_size for m in members if m.compress_type != zipfile.ZIP_STORED)
    if unpacked > MOST_UNPACKED or unpacked > max(SMALL, MOST_RATIO * path.stat().st_size):
        raise DataError(
            f"{path} unpacks to {unpacked} bytes, more than is unpacked in memory",
            "Save it with numpy.savez, without compression, or as a folder with one .npz for each call.",
        )
