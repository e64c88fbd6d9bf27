"""Inputs of a model as a sequence of calls, each read only when it is asked for.

A call is everything that one run of the model takes, one array per input by name. Labels are kept beside the
calls, one row per sample; a call may hold several samples (``rows``), so labels are cut and joined together
with the calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True)
class Dataset:
    """Calls of a model. ``read(i)`` gives the i-th of ``size``, or raises DataError where that does not fit.

    ``source`` is "synthetic" or the path as given. ``labels`` has one row per sample, in the order of the
    calls, of which call ``i`` holds ``rows[i]`` (one each where ``rows`` is None). ``notes`` are sentences
    for the report.
    """

    source: str
    size: int
    read: Callable[[int], Feeds]
    labels: np.ndarray | None = None
    rows: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Feeds]:
        return (self.read(i) for i in range(self.size))

    def first(self) -> Feeds:
        """The first call."""
        return self.read(0)

    def labels_of(self, call: int) -> np.ndarray | None:
        """The labels of the samples in one call; None where there are no labels at all."""
        if self.labels is None:
            return None
        if self.rows is None:
            return self.labels[call : call + 1]
        ends = tuple(accumulate(self.rows, initial=0))
        return self.labels[ends[call] : ends[call + 1]]

    def take(self, n: int) -> Dataset:
        """At most ``n`` calls (at least one), spread evenly from the first to the last, with their labels."""
        if n >= self.size:
            return self
        return self.chosen(np.linspace(0, self.size - 1, max(n, 1)).round().astype(int).tolist())

    def parted(self, judged: int) -> tuple[Dataset, Dataset]:
        """Calls to learn from and at most ``judged`` others to judge by, spread evenly; a single call is both."""
        count = min(judged, self.size // 2)
        if not count:
            return self, self
        held = (
            np.linspace(0, self.size - 1, count + 2)[1:-1].round().astype(int).tolist()
            if count > 1
            else [self.size - 1]
        )
        return self.chosen([i for i in range(self.size) if i not in set(held)]), self.chosen(sorted(set(held)))

    def chosen(self, chosen: Sequence[int]) -> Dataset:
        """These calls, with their labels."""
        labels = None
        if self.labels is not None:
            parts = [part for i in chosen if (part := self.labels_of(i)) is not None]
            labels = np.concatenate(parts)
        rows = None if self.rows is None else tuple(self.rows[i] for i in chosen)
        return Dataset(self.source, len(chosen), lambda i: self.read(chosen[i]), labels, rows, self.notes)
