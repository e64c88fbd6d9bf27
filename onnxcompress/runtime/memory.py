"""How much memory the process holds now, and has held at most."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from pathlib import Path


def peak_bytes() -> int | None:
    """The most that was ever resident; None where the system does not tell."""
    own = _status_bytes("VmHWM")
    if own is not None:  # what getrusage tells starts at the peak of the process that started this one
        return own
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def resident_bytes() -> int | None:
    """What is resident now, after giving back what was freed; None where the system does not tell."""
    _trim()
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def available_bytes() -> int | None:
    """What is left for new work, the limit of a container considered; None where the system does not tell."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", _read("/proc/meminfo"), re.MULTILINE)
    left = int(found.group(1)) * 1024 if found else None
    limit, used = limit_bytes(), _read("/sys/fs/cgroup/memory.current").strip()
    if limit is None or not used.isdigit():
        return left
    within = max(0, limit - int(used))
    return within if left is None else min(left, within)


def limit_bytes() -> int | None:
    """What the container of this process may take; None without a limit."""
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    return int(limit) if limit.isdigit() else None


def keep_within_machine() -> None:
    """Have allocations beyond what the machine has left fail: else the system would end the process without a word.

    A stricter limit that is set already stays. On Linux alone, where what is reserved but not used (of a GPU's
    driver, say) does not count.
    """
    left = available_bytes()
    if left is None or not sys.platform.startswith("linux"):
        return
    import resource

    swap = re.search(r"^SwapFree:\s*(\d+) kB$", _read("/proc/meminfo"), re.MULTILINE)
    room = left + (int(swap.group(1)) * 1024 if swap else 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY or soft > room:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (room, hard))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _status_bytes(key: str) -> int | None:
    found = re.search(rf"^{key}:\s*(\d+) kB$", _read("/proc/self/status"), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _trim() -> None:
    """Freed memory stays with the C library until it is asked for, and would hide what is taken next."""
    if sys.platform.startswith("linux"):
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except (AttributeError, OSError):
            return
