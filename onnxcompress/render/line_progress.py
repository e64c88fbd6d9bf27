"""Progress as plain lines, now and then: for the log of a job that is ended when it says nothing for too long."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TextIO

from onnxcompress.render import words

_EVERY_SECONDS = 20.0


class LineProgress:
    """A line about the task that is open, every so many seconds; none for work that is done before."""

    def __init__(self, stream: TextIO, every_seconds: float = _EVERY_SECONDS) -> None:
        self._stream, self._every = stream, every_seconds
        self._task: str | None = None
        self._total: int | None = None
        self._done, self._item = 0, ""
        self._begun = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)

    def start(self, task: str, total: int | None = None) -> None:
        """Open a task."""
        self._done, self._item, self._total, self._task = 0, "", total, task
        if not self._thread.ident:
            self._thread.start()

    def advance(self, item: str, amount: int = 1) -> None:
        """Note how far it is, and what is worked on next."""
        self._done, self._item = self._done + amount, item

    def finish(self) -> None:
        """Close the task."""
        self._task = None

    def close(self) -> None:
        """Say no more."""
        self.finish()
        self._closed.set()
        if self._thread.ident:
            self._thread.join()

    def _tell(self) -> None:
        while not self._closed.wait(self._every):
            line = self._line()
            if line is not None:
                with contextlib.suppress(OSError, ValueError):  # nobody reads any more
                    self._stream.write(line + "\n")
                    self._stream.flush()

    def _line(self) -> str | None:
        """``quantize: 42 %, layers.3.up (60 s)``."""
        task, total = self._task, self._total
        if task is None:
            return None
        parts = [f"{min(100, 100 * self._done // total)} %"] if total else []
        parts += [words.safe(self._item, 60)] if self._item else []
        seconds = f"({time.monotonic() - self._begun:.0f} s)"
        return f"{words.safe(task, 60)}: {', '.join(parts)} {seconds}" if parts else f"{words.safe(task, 60)} {seconds}"
