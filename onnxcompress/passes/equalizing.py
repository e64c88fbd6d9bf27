"""Features are made alike before anything is rounded, where constants take the factors up for nothing.

    f(x)·W = (f(x)/s)·(diag(s)·W)

Before matrix products s moves outliers into the weights (`solvers.migration`), and is used where that leaves less noise
by its own account. Before convolutions it evens ranges out (`solvers.equalization`), and is used where a trial finds
that the outputs lose less with it. For weights of few bits it favours those that read loud features
(`solvers.activation_aware`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.errors import RuntimeFailure
from onnxcompress.forms.rescale import rescaled
from onnxcompress.graph.absorb import Site, sites
from onnxcompress.graph.shapes import float_values
from onnxcompress.solvers.activation_aware import activation_aware
from onnxcompress.solvers.clipping import grid as grid_of
from onnxcompress.solvers.equalization import equalization
from onnxcompress.solvers.grid import quantize
from onnxcompress.solvers.groups import Grid, per_channel
from onnxcompress.solvers.migration import cautious, migration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from onnxcompress.graph.absorb_rules import Operand
    from onnxcompress.graph.model import Model
    from onnxcompress.progress import Progress
    from onnxcompress.stats.features import Features
    from onnxcompress.stats.probe import Probe

Array = np.ndarray
Chosen = list[tuple[Site, Array]]
Seen = dict[str, "Features"]
_HELPS = 0.9  # part of the noise that may be left at most for factors to be used
_LARGEST = 1 << 30  # bytes of weights from which a model is too large for trials


def equalized(model: Model, probe: Probe, progress: Progress) -> tuple[Model, tuple[str, ...]]:
    """The model with features made alike, or as it is, and what was done in words."""

    def choose(found: Sequence[Site], seen: Seen) -> Chosen:
        products = [s for s in found if _multiplies(model, s)]
        return _migrated(model, products, seen) + _evened(model, [s for s in found if s not in products], seen, probe)

    what = "features of {} values were equalized: constants before them are divided, weights multiplied"
    return _rescaled(model, probe, progress, choose, what)


def favoured(model: Model, probe: Probe, progress: Progress, grid: Grid, block: int) -> tuple[Model, tuple[str, ...]]:
    """The model with weights made larger that read loud features, or as it is, and what was done in words.

    Args:
        model: the model as it is.
        probe: runs it on data.
        progress: told of it.
        grid: the codes that weights will have.
        block: inputs that share a scale, 0: all.
    """

    def choose(found: Sequence[Site], seen: Seen) -> Chosen:
        chosen: Chosen = []
        for site, matrices in _matrices(model, [s for s in found if _multiplies(model, s)]):
            s = activation_aware(matrices, seen[site.values[0][0]].square, grid, block)
            if s is not None:
                chosen.append((site, s))
        return chosen

    what = "weights that read loud features of {} values were made larger before rounding, the features smaller"
    return _rescaled(model, probe, progress, choose, what)


def _rescaled(
    model: Model, probe: Probe, progress: Progress, choose: Callable[[Sequence[Site], Seen], Chosen], what: str
) -> tuple[Model, tuple[str, ...]]:
    known = float_values(model)
    found = [s for s in sites(model) if isinstance(s, Site) and all(name in known for name, _ in s.values)]
    found = list(_apart(found))
    if not found:
        return model, ()
    try:
        progress.start("watching features", len(found))
        first = {site.values[0][0]: site.values[0][1] for site in found}
        shapes = probe.shapes(model, list(first))
        seen = probe.features(model, {n: (len(shapes[n]), len(shapes[n]) + axis) for n, axis in first.items()})
        progress.finish()
        chosen = choose(found, seen)
    except RuntimeFailure as error:
        return model, (f"features were not equalized: {error.message}",)
    if not chosen:
        return model, ()
    return rescaled(model, chosen), (what.format(len(chosen)),)


def _apart(found: Sequence[Site]) -> Iterator[Site]:
    """Sites that share no constant: what was measured of one would not hold after the other."""
    taken: set[tuple[str, int]] = set()
    for site in found:
        own = {(o.reader, o.index) for o in (*site.producers, *site.consumers)}
        if not own & taken:
            taken |= own
            yield site


def _multiplies(model: Model, site: Site) -> bool:
    """True where everything that reads the value is a matrix product."""
    readers = {o.reader for o in site.consumers}
    ops = {n.op_type for n in model.proto.graph.node if n.output and n.output[0] in readers}
    return ops <= {"MatMul", "Gemm"} and all(len(o.dims) == 2 and o.groups == 1 for o in site.consumers)


def _array(model: Model, operand: Operand) -> Array:
    tensor = next(t for t in model.proto.graph.initializer if t.name == operand.name)
    return model.array(tensor)


def _matrices(model: Model, found: Sequence[Site]) -> Iterator[tuple[Site, list[Array]]]:
    """Sites with the weights (in, out) that read them, where all of those are finite initializers."""
    stored = {t.name for t in model.proto.graph.initializer}
    for site in found:
        if all(o.name in stored for o in site.consumers):
            matrices = [np.moveaxis(_array(model, o), o.axis, 0) for o in site.consumers]
            if all(np.isfinite(m).all() for m in matrices):
                yield site, matrices


def _migrated(model: Model, found: Sequence[Site], seen: Seen) -> Chosen:
    chosen: Chosen = []
    for site, matrices in _matrices(model, found):
        own = seen[site.values[0][0]]
        best = migration(matrices, own.low, own.high, own.square)
        if best.s is not None:
            chosen.append((site, cautious(best.s)))
    return chosen


def _evened(model: Model, found: Sequence[Site], seen: Seen, probe: Probe) -> Chosen:
    stored = {t.name for t in model.proto.graph.initializer}
    chosen: Chosen = []
    for site in found:
        if all(o.name in stored for o in site.consumers):
            own = seen[site.values[0][0]]
            reads = np.concatenate([_by_feature(_array(model, o), o) for o in site.consumers], axis=1)
            reach = np.maximum(np.abs(own.low), np.abs(own.high))
            chosen.append((site, cautious(equalization(None, reads, reach))))
    if not chosen or sum(map(model.nbytes, model.tensors())) > _LARGEST:
        return []
    before = _noise(model, chosen, {s.values[0][0]: _range(seen, s, None) for s, _ in chosen}, probe)
    after = _noise(rescaled(model, chosen), chosen, {s.values[0][0]: _range(seen, s, f) for s, f in chosen}, probe)
    return chosen if after < _HELPS * before else []


def _by_feature(weight: Array, operand: Operand) -> Array:
    """A weight as (features, weights that read each)."""
    if operand.groups == 1:
        return np.moveaxis(weight, operand.axis, 0).reshape(operand.features, -1)
    parts = weight.reshape(operand.groups, weight.shape[0] // operand.groups, weight.shape[1], -1)
    return np.moveaxis(parts, 2, 1).reshape(operand.features, -1)


def _range(seen: Seen, site: Site, factors: Array | None) -> tuple[float, int]:
    own = seen[site.values[0][0]]
    s = np.ones(1) if factors is None else factors
    return grid_of(float((own.low / s).min()), float((own.high / s).max()))


def _noise(model: Model, chosen: Chosen, grids: dict[str, tuple[float, int]], probe: Probe) -> float:
    """Noise-to-signal ratio with these values, and the convolutions that read them, rounded to eight bits."""
    readers = {(o.reader, o.index) for site, _ in chosen for o in site.consumers}
    names = {n.input[i] for n in model.proto.graph.node for r, i in readers if n.output and n.output[0] == r}
    weights = {}
    for tensor in model.proto.graph.initializer:
        if tensor.name in names and len(tensor.dims) > 2:
            values = model.array(tensor)
            groups = per_channel(values.shape, (0,))
            weights[tensor.name] = quantize(values, Grid(8), groups).dequantize().reshape(values.shape)
    return probe.whatif(model, list(grids), list(weights)).noise(grids, weights)
