"""Temporary files beside an output: how they are named, and which of them no process will finish.

A name carries the process that made the file and the machine (and container) on which that process ran, so that a
later run can tell the files of the dead from those of the living, also in a folder that several machines share.

External data get their final name before a model refers to them, and lose it after none does. Meanwhile an empty file,
a mark that is named like a temporary file, says that they may be nobody's.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

_NAME = re.compile(
    r"\.(?P<of>.+)\.(?P<pid>\d+)@(?P<machine>[0-9a-f]{8})\.(?:candidate\.onnx|\w+\.part|(?P<mark>\w+\.mark))"
)


@functools.cache
def _machine() -> str:
    """Eight digits that stand for this machine since it was started, and for this container on it."""
    facts = [platform.node()]
    with contextlib.suppress(OSError):  # what follows is there on Linux alone
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        facts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]


def _owner() -> str:
    return f"{os.getpid()}@{_machine()}"


def make(path: Path) -> tuple[int, str]:
    """A new temporary file beside ``path``, as an open handle and its name."""
    return tempfile.mkstemp(prefix=f".{path.name}.{_owner()}.", suffix=".part", dir=path.parent)


def candidate(target: Path) -> Path:
    """Where this process keeps a model that may become the target."""
    return target.with_name(f".{target.stem}.{_owner()}.candidate.onnx")


@contextlib.contextmanager
def marked(files: Iterable[Path]) -> Iterator[None]:
    """Within it each of these files has a mark."""
    marks: list[Path] = []
    try:
        for file in files:
            handle, name = tempfile.mkstemp(prefix=f".{file.name}.{_owner()}.", suffix=".mark", dir=file.parent)
            os.close(handle)
            marks.append(Path(name))
        yield
    finally:
        for mark in marks:
            mark.unlink(missing_ok=True)


def marked_by(mark: Path) -> Path | None:
    """The file that a mark stands for; None for another kind of file."""
    match = _NAME.fullmatch(mark.name)
    return mark.with_name(match["of"]) if match and match["mark"] else None


def marked_by_others(folder: Path) -> set[Path]:
    """The files with a mark of another process, on this machine or another one, that is not known to be dead."""
    dead = set(abandoned(folder))
    own = f".{_owner()}."
    return {
        file for path in folder.iterdir() if path not in dead and own not in path.name and (file := marked_by(path))
    }


def abandoned(folder: Path) -> list[Path]:
    """The regular files in a folder that bear such a name and whose process, on this machine, is gone."""
    if os.name != "posix":  # elsewhere there is no harmless way to ask whether a process lives
        return []
    found = []
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            match = _NAME.fullmatch(path.name)
            ours = match and match["machine"] == _machine() and not path.is_symlink() and path.is_file()
            if match and ours and not _lives(int(match["pid"])):
                found.append(path)
    return sorted(found)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is someone else's
        return True
    return True
