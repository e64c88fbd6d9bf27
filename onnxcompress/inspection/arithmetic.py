"""Multiply-adds of the nodes of a model, from the shapes of their values.

Products and convolutions count, with stored weights or without (attention); elementwise operators do not. Of the two
branches of an If the one with more counts; the body of a Loop or Scan counts once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxcompress.graph.bodies import integer
from onnxcompress.graph.scopes import Scope, Scopes, attribute_value, constant_tensor, subgraphs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx

Shape = tuple[int, ...]
Lookup = Callable[[str], Shape | None]
Known = Mapping[str, Shape]


class _Unknown(Exception):
    """A shape that is needed is not known."""


@dataclass(frozen=True, eq=False)
class Counted:
    """A node that multiplies: how often in a call; None where a shape is not known."""

    scope: Scope
    node: onnx.NodeProto
    macs: int | None


@dataclass(frozen=True, eq=False)
class _Seen:
    """A node and the shapes of its values."""

    node: onnx.NodeProto
    lookup: Lookup

    def read(self, index: int) -> Shape:
        return self._of(self.node.input, index)

    def made(self) -> Shape:
        return self._of(self.node.output, 0)

    def _of(self, names: Sequence[str], index: int) -> Shape:
        shape = self.lookup(names[index]) if index < len(names) and names[index] else None
        if shape is None:
            raise _Unknown
        return shape


def multiply_adds(node: onnx.NodeProto, lookup: Lookup) -> int | None:
    """Multiply-adds of a node in a call; zero for operators that are no products, None where a shape is not known."""
    rule = _RULES.get(node.op_type)
    if rule is None:
        return 0
    try:
        return rule(_Seen(node, lookup))
    except (_Unknown, IndexError, ValueError):  # fewer axes than the operator has
        return None


def counted(scopes: Scopes, known: Sequence[Known]) -> list[Counted]:
    """The nodes that count in a call of the main graph; ``known``: shapes of values, for each of all scopes."""
    tables = {id(scope): table for scope, table in zip(scopes.all, known, strict=True)}
    inner: dict[int, list[Scope]] = {}
    for scope in scopes.all:
        inner.setdefault(id(scope.parent), []).append(scope)
    return _of_scope(scopes.main, tables, inner)


def total(found: Sequence[Counted]) -> int:
    """Multiply-adds of nodes, as far as they are known."""
    return sum(item.macs or 0 for item in found)


def _of_scope(scope: Scope, tables: Mapping[int, Known], inner: Mapping[int, list[Scope]]) -> list[Counted]:
    found: list[Counted] = []
    bodies: Iterator[Scope] = iter(inner.get(id(scope), ()))
    for node in scope.body.node:
        if node.op_type in _RULES:
            found.append(Counted(scope, node, multiply_adds(node, _lookup(scope, tables))))
        own = [_of_scope(next(bodies), tables, inner) for _ in subgraphs(node)]
        if own and node.op_type == "If":
            own = [max(own, key=lambda part: (total(part), len(part)))]
        found += [item for part in own for item in part]
    return found


def _lookup(scope: Scope, tables: Mapping[int, Known]) -> Lookup:
    def shape(name: str) -> Shape | None:
        owner = scope.resolve(name)
        if owner is None:
            return None
        stored = owner.initializers.get(name)
        if stored is None and name in owner.constants:
            stored = constant_tensor(owner.constants[name])
        if stored is not None:
            return tuple(stored.dims)
        return tables[id(owner)].get(name)

    return shape


# ------------------------------------------------------------------------- one rule an operator


def _convolution(weight: int) -> Callable[[_Seen], int]:
    return lambda seen: math.prod(seen.made()) * math.prod(seen.read(weight)[1:])


def _transposed_convolution(seen: _Seen) -> int:
    return math.prod(seen.read(0)) * math.prod(seen.read(1)[1:])


def _product(seen: _Seen) -> int:
    left = seen.read(0)
    flipped = len(left) > 1 and integer(seen.node, "transA", 0)
    return math.prod(seen.made()) * left[-2 if flipped else -1]


def _blockwise(seen: _Seen) -> int:
    return math.prod(seen.made()) * integer(seen.node, "K", 0)


def _recurrent(seen: _Seen) -> int:
    """Every weight once for each step and sample."""
    return math.prod(seen.read(0)[:2]) * (math.prod(seen.read(1)) + math.prod(seen.read(2)))


def _attention(seen: _Seen) -> int:
    """Projections, then scores and their sums, (batch, length, features) with a weight (features, 3 · hidden)."""
    batch, length, _ = seen.read(0)[:3]
    weight = seen.read(1)
    return batch * length * math.prod(weight) + 2 * batch * length * length * (weight[-1] // 3)


def _einsum(seen: _Seen) -> int:
    """The product of the lengths of all letters, where several operands are multiplied."""
    equation = attribute_value(seen.node, "equation", b"")
    text = equation.decode(errors="replace") if isinstance(equation, bytes) else str(equation)
    terms = text.replace(" ", "").split("->")[0].split(",")
    if len(terms) < 2 or "." in text:
        raise _Unknown
    lengths: dict[str, int] = {}
    for index, term in enumerate(terms):
        for letter, length in zip(term, seen.read(index), strict=False):
            lengths[letter] = max(length, lengths.get(letter, 0))
    return math.prod(lengths.values())


_RULES: dict[str, Callable[[_Seen], int]] = {
    **dict.fromkeys(("Conv", "FusedConv", "ConvInteger"), _convolution(1)),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed_convolution,
    **dict.fromkeys(("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "MatMulInteger", "MatMulIntegerToFloat"), _product),
    **dict.fromkeys(("QLinearMatMul", "QGemm", "DynamicQuantizeMatMul"), _product),
    **dict.fromkeys(("MatMulNBits", "MatMulBnb4"), _blockwise),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    "Attention": _attention,
    "Einsum": _einsum,
}
