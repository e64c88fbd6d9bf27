"""How long one call of a model may take, and how a call is ended from outside.

A model may loop without end, and while ONNX Runtime works no signal reaches Python. So every call carries an object by
which another thread ends it: after ``ONNXCOMPRESS_CALL_SECONDS`` (600 by default, 0 for no limit), or at once when the
process is asked to stop. ONNX Runtime looks at it between two nodes, in the bodies of loops as well.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from onnxcompress.errors import UsageError
from onnxcompress.runtime.failures import TooLong

SWITCH = "ONNXCOMPRESS_CALL_SECONDS"
_DEFAULT = 600.0
_LOOK = 0.2  # seconds from look to look

_running: dict[int, tuple[float, Any]] = {}  # the time by which each call has to end, and what ends it
_wake: list[int] = []  # where the numbers of signals are to be read


@functools.cache
def call_seconds() -> float:
    """The most that one call may take; infinity where there is no limit.

    Raises:
        UsageError: the environment says what is no number of seconds.
    """
    text = os.environ.get(SWITCH, "").strip()
    try:
        seconds = float(text) if text else _DEFAULT
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise UsageError(f"{SWITCH} is {text!r}", "Set it to a number of seconds, or to 0 for no limit.")
    return seconds or math.inf


@contextlib.contextmanager
def patient(ending: Any) -> Iterator[Any]:
    """Within it a call runs that setting ``ending.terminate`` ends.

    Raises:
        TooLong: the time was up.
    """
    _look_on()
    seconds = call_seconds()
    deadline = time.monotonic() + seconds
    _running[id(ending)] = deadline, ending
    try:
        yield ending
    except Exception as error:
        if ending.terminate and time.monotonic() >= deadline:
            raise TooLong(
                f"a call of the model was ended after {seconds:g} seconds",
                f"Give smaller inputs, or set {SWITCH} to what a call may take, if the model ends at all.",
            ) from error
        raise
    finally:
        del _running[id(ending)]


def end_on_signals() -> None:
    """Have signals that Python handles end calls in progress; for the main thread of a program."""
    if os.name == "posix" and not _wake:
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        _wake.append(reading)


@functools.cache
def _look_on() -> None:
    """Start the thread that ends calls."""
    threading.Thread(target=_watch, name="patience", daemon=True).start()


def _watch() -> None:
    while True:
        told = False
        if _wake:
            told = bool(select.select(_wake, (), (), _LOOK)[0])
            if told:
                os.read(_wake[0], 64)
        else:
            time.sleep(_LOOK)
        now = time.monotonic()
        for deadline, ending in list(_running.values()):
            if told or now >= deadline:
                ending.terminate = True
