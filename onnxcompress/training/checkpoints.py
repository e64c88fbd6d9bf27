"""Where training stands, kept on disk: a run that was killed goes on there, and comes to the same bytes.

A checkpoint is an ``.npz`` of arrays and a ``.json`` that names it, with its hash; the latter appears last and at once,
so that there is always a whole one. They lie in the cache folder, under a hash of all that the result depends on, and
go when the training is done.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from onnxcompress.data.arrays import Archive
from onnxcompress.errors import DataError
from onnxcompress.runtime.cache_home import cache_home, warn_ignored

if TYPE_CHECKING:
    from collections.abc import Mapping

Arrays = dict[str, np.ndarray]
_EVERY_SECONDS, _SHARE = 2.0, 20  # between two, and at least so many times what the last one took
_STALE = 7 * 24 * 3600  # seconds after which what was never finished goes
_STATE = "state.json"


@dataclass
class Checkpoints:
    """The checkpoints of one training; ``folder`` None keeps none."""

    folder: Path | None
    every_seconds: float = _EVERY_SECONDS
    _next: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, key: str) -> Checkpoints:
        """Those in the cache folder under a key."""
        home = cache_home()
        if home is None:
            return cls(None)
        _tidy(home / "training")
        return cls(home / "training" / key)

    def load(self) -> tuple[Arrays, dict[str, Any]] | None:
        """The last one: its arrays, and what was said with them; None where there is none that is whole."""
        path = None if self.folder is None else self.folder / _STATE
        if path is None or not path.exists():
            return None
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            stored = path.with_name(str(said["arrays"]))
            if stored.parent != path.parent or _hash(stored) != said["sha256"]:
                raise ValueError("it is damaged")
            archive = Archive(stored)
            arrays = {name: np.array(archive.array(str(i))) for i, name in enumerate(said["names"])}
            return arrays, dict(said["said"])
        except (OSError, ValueError, KeyError, TypeError, DataError):
            warn_ignored(path, "it is damaged")
            return None

    def due(self) -> bool:
        """Whether it is time for one."""
        return self.folder is not None and time.monotonic() >= self._next

    def store(self, arrays: Mapping[str, np.ndarray], said: Mapping[str, Any]) -> None:
        """Keep a checkpoint in place of the one before; a folder that cannot be written to is none."""
        if self.folder is None:
            return
        began = time.monotonic()
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            stored = self._written(".npz", lambda file: _write(file, arrays))
            state = {"arrays": stored.name, "sha256": _hash(stored), "names": list(arrays), "said": dict(said)}
            text = json.dumps(state).encode()
            self._written(".json", lambda file: Path(file).write_bytes(text)).replace(self.folder / _STATE)
            for old in self.folder.glob("*.npz"):
                if old != stored:
                    old.unlink(missing_ok=True)
        ended = time.monotonic()
        self._next = ended + max(self.every_seconds, _SHARE * (ended - began) if self.every_seconds else 0)

    def clear(self) -> None:
        """Take all away."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _written(self, suffix: str, write: Any) -> Path:
        handle, name = tempfile.mkstemp(suffix=suffix, dir=self.folder)
        os.close(handle)
        try:
            write(name)
            with Path(name).open("rb+") as file:
                os.fsync(file.fileno())
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return Path(name)


def _write(name: str, arrays: Mapping[str, np.ndarray]) -> None:
    with zipfile.ZipFile(name, "w") as archive:
        for number, array in enumerate(arrays.values()):
            with archive.open(f"{number}.npy", "w", force_zip64=True) as stream:
                npy.write_array(stream, np.asarray(array), allow_pickle=False)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tidy(home: Path) -> None:
    """Remove what was not touched for long."""
    with contextlib.suppress(OSError):
        for folder in home.iterdir():
            if time.time() - folder.stat().st_mtime > _STALE:
                shutil.rmtree(folder, ignore_errors=True)
