"""Bits and blocks for each weight: within an average that is asked for, or more where few bits break the output.

For each weight there is a ladder of bits and block sizes. Rounding weight i on its middle rung was seen to do dᵢ to the
outputs; a rung that leaves the error e of it, eᵢ being that of the rung on trial, is expected to do dᵢ · e / eᵢ. Errors
are relative ones in the metric of what the layer sees, tr((W−Ŵ) H (W−Ŵ)ᵀ) / tr(W H Wᵀ), where that was measured.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.errors import UsageError
from onnxcompress.passes.allotment import Rung, allotted
from onnxcompress.passes.enriching import any_rows
from onnxcompress.solvers.feedback import decode_rows, nearest
from onnxcompress.solvers.grid import quantize
from onnxcompress.solvers.groups import Grid, Groups, per_block, per_channel
from onnxcompress.solvers.metric import plain_error, relative_error
from onnxcompress.solvers.scales import weighted_scales

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxcompress.passes.allotment import Ladder
    from onnxcompress.passes.grouping import Draft, Grouping
    from onnxcompress.passes.rounding import Rounding

Array = np.ndarray
BITS = (8, 4, 2)  # three would take the bytes of four
_BLOCKS = {8: (0, 32), 4: (128, 64, 32, 16), 2: (64, 32, 16)}
_ROWS = 128  # of a weight, from which its errors are judged
_MOST_EXTRA = 0.25  # of the bytes of all weights, for those that break the output
_STANDS_OUT = 10.0  # times the median of all, from which a weight breaks the output


def middle_bits(average: float, lowest: int) -> int:
    """The bits at which weights are on trial: most will have them."""
    return max(bits for bits in BITS if bits <= average and bits >= min(lowest, average))


def mixed(
    grouping: Grouping, drafts: Sequence[Draft], damage: Mapping[str, float], rounding: Rounding | None,
    average: float, lowest: int,
) -> list[Rung]:  # fmt: skip
    """The rung of each weight, such that codes, scales and zero points take so many bits a weight on average.

    Raises:
        UsageError: the coarsest rungs take more.
    """
    ladders, weighed = [], []
    known = {name: d for name, d in damage.items() if math.isfinite(d)}
    for draft in drafts:
        judge = _Judge(draft, rounding)
        ladders.append(_ladder(grouping, draft, lowest, judge))
        weighed.append((known.get(draft.writing.weight.name), judge.error(draft)))
    counts = [d.writing.weight.elements for d in drafts]
    elements = sum(counts)
    left = int(average / 8 * elements) - sum(rungs[0].nbytes for rungs in ladders)
    if left < 0:
        least = 8 * sum(rungs[0].nbytes for rungs in ladders) / elements
        raise UsageError(
            f"an average of {average:g} bits cannot be kept: the coarsest codes and their scales take {least:.2f}",
            f"Give --average-bits {math.ceil(least * 10) / 10:g} or more.",
        )
    return allotted(ladders, _importance(weighed, counts), left)


def raised(
    grouping: Grouping, drafts: Sequence[Draft], damage: Mapping[str, float], limit: float
) -> tuple[list[Draft], list[str], list[str]]:
    """The drafts with eight bits for weights that break the output alone, their labels, and those of others that do.

    They do more than ``limit`` to it, and many times what the others do. Those that do most for their bytes come first,
    and together they may make the weights a quarter larger, since so few bits were asked for.
    """
    if not damage:
        return list(drafts), [], []
    bound = max(limit, _STANDS_OUT * statistics.median(damage.values()))
    spare = int(_MOST_EXTRA * sum(d.nbytes for d in drafts))
    breaking = [i for i, d in enumerate(drafts) if damage.get(d.writing.weight.name, 0.0) > bound]
    better = {i: _rewritten(grouping, drafts[i], 8, 0) for i in breaking}
    extra = {i: max(better[i].nbytes - drafts[i].nbytes, 1) for i in breaking}
    found = list(drafts)
    names: list[str] = []
    left: list[str] = []
    for i in sorted(breaking, key=lambda i: (-damage[drafts[i].writing.weight.name] / extra[i], i)):
        if extra[i] <= spare:
            spare -= extra[i]
            found[i] = better[i]
        (left if found[i] is drafts[i] else names).append(drafts[i].writing.weight.label)
    return found, names, left


def _ladder(grouping: Grouping, draft: Draft, lowest: int, judge: _Judge) -> Ladder:
    """The ways to store a weight, from few bytes to many, each better than those before."""
    kinds = [(bits, size) for bits in BITS if bits >= lowest for size in _BLOCKS[bits]]
    made = {d.nbytes: d for d in (_rewritten(grouping, draft, bits, size) for bits, size in kinds)}
    rungs: Ladder = []
    for nbytes in sorted(made):
        rung = Rung(made[nbytes], nbytes, judge.error(made[nbytes]))
        if not rungs or rung.error < rungs[-1].error:
            rungs.append(rung)
    return rungs


def _rewritten(grouping: Grouping, draft: Draft, bits: int, size: int) -> Draft:
    writing = draft.writing
    grid = Grid(bits, writing.grid.symmetric)
    groups = per_block(writing.dims, draft.own, size) if size else per_channel(writing.dims, draft.own)
    return grouping.redrafted(draft, dataclasses.replace(writing, grid=grid, groups=groups), None)


def _importance(weighed: Sequence[tuple[float | None, float]], elements: Sequence[int]) -> list[float]:
    """What an error counts in each weight: as was measured, else as much for each of its elements as in the others.

    Counting by elements gives weights of one kind the same bits; counting every weight alike would have the largest
    of them, an embedding say, pay for all the others.
    """
    known = [(d / e, n) for (d, e), n in zip(weighed, elements, strict=True) if d is not None and e > 0]
    usual = sum(ratio for ratio, _ in known) / sum(n for _, n in known) if known else 1.0
    return [d / e if d is not None and e > 0 else usual * n for (d, e), n in zip(weighed, elements, strict=True)]


class _Judge:
    """Tells errors of one weight, rounded to nearest, from some of its rows."""

    def __init__(self, draft: Draft, rounding: Rounding | None) -> None:
        writing = draft.writing
        metric = None if rounding is None else rounding.metric(writing)
        self.values = writing.values()
        self.rows = any_rows(writing) if metric is None else metric[0]
        self.H = None if metric is None or metric[1].ndim > 2 else metric[1]
        self.W = None if self.rows is None else self._some(self.rows.matrix(self.values))

    @staticmethod
    def _some(matrix: Array) -> Array:
        return matrix[:: max(1, len(matrix) // _ROWS)]

    def error(self, draft: Draft) -> float:
        """The relative error that is to be expected of a draft."""
        writing, grid, dtype = draft.writing, draft.writing.grid, draft.scale_dtype
        rows = None if self.rows is None else self.rows.grouped(writing.groups)
        if rows is None or self.W is None:
            return quantize(self.values, grid, writing.groups, dtype).error
        groups = Groups((len(self.W), *rows.groups.shape[1:]), rows.groups.shared)
        importance = np.ones(rows.inputs) if self.H is None else np.diagonal(self.H)
        scale, zero = weighted_scales(self.W, importance, grid, groups, dtype)
        found = decode_rows(nearest(self.W, scale, zero, grid, groups), scale, zero, grid, groups)
        return plain_error(self.W, found) if self.H is None else relative_error(self.W, found, self.H)
