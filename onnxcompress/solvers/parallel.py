"""The same function over many parts, on all cores, with the results in order.

numpy lets go of the interpreter while it computes, so threads are enough. Results come in the order of the parts
whatever the number of threads, so that sums over them are the same bits each time.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")
_MOST_THREADS = 8


def ordered(function: Callable[[_Part], _Result], parts: Sequence[_Part]) -> Iterator[_Result]:
    """The results for all parts, in their order."""
    threads = min(_MOST_THREADS, len(parts), os.cpu_count() or 1)
    if threads < 2:
        yield from map(function, parts)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(function, parts)
