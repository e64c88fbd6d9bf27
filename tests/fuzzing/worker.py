"""A process of its own that goes through cases, so that one that crashes or hangs ends no more than itself."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tests.fuzzing.verbs import Outcome, outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.fuzzing.cases import Case

SECONDS = 20.0  # for one case
_MEMORY = 6 << 30  # bytes of address space
_FILE = 1 << 30  # bytes of one file
_RUNTIME = "/onnxruntime/"


@dataclass(frozen=True)
class Cases:
    """Which cases to go through: numbers from ``start`` up to ``stop``, until the clock shows ``deadline``."""

    case: Callable[[int], Case]
    start: int
    stop: int
    deadline: float


def run(cases: Cases) -> Iterator[tuple[int, Outcome]]:
    """The outcomes of cases as they come; after a crash or a hang there are none for those that follow."""
    reading, writing = os.pipe()
    with tempfile.TemporaryDirectory(prefix="onnxcompress-fuzz-") as folder:
        log = Path(folder, "log")
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _work(cases, writing, Path(folder), log)
        os.close(writing)
        number = cases.start
        try:
            with os.fdopen(reading, encoding="utf-8") as lines:
                for line in lines:
                    if line.endswith("\n"):
                        yield number, Outcome(*json.loads(line))
                        number += 1
        except GeneratorExit:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        _, status = os.waitpid(child, 0)
        if status:
            yield number, _death(status, log.read_text(encoding="utf-8", errors="replace"))


def _death(status: int, log: str) -> Outcome:
    """How a process ended: the topmost frame of the log says where it was."""
    kind = "crash" if os.WIFSIGNALED(status) else "hang" if "Timeout (" in log else "unexpected"
    named = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
    frames = [line for line in _current(log) if line.startswith("  File ")]
    where = "runtime " if frames and _RUNTIME in frames[0] else ""
    return Outcome(where + kind, "\n".join([named, *frames[:12]]))


def _current(log: str) -> list[str]:
    """The frames of the main thread, which comes last where all are shown, unless one is named as current."""
    blocks = log.split("\n\n")
    named = [block for block in blocks if "Current thread" in block]
    return (named[-1] if named else blocks[-1]).splitlines()


def _work(cases: Cases, writing: int, folder: Path, log: Path) -> NoReturn:
    status = 3
    with contextlib.suppress(BaseException):
        warnings.simplefilter("ignore")
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE, _FILE))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with log.open("w") as told, os.fdopen(writing, "w", encoding="utf-8") as out:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what native libraries say
            faulthandler.enable(told)
            for number in range(cases.start, cases.stop):
                if time.monotonic() > cases.deadline:
                    break
                case = cases.case(number)
                place = folder / "case"
                place.mkdir()
                path = place / "model.onnx"
                path.write_bytes(case.model)
                faulthandler.dump_traceback_later(SECONDS, exit=True, file=told)
                found = outcome(case.verb, path)
                faulthandler.cancel_dump_traceback_later()
                shutil.rmtree(place)
                out.write(json.dumps([found.kind, found.detail]) + "\n")
                out.flush()
        status = 0
    os._exit(status)
