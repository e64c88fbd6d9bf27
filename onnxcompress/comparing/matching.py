"""Which value of the second model stands for which of the first.

By name, as compressed models keep the names of what their layers give. Of a value that is quantized there and then, the
dequantized one counts; integers of another tool with ``_scale`` and ``_zero_point`` beside them are dequantized for
the comparison. Names prove nothing where another tool has given new numbers: where too few names come again, or most
belong to other operators, values are matched by their place in the graph.

A normalization, a constant factor or a bound (Relu, Clip) may have gone into the layer before it, which then gives what
came behind: such a layer stands for the last value that it took in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from onnxcompress.comparing.places import by_place

if TYPE_CHECKING:
    import onnx

    from onnxcompress.comparing.lineage import Lineage
    from onnxcompress.graph.model import Model

_FEWEST = 0.2  # share of the values of the smaller model that have to come again by name
_TRUSTED = 0.5  # share of these that have to be made by the same operator, or one that quantization puts there
_FOLDED = frozenset({"BatchNormalization", "Mul", "Add", "Sub", "Div", "Relu", "Clip"})
_WRITTEN = frozenset({"DequantizeLinear", "Mul", "Reshape", "Gemm", "Cast"})  # which ends a compressed layer


@dataclass(frozen=True)
class Pair:
    """A value of the first model and its name in the second; ``codes``: names of scale and zero point of integers."""

    a: str
    b: str
    codes: tuple[str, str] | None = None


@dataclass(frozen=True)
class Matches:
    """Pairs in the order of the first model, and how they were found."""

    pairs: tuple[Pair, ...]
    by: Literal["name", "place"]


def match(models: tuple[Model, Model], a: Lineage, b: Lineage) -> Matches:
    """The values that both have and that depend on the inputs."""
    named = _by_name(a, b)
    fewest = _FEWEST * min(len(a.variable), len(b.variable))
    if len(named) >= fewest and _trusted(named, a, b):
        return Matches(_behind_folded(named, a, b), "name")
    placed = by_place(models, a, b)
    if len(placed) <= len(named) and _trusted(named, a, b):
        return Matches(_behind_folded(named, a, b), "name")
    pairs = [Pair(x, _dequantized(x, placed[x], a, b)) for x in a.variable if x in placed]
    return Matches(_behind_folded(pairs, a, b), "place")


def _behind_folded(pairs: list[Pair], a: Lineage, b: Lineage) -> tuple[Pair, ...]:
    """The pairs, those moved on of which the second model has what the first computes behind them."""
    found = {pair.a for pair in pairs}
    moved: dict[str, Pair] = {}
    for pair in pairs:
        name = pair.a
        while (following := _folded(name, a)) and following not in found and not _still(following, pair, a, b):
            name = following
        moved[name] = replace(pair, a=name)
    return tuple(moved[name] for name in a.variable if name in moved)


def _folded(value: str, graph: Lineage) -> str | None:
    """What the only reader of a value gives, if that is an operator that goes into layers."""
    readers = graph.readers.get(value, [])
    if len(readers) != 1 or value in graph.outputs or readers[0].op_type not in _FOLDED:
        return None
    rest = [name for name in readers[0].input if name and name != value]
    return str(readers[0].output[0]) if all(name in graph.constant for name in rest) else None


def _still(following: str, pair: Pair, a: Lineage, b: Lineage) -> bool:
    """Whether the second model has that operator behind the value, under another name."""
    return any(node.op_type == a.producers[following].op_type for node in b.readers.get(pair.b, ()))


def _by_name(a: Lineage, b: Lineage) -> list[Pair]:
    there = set(b.variable)
    found = []
    for name in a.variable:
        codes = f"{name}_quantized"
        beside = (f"{name}_scale", f"{name}_zero_point")
        if name in there:
            found.append(Pair(name, _dequantized(name, name, a, b)))
        elif codes in there and all(n in b.stored for n in beside):
            found.append(Pair(name, codes, beside))
    return found


def _trusted(pairs: list[Pair], a: Lineage, b: Lineage) -> bool:
    if not pairs:
        return False
    alike = sum(_alike(a.producers[p.a], b.producers[p.b]) or p.codes is not None for p in pairs)
    return alike >= _TRUSTED * len(pairs)


def _alike(one: onnx.NodeProto, other: onnx.NodeProto) -> bool:
    return one.op_type == other.op_type or other.op_type in _WRITTEN


def _dequantized(name: str, value: str, a: Lineage, b: Lineage) -> str:
    """The value as the second model reads it, if only quantization does; not where the first does the same."""
    if _only(a, name, "QuantizeLinear"):
        return value
    quantized = _only(b, value, "QuantizeLinear")
    restored = _only(b, quantized, "DequantizeLinear") if quantized else None
    return restored or value


def _only(graph: Lineage, value: str, operator: str) -> str | None:
    """What the only operator that reads a value gives, if it is of that kind."""
    readers = graph.readers.get(value, [])
    if value in graph.outputs or not readers or any(r.op_type != operator or r.input[0] != value for r in readers):
        return None
    return str(readers[0].output[0])
