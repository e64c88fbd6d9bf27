"""What is quantized together: the grid of codes, and which weights share a scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grid:
    """An integer grid: bits per weight and whether zero is its middle.

    One bit has the codes 0 and 1, and zero halfway between them: ŵ = s · (q − ½) = ±s/2. Asymmetric, its zero point
    is a float, so that ŵ = m ± s/2 with z = ½ − m/s. ``ternary`` leaves −1, 0 and 1 of two symmetric bits.
    """

    bits: int
    symmetric: bool = True
    ternary: bool = False

    @property
    def low(self) -> int:
        """Smallest code. Eight bits leave −128 out: products of two of them would overflow in pairs."""
        if not self.symmetric or self.bits == 1:
            return 0
        if self.ternary:
            return -1
        return -127 if self.bits == 8 else -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        """Largest code."""
        if not self.symmetric or self.bits == 1:
            return (1 << self.bits) - 1
        return (1 << (self.bits - 1)) - 1

    @property
    def dtype(self) -> np.dtype:
        """Type of an unpacked code."""
        return np.dtype(np.int8 if self.symmetric and self.bits > 1 else np.uint8)

    @property
    def stored_bits(self) -> int:
        """Bits of a code in a file: whole codes fill a byte, so three bits are stored in four."""
        return 4 if self.bits == 3 else self.bits

    @property
    def offset(self) -> int:
        """What is added to a code where it is packed; eight bits are stored as they are."""
        signed = self.symmetric and 1 < self.bits < 8
        return 1 << (self.stored_bits - 1) if signed else 0

    @property
    def middle(self) -> float:
        """The zero point of a symmetric grid, which is not stored."""
        return 0.5 if self.symmetric and self.bits == 1 else 0.0


@dataclass(frozen=True)
class Groups:
    """Which weights share a scale: the weight seen with ``shape``, one scale for all along the axes ``shared``."""

    shape: tuple[int, ...]
    shared: tuple[int, ...]

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """Shape of the scales, which broadcast against ``shape``."""
        return tuple(1 if i in self.shared else n for i, n in enumerate(self.shape))

    @property
    def members(self) -> int:
        """Weights that share one scale."""
        return math.prod(self.shape[i] for i in self.shared)


def per_channel(dims: tuple[int, ...], own: tuple[int, ...]) -> Groups:
    """One scale for each index along the axes ``own``; no own axes: one scale for the tensor."""
    return Groups(dims, tuple(i for i in range(len(dims)) if i not in own))


def per_block(dims: tuple[int, ...], own: tuple[int, ...], size: int) -> Groups:
    """One scale for each block of ``size`` weights along the inputs of each channel.

    The axes that are not ``own`` are flattened where they are adjacent; the last run of them is cut into blocks.
    Where ``size`` does not divide it, its largest divisor below is taken; with none of 8 or more, `per_channel`.
    """
    runs: list[list[int]] = []  # adjacent axes of the same kind
    for axis in range(len(dims)):
        if runs and (runs[-1][-1] in own) == (axis in own):
            runs[-1].append(axis)
        else:
            runs.append([axis])
    inner = [i for i, run in enumerate(runs) if run[0] not in own]
    if not inner:
        return per_channel(dims, own)
    length = math.prod(dims[a] for a in runs[inner[-1]])
    block = next((d for d in range(min(size, length), 7, -1) if length % d == 0), 0)
    if block == 0:
        return per_channel(dims, own)
    shape: list[int] = []
    shared: list[int] = []
    for index, run in enumerate(runs):
        total = math.prod(dims[a] for a in run)
        if index == inner[-1]:
            shape += [total // block, block]
            shared.append(len(shape) - 1)
        else:
            shape.append(total)
            if index in inner:
                shared.append(len(shape) - 1)
    return Groups(tuple(shape), tuple(shared))
