"""Calls of both models on the same inputs: what they give, and how long each took.

The first call warms both models up and runs the original twice, which tells whether it is deterministic. From
then on each call runs each model once, in alternating order, so that slow models need hardly any more timing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxcompress.errors import DataError, RuntimeFailure
from onnxcompress.runtime.failures import LimitReached
from onnxcompress.runtime.timing import timed
from onnxcompress.verify.fidelity import FidelityMeter, identical
from onnxcompress.verify.metrics import MetricMeter

if TYPE_CHECKING:
    from onnxcompress.data.dataset import Dataset
    from onnxcompress.progress import Progress
    from onnxcompress.report import Fidelity, Metric
    from onnxcompress.runtime.session import Session

SYNTHETIC = "synthetic"

_KEPT_CALLS = 8
_KEPT_BYTES = 64 << 20
_FEWEST_CALLS = 4

Feeds = Mapping[str, np.ndarray]
Outputs = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What the calls gave. ``fault``: why the compressed model does not run; ``kept``: inputs for timing."""

    fidelity: Fidelity | None = None
    metrics: dict[str, Metric] = field(default_factory=dict)
    bad: int = 0
    notes: tuple[str, ...] = ()
    fault: str | None = None
    kept: tuple[Feeds, ...] = ()
    times: tuple[tuple[float, float], ...] = ()
    batch: int | None = None


class _Faulty(Exception):
    """The compressed model fails where the original runs."""


class Calls:
    """Runs both models side by side."""

    def __init__(
        self,
        first: Session,
        second: Session,
        made_by: Mapping[str, str],
        metric: str | None,
        progress: Progress,
    ) -> None:
        self._first, self._second = first, second
        self._meter = FidelityMeter(first.outputs, made_by)
        self._metric = metric
        self._progress = progress
        self._notes: list[str] = []
        self._times: list[tuple[float, float]] = []
        self._kept: list[Feeds] = []
        self._batches: set[int | None] = set()

    def compare(self, dataset: Dataset, seconds: float) -> Outcome:
        """Run both models on the data, or on an even selection of it that takes about so many seconds.

        Raises:
            RuntimeFailure: the original does not run on the data, or memory runs out.
            DataError: the labels do not fit.
        """
        labels = MetricMeter(dataset.labels, self._metric) if dataset.labels is not None else None
        try:
            for feeds, outputs in self._pairs(dataset, seconds):
                self._meter.add(feeds, *outputs)
                if labels:
                    labels.add(*outputs, self._meter.score_outputs)
        except _Faulty as fault:
            return Outcome(fault=str(fault), notes=tuple(self._notes))
        except RuntimeFailure as error:
            if dataset.source != SYNTHETIC or self._meter.samples or isinstance(error, LimitReached):
                raise
            note = f"the made-up inputs do not run, so outputs were not compared; give data ({error.message})"
            return Outcome(notes=(*self._notes, note))
        finally:
            self._progress.finish()
        if dataset.source == SYNTHETIC:
            self._notes.append("fidelity was measured on synthetic inputs")
        return Outcome(
            fidelity=self._meter.result(dataset.source),
            metrics=labels.result() if labels else {},
            bad=self._meter.bad,
            notes=(*self._notes, *self._meter.notes()),
            kept=tuple(self._kept),
            times=tuple(self._times),
            batch=next(iter(self._batches)) if len(self._batches) == 1 else None,
        )

    def _pairs(self, dataset: Dataset, seconds: float) -> Iterator[tuple[Feeds, tuple[Outputs, Outputs]]]:
        """The inputs and both models' outputs of each call."""
        calls = iter(dataset)
        first = next(calls, None)
        if first is None:
            raise DataError("the data hold no samples", "Give at least one call of the model.")
        outputs, cost_ms = self._warm_up(first)
        count = len(dataset)
        if dataset.labels is None and cost_ms * count > seconds * 1000:
            count = min(count, max(_FEWEST_CALLS, math.floor(seconds * 1000 / cost_ms)))
            if count < len(dataset):
                self._notes.append(f"fidelity was measured on {count} of {len(dataset)} calls, to save time")
                calls = iter(dataset.take(count))
                outputs = None
        self._progress.start("comparing outputs", count)
        every = max(1, count // _KEPT_CALLS)
        for index, feeds in enumerate(calls if outputs is None else itertools.chain([first], calls)):
            self._keep(feeds, index % every == 0)
            yield feeds, outputs or self._run_both(feeds, index)
            outputs = None
            self._progress.advance(f"call {index + 1}")

    def _warm_up(self, feeds: Feeds) -> tuple[tuple[Outputs, Outputs] | None, float]:
        """What both models give on the first call, and what a later pair will cost in milliseconds."""
        before = self._first.run(feeds)
        again, first_ms = timed(lambda: self._first.run(feeds))
        if not identical(before, again):
            self._notes.append("the original gives different outputs for the same inputs: its fidelity is noise")
        after, second_ms = timed(lambda: self._run_second(feeds))
        return (before, after), first_ms + second_ms

    def _run_both(self, feeds: Feeds, index: int) -> tuple[Outputs, Outputs]:
        if index % 2:
            before, first_ms = timed(lambda: self._first.run(feeds))
            after, second_ms = timed(lambda: self._run_second(feeds))
        else:
            after, second_ms = timed(lambda: self._run_second(feeds))
            before, first_ms = timed(lambda: self._first.run(feeds))
        self._times.append((first_ms, second_ms))
        return before, after

    def _run_second(self, feeds: Feeds) -> Outputs:
        try:
            return self._second.run(feeds)
        except LimitReached:
            raise
        except RuntimeFailure as error:
            raise _Faulty(error.message) from error

    def _keep(self, feeds: Feeds, wanted: bool) -> None:
        """Keep the inputs for timing, if they are not too many, and note the size of the batch."""
        self._batches.add(_batch(feeds))
        held = sum(a.nbytes for kept in self._kept for a in kept.values())
        size = sum(a.nbytes for a in feeds.values())
        if not self._kept or (wanted and len(self._kept) < _KEPT_CALLS and held + size <= _KEPT_BYTES):
            self._kept.append(feeds)


def _batch(feeds: Feeds) -> int | None:
    """The first dimension, where all inputs that have one agree on it."""
    sizes = {array.shape[0] for array in feeds.values() if array.ndim}
    return int(sizes.pop()) if len(sizes) == 1 else None
