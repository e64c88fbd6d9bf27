"""Which code tells where the values of a weight stand that are other than zero: the one of fewest bytes that fits.

A bit for each weight always fits. Where zeros come in whole blocks, or where few of so many consecutive inputs stay,
less has to be said: `Blocks` and `Ratio`. A pattern is known before the weight is solved; else zeros tell it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.forms.ratios import Ratio
from onnxcompress.forms.sparse import Blocks, Layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from onnxcompress.forms.rows import Rows
    from onnxcompress.solvers.supports import Pattern

Support = Blocks | Ratio
Array = np.ndarray
_FULL = 0.95  # of a weight, from which on zeros save nothing
_FACTORS = (2, 3, 5, 7)  # by which blocks grow
_WIDEST = 32  # inputs of which a few may stay
_SAMPLE = 1 << 16  # weights that rule most ratios out


def layout_of(rows: Rows) -> Layout:
    """How a weight is stored whose rows are seen so."""
    return Layout(rows.dims, rows.order, rows.out)


def planned(layout: Layout, pattern: Pattern, kept: int, bits: float) -> Support:
    """The cheapest code for a weight that will have a pattern, of which so many values stay, of so many bits."""
    found: list[Support] = [Blocks.single(math.prod(layout.dims), kept)]
    if pattern.ratio is not None:
        found.append(Ratio(layout, *pattern.ratio))
    elif pattern.block != (1, 1):
        found.append(Blocks(layout, pattern.block, kept // (pattern.block[0] * pattern.block[1])))
    return _cheapest(found, bits)


def recognised(layout: Layout | None, values: Array, bits: float) -> Support:
    """The cheapest code for the zeros of a weight, of so many bits a value; without a layout one of single weights."""
    there = values.ravel() != 0
    kept = int(np.count_nonzero(there))
    found: list[Support] = [Blocks.single(there.size, kept)]
    if layout is not None and kept < _FULL * there.size:
        rows = np.ascontiguousarray(layout.rows(there))
        found += [_grown(layout, rows, bits), *_ratios(layout, rows)]
    return _cheapest(found, bits)


def _cheapest(found: Iterable[Support], bits: float) -> Support:
    able = [s for s in found if not isinstance(s, Ratio) or s.fits]
    return min(able, key=lambda support: support.nbytes(bits))


def _grown(layout: Layout, rows: Array, bits: float) -> Blocks:
    """The blocks of fewest bytes that growing by small factors from single weights leads to, each step a gain.

    Where zeros come in whole blocks, joining two of their parts saves a bit and stores nothing more.
    """
    found, cells = Blocks(layout, (1, 1), int(np.count_nonzero(rows))), rows
    while True:
        steps = []
        for (height, width), joined in _joined(cells):
            block = (found.block[0] * height, found.block[1] * width)
            steps.append((Blocks(layout, block, int(np.count_nonzero(joined))), joined))
        best, joined = min(steps, key=lambda step: _content(step[0], bits), default=(found, cells))
        if _content(best, bits) >= _content(found, bits):
            return found
        found, cells = best, joined


def _content(blocks: Blocks, bits: float) -> float:
    """Bits of what is stored, without nodes."""
    return blocks.count + blocks.stored * bits


def _joined(cells: Array) -> Iterator[tuple[tuple[int, int], Array]]:
    """Cells (rows, columns) joined by a factor down or across, with the factors: set where any of them was."""
    for factor in _FACTORS:
        if cells.shape[0] % factor == 0:
            yield (factor, 1), np.logical_or.reduce([cells[i::factor] for i in range(factor)])
        if cells.shape[1] % factor == 0:
            yield (1, factor), np.logical_or.reduce([cells[:, i::factor] for i in range(factor)])


def _ratios(layout: Layout, rows: Array) -> Iterator[Ratio]:
    """The ratios that hold."""
    some = rows[: max(1, _SAMPLE // rows.shape[1])]
    for m in range(2, _WIDEST + 1):
        if rows.shape[1] % m == 0 and _most(some, m) < m and 0 < (n := _most(rows, m)) < m:
            yield Ratio(layout, n, m)


def _most(rows: Array, m: int) -> int:
    """The most that are set of ``m`` consecutive ones."""
    counts = np.zeros(rows.size // m, np.uint8)
    for lane in rows.reshape(-1, m).T:
        counts += lane
    return int(counts.max(initial=0))
