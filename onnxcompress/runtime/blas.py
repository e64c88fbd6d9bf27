"""One thread for the linear algebra of numpy, while results are computed that have to be the same everywhere.

A matrix product is cut along other lines on two threads than on one, and so is summed up in another order; by what its
last bits decide, one weight is pruned or another. Parts of the work run side by side anyhow, see `solvers.parallel`.

This knows OpenBLAS, which the wheels of numpy bring; with any other library the number of its threads stays, and
results are the same as long as that is. `threadpoolctl` knows them all, for one more dependency.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np

_P = ParamSpec("_P")
_R = TypeVar("_R")
_PREFIXES, _SUFFIXES = ("scipy_openblas", "openblas"), ("64_", "")


@functools.cache
def _openblas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """How many threads OpenBLAS uses, and the setting of that; None where numpy has another library."""
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):  # Linux and Windows; macOS
        for file in sorted(folder.glob("*openblas*")):
            try:
                library = ctypes.CDLL(str(file))  # the one that is loaded already
            except OSError:
                continue
            for name in (f"{p}_{{}}_num_threads{s}" for p in _PREFIXES for s in _SUFFIXES):
                if hasattr(library, name.format("get")) and hasattr(library, name.format("set")):
                    return getattr(library, name.format("get")), getattr(library, name.format("set"))
    return None


_lock = threading.Lock()
_users, _before = 0, 1


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread within, for the whole process; afterwards as many as before the first of those that overlap."""
    global _users, _before  # the library itself is global
    known = _openblas()
    if known is None:
        yield
        return
    count, use = known
    with _lock:
        if _users == 0:
            _before = count()
            use(1)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                use(_before)


def on_one_thread(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function with linear algebra on one thread."""

    @functools.wraps(function)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with one_thread():
            return function(*args, **kwargs)

    return run
