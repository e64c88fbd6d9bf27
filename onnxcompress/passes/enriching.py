"""What a weight gets besides codes on a grid, or in their place: a product of thin matrices, or places in a table.

    W ≈ Ŵ + A·B,   A (out, rank), B (rank, in),        or        W ≈ s · T[q],   T of 2^bits entries

Both are solved in the metric of what the layer sees where that was measured (see `solvers.residual` and
`solvers.codebook`), else for the least squared error.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.forms.base import Codebook, Coding, Residual
from onnxcompress.forms.rows import rows_of
from onnxcompress.graph.scopes import attribute_value
from onnxcompress.passes.rounding import round_rows
from onnxcompress.solvers.codebook import codebook
from onnxcompress.solvers.grid import Quantized, quantize
from onnxcompress.solvers.metric import plain_error
from onnxcompress.solvers.residual import alternating

if TYPE_CHECKING:
    from onnxcompress.forms.base import Writing
    from onnxcompress.forms.rows import Rows
    from onnxcompress.graph.layers import Leaf
    from onnxcompress.passes.rounding import Rounding

Array = np.ndarray
_CORRECTED = ("MatMul", "Gemm", "Conv")
_LEAST_SIDES = 4  # of a weight, in ranks: below, the factors take much of what the codes save
_ROUNDS = 3
_MOST_HALF = 6e4  # of the norm of a weight: its factors are stored as float16


@dataclass(frozen=True)
class Enriching:
    """What is asked of each weight. ``length`` 0: no table; ``rank`` 0: no thin matrices."""

    bits: int
    length: int = 0
    rank: int = 0
    scaled: bool = True
    seed: int = 0
    rounding: Rounding | None = None

    @property
    def asked(self) -> bool:
        """Whether anything is."""
        return self.length > 0 or self.rank > 0

    def lacking(self, writing: Writing) -> str | None:
        """Why a weight cannot have what is asked for, or None."""
        if self.length > 0:
            rows = any_rows(writing)
            count = writing.weight.elements if rows is None else rows.inputs // max(rows.blocks, 1)
            if count % self.length:
                return f"{count} weights that share a scale do not divide into vectors of {self.length}"
        if self.rank > 0:
            rows = _product_rows(writing)
            if rows is None:
                return "read by no MatMul, Gemm or Conv of one group"
            values = writing.values()
            if not float(np.abs(values).max(initial=0)) * math.sqrt(values.size) < _MOST_HALF:
                return "what it would take is beyond the range of float16"
            if min(rows.out, rows.inputs) <= _LEAST_SIDES * self.rank:
                return f"({rows.out}, {rows.inputs}) is too small for a rank of {self.rank}"
        return None

    def __call__(self, writing: Writing) -> Writing:
        """The writing with what is asked for, as far as it can have it."""
        if not self.asked or self.lacking(writing) is not None:
            return writing
        if self.length > 0:
            return dataclasses.replace(writing, codebook=self._coding(writing))
        rows = _product_rows(writing)
        if rows is None:
            return writing
        found = _Corrected(writing, rows, self.rank, self.rounding)
        residual = Residual(rows.order, rows.out, self.rank, found.factors)
        return dataclasses.replace(writing, solve=found.solve, residual=residual)

    def _coding(self, writing: Writing) -> Coding:
        rows = any_rows(writing)
        order = tuple(range(len(writing.dims))) if rows is None else rows.order
        groups = None if rows is None or not self.scaled or rows.blocks == 0 else rows.groups

        def solve(values: Array) -> Codebook:
            W = values.reshape(-1, self.length) if rows is None else values.reshape(rows.out, rows.inputs)
            seen = None if self.rounding is None or rows is None else self.rounding.metric(writing)
            H = seen[1] if seen is not None and rows is not None and seen[0].order == rows.order else None
            found = codebook(np.asarray(W, np.float32), H, self.bits, self.length, groups, self.seed)
            return Codebook(found.indices, found.table, found.scale, found.error)

        return Coding(self.bits, 1 << self.bits, self.length, order, groups, solve)


def coded_bytes(writing: Writing, itemsize: int) -> int | None:
    """Bytes of a weight as places in a table, None where it is not stored so; ``itemsize``: of an entry and a scale."""
    coding = writing.codebook
    if coding is None:
        return None
    count = writing.weight.elements // coding.length
    scales = 0 if coding.groups is None else math.prod(coding.groups.scale_shape)
    whole = count - count % 8
    return whole * coding.bits // 8 + count % 8 + (coding.entries * coding.length + scales) * itemsize


@dataclass
class _Corrected:
    """Codes and factors of one weight, solved together when either is asked for, and let go once both were."""

    writing: Writing
    rows: Rows
    rank: int
    rounding: Rounding | None
    dtype: np.dtype | None = None
    held: tuple[Quantized, Array, Array] | None = None
    left: set[str] = field(default_factory=set)

    def solve(self, _: Writing, values: Array, dtype: np.dtype | None) -> Quantized:
        self.dtype = dtype
        return self._taken("codes", values)[0]

    def factors(self) -> tuple[Array, Array]:
        return self._taken("factors", None)[1:]

    def _taken(self, part: str, values: Array | None) -> tuple[Quantized, Array, Array]:
        if self.held is None:
            self.held = self._solved(self.writing.values() if values is None else values)
            self.left = {"codes", "factors"}
        found = self.held
        self.left.discard(part)
        if not self.left:
            self.held = None
        return found

    def _solved(self, values: Array) -> tuple[Quantized, Array, Array]:
        grid, rows, dtype = self.writing.grid, self.rows, self.dtype
        seen = None if self.rounding is None else self.rounding.metric(self.writing)
        H = None if seen is None or seen[1].shape[-1] != rows.inputs else seen[1].reshape(rows.inputs, rows.inputs)
        W = rows.matrix(values)

        def codes(matrix: Array) -> Quantized:
            if H is None:
                return quantize(matrix, grid, rows.groups, dtype)
            return round_rows(matrix, H, grid, rows.groups, dtype)

        found, A, B = alternating(W, H, self.rank, codes, rounds=_ROUNDS)
        A, B = (factor.astype(np.float16).astype(np.float32) for factor in (A, B))
        error = plain_error(W, found.dequantize().reshape(W.shape) + A @ B)
        return rows.to_stored(dataclasses.replace(found, error=error)), A, B


def any_rows(writing: Writing) -> Rows | None:
    """The rows of a weight as the first of its readers sees them that sees rows."""
    return next((r for leaf in writing.weight.leaves if (r := rows_of(writing, leaf)) is not None), None)


def _product_rows(writing: Writing) -> Rows | None:
    found = (rows_of(writing, leaf) for leaf in writing.weight.leaves if _corrects(leaf))
    return next((rows for rows in found if rows is not None), None)


def _corrects(leaf: Leaf) -> bool:
    node = leaf.use.node
    return node is not None and node.op_type in _CORRECTED and attribute_value(node, "group", 1) == 1
