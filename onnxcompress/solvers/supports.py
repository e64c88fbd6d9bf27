"""Where zeros may stand in a weight: anywhere, N of M in a row, or whole blocks; and which go by a score."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
_RATIO = re.compile(r"(\d+):(\d+)")
_BLOCK = re.compile(r"block ?(\d+)x(\d+)")


@dataclass(frozen=True)
class Pattern:
    """A pattern of zeros in rows of weights (out, in).

    ``ratio``: so many weights stay of so many consecutive inputs of a row. ``block``: outputs and inputs that go
    together. With neither, weights go one by one.
    """

    ratio: tuple[int, int] | None = None
    block: tuple[int, int] = (1, 1)

    @classmethod
    def of(cls, text: str) -> Pattern:
        """``unstructured``, ``N:M`` or ``block RxC``.

        Raises:
            ValueError: it is none of these.
        """
        if text == "unstructured":
            return cls()
        if found := _RATIO.fullmatch(text):
            n, m = int(found[1]), int(found[2])
            if not 0 < n < m:
                raise ValueError(f"of {m} weights {n} cannot be kept: N:M needs 0 < N < M")
            return cls(ratio=(n, m))
        if found := _BLOCK.fullmatch(text):
            rows, columns = int(found[1]), int(found[2])
            if rows < 1 or columns < 1 or rows * columns < 2:
                raise ValueError("a block has at least two weights")
            return cls(block=(rows, columns))
        raise ValueError(f"{text!r} is no pattern: unstructured, N:M such as 2:4, or block RxC such as block 4x8")

    @property
    def text(self) -> str:
        """As `of` reads it."""
        if self.ratio is not None:
            return f"{self.ratio[0]}:{self.ratio[1]}"
        return "unstructured" if self.block == (1, 1) else f"block {self.block[0]}x{self.block[1]}"

    @property
    def width(self) -> int:
        """Consecutive inputs that are decided on together."""
        return self.ratio[1] if self.ratio is not None else self.block[1]

    def lacking(self, out: int, inputs: int) -> str | None:
        """Why weights (out, in) cannot have it, or None."""
        if inputs % self.width:
            return f"{inputs} inputs do not divide by {self.width}"
        if out % self.block[0]:
            return f"{out} outputs do not divide by {self.block[0]}"
        return None

    def kept(self, out: int, inputs: int, zeros: int) -> int:
        """Weights that stay of (out, in) when at least so many are to go; whole blocks stay."""
        if self.ratio is not None:
            return out * inputs // self.ratio[1] * self.ratio[0]
        size = self.block[0] * self.block[1]
        return (out * inputs // size - zeros // size) * size

    def support(self, score: Array, zeros: int) -> Array:
        """The weights that stay, bool (out, in): those of the highest scores (out, in)."""
        if self.ratio is not None:
            n, m = self.ratio
            grouped = score.reshape(-1, m)
            kept = np.zeros(grouped.shape, bool)
            np.put_along_axis(kept, np.argpartition(-grouped, n - 1, axis=1)[:, :n], values=True, axis=1)
            return kept.reshape(score.shape)
        rows, columns = self.block
        if self.block == (1, 1):
            return _largest(score.ravel(), score.size - zeros).reshape(score.shape)
        blocks = score.reshape(score.shape[0] // rows, rows, score.shape[1] // columns, columns)
        whole = blocks.sum(axis=(1, 3), dtype=np.float64)
        kept = _largest(whole.ravel(), whole.size - zeros // (rows * columns)).reshape(whole.shape)
        return np.broadcast_to(kept[:, None, :, None], blocks.shape).reshape(score.shape)


def _largest(score: Array, count: int) -> Array:
    """True for so many of the largest; of those that are equal to the last of them, for some all over."""
    if count <= 0 or count >= score.size:
        return np.full(score.shape, count > 0)
    least = np.partition(score, score.size - count)[score.size - count]  # indices would take twice the memory
    kept: Array = score > least
    equal = np.flatnonzero(score == least)
    more = count - int(np.count_nonzero(kept))
    kept[equal[np.arange(more) * equal.size // max(more, 1)]] = True
    return kept
