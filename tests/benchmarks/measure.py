"""Time and memory of programs, each in a process of its own.

The peak memory of a child process starts at that of the process that started it, so programs are started by
a launcher that is smaller than any of them. What is compared runs in turns, so that what disturbs one
disturbs the other.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]

_LAUNCHER = """
import json, os, sys, time
started = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
seconds = time.perf_counter() - started
cpu, code = usage.ru_utime + usage.ru_stime, os.waitstatus_to_exitcode(status)
print(json.dumps([seconds, usage.ru_maxrss, cpu, code]))
"""


class Failed(Exception):
    """A program that is measured did not do its work."""


@dataclass(frozen=True)
class Ran:
    """One run of a program."""

    seconds: float
    peak_bytes: int
    cpu_seconds: float
    code: int
    output: str


def tool(*arguments: str | Path) -> list[str]:
    """The command line of the tool, as a user runs it."""
    script = Path(sys.executable).with_name("onnxcompress")
    start = [str(script)] if script.exists() else [sys.executable, "-m", "onnxcompress"]
    return [*start, *map(str, arguments)]


def python(code: str) -> list[str]:
    """The command line of an interpreter that runs some code."""
    return [sys.executable, "-c", code]


def run(command: Sequence[str], codes: Sequence[int] = (0,)) -> Ran:
    """Run a program to its end.

    Raises:
        Failed: its exit code is none of those expected.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *command]
    done = _finished(launcher, environment)
    if done.returncode:
        raise Failed(f"{command[0]} could not be started: {done.stderr}")
    *lines, last = done.stdout.splitlines()
    seconds, peak, cpu_seconds, code = json.loads(last)
    if code not in codes:
        raise Failed(f"{' '.join(command)} ended with {code}:\n{done.stderr[-2000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Ran(seconds, peak * unit, cpu_seconds, code, "\n".join(lines))


def _finished(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The program when it has ended; whatever stops the waiting ends it and what it started."""
    started = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, errors = started.communicate()
    except BaseException:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
        raise
    return subprocess.CompletedProcess(command, started.returncode, output, errors)


def in_turns(commands: Mapping[str, Sequence[str]], rounds: int) -> dict[str, list[Ran]]:
    """Every program so many times, by turns, after a first run of each that does not count."""
    for command in commands.values():
        run(command)
    runs: dict[str, list[Ran]] = {name: [] for name in commands}
    for i in range(rounds):
        names = list(commands)
        for name in names if i % 2 else reversed(names):
            runs[name].append(run(commands[name]))
    return runs


def copy_seconds(files: Sequence[Path], folder: Path) -> float:
    """The time to copy files and see them safe on the disk; the copies are removed."""
    copies = [folder / f"copy-{i}.part" for i in range(len(files))]
    started = time.perf_counter()
    for file, copy in zip(files, copies, strict=True):
        shutil.copyfile(file, copy)
        with copy.open("rb+") as written:
            os.fsync(written.fileno())
    taken = time.perf_counter() - started
    for copy in copies:
        copy.unlink()
    return taken
