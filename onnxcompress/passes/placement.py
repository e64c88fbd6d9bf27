"""Which operators run on integers: a minimum cut between the float part of a model and its integer part.

Each unit costs time in float and on integers, each border between the two costs quantizing or dequantizing once, and
each unit on integers does damage dᵤ to the outputs. The cheapest placement for a price λ of damage,

    min Σ time(unit) + Σ time(border) + λ Σ dᵤ ,

is a minimum cut. λ grows from zero until the outputs, computed with everything placed so, keep the wanted fidelity: the
units that win least time for the damage that they do go back to float first. The noise of single units adds up to that
of all of them as long as it is small, so dᵤ is measured with one unit rounded at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxcompress.solvers.cut import Network

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnxcompress.forms.chain_costs import ChainCosts
    from onnxcompress.forms.chains import Unit

Shape = tuple[int, ...]
_FLOAT = ("float",)
_STEPS = 10  # of the search for the price


@dataclass(frozen=True)
class Placement:
    """The units on integers, the noise-to-signal ratio that this was seen to leave, and the microseconds it saves.

    ``spared``: units that would be faster on integers and stay in float for the sake of the outputs.
    """

    units: tuple[Unit, ...]
    noise: float
    saved_us: float
    damage: Mapping[str, float]
    spared: tuple[Unit, ...] = ()


@dataclass(frozen=True)
class Layout:
    """The units of a model with the shapes of their values, and who else reads what they give.

    ``plain`` corrects the microseconds of a unit in float for what else may be done with it.
    """

    units: Sequence[Unit]
    shapes: Mapping[str, Shape]
    float_readers: frozenset[str]
    plain: Callable[[Unit, float], float] | None = None

    def cost(self, costs: ChainCosts, unit: Unit) -> tuple[float, float]:
        """Microseconds of a unit in float, or as it would be otherwise, and on integers."""
        plain, integer = costs.unit(unit, self.shapes)
        return (plain if self.plain is None else self.plain(unit, plain)), integer

    def values(self, units: Sequence[Unit]) -> set[str]:
        """The values that are codes when these units run on integers."""
        return {n for u in units for n in u.inputs} | {u.output for u in units}


def place(
    layout: Layout,
    costs: ChainCosts,
    damages: Callable[[], Mapping[str, float]],
    noise: Callable[[Sequence[Unit]], float],
    allowed: float,
) -> Placement:
    """The fastest placement whose noise is within ``allowed``, as far as prices find it.

    Args:
        layout: the units.
        costs: what they cost.
        damages: measures the noise-to-signal ratio that each unit does alone, by its key.
        noise: the ratio that units do together, measured.
        allowed: the largest ratio wanted.
    """
    chosen = _cheapest(layout, costs, {}, 0.0)
    found = noise(chosen) if chosen else 0.0
    if found <= allowed:
        return Placement(chosen, found, _saved(layout, costs, chosen), {})
    damage, fastest = damages(), chosen
    best = Placement((), 0.0, 0.0, damage, fastest)
    low, high = _prices(costs, layout, damage, allowed)
    for _ in range(_STEPS):
        price = math.sqrt(low * high)
        chosen = _cheapest(layout, costs, damage, price)
        found = noise(chosen) if chosen else 0.0
        if found <= allowed:
            high = price
            saved = _saved(layout, costs, chosen)
            if saved > best.saved_us:
                inside = {u.key for u in chosen}
                best = Placement(chosen, found, saved, damage, tuple(u for u in fastest if u.key not in inside))
        else:
            low = price
    return best


def _prices(costs: ChainCosts, layout: Layout, damage: Mapping[str, float], allowed: float) -> tuple[float, float]:
    """Prices between which the right one lies: all of the time for a hundredth of the noise, or for a thousandfold."""
    time = sum(layout.cost(costs, u)[0] for u in layout.units)
    worst = max((d for d in damage.values() if math.isfinite(d)), default=allowed)
    return 1e-3 * time / max(worst, allowed) / len(layout.units), 1e3 * time / allowed


def _cheapest(layout: Layout, costs: ChainCosts, damage: Mapping[str, float], price: float) -> tuple[Unit, ...]:
    network = Network()
    network.own(_FLOAT, 0.0, math.inf)
    producers = {u.output: u for u in layout.units}
    readers: dict[str, list[Unit]] = {}
    for unit in layout.units:
        plain, integer = layout.cost(costs, unit)
        network.own(unit.key, plain, integer + price * damage.get(unit.key, 0.0))
        for name in unit.inputs:
            readers.setdefault(name, []).append(unit)
    for name in sorted({*producers, *readers}):
        producer = producers[name].key if name in producers else _FLOAT
        network.joint(producer, ("quantize", name), costs.border("quantize", layout.shapes[name]))
        for reader in readers.get(name, []):
            network.joint(("quantize", name), reader.key, math.inf)
        if name in producers:
            network.joint(("dequantize", name), producer, costs.border("dequantize", layout.shapes[name]))
            for item in [r.key for r in readers.get(name, [])] + [_FLOAT] * (name in layout.float_readers):
                network.joint(item, ("dequantize", name), math.inf)
    second = network.second()
    return tuple(u for u in layout.units if u.key in second)


def _saved(layout: Layout, costs: ChainCosts, chosen: Sequence[Unit]) -> float:
    """Microseconds that a placement saves, its borders counted."""
    inside = {id(u) for u in chosen}
    saved = sum(a - b for a, b in (layout.cost(costs, u) for u in chosen))
    producers = {u.output: id(u) in inside for u in layout.units}
    read_on_integers = {n for u in chosen for n in u.inputs}
    read_in_float = {n for u in layout.units if id(u) not in inside for n in u.inputs} | layout.float_readers
    for name in read_on_integers:
        if not producers.get(name, False):
            saved -= costs.border("quantize", layout.shapes[name])
    for name, on_integers in producers.items():
        if on_integers and name in read_in_float:
            saved -= costs.border("dequantize", layout.shapes[name])
    return saved
