"""A model that can be asked: run on the calibration data as often as an answer needs it, and no answer twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from onnxcompress.progress import Progress, Silent
from onnxcompress.stats import cache
from onnxcompress.stats.activations import observe
from onnxcompress.stats.archive import Archive, collected
from onnxcompress.stats.extremes import Extremes, extremes
from onnxcompress.stats.features import Features, features
from onnxcompress.stats.lookups import lookups
from onnxcompress.stats.masks import padding_mask
from onnxcompress.stats.output_noise import OutputNoise
from onnxcompress.stats.paired_values import paired
from onnxcompress.stats.removal_check import loaded
from onnxcompress.stats.scores import producers
from onnxcompress.stats.whatif import Treated, WhatIf
from onnxcompress.stats.work import call_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import onnx

    from onnxcompress.data.dataset import Dataset, Feeds
    from onnxcompress.graph.model import Model
    from onnxcompress.solvers.refitting import Sums
    from onnxcompress.stats.paired_values import Watched

_MOST_CALLS = 128
_TRIAL_CALLS, _TRIAL_SECONDS = 4, 0.5
_FEWEST_CALLS = 4
_JUDGED, _MOST_PAIRED = 8, 256
_REMEMBERED = 1 << 28  # bytes of samples
_GRAM_SECONDS = 40.0
_GRAM_COST = 4  # inferences that a call takes while Gram matrices are measured


@dataclass
class Probe:
    """Runs a model on its data. ``data`` are real: what synthetic inputs do to a model says little of its ranges.

    A few calls are kept for trials and learned nothing from, so that trials tell what will happen on other inputs.

    ``identity`` tells the model from all others, None where nothing is to be remembered on disk; ``max_memory`` bounds
    the bytes of Gram matrices; ``memory`` keeps what was measured for later probes of the same model.
    """

    data: Dataset
    threads: int | None = None
    progress: Progress = field(default_factory=Silent)
    identity: str | None = None
    max_memory: int = 1 << 30
    memory: dict[str, Any] = field(default_factory=dict)

    @property
    def _learned(self) -> Dataset:
        return self.data.parted(_TRIAL_CALLS)[0]

    def calls(self, model: Model, most: int) -> Dataset:
        """Calls to learn from, other than those of trials: at most so many, and as take bearable time."""
        return self._learned.take(min(most, self._bearable(model)))

    def shapes(self, model: Model, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """The shape of each value in the first call."""
        seen = observe(model, names, self.data.take(1), noise=False, threads=self.threads)
        return {name: seen[name].shapes[0] for name in names}

    def extremes(self, model: Model, shapes: dict[str, tuple[int, ...]]) -> dict[str, Extremes]:
        """Ranges and samples of values over the data."""
        key = "ranges of " + " ".join(shapes)
        if key not in self.memory:
            self.memory[key] = self._ranges(model, shapes)
        found: dict[str, Extremes] = self.memory[key]
        return found

    def _ranges(self, model: Model, shapes: dict[str, tuple[int, ...]]) -> dict[str, Extremes]:
        """Watched now, or remembered on disk."""
        calls, names = self._learned.take(_MOST_CALLS), list(shapes)
        key = None
        if self.identity is not None:
            key = cache.key_of(self.identity, calls, kind="ranges", values="\n".join(names))
        known = None if key is None else cache.load(key)
        if known is not None:
            ends = [(float(low), float(high)) for low, high in known["ends"]]
            return {n: Extremes(*ends[i], known[f"sample {i}"]) for i, n in enumerate(names)}
        self.progress.start("watching what layers see", len(calls))
        found = extremes(model, shapes, self._told(calls), len(calls), threads=self.threads, mask=padding_mask(model))
        self.progress.finish()
        if key is not None:
            samples = {f"sample {i}": found[n].sample for i, n in enumerate(names)}
            if sum(s.nbytes for s in samples.values()) <= _REMEMBERED:
                cache.store(key, {"ends": np.array([(found[n].low, found[n].high) for n in names]), **samples})
        return found

    def features(self, model: Model, values: Mapping[str, tuple[int, int]]) -> dict[str, Features]:
        """What each feature of values does over the data; values with their rank and the axis of their features."""
        return features(model, values, self._learned.take(_MOST_CALLS), threads=self.threads)

    def lookups(self, model: Model, indices: Mapping[str, int]) -> dict[str, np.ndarray]:
        """How often rows of tables are looked up over the data: integer values, with the rows that they choose from."""
        return lookups(model, indices, self._learned.take(_MOST_CALLS), threads=self.threads)

    def archive(self, model: Model, nodes: Sequence[onnx.NodeProto]) -> Archive:
        """What layers see, from as many calls as take bearable time."""
        key = " ".join(node.output[0] for node in nodes)
        if key not in self.memory:
            calls = self._learned.take(self._bearable(model))
            self.memory[key] = collected(
                model, nodes, calls, self.identity,
                threads=self.threads, max_memory=self.max_memory, progress=self.progress,
            )  # fmt: skip
        found: Archive = self.memory[key]
        return found

    def _bearable(self, model: Model) -> int:
        """Calls on which Gram matrices are measured within about a minute."""
        seconds = self._seconds(model, self._learned.first(), "learned")
        return max(_FEWEST_CALLS, min(_MOST_CALLS, int(_GRAM_SECONDS / (_GRAM_COST * seconds + 1e-9))))

    def _seconds(self, model: Model, feeds: Feeds, kind: str) -> float:
        """How long such a call of a model should take; what its layers became of changes little of that."""
        key = f"seconds of a call {kind}"
        if key not in self.memory:
            self.memory[key] = call_seconds(model, feeds, self.threads)
        found: float = self.memory[key]
        return found

    def whatif(
        self,
        model: Model,
        values: Sequence[str],
        weights: Sequence[str],
        dynamic: Mapping[str, Treated] | None = None,
        *,
        bits: Literal[8, 16] = 8,
    ) -> WhatIf:
        """A session for trials, on as many calls as half a second should do."""
        calls = list(self.data.parted(_TRIAL_CALLS)[1])
        calls = calls[: max(1, int(_TRIAL_SECONDS / (self._seconds(model, calls[0], "judged") + 1e-9)))]
        return WhatIf(model, values, weights, calls, self.threads, dynamic or {}, bits=bits)

    def paired(self, original: Model, changed: Model, layers: Sequence[Watched]) -> dict[str, tuple[Sums, Sums]]:
        """What layers of a changed model get and lack, see `paired_values`, on calls other than those of `closer`."""
        calls = self.data.parted(_JUDGED)[0].take(min(_MOST_PAIRED, 2 * self._bearable(changed)))
        return paired(original, changed, layers, calls, threads=self.threads)

    def closer(self, original: Model, before: Model, after: Model) -> bool:
        """Whether the outputs are closer to the original's after a change than before it."""
        calls = list(self.data.parted(_JUDGED)[1])
        found = [
            [_floats(s.run(f)) for f in calls] for m in (original, before, after) for s in [loaded(m, self.threads)]
        ]
        noise = OutputNoise(calls, found[0], producers(original.proto.graph))
        return noise.ratio(found[2]) < noise.ratio(found[1])

    def _told(self, calls: Dataset) -> Iterator[Feeds]:
        for feeds in calls:
            yield feeds
            self.progress.advance("")


def _floats(outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: y for name, y in outputs.items() if isinstance(y, np.ndarray) and y.dtype.kind == "f"}
