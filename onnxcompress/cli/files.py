"""Small files that a command writes: whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from onnxcompress.errors import RuntimeFailure


def write_whole(path: Path, text: str) -> None:
    """Write a file beside its place, and put it there; a link stays one, and a device or a pipe is written to.

    Raises:
        RuntimeFailure: it cannot be written.
    """
    place = path.resolve()
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
            return
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(place)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise RuntimeFailure(f"{path} could not be written: {error.strerror}", "Free space there.") from error
