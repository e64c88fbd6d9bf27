"""How much memory the process holds now, and has held at most."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path


def peak_bytes() -> int | None:
    """The most that was ever resident; None where the system does not tell."""
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


def _trim() -> None:
    """Freed memory stays with the C library until it is asked for, and would hide what is taken next."""
    if sys.platform.startswith("linux"):
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except (AttributeError, OSError):
            return
