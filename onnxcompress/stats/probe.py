"""A model that can be asked: run on the calibration data as often as an answer needs it, and no answer twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnxcompress.progress import Progress, Silent
from onnxcompress.stats.activations import observe
from onnxcompress.stats.extremes import Extremes, extremes
from onnxcompress.stats.whatif import WhatIf

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnxcompress.data.dataset import Dataset, Feeds
    from onnxcompress.graph.model import Model

_MOST_CALLS = 128
_TRIAL_CALLS = 4


@dataclass
class Probe:
    """Runs a model on its data. ``data`` are real: what synthetic inputs do to a model says little of its ranges."""

    data: Dataset
    threads: int | None = None
    progress: Progress = field(default_factory=Silent)

    def shapes(self, model: Model, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """The shape of each value in the first call."""
        seen = observe(model, names, self.data.take(1), noise=False, threads=self.threads)
        return {name: seen[name].shapes[0] for name in names}

    def extremes(self, model: Model, shapes: dict[str, tuple[int, ...]]) -> dict[str, Extremes]:
        """Ranges and samples of values over the data."""
        calls = self.data.take(_MOST_CALLS)
        self.progress.start("watching what layers see", len(calls))
        found = extremes(model, shapes, self._told(calls), len(calls), threads=self.threads)
        self.progress.finish()
        return found

    def whatif(self, model: Model, values: Sequence[str], weights: Sequence[str]) -> WhatIf:
        """A session for trials."""
        return WhatIf(model, values, weights, list(self.data.take(_TRIAL_CALLS)), self.threads)

    def _told(self, calls: Dataset) -> Iterator[Feeds]:
        for feeds in calls:
            yield feeds
            self.progress.advance("")
