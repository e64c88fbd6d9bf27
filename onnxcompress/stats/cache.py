"""Statistics remembered on disk, so that a second run on the same model and data need not measure them again.

An entry is found by a hash of all that it depends on:

    key = SHA-256(model, every array of the data, options, version of this tool, version of ONNX Runtime)

Entries are ``.npz`` files in the user's cache folder. They appear whole or not at all; the ones that were not used for
longest go when all take more than a gigabyte; a damaged one is as good as none but for a warning, and so is a folder
that cannot be used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
import zipfile
import zlib
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib import format as npy

from onnxcompress.data.arrays import Archive
from onnxcompress.errors import DataError
from onnxcompress.runtime.cache_home import cache_home, warn_ignored
from onnxcompress.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Array = np.ndarray
Option = str | int | float | bool | None

LIMIT = 1 << 30  # bytes of all entries
_STALE = 24 * 3600  # seconds after which what an interrupted run left behind goes
_NAMES = "names"
_FORMAT = 2  # of entries: in their names the first is the key, so that a file that was renamed is known


def folder() -> Path | None:
    """``stats`` in the cache folder; None where there is none."""
    home = cache_home()
    return None if home is None else home / "stats"


def key_of(model_hash: str, calls: Iterable[Mapping[str, Array]], *, versions: bool = True, **options: Option) -> str:
    """The name of an entry.

    Args:
        model_hash: a hash of the model with its external data.
        calls: all inputs that the statistics are taken of; one at a time is in memory.
        versions: whether those of this tool and of ONNX Runtime change the result.
        options: whatever else does.
    """
    said: dict[str, object] = {"model": model_hash, "options": options}
    if versions:
        said |= {"format": _FORMAT, "tool": __version__, "onnxruntime": _runtime()}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for feeds in calls:
        for name in sorted(feeds):
            array = np.asarray(feeds[name])
            data = _bytes(array)
            head = [name, array.dtype.str, list(array.shape), len(data)]
            digest.update(json.dumps(head).encode() + b"\n")
            digest.update(data)
        digest.update(b"end of call\n")
    return digest.hexdigest()


def load(key: str) -> dict[str, Array] | None:
    """The arrays of an entry, or None where there is none that can be read, with a warning if it is damaged."""
    here = folder()
    path = None if here is None else here / f"{key}.npz"
    if path is None or not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        entry = Archive(path)
        own, *names = (str(name) for name in entry.array(_NAMES))
        arrays = {name: np.array(entry.array(str(i))) for i, name in enumerate(names)}
    except FileNotFoundError:  # another process made room
        return None
    except (DataError, OSError, zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, KeyError,
            ValueError, TypeError, zlib.error):  # fmt: skip
        broken = path.name
    if broken is not None or own != key:
        warn_ignored(path, "it is damaged" if broken is not None else "it is another entry")
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return arrays


def store(key: str, arrays: Mapping[str, Array], *, limit: int = LIMIT) -> None:
    """Remember arrays (of numbers or texts); one entry that is over the limit by itself is not kept.

    Args:
        key: from `key_of`.
        arrays: by any names.
        limit: bytes that all entries may take.

    Raises:
        ValueError: an array holds Python objects.
    """
    size = sum(np.asarray(a).nbytes for a in arrays.values())
    here = folder()
    if size > limit or here is None:
        return
    with contextlib.suppress(OSError):
        here.mkdir(parents=True, exist_ok=True)
        _make_room(here, limit - size)
        _write(here / f"{key}.npz", key, arrays)


def _write(path: Path, key: str, arrays: Mapping[str, Array]) -> None:
    handle, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        members = {_NAMES: np.array([key, *arrays], np.str_)} | {str(i): a for i, a in enumerate(arrays.values())}
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            for member, array in members.items():
                with archive.open(f"{member}.npy", "w", force_zip64=True) as stream:
                    npy.write_array(stream, np.asarray(array), allow_pickle=False)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _make_room(here: Path, room: int) -> None:
    """Remove entries from the one that was not used for longest, until the others take no more than ``room`` bytes."""
    for part in here.glob(".*.part"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > _STALE:
                part.unlink()
    entries = []
    for path in here.glob("*.npz"):
        with contextlib.suppress(OSError):
            facts = path.stat()
            entries.append((facts.st_mtime_ns, path, facts.st_size))
    taken = sum(size for _, _, size in entries)
    for _, path, size in sorted(entries):
        if taken <= room:
            return
        with contextlib.suppress(OSError):
            path.unlink()
            taken -= size


def _bytes(array: Array) -> memoryview | bytes:
    if array.dtype.kind in "OUST":
        return json.dumps([str(text) for text in array.reshape(-1).tolist()]).encode()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _runtime() -> str:
    """Version of the installed ONNX Runtime, by whichever of its packages."""
    for name in ("onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return "0.0"
