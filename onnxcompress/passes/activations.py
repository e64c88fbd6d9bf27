"""Which activations one eight-bit pass is enough for, by what it does to the outputs.

Two passes keep whatever outliers an activation has, one pass takes half the time. Outliers move into the weights where
that leaves less noise (see `solvers.migration`). So all products start with one pass, and those whose activations lose
most for the time that they save are taken out, until the outputs, computed with all the others rounded, keep the
fidelity that is wanted. Of these, those that come within it once their widest features stay in float get that; the rest
get the second pass back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.errors import RuntimeFailure
from onnxcompress.forms.dynamic import MIN_OPSET
from onnxcompress.solvers.migration import cautious, migration
from onnxcompress.stats.masks import padding_mask
from onnxcompress.stats.whatif import Treated, WhatIf

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnxcompress.graph.layers import Weight
    from onnxcompress.graph.model import Model
    from onnxcompress.passes.base import Context

_FAITHFUL = 1e-4  # noise-to-signal ratio of an activation itself that is not worth a trial
_LEFT_IN_FLOAT = 4  # features of an activation, the widest
_LARGEST = 1 << 30  # bytes of weights from which a model is too large for trials


@dataclass(frozen=True)
class Reader:
    """A weight that is multiplied from the left by an activation. ``transposed``: it is stored (out, in).

    ``alone``: nothing but products by this activation reads the weight. ``work`` are its multiply-adds.
    """

    weight: Weight
    transposed: bool
    alone: bool
    work: float


@dataclass(frozen=True, eq=False)
class OnePass:
    """The activations that one pass is enough for, and what the features of some of them are divided by (in,).

    ``wide``: of others, the features that have to be left in float for one pass to be enough, ascending. ``noise``:
    what the doubtful ones among them leave at the worst output.
    """

    names: frozenset[str]
    factors: Mapping[str, np.ndarray] = field(default_factory=dict)
    wide: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    noise: float = 0.0


def one_pass(model: Model, context: Context, readers: Mapping[str, Sequence[Reader]], allowed: float) -> OnePass | None:
    """The activations that one pass is enough for; None where that could not be measured.

    Args:
        model: the model as it is.
        context: what is known of it.
        readers: what each activation is multiplied by.
        allowed: noise-to-signal ratio that they may leave together at the worst output.
    """
    seen = {name: context.observed[name].noise for name in readers if name in context.observed}
    # where positions are hidden, what stands there may be all that an activation's own noise tells of
    faithful = _FAITHFUL if padding_mask(model) is None else 0.0
    clear = {name for name, noise in seen.items() if noise is not None and noise <= faithful}
    doubtful = [name for name, noise in seen.items() if noise is not None and noise > faithful]
    if context.probe is None or model.opset < MIN_OPSET or sum(map(model.nbytes, model.tensors())) > _LARGEST:
        return None
    if not doubtful:
        return OnePass(frozenset(clear))
    try:
        return _Search(model, context, readers, doubtful).found(clear, allowed)
    except RuntimeFailure:
        return None


class _Search:
    """Ranks doubtful activations by what one pass loses for the time that it saves, and takes as many as may be."""

    def __init__(
        self, model: Model, context: Context, readers: Mapping[str, Sequence[Reader]], doubtful: Sequence[str]
    ) -> None:
        if context.probe is None:
            raise RuntimeFailure("there are no data", "Give --data.")
        self.model, self.context, self.probe = model, context, context.probe
        self.readers = {name: readers[name] for name in doubtful}
        ranks = {name: len(context.observed[name].shapes[0]) for name in doubtful}
        self.seen = self.probe.features(model, {name: (rank, rank - 1) for name, rank in ranks.items()})
        self.factors = self._factors()

    def found(self, clear: set[str], allowed: float) -> OnePass:
        """The result: first with outliers moved, then with the widest features of the others left in float."""
        treated = {name: Treated(self.factors.get(name)) for name in self.readers}
        session = self.probe.whatif(self.model, [], [], treated)
        ranked = self._ranked(session, treated)
        few = more = _longest(session, ranked, allowed)
        wide: dict[str, tuple[int, ...]] = {}
        if few < len(ranked):
            widest = {name: self._widest(name) for name in ranked[few:]}
            split = {name: Treated(kept=_without(len(self.seen[name].low), places)) for name, places in widest.items()}
            session = self.probe.whatif(self.model, [], [], treated | split)
            more = _longest(session, ranked, allowed, few)
            wide = {name: widest[name] for name in ranked[few:more]}
        noise = session.noise({}, {}, ranked[:more]) if more else 0.0
        return OnePass(frozenset(clear | set(ranked[:few])), self.factors, wide, noise)

    def _ranked(self, session: WhatIf, names: Iterable[str]) -> list[str]:
        names = list(names)
        self.context.progress.start("measuring which activations need a second pass", len(names))
        loss = {}
        for name in names:
            self.context.progress.advance(name)
            loss[name] = session.noise({}, {}, [name]) / max(sum(r.work for r in self.readers[name]), 1.0)
        self.context.progress.finish()
        return sorted(names, key=lambda name: (loss[name], name))

    def _widest(self, name: str) -> tuple[int, ...]:
        reach = np.maximum(np.abs(self.seen[name].low), np.abs(self.seen[name].high))
        return tuple(sorted(int(i) for i in np.argsort(-reach, kind="stable")[:_LEFT_IN_FLOAT]))

    def _factors(self) -> dict[str, np.ndarray]:
        """What the features of each activation are best divided by, where that pays."""
        found = {}
        for name, reading in self.readers.items():
            matrices = [self.model.array(r.weight.tensor) for r in reading]
            weights = [m.T if r.transposed else m for m, r in zip(matrices, reading, strict=True)]
            if all(r.alone for r in reading) and all(np.isfinite(w).all() for w in weights):
                own = self.seen[name]
                best = migration(weights, own.low, own.high, own.square)
                if best.s is not None:
                    found[name] = cautious(best.s)
        return found


def _longest(session: WhatIf, ranked: Sequence[str], allowed: float, few: int = 0) -> int:
    """The longest beginning that leaves no more noise than is allowed; ``few`` are known to do so."""
    many = len(ranked)
    while few < many:
        middle = (few + many + 1) // 2
        if session.noise({}, {}, ranked[:middle]) <= allowed:
            few = middle
        else:
            many = middle - 1
    return few


def _without(features: int, places: tuple[int, ...]) -> np.ndarray:
    kept = np.ones(features)
    kept[list(places)] = 0
    return kept
