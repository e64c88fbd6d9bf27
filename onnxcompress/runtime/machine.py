"""Facts of this machine that decide how fast a model runs.

The same int8 model is fast on a processor with VNNI and slow (or, with saturating 16-bit sums, even wrong)
on one without, so speeds are only worth something together with these facts.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any, Literal

IsaClass = Literal["amx", "vnni", "avx2", "arm-i8mm", "arm-dot", "generic"]

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
_SYSCTL = {
    "asimddp": "hw.optional.arm.FEAT_DotProd",
    "i8mm": "hw.optional.arm.FEAT_I8MM",
    "avx2": "hw.optional.avx2_0",
    "avx512f": "hw.optional.avx512f",
    "avx512_vnni": "hw.optional.avx512vnni",
}


@functools.cache
def isa_flags() -> frozenset[str]:
    """Instruction sets that matter for int8, under the names that Linux gives them."""
    if platform.system() == "Darwin":
        return frozenset(flag for flag, key in _SYSCTL.items() if _sysctl(key) == "1")
    return flags_of(_read("/proc/cpuinfo"))


def flags_of(cpuinfo: str) -> frozenset[str]:
    """The flags that matter in the text of ``/proc/cpuinfo``."""
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    return frozenset(_FLAGS) & frozenset(line.group(1).split() if line else ())


def isa_class(flags: frozenset[str] | None = None) -> IsaClass:
    """The kind of processor, by its best int8 instructions."""
    found = isa_flags() if flags is None else flags
    if "amx_int8" in found:
        return "amx"
    if found & {"avx512_vnni", "avx_vnni"}:
        return "vnni"
    if "avx2" in found:
        return "avx2"
    if "i8mm" in found:
        return "arm-i8mm"
    return "arm-dot" if "asimddp" in found else "generic"


@functools.cache
def usable_cores() -> int:
    """Physical cores that this process may use: its affinity, its hyper-threads and its quota considered."""
    affinity = getattr(os, "sched_getaffinity", None)
    if affinity is None:
        counted = _sysctl("hw.physicalcpu") if platform.system() == "Darwin" else ""
        return int(counted) if counted.isdigit() else os.cpu_count() or 1
    allowed: set[int] = affinity(0)
    topology = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    cores = {_read(topology.format(cpu)) or str(cpu) for cpu in allowed}
    return max(1, min(len(cores), quota_cores(_read("/sys/fs/cgroup/cpu.max"), len(cores))))


def quota_cores(cpu_max: str, otherwise: int) -> int:
    """Cores that a cgroup's ``cpu.max`` ("quota period", in microseconds) grants, rounded up."""
    words = cpu_max.split()
    if len(words) != 2 or not all(word.isdigit() for word in words):
        return otherwise
    return -(-int(words[0]) // int(words[1]))


def machine_facts() -> dict[str, Any]:
    """Processor, memory, system and versions, as plain JSON values."""
    import onnxruntime

    return {
        "cpu": _cpu_name(),
        "isa": sorted(isa_flags()),
        "isa_class": isa_class(),
        "cores": usable_cores(),
        "memory_bytes": _memory_bytes(),
        "os": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "providers": list(onnxruntime.get_available_providers()),
    }


def _cpu_name() -> str:
    if platform.system() == "Darwin":
        return _sysctl("machdep.cpu.brand_string") or platform.processor()
    named = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return named.group(1).strip() if named else platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _sysctl(key: str) -> str:
    try:
        done = subprocess.run(["/usr/sbin/sysctl", "-n", key], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
