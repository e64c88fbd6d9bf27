"""Which activations one eight-bit pass is enough for, by what it does to the outputs.

Two passes keep whatever outliers an activation has, one pass takes half the time. Outliers move into the weights where
that leaves less noise (see `solvers.migration`). So all products start with one pass, and those whose activations lose
most for the time that they save get the second one back, until the outputs, computed with all the others rounded, keep
the fidelity that is wanted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.errors import RuntimeFailure
from onnxcompress.forms.dynamic import MIN_OPSET
from onnxcompress.solvers.migration import migration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxcompress.graph.layers import Weight
    from onnxcompress.graph.model import Model
    from onnxcompress.passes.base import Context

_FAITHFUL = 1e-4  # noise-to-signal ratio of an activation itself that is not worth a trial
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
    """The activations that one pass is enough for, and what the features of some of them are divided by (in,)."""

    names: frozenset[str]
    factors: Mapping[str, np.ndarray] = field(default_factory=dict)


def one_pass(model: Model, context: Context, readers: Mapping[str, Sequence[Reader]], allowed: float) -> OnePass | None:
    """The activations that one pass is enough for; None where that could not be measured.

    Args:
        model: the model as it is.
        context: what is known of it.
        readers: what each activation is multiplied by.
        allowed: noise-to-signal ratio that they may leave together at the worst output.
    """
    seen = {name: context.observed[name].noise for name in readers if name in context.observed}
    clear = {name for name, noise in seen.items() if noise is not None and noise <= _FAITHFUL}
    doubtful = [name for name, noise in seen.items() if noise is not None and noise > _FAITHFUL]
    if context.probe is None or model.opset < MIN_OPSET or sum(map(model.nbytes, model.tensors())) > _LARGEST:
        return None
    if not doubtful:
        return OnePass(frozenset(clear))
    try:
        factors = _factors(model, context, {name: readers[name] for name in doubtful})
        session = context.probe.whatif(model, [], [], {name: factors.get(name) for name in doubtful})
    except RuntimeFailure:
        return None
    context.progress.start("measuring which activations need a second pass", len(doubtful))
    loss = {}
    for name in doubtful:
        context.progress.advance(name)
        loss[name] = session.noise({}, {}, [name]) / max(sum(r.work for r in readers[name]), 1.0)
    context.progress.finish()
    ranked = sorted(doubtful, key=lambda name: (loss[name], name))
    few, many = 0, len(ranked)  # the longest beginning that keeps within what is allowed
    while few < many:
        middle = (few + many + 1) // 2
        if session.noise({}, {}, ranked[:middle]) <= allowed:
            few = middle
        else:
            many = middle - 1
    return OnePass(frozenset(clear | set(ranked[:few])), factors)


def _factors(model: Model, context: Context, readers: Mapping[str, Sequence[Reader]]) -> dict[str, np.ndarray]:
    """What the features of each activation are best divided by, where that pays."""
    movable = {name: found for name, found in readers.items() if found and all(r.alone for r in found)}
    if context.probe is None or not movable:
        return {}
    ranks = {name: len(context.observed[name].shapes[0]) for name in movable}
    seen = context.probe.features(model, {name: (rank, rank - 1) for name, rank in ranks.items()})
    found = {}
    for name, reading in movable.items():
        matrices = [model.array(r.weight.tensor) for r in reading]
        weights = [m.T if r.transposed else m for m, r in zip(matrices, reading, strict=True)]
        if all(np.isfinite(w).all() for w in weights):
            best = migration(weights, seen[name].low, seen[name].high, seen[name].square)
            if best.s is not None:
                found[name] = best.s
    return found
