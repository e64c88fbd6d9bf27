"""What units cost on integers and in float, in microseconds of one thread, by a table that was measured.

For layers the table holds points (positions, inputs, outputs) with picoseconds for a multiply-add, in float and on
integers, between which the logarithm is interpolated; ``inputs`` are those that one output reads, Cin·kh·kw / groups.
For other operators it holds nanoseconds for a value of the larger of input and output; for quantizing and
dequantizing, what a float value costs at the border between the two. ``node`` is what any operator costs to start.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from onnxcompress.graph.scopes import attribute_value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxcompress.forms.chains import Unit

Shape = tuple[int, ...]
_NEIGHBOURS = 3


@dataclass(frozen=True)
class ChainCosts:
    """The table for one kind of processor."""

    layers: Mapping[str, Sequence[Sequence[float]]]
    elementwise: Mapping[str, tuple[float, float]]
    node: float

    def unit(self, unit: Unit, shapes: Mapping[str, Shape]) -> tuple[float, float]:
        """Microseconds of a unit in float and on integers, without what its borders cost."""
        sizes = [math.prod(shapes[name]) for name in (*unit.inputs, unit.output) if name in shapes]
        if unit.weight is not None:
            return self._layer(unit, shapes[unit.output])
        plain, integer = self.elementwise[unit.op]
        largest = max(sizes)
        cut = self.elementwise["Relu"][0] * largest + self.node * 1e3 if unit.cut is not None else 0.0
        return self.node + (plain * largest + cut) / 1e3, self.node + integer * largest / 1e3

    def border(self, word: str, shape: Shape) -> float:
        """Microseconds of quantizing or dequantizing a value once."""
        cost = self.elementwise[word]
        return self.node + (cost[0] + cost[1]) * math.prod(shape) / 1e3

    def knows(self, unit: Unit) -> bool:
        """True where the unit was measured."""
        return unit.weight is not None or unit.op in self.elementwise

    def _layer(self, unit: Unit, shape: Shape) -> tuple[float, float]:
        kind, positions, inputs, outputs = dimensions(unit, shape)
        near = sorted((_distance(p, (positions, inputs, outputs)), p[3], p[4]) for p in self.layers[kind])
        near = near[:_NEIGHBOURS]
        weights = [1 / (d + 1e-3) for d, _, _ in near]
        work = positions * inputs * outputs * 1e-6

        def interpolated(which: int) -> float:
            logs = sum(w * math.log(row[which]) for w, row in zip(weights, near, strict=True))
            return self.node + work * math.exp(logs / sum(weights))

        return interpolated(1), interpolated(2)


class Everywhere(ChainCosts):
    """Costs by which integers always pay: for processors whose kernels were not measured, and that have them all."""

    def __init__(self) -> None:
        super().__init__({}, {}, 0.0)

    def unit(self, unit: Unit, shapes: Mapping[str, Shape]) -> tuple[float, float]:  # noqa: ARG002
        """One in float and nothing on integers."""
        return 1.0, 0.0

    def border(self, word: str, shape: Shape) -> float:  # noqa: ARG002
        """Nothing."""
        return 0.0

    def knows(self, unit: Unit) -> bool:  # noqa: ARG002
        """Always."""
        return True


def dimensions(unit: Unit, shape: Shape) -> tuple[str, int, int, int]:
    """The kind of a layer in the table, its positions, inputs of one output, and outputs; ``shape``: its output's."""
    weight = unit.weight
    if weight is None:
        raise ValueError(f"{unit.name} is no layer")
    if unit.op != "Conv":
        rows = math.prod(shape[:-1])
        return "product", rows, weight.elements // shape[-1], shape[-1]
    groups = int(attribute_value(unit.node, "group", 1))  # type: ignore[call-overload]
    inputs = math.prod(weight.dims[1:])
    kind = "convolution" if groups == 1 else "depthwise" if weight.dims[1] == 1 else "grouped"
    return kind, math.prod(shape) // shape[1], inputs, weight.dims[0]


def _distance(point: Sequence[float], wanted: tuple[int, int, int]) -> float:
    return math.hypot(*(math.log2(a / max(b, 1)) for a, b in zip(point[:3], wanted, strict=True)))


@functools.cache
def shipped(isa: str) -> ChainCosts | None:
    """The table that comes with the package for a kind of processor; None where nothing was measured."""
    text = resources.files("onnxcompress.forms").joinpath("chain_costs.json").read_text(encoding="utf-8")
    part = json.loads(text).get("vnni" if isa == "amx" else isa)
    if part is None:
        return None
    kinds = ("convolution", "depthwise", "grouped", "product")
    elementwise = {op: (float(a), float(b)) for op, (a, b) in part["elementwise"].items()}
    return ChainCosts({kind: part[kind] for kind in kinds}, elementwise, float(part["node"]))
