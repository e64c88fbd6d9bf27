"""A folder for files that are needed as long as something refers to it."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path


class ScratchFolder:
    """A new folder, which is removed with this object."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="onnxcompress-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
