"""A weight of which at most N of M consecutive inputs are other than zero: N values a group, and where they stand.

The places p₀ < p₁ < … of a group can be chosen in K = M over N ways, numbered by c = Σᵢ (pᵢ over i + 1): two of four
take log₂ 6 = 2.58 bits in place of four. As many codes as fit share a word w = Σⱼ cⱼ Kʲ, of the size that wastes least:
three codes of two of four fill a byte, five of four of eight four bytes. With T (K, N) the places of every code,
constant nodes, which a runtime folds once when it loads, put a weight together again:

    cⱼ = ⌊w / Kʲ⌋ mod K,     W (groups, M) = 0,     W[g, T[c_g]] = v (groups, N)

Needs opset 11 for ScatterElements.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import numpy_helper

from onnxcompress.graph.model import Tensor

if TYPE_CHECKING:
    from onnxcompress.forms.decoding import Chain
    from onnxcompress.forms.sparse import Layout

_MOST = 512  # ways, whose table still is small
_NODES, _LOOKUP = 900, 150  # bytes of the nodes and small constants, roughly, and of those with the table
_WORDS = ((np.uint8, 8), (np.uint16, 16), (np.int32, 31), (np.int64, 63))  # with bits that count


@dataclass(frozen=True)
class Ratio:
    """At most ``n`` of ``m`` consecutive inputs of a row, which divides by ``m``."""

    layout: Layout
    n: int
    m: int

    @property
    def ways(self) -> int:
        """In which the values of a group can stand, K."""
        return math.comb(self.m, self.n)

    @property
    def fits(self) -> bool:
        """Whether rows divide by ``m`` and the table of all ways is small."""
        return self.layout.inputs % self.m == 0 and self.ways <= _MOST

    @property
    def groups(self) -> int:
        """Runs of ``m`` inputs."""
        return math.prod(self.layout.dims) // self.m

    @property
    def stored(self) -> int:
        """Values that are stored."""
        return self.groups * self.n

    @property
    def packing(self) -> tuple[np.dtype, int, int]:
        """Type of a word, codes in it, and words: those of fewest bytes in all."""
        found = []
        for kind, bits in _WORDS:
            codes = next(d for d in itertools.count() if self.ways ** (d + 1) > 1 << bits)
            if codes:
                found.append((np.dtype(kind), codes, -(-self.groups // codes)))
        return min(found, key=lambda way: way[0].itemsize * way[2])

    @property
    def placing(self) -> tuple[np.dtype, tuple[int, ...]]:
        """Type and shape of the words."""
        dtype, _, words = self.packing
        return dtype, (1, words)

    def nbytes(self, bits: float) -> int:
        """Bytes of a weight of so many bits a value, with its nodes and its table."""
        dtype, _, words = self.packing
        table = self.ways * self.n + _LOOKUP if self.n > 1 else 0
        return words * dtype.itemsize + math.ceil(self.stored * bits / 8) + table + _NODES

    def _grouped(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The weights (groups, M), and which of them are stored, N of each group, the same shape.

        Raises:
            ValueError: more of a group are not zero.
        """
        grouped = self.layout.rows(flat).reshape(-1, self.m)
        taken = grouped != 0
        counts = np.count_nonzero(taken, axis=1)
        if (most := int(counts.max(initial=0))) > self.n:
            raise ValueError(f"{most} of {self.m} values are not zero, and {self.n} were expected")
        short = np.flatnonzero(counts < self.n)  # filled up with the first of their zeros
        free = ~taken[short]
        taken[short] |= free & (np.cumsum(free, axis=1) <= (self.n - counts[short])[:, None])
        return grouped, taken

    def places(self, flat: np.ndarray) -> np.ndarray:
        """The words of a flat weight, (1, words)."""
        found = (np.flatnonzero(self._grouped(flat)[1]) % self.m).reshape(-1, self.n)
        above = np.array([[math.comb(p, i + 1) for i in range(self.n)] for p in range(self.m)], np.int64)
        dtype, codes, words = self.packing
        digits = np.zeros(codes * words, np.int64)
        for i in range(self.n):
            digits[: self.groups] += above[found[:, i], i]
        packed = (digits.reshape(codes, words) * self._powers(codes)).sum(axis=0, keepdims=True)
        return np.asarray(packed, dtype)

    def values(self, flat: np.ndarray, zero: float = 0) -> np.ndarray:
        """What is stored of a flat weight, (stored,), with ``zero`` added to it."""
        grouped, taken = self._grouped(flat)
        return np.asarray(grouped[taken] + np.asarray(zero, flat.dtype))

    def expanded(self, chain: Chain, places: str, values: str, length: int, zero: np.ndarray) -> str:
        """The weight in its stored order from the names of its words and of its stored values, (length,).

        ``zero`` is what stands for one among those values, (1,) of their type.
        """
        dims = chain.constant("all", np.array((self.groups, self.m), np.int64))
        empty = chain.add("ConstantOfShape", [dims], "empty", value=numpy_helper.from_array(zero))
        stored = chain.shaped(chain.cut(values, length, self.stored), (self.groups, self.n))
        found = chain.add("ScatterElements", [empty, self._placed(chain, places), stored], "e", axis=1)
        return self.layout.restored(chain, found)

    def _powers(self, codes: int) -> np.ndarray:
        return np.array([[self.ways**j] for j in range(codes)], np.int64)

    def _placed(self, chain: Chain, words: str) -> str:
        """Where stored values stand in their groups, (groups, N)."""
        dtype, codes, count = self.packing
        kind = np.dtype(np.int64 if dtype.itemsize == 8 else np.int32)
        if dtype != kind:
            words = chain.add("Cast", [words], "words", to=Tensor.INT32)
        powers = chain.constant("powers", self._powers(codes).astype(kind))
        ways = chain.constant("ways", np.array(self.ways, kind))
        digits = chain.add("Mod", [chain.add("Div", [words, powers], "above"), ways], "digits")
        code = chain.cut(chain.shaped(digits, (codes * count,)), codes * count, self.groups)
        if self.n == 1:
            return chain.shaped(code, (self.groups, 1))  # a place is its own code
        ordered = sorted(itertools.combinations(range(self.m), self.n), key=lambda way: way[::-1])
        table = chain.constant("places", np.array(ordered, np.uint8))
        return chain.add("Gather", [chain.add("Cast", [table], "t", to=Tensor.INT32), code], "at", axis=0)
