"""Sums over calls, in float64 and always in the same order: Σ x xᵀ, Σ x and the number of positions.

Either the product of a call is added, or its columns are kept until there are as many as make a product worth its
while: adding a matrix (in, in) takes as long as multiplying some dozens of columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray
_MANY = 64  # columns that are worth a product in any case


@dataclass(frozen=True)
class Gram:
    """What a layer sees: ``matrix`` is E[x xᵀ], float64 (in, in), or (groups, in, in) of a grouped convolution.

    ``mean`` is E[x], (in,) or (groups, in). ``positions`` is the number of rows or windows that were seen; with none,
    all is zero.
    """

    matrix: Array
    mean: Array
    positions: int


class Tally:
    """Sums of one view, of as many groups and inputs."""

    def __init__(self, groups: int, inputs: int) -> None:
        self._matrix = np.zeros((groups, inputs, inputs))
        self._sum = np.zeros((groups, inputs))
        self._count = 0
        self._columns: list[Array] = []
        self._kept = 0

    def add_product(self, product: Array, total: Array, count: int) -> None:
        """Add Σ x xᵀ of a call, (groups, in, in) but for its shape, and Σ x (groups, in)."""
        if count:
            with np.errstate(over="ignore", invalid="ignore"):  # told by whoever reads the result
                np.add(self._matrix, product.reshape(self._matrix.shape), out=self._matrix)
                self._sum += total.reshape(self._sum.shape)
            self._count += count

    def add_columns(self, columns: Array, total: Array, count: int) -> None:
        """Add the columns of a call (groups, in, positions) with their sum (groups, in)."""
        self._sum += total
        self._count += count
        self._columns.append(columns)
        self._kept += columns.shape[2]
        if self._kept >= max(_MANY, self._sum.shape[1] // 2):
            self._multiply()

    def _multiply(self) -> None:
        if self._kept:
            columns = np.concatenate(self._columns, axis=2)
            with np.errstate(over="ignore", invalid="ignore"):  # told by whoever reads the result
                self._matrix += columns @ columns.transpose(0, 2, 1)  # numpy sees the symmetry: half the work
        self._columns.clear()
        self._kept = 0

    def gram(self) -> Gram:
        """The means; the sums are used up."""
        self._multiply()
        self._matrix /= max(self._count, 1)
        self._sum /= max(self._count, 1)
        single = len(self._sum) == 1
        matrix, mean = (self._matrix[0], self._sum[0]) if single else (self._matrix, self._sum)
        return Gram(matrix, mean, self._count)
