"""The static part of a plan: ranges, damage, placement, and the edits that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.forms.base import Writing, not_finite, quantized
from onnxcompress.forms.chains import Unit, units
from onnxcompress.forms.static import Value, bias_fits
from onnxcompress.graph.shapes import float_values
from onnxcompress.passes.placement import Layout, Placement, place
from onnxcompress.solvers.clipping import candidates, grid, squared_error
from onnxcompress.solvers.groups import Grid, per_channel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnxcompress.forms.chain_costs import ChainCosts
    from onnxcompress.graph.edit import Namer
    from onnxcompress.graph.model import Model
    from onnxcompress.graph.scopes import Scopes
    from onnxcompress.progress import Progress
    from onnxcompress.stats.extremes import Extremes
    from onnxcompress.stats.probe import Probe
    from onnxcompress.stats.whatif import WhatIf

Array = np.ndarray
_RANGE_SECONDS = 20.0
_WORTH = 1.03  # of the time of all layers, that the placement has to save


@dataclass(frozen=True)
class Static:
    """What is to run on integers: the units, the grids of their values, and what was measured on the way."""

    units: tuple[Unit, ...] = ()
    values: Mapping[str, Value] = field(default_factory=dict)
    noise: float = 0.0
    damage: Mapping[str, float] = field(default_factory=dict)


class Planner:
    """Finds the static part of a model."""

    def __init__(self, model: Model, scopes: Scopes, namer: Namer, probe: Probe, costs: ChainCosts) -> None:
        self.model = model
        self.scopes = scopes
        self.namer = namer
        self.probe = probe
        self.costs = costs

    def found(self, allowed: float, usable: Callable[[Unit], bool], progress: Progress) -> Static:
        """The placement that is fastest with a noise-to-signal ratio of at most ``allowed`` at the outputs."""
        known = float_values(self.model)
        everything = [u for u in units(self.model, self.scopes) if usable(u) and self.costs.knows(u)]
        everything = [u for u in everything if {*u.inputs, u.output} <= known]
        names = list(dict.fromkeys(n for u in everything for n in (*u.inputs, u.output)))
        if not any(u.weight for u in everything):
            return Static()
        shapes = self.probe.shapes(self.model, names)
        everything = [u for u in everything if all(math.prod(shapes[n]) > 1 for n in (*u.inputs, u.output))]
        names = list(dict.fromkeys(n for u in everything for n in (*u.inputs, u.output)))
        seen = self.probe.extremes(self.model, {n: shapes[n] for n in names})
        everything = [u for u in everything if self._bias_fits(u, seen)]
        groups = _shared(everything)
        weights = {u.weight.name: self._rounded(u) for u in everything if u.weight is not None}
        session, seconds = self.probe.whatif(self.model, names, list(weights))
        grids = _grids(groups, seen, session, seconds, progress)
        layout = Layout(everything, shapes, self._float_readers(everything))

        def noise(chosen: Sequence[Unit]) -> float:
            used = {n: grids[n] for n in layout.values(chosen)}
            return session.noise(used, {u.weight.name: weights[u.weight.name] for u in chosen if u.weight is not None})

        progress.start("measuring what each operator loses on integers", len(everything))
        damage = {}
        for unit in everything:
            progress.advance(unit.name)
            damage[unit.name] = noise((unit,))
        progress.finish()
        return self._static(place(layout, self.costs, damage, noise, allowed), layout, grids)

    def _static(self, placement: Placement, layout: Layout, grids: Mapping[str, tuple[float, int]]) -> Static:
        total = sum(self.costs.unit(u, layout.shapes)[0] for u in layout.units)
        if placement.saved_us < total * (1 - 1 / _WORTH):
            return Static(damage=placement.damage)
        codes = {u.output for u in placement.units}
        values = {n: Value(*grids[n], n in codes) for n in sorted(layout.values(placement.units))}
        return Static(placement.units, values, placement.noise, placement.damage)

    def writing(self, unit: Unit) -> Writing | None:
        """The weight of a unit, rounded per output channel."""
        weight = unit.weight
        if weight is None:
            return None
        own = 0 if unit.op == "Conv" else 1
        groups = per_channel(weight.dims, (own,))
        return Writing(self.model, weight, Grid(8), groups, self.namer, keep_sums=unit.op == "Conv")

    def bias(self, unit: Unit) -> Array | None:
        """The bias of a unit."""
        if unit.bias is None:
            return None
        tensor = self.scopes.main.initializers.get(unit.bias)
        return None if tensor is None else self.model.array(tensor)

    def _rounded(self, unit: Unit) -> Array:
        writing = self.writing(unit)
        if writing is None:
            raise ValueError(unit.name)
        return np.ascontiguousarray(quantized(writing, np.dtype(np.float32)).dequantize().reshape(writing.dims))

    def _bias_fits(self, unit: Unit, seen: Mapping[str, Extremes]) -> bool:
        if unit.weight is None or unit.bias is None:
            return True
        bias = self.bias(unit)
        if bias is None:
            return False
        found = seen[unit.inputs[0]]
        scale, _ = grid(found.low, found.high)
        own = 0 if unit.op == "Conv" else 1
        values = self.model.array(unit.weight.tensor)
        if not np.isfinite(values).all():
            raise not_finite(unit.weight)
        return bias.size == unit.weight.dims[own] and bias_fits(values, own, bias, scale / 4)

    def _float_readers(self, everything: Sequence[Unit]) -> frozenset[str]:
        """Values that something besides units reads."""
        inside = {id(u.node) for u in everything} | {id(u.cut) for u in everything if u.cut is not None}
        found = set()
        for unit in everything:
            for use in self.scopes.uses(self.scopes.main, unit.output):
                if use.node is None or id(use.node) not in inside:
                    found.add(unit.output)
        return frozenset(found)


def _shared(everything: Sequence[Unit]) -> dict[str, list[str]]:
    """Values that have to share one grid, by the first of them."""
    head: dict[str, str] = {}

    def root(name: str) -> str:
        while head.setdefault(name, name) != name:
            name = head[name]
        return name

    for unit in everything:
        for name in (*unit.inputs, unit.output):
            root(name)
        if unit.moves:
            head[root(unit.output)] = root(unit.inputs[0])
    groups: dict[str, list[str]] = {}
    for name in head:
        groups.setdefault(root(name), []).append(name)
    return groups


def _grids(
    groups: Mapping[str, Sequence[str]],
    seen: Mapping[str, Extremes],
    session: WhatIf,
    seconds: float,
    progress: Progress,
) -> dict[str, tuple[float, int]]:
    """The grid of each value: of the candidates for its group the one that does least to the outputs.

    Where trials would take too long, the one of least squared error.
    """
    found = {}
    trials = sum(4 for _ in groups)
    measured = trials * seconds < _RANGE_SECONDS
    progress.start("choosing ranges", len(groups))
    for head, names in groups.items():
        progress.advance(head)
        sample = np.concatenate([seen[n].sample for n in names])
        low, high = min(seen[n].low for n in names), max(seen[n].high for n in names)
        ranges = list(dict.fromkeys(candidates(sample, low, high).values()))
        if measured and len(ranges) > 1:
            errors = [session.noise({n: grid(*r) for n in names}, {}) for r in ranges]
        else:
            errors = [squared_error(sample, *r) for r in ranges]
        best = ranges[int(np.argmin(errors))]
        found.update(dict.fromkeys(names, grid(*best)))
    progress.finish()
    return found
