"""Whether other processes want the cores that a session's threads would spin on.

The threads of a session spin for a while when they wait for each other. Where another process has taken the core of one
of them, the others burn their time slices in waiting for it, and a call takes several times as long, or not, as the
threads happen to lie: a call of 4 ms took 12 to 24 ms, and a model was measured 2.6 times as fast as its own copy. So
on a crowded machine threads sleep when they wait.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_STAT = Path("/proc/stat")
_WINDOW_S = 0.25  # the kernel counts in steps of 10 ms
_STALE_S = 20.0
_TOLERATED = 0.15  # cores that others may take before it matters
_IDLE = (3, 4)  # the columns of a processor that are no work: idle, and waiting for a device


@dataclass(frozen=True)
class Usage:
    """Seconds of work since some origin, on the processors that this process may use."""

    at: float
    everyone: float
    own: float


def usage() -> Usage | None:
    """What there is now; None where the system does not tell."""
    try:
        text = _STAT.read_text("ascii")
        cpus = os.sched_getaffinity(0)
        tick = os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return None
    return Usage(time.perf_counter(), work_ticks(text, cpus) / tick, sum(os.times()[:4]))


def work_ticks(text: str, cpus: set[int]) -> int:
    """Ticks that these processors have worked, from the text of ``/proc/stat`` (proc(5))."""
    total = 0
    for line in text.splitlines():
        name, *columns = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cpus:
            total += sum(int(value) for i, value in enumerate(columns[:8]) if i not in _IDLE)
    return total


def taken_by_others(before: Usage | None, after: Usage | None) -> float | None:
    """Cores that other processes used, on average; None where that is not known."""
    if before is None or after is None or after.at <= before.at:
        return None
    work = (after.everyone - before.everyone) - (after.own - before.own)
    return max(0.0, work / (after.at - before.at))


class Watch:
    """Looks from time to time, and knows what went on since the last look."""

    def __init__(self) -> None:
        self._last = usage()
        self._taken: float | None = None

    def taken(self, *, wait: bool) -> float | None:
        """Cores that other processes use, of those that this one may use; None where that is not known.

        Args:
            wait: spend up to a quarter of a second where nothing is known yet, or for too long.
        """
        if self._last is None:
            return None
        since = time.perf_counter() - self._last.at
        if since > _STALE_S:
            self._last, self._taken, since = usage(), None, 0
        if since < _WINDOW_S:
            if self._taken is not None or not wait:  # what was seen less than a quarter of a second ago still holds
                return self._taken
            time.sleep(_WINDOW_S - since)
        before, self._last = self._last, usage()
        self._taken = taken_by_others(before, self._last)
        return self._taken


_watch = Watch()


def crowded(threads: int, *, wait: bool = False) -> bool:
    """Whether so many threads do not all get a core of their own."""
    if threads == 1:
        return False
    others = _watch.taken(wait=wait)
    return others is not None and others > _TOLERATED and len(os.sched_getaffinity(0)) - others < threads
