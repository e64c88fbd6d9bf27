"""Layers rounded one at a time, and what that does to the outputs: one inference on some calls for each.

The weights on trial are inputs of the model while it is measured, and so in memory. There are only so many of them in
one session; when all of those are measured there comes another session, until the time is up.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

import numpy as np

from onnxcompress.errors import RuntimeFailure
from onnxcompress.runtime.failures import LimitReached
from onnxcompress.search.exclusion import WORST
from onnxcompress.stats.whatif import WhatIf

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.model import Model
    from onnxcompress.progress import Progress
    from onnxcompress.search.candidates import Candidate, Rounded
    from onnxcompress.search.exclusion import Knowledge

SESSIONS = 3  # that are opened before anything is measured on static integers
IN_MEMORY = 1 << 29  # bytes of weights in one session


class Trials:
    """Measures weights of a model on some calls.

    ``failed`` says why weights could not be measured, ``opening`` in how many seconds the last session was ready.
    ``session_bytes`` bounds the weights of one session, one weight at least. Where they do not all fit in one, it has
    a quarter of that: a trial takes the longer the more weights are inputs, and not all will be measured anyway.
    """

    def __init__(
        self, model: Model, calls: Sequence[Feeds], rounded: Rounded, progress: Progress,
        *, threads: int | None = None, session_bytes: int = IN_MEMORY,
    ) -> None:  # fmt: skip
        self._model = model
        self._calls = calls
        self._rounded = rounded
        self._progress = progress
        self._threads = threads
        self._limit = session_bytes
        self._session: WhatIf | None = None
        self._inside: frozenset[str] = frozenset()
        self.failed: dict[str, str] = {}
        self.opening = 0.0

    def run(
        self, candidates: Sequence[Candidate], knowledge: Knowledge, deadline: float, reserved: float = 0.0
    ) -> None:
        """Measure as many weights as time allows, at least one; ``deadline`` is one of `time.perf_counter`.

        ``reserved`` are seconds beyond it, for other sessions; they are used here where they do not suffice for those.

        Raises:
            RuntimeFailure: memory runs out.
            ModelError: a weight is not finite.
        """
        waiting = {c.name: c for c in candidates}
        limit = self._limit if sum(c.nbytes for c in candidates) <= self._limit else self._limit // 4
        self._progress.start("measuring which layers matter", len(waiting))
        while waiting and (not knowledge.measured or time.perf_counter() < deadline):
            order = sorted(waiting, key=lambda n: -(_or_infinite(knowledge.noise(n))))
            part = portion([waiting[name] for name in order], limit)
            session = self._opened(part, (deadline - time.perf_counter()) / len(waiting))
            if session is None:
                for candidate in part:
                    waiting.pop(candidate.name)
                continue
            if self.opening * SESSIONS > reserved > 0:
                deadline, reserved = deadline + reserved, 0.0
            self._measure(session, {c.name: waiting.pop(c.name) for c in part}, candidates, knowledge, deadline)
        self._progress.finish()

    def _measure(
        self, session: WhatIf, part: dict[str, Candidate], candidates: Sequence[Candidate], knowledge: Knowledge,
        deadline: float,
    ) -> None:  # fmt: skip
        names = [c.name for c in candidates]
        while part:
            if knowledge.measured and time.perf_counter() + session.seconds > deadline:
                return
            name = knowledge.next(names, list(part))
            self._progress.advance(name)
            knowledge.measured[name] = bounded(session.noise({}, {name: self._rounded(part.pop(name))}))

    def together(self, candidates: Sequence[Candidate]) -> float | None:
        """The noise of all these at once; None where no session has all of them."""
        if self._session is None or not {c.name for c in candidates} <= self._inside:
            return None
        return bounded(self._session.noise({}, {c.name: self._rounded(c) for c in candidates}))

    def _opened(self, part: list[Candidate], seconds: float) -> WhatIf | None:
        """A session whose trials take about so many seconds at most, or one call.

        Where the model does not run with these weights as inputs, ``part`` is cut down until it does.
        """
        self._session = None  # its weights go before those of the next one come
        started = time.perf_counter()
        while True:
            names = [c.name for c in part]
            try:
                self._session = WhatIf(
                    self._model, (), names, Few(self._calls, seconds), self._threads, distributions=False
                )
            except LimitReached:
                raise
            except RuntimeFailure as error:
                if len(part) > 1:
                    del part[len(part) // 2 :]
                    continue
                self.failed[names[0]] = f"the model does not run with it as an input: {error.message}"
                return None
            self._inside = frozenset(names)
            self.opening = time.perf_counter() - started
            return self._session


def portion(candidates: Iterable[Candidate], limit: int) -> list[Candidate]:
    """The first weights of at most so many bytes together, one at least."""
    found: list[Candidate] = []
    total = 0
    for candidate in candidates:
        total += candidate.nbytes
        if found and total > limit:
            break
        found.append(candidate)
    return found


def bounded(noise: float) -> float:
    """A noise-to-signal ratio as a number that can be summed and sorted."""
    return min(noise, WORST) if np.isfinite(noise) else WORST


def _or_infinite(noise: float | None) -> float:
    return float("inf") if noise is None else noise


class Few(Sequence["Feeds"]):
    """Calls that end where whoever reads them has worked on them for so many seconds, one call at least."""

    def __init__(self, calls: Sequence[Feeds], seconds: float) -> None:
        self._calls = calls
        self._seconds = seconds

    @overload
    def __getitem__(self, index: int) -> Feeds: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Feeds]: ...
    def __getitem__(self, index: int | slice) -> Feeds | Sequence[Feeds]:
        return self._calls[index]

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[Feeds]:
        started = time.perf_counter()
        for done, feeds in enumerate(self._calls):
            if done and (time.perf_counter() - started) * (done + 1) / done > self._seconds:
                return
            yield feeds
