"""The static part of a plan: which operators run on integers from end to end, and with which grids.

Ranges are watched on the calibration data, grids chosen by what they do to the outputs, and the operators by a minimum
cut over what they cost (see `placement`), such that the outputs keep the fidelity that is wanted. What each operator
does to the outputs is measured only where the fastest placement does not keep it.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from onnxcompress.forms.base import Writing, quantized
from onnxcompress.forms.chains import Unit, units
from onnxcompress.forms.static import Value, Writer, least_scales
from onnxcompress.graph.shapes import float_values
from onnxcompress.passes.placement import Layout, Placement, place
from onnxcompress.passes.ranges import grids, shared
from onnxcompress.solvers.clipping import grid
from onnxcompress.solvers.groups import Grid, per_channel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnxcompress.forms.chain_costs import ChainCosts
    from onnxcompress.graph.edit import Namer
    from onnxcompress.graph.model import Model
    from onnxcompress.graph.scopes import Scopes
    from onnxcompress.passes.rounding import Rounding
    from onnxcompress.progress import Progress
    from onnxcompress.stats.extremes import Extremes
    from onnxcompress.stats.probe import Probe
    from onnxcompress.stats.whatif import WhatIf

Array = np.ndarray
_DAMAGE_SECONDS = 40.0
_PASSED = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice")  # by QuantizeLinear on its way up, as is MaxPool
_WORTH = 1.03  # of the time of all layers, that the placement has to save
_MOST_SHRUNK = 1 / 16  # of a range, by the candidates for it


@dataclass(frozen=True)
class Static:
    """What is to run on integers: the units, the grids of their values, and the noise that this leaves.

    ``damage`` and ``spared`` as for `Placement`.
    """

    units: tuple[Unit, ...] = ()
    values: Mapping[str, Value] = field(default_factory=dict)
    noise: float = 0.0
    damage: Mapping[str, float] = field(default_factory=dict)
    spared: tuple[Unit, ...] = ()

    @property
    def weights(self) -> frozenset[str]:
        """Names of the weights of the units."""
        return frozenset(u.weight.name for u in self.units if u.weight is not None)


class Planner:
    """Finds the static part of a model, and writes it.

    ``value_bits``: 8 or 16. ``weight_bits``: 7 where sums of products of eight bits would saturate.

    ``rounding`` solves weights. ``plain`` gives the microseconds of a unit where it does not run on
    static integers; None for its float cost.
    """

    def __init__(
        self, model: Model, scopes: Scopes, namer: Namer, probe: Probe, costs: ChainCosts,
        plain: Callable[[Unit, float], float] | None = None,
    ) -> None:  # fmt: skip
        self.model = model
        self.scopes = scopes
        self.namer = namer
        self.probe = probe
        self.costs = costs
        self.plain = plain
        self.rounding: Rounding | None = None
        self.weight_bits = 8
        self.value_bits: Literal[8, 16] = 8
        self._floors: dict[str, Array] = {}

    def found(self, allowed: float, usable: Callable[[Unit], bool], progress: Progress) -> Static:
        """The placement that is fastest with a noise-to-signal ratio of at most ``allowed`` at the outputs."""
        everything = self._candidates(usable)
        if not any(u.weight for u in everything):
            return Static()
        shapes = self.probe.shapes(self.model, _values(everything))
        everything = [u for u in everything if all(math.prod(shapes[n]) > 1 for n in (*u.inputs, u.output))]
        names = _values(everything)
        if not names:
            return Static()
        seen = self.probe.extremes(self.model, {n: shapes[n] for n in names})
        everything = [u for u in everything if all(_bounded(seen[n]) for n in (*u.inputs, u.output))]
        names = _values(everything)
        if not any(u.weight for u in everything):
            return Static()
        self._note_floors(everything, seen)
        weights = {u.key: self._rounded(u) for u in everything}
        rounded = [n for made in weights.values() for n in made]
        session = self.probe.whatif(self.model, names, rounded, bits=self.value_bits)
        chosen = grids(shared(everything), seen, session, progress, self.value_bits)
        layout = Layout(everything, shapes, self._float_readers(everything), self.plain)
        noise = functools.partial(_noise, session, layout, chosen, weights)
        damage = functools.partial(_damage, everything, noise, session.seconds, progress)
        return self._static(place(layout, self.costs, damage, noise, allowed), layout, chosen)

    def _candidates(self, usable: Callable[[Unit], bool]) -> list[Unit]:
        known = float_values(self.model)
        found = [u for u in units(self.model, self.scopes) if usable(u) and self.costs.knows(u)]
        return [u for u in found if {*u.inputs, u.output} <= known and self._bias_fits(u)]

    def _static(self, placement: Placement, layout: Layout, chosen: Mapping[str, tuple[float, int]]) -> Static:
        total = sum(layout.cost(self.costs, u)[0] for u in layout.units)
        if placement.saved_us < total * (1 - 1 / _WORTH):
            return Static(damage=placement.damage, spared=placement.spared)
        codes = {u.output for u in placement.units}
        values = {n: Value(*chosen[n], n in codes) for n in sorted(layout.values(placement.units))}
        return Static(placement.units, values, placement.noise, placement.damage, placement.spared)

    # -------------------------------------------------------------------------------- writing

    def writer(self, static: Static) -> Writer:
        """What writes the units of a placement."""
        inside = {id(n) for u in static.units for n in (u.node, u.cut) if n is not None}
        pads = {id(u.node) for u in static.units if u.op == "Pad"}
        outputs = [u.output for u in static.units]
        main = self.scopes.main
        uses = {n: [use.node for use in self.scopes.uses(main, n)] for n in outputs}
        unread = {n for n, nodes in uses.items() if all(node is not None and id(node) in pads for node in nodes)}
        biases = [u.bias for u in static.units if u.bias is not None]
        dropped = {b for b in biases if len(self.scopes.uses(main, b)) == 1 and b in main.initializers}
        floats = [n for n, v in static.values.items() if not v.codes]
        guarded = {n for n in floats if self._mistaken(n, static, inside) or self._pooled(n, inside)}
        return Writer(
            main, static.values, self.namer, guarded=guarded, unread=unread, dropped=dropped, bits=self.value_bits
        )

    def _mistaken(self, name: str, static: Static, inside: set[int]) -> bool:
        """True where a float layer makes the value out of a decoded one, through a Relu or Clip at most."""
        node = self.scopes.main.producers.get(name)
        while node is not None and node.op_type in ("Relu", "Clip"):
            node = self.scopes.main.producers.get(node.input[0])
        if node is None or id(node) in inside or node.op_type not in ("Conv", "ConvTranspose", "Gemm"):
            return False
        value = static.values.get(node.input[0])
        return value is not None and value.codes

    def _pooled(self, name: str, inside: set[int]) -> bool:
        """True where a float MaxPool gives the value: the runtime would quantize all that it reads, and pool slowly."""
        node = self.scopes.main.producers.get(name)
        while node is not None and node.op_type in _PASSED:
            node = self.scopes.main.producers.get(node.input[0])
        return node is not None and node.op_type == "MaxPool" and id(node) not in inside

    def writing(self, unit: Unit) -> Writing | None:
        """The weight of a unit, rounded per output channel."""
        weight = unit.weight
        if weight is None:
            return None
        groups = per_channel(weight.dims, (unit.own_axis,))
        floor = self._floors.get(weight.name)
        if floor is not None:
            floor = floor.reshape(groups.scale_shape)
        return Writing(
            self.model, weight, Grid(self.weight_bits), groups, self.namer,
            keep_sums=unit.op == "Conv", floor=floor,
            solve=self.rounding.solve if self.rounding is not None else None,
            shift=self.rounding.shift if self._shifts(unit) and self.rounding is not None else None,
        )  # fmt: skip

    def _shifts(self, unit: Unit) -> bool:
        """Whether the bias takes over what codes lose of the mean."""
        known = self.rounding is not None and unit.weight is not None and self.rounding.knows(unit.weight)
        alone = unit.bias is not None and len(self.scopes.uses(self.scopes.main, unit.bias)) == 1
        return known and alone and unit.weight is not None and len(unit.weight.leaves) == 1

    def bias(self, unit: Unit) -> Array | None:
        """The bias of a unit."""
        if unit.bias is None:
            return None
        tensor = self.scopes.main.initializers.get(unit.bias)
        return None if tensor is None else self.model.array(tensor)

    def _rounded(self, unit: Unit) -> dict[str, Array]:
        """Weight and bias of a unit as their codes give them."""
        writing, bias = self.writing(unit), self.bias(unit)
        if writing is None:
            return {}
        found = quantized(writing, np.dtype(np.float32))
        made = {writing.weight.name: np.ascontiguousarray(found.dequantize().reshape(writing.dims))}
        if writing.shift is not None and bias is not None and unit.bias is not None:
            made[unit.bias] = (bias + writing.shift(writing, found)).astype(np.float32)
        return made

    # -------------------------------------------------------------------------------- looking

    def _bias_fits(self, unit: Unit) -> bool:
        if unit.weight is None or unit.bias is None:
            return True
        bias = self.bias(unit)
        return bias is not None and bias.size == unit.weight.dims[unit.own_axis] and bool(np.isfinite(bias).all())

    def _note_floors(self, everything: Sequence[Unit], seen: Mapping[str, Extremes]) -> None:
        """Least scales of weights, for the smallest scale that their input may get."""
        for unit in everything:
            bias = self.bias(unit)
            if bias is not None:
                found = seen[unit.inputs[0]]
                scale, _ = grid(found.low, found.high, self.value_bits)
                floor = least_scales(bias, scale * _MOST_SHRUNK)
                name = unit.weight.name if unit.weight is not None else ""
                self._floors[name] = np.maximum(self._floors.get(name, np.float32(0)), floor)

    def _float_readers(self, everything: Sequence[Unit]) -> frozenset[str]:
        """Values that something besides units reads."""
        inside = {id(u.node) for u in everything} | {id(u.cut) for u in everything if u.cut is not None}
        found = set()
        for unit in everything:
            for use in self.scopes.uses(self.scopes.main, unit.output):
                if use.node is None or id(use.node) not in inside:
                    found.add(unit.output)
        return frozenset(found)


def _bounded(seen: Extremes) -> bool:
    return math.isfinite(seen.low) and math.isfinite(seen.high)


def _values(everything: Sequence[Unit]) -> list[str]:
    return list(dict.fromkeys(n for u in everything for n in (*u.inputs, u.output)))


def _noise(
    session: WhatIf, layout: Layout, chosen: Mapping[str, tuple[float, int]],
    weights: Mapping[str, Mapping[str, Array]], placed: Sequence[Unit],
) -> float:  # fmt: skip
    """Noise-to-signal ratio at the worst output with these units on integers."""
    used = {n: chosen[n] for n in layout.values(placed)}
    return session.noise(used, {name: values for u in placed for name, values in weights[u.key].items()})


def _damage(
    everything: Sequence[Unit], noise: Callable[[Sequence[Unit]], float], seconds: float, progress: Progress
) -> dict[str, float]:
    """The noise that each unit makes alone, by its key.

    Where that would take too long, neighbours are tried together, and each gets its share of what they do.
    """
    together = max(1, math.ceil(len(everything) * seconds / _DAMAGE_SECONDS))
    progress.start("measuring what each operator loses on integers", len(everything))
    found: dict[str, float] = {}
    for first in range(0, len(everything), together):
        part = everything[first : first + together]
        progress.advance(part[0].name, len(part))
        found.update(dict.fromkeys((u.key for u in part), noise(part) / len(part)))
    progress.finish()
    return found
