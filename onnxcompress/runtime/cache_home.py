"""Where this tool keeps what it may forget: ``$XDG_CACHE_HOME/onnxcompress``, by default ``~/.cache/onnxcompress``.

With ``ONNXCOMPRESS_NO_CACHE`` set to anything but nothing or 0 there is no such folder: nothing is read or written.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

SWITCH = "ONNXCOMPRESS_NO_CACHE"


class CacheWarning(UserWarning):
    """A file in the cache folder is not what it should be."""


def cache_home() -> Path | None:
    """The folder, which need not exist; None where none is to be used."""
    if os.environ.get(SWITCH, "0") not in ("", "0"):
        return None
    base = os.environ.get("XDG_CACHE_HOME", "")
    # the base directory specification has relative paths ignored
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "onnxcompress"


def warn_ignored(path: Path, why: str) -> None:
    """Say that a file is as good as none."""
    warnings.warn(f"{path} is ignored: {why}; what it should hold is measured anew", CacheWarning, stacklevel=3)
