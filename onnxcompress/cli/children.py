"""Child processes that run the tool itself: so many at a time, with what they said, and none left behind.

Each is in a process group of its own, so that Ctrl-C reaches this process alone, which then ends the others once: a
second interruption would break into their tidying up.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

_INTERRUPTED = 130
_LOOK_SECONDS = 0.03
_PATIENCE_SECONDS = 20.0  # to tidy up in, before a child is killed


@dataclass(frozen=True)
class Ended:
    """What one child came to. ``code`` is negative where a signal ended it."""

    index: int
    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class _Child:
    index: int
    process: subprocess.Popen[bytes]
    said: tuple[Path, Path]

    def ended(self) -> Ended | None:
        code = self.process.poll()
        if code is None:
            return None
        stdout, stderr = (path.read_text(encoding="utf-8", errors="replace") for path in self.said)
        return Ended(self.index, code, stdout, stderr)


def run(
    commands: Sequence[Sequence[str]], jobs: int, threads: int | None, scratch: Path
) -> Generator[Ended, None, None]:
    """Run the tool with each of these arguments, ``jobs`` at once, and give what came of each as it ends.

    ``threads`` bounds those of numerical libraries in each; what children say is kept in the folder ``scratch``.

    Raises:
        KeyboardInterrupt: this process was interrupted, or one of the children; all of them have ended then.
    """
    waiting = list(enumerate(commands))[::-1]
    running: list[_Child] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_started(*waiting.pop(), threads, scratch))
            done = {child.index: end for child in running if (end := child.ended()) is not None}
            running = [child for child in running if child.index not in done]
            if any(end.code == _INTERRUPTED for end in done.values()):
                raise KeyboardInterrupt
            yield from done.values()
            if not done:
                time.sleep(_LOOK_SECONDS)
    finally:
        _stop(running)


def _started(index: int, arguments: Sequence[str], threads: int | None, scratch: Path) -> _Child:
    said = scratch / f"{index}.stdout", scratch / f"{index}.stderr"
    with said[0].open("wb") as stdout, said[1].open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "onnxcompress", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=_environment(threads),
            process_group=0 if os.name == "posix" else None,
        )
    return _Child(index, process, said)


def _environment(threads: int | None) -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS") if threads is not None else ()
    bounds = {name: str(threads) for name in names if name not in os.environ}
    return os.environ | bounds | {"PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}


def _stop(children: Sequence[_Child]) -> None:
    """End what is still running, and wait until it has tidied up."""
    for child in children:
        with contextlib.suppress(OSError):
            child.process.terminate()
    until = time.monotonic() + _PATIENCE_SECONDS
    for child in children:
        try:
            child.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
