"""The matrix that a solver sees, (out, in), and the layout in which a weight is stored: there and back.

A solver works row by row, a row holding all weights of one output in the order of the inputs that meet them: for a
convolution (channel, kernel height, kernel width), as an image is unrolled. A stored weight has its axes in the order
of its operator, and is seen with the shape of its groups. With o the axes of the outputs and i those of the inputs,

    rows = reshape(transpose(W, o + i), (out, in)),   blocks = reshape(rows, (out, blocks, block)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.graph.layers import output_axes
from onnxcompress.solvers.grid import Quantized
from onnxcompress.solvers.groups import Groups

if TYPE_CHECKING:
    from onnxcompress.forms.base import Writing
    from onnxcompress.graph.layers import Leaf


@dataclass(frozen=True)
class Rows:
    """The way between a stored weight and its rows.

    ``dims`` and ``stored`` are the shape and the groups of the weight as it is stored; ``order`` are its axes, those
    of the outputs first, of which there are ``own``. ``blocks`` is the number of scales in a row, 0 for one scale in
    all.
    """

    dims: tuple[int, ...]
    stored: Groups
    order: tuple[int, ...]
    own: int
    blocks: int

    @property
    def out(self) -> int:
        """Number of rows."""
        return math.prod(self.dims[a] for a in self.order[: self.own])

    @property
    def inputs(self) -> int:
        """Weights of a row."""
        return math.prod(self.dims[a] for a in self.order[self.own :])

    @property
    def groups(self) -> Groups:
        """The groups of the rows: blocks of a row, whole rows, or all of them."""
        if self.blocks > 1:
            return Groups((self.out, self.blocks, self.inputs // self.blocks), (2,))
        return Groups((self.out, self.inputs), (1,) if self.blocks else (0, 1))

    def grouped(self, stored: Groups) -> Rows | None:
        """The same rows with other groups, None where those are not blocks of a row."""
        rows = Rows(self.dims, stored, self.order, self.own, 1)
        blocks = _blocks(rows)
        return None if blocks is None else Rows(self.dims, stored, self.order, self.own, blocks)

    def matrix(self, values: np.ndarray) -> np.ndarray:
        """A stored weight as (out, in), float32, C-contiguous."""
        rows = values.reshape(self.dims).transpose(self.order).reshape(self.out, self.inputs)
        return np.ascontiguousarray(rows, np.float32)

    def values(self, matrix: np.ndarray) -> np.ndarray:
        """The inverse of `matrix`, in the shape in which the weight is stored and the type that is given."""
        seen = matrix.reshape([self.dims[a] for a in self.order])
        return np.ascontiguousarray(seen.transpose(np.argsort(self.order)))

    def to_rows(self, found: Quantized) -> Quantized:
        """A quantized weight, from the shapes in which it is stored to those of `groups`."""
        codes = found.codes.reshape(self.dims).transpose(self.order).reshape(self.groups.shape)
        zero = None if found.zero_point is None else self._scale_rows(found.zero_point)
        return Quantized(np.ascontiguousarray(codes), self._scale_rows(found.scale), zero, found.error, found.middle)

    def to_stored(self, found: Quantized) -> Quantized:
        """The inverse of `to_rows`."""
        codes = self.values(found.codes).reshape(self.stored.shape)
        zero = None if found.zero_point is None else self._scale_stored(found.zero_point)
        return Quantized(codes, self._scale_stored(found.scale), zero, found.error, found.middle)

    def _around(self) -> tuple[int, int]:
        """Rows whose axes come before the inputs as they are stored, and rows whose axes come after."""
        first = self.order[self.own]
        before = math.prod(self.dims[a] for a in self.order[: self.own] if a < first)
        return before, self.out // before

    def _scale_rows(self, scale: np.ndarray) -> np.ndarray:
        if scale.size == 1 or self.blocks == 0:
            return np.ascontiguousarray(scale.reshape([1] * len(self.groups.shape)))
        if self.stored.shape == self.dims:  # the own axes keep their order, with nothing between them
            return np.ascontiguousarray(scale.transpose(self.order).reshape(self.groups.scale_shape))
        before, after = self._around()
        moved = scale.reshape(before, self.blocks, after).transpose(0, 2, 1)
        return np.ascontiguousarray(moved.reshape(self.groups.scale_shape))

    def _scale_stored(self, scale: np.ndarray) -> np.ndarray:
        if scale.size == 1:
            return np.ascontiguousarray(scale.reshape([1] * len(self.stored.shape)))
        if self.stored.shape == self.dims:
            seen = scale.reshape([self.dims[a] if n < self.own else 1 for n, a in enumerate(self.order)])
            return np.ascontiguousarray(seen.transpose(np.argsort(self.order)).reshape(self.stored.scale_shape))
        before, after = self._around()
        moved = scale.reshape(before, after, self.blocks).transpose(0, 2, 1)
        return np.ascontiguousarray(moved.reshape(self.stored.scale_shape))


def rows_of(writing: Writing, leaf: Leaf) -> Rows | None:
    """The rows that a reader of a weight sees, or None where its groups are not blocks of them.

    That is so where the reader is no layer or sees a part of the weight only, and where scales lie along its inputs.
    """
    own, axes = output_axes(leaf), leaf.axes
    if own is None or axes is None or not leaf.plain or len(own) == len(axes):
        return None
    order = (*own, *(a for a in axes if a not in own))
    if writing.flipped:
        order = tuple(len(order) - 1 - a for a in order)
    return Rows(writing.dims, writing.groups, order, len(own), 1).grouped(writing.groups)


def _blocks(rows: Rows) -> int | None:
    """Scales in a row, 0 where there is one in all, None where groups are not blocks of a row."""
    groups, inner = rows.stored, rows.order[rows.own :]
    if groups.members == math.prod(rows.dims):
        return 0
    if groups.shape == rows.dims and set(groups.shared) == set(inner):
        return 1
    consecutive = inner == tuple(range(inner[0], inner[0] + len(inner)))
    if not consecutive or list(rows.order[: rows.own]) != sorted(rows.order[: rows.own]) or len(groups.shared) != 1:
        return None
    (axis,) = groups.shared
    before, after = math.prod(rows.dims[: inner[0]]), math.prod(rows.dims[inner[-1] + 1 :])
    if axis == 0 or math.prod(groups.shape[: axis - 1]) != before or math.prod(groups.shape[axis + 1 :]) != after:
        return None
    return groups.shape[axis - 1]
