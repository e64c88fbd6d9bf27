"""The few bytes that eight-bit codes leave to spend, given to the weights that matter most.

Codes of eight bits with a scale for each channel make 25 % of float weights; a file of at most 27 % leaves a little
beyond its structure. For each weight there is a ladder: finer blocks, at the end float16, each rung more bytes and
less error. With the damage dᵢ that rounding weight i was seen to do to the outputs, and eᵢ the error of its first
rung, a rung of error e is expected to do dᵢ · e / eᵢ. Bytes are spent greedily, on the step that takes away the most
damage for each of them.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.forms import decode
from onnxcompress.graph import writer
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.passes.grouping import fits_float16, magnitude
from onnxcompress.solvers.grid import expected_error
from onnxcompress.solvers.groups import Groups, per_block, per_channel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxcompress.passes.grouping import Draft, Grouping

_AIM = 0.268  # of the original's bytes, for the whole file
_NODES = 300  # bytes of the nodes that decode a weight, roughly
_BLOCKS = (128, 64, 32)
_HALF_ERROR = 2.0**-24 / 3  # of rounding to float16, eleven significant bits
_SAMPLE = 1 << 20  # weights of a tensor from which its error is judged


@dataclass(frozen=True)
class Rung:
    """One way to store a weight: its draft, or float16 where there is none."""

    draft: Draft | None
    nbytes: int
    error: float


Ladder = list[Rung]


def spare(model: Model, drafts: Sequence[Draft], saved: int = 0) -> int:
    """Bytes left of the aim after structure, untouched tensors, codes and scales; ``saved`` elsewhere already."""
    whole = writer.serialized_size(model)
    weights = sum(d.original_nbytes for d in drafts)
    base = whole - saved - weights + sum(d.nbytes + _NODES for d in drafts)
    # weights with zeros take less than a byte each, and are not to grow back to that
    most = int((_AIM / 0.25 - 1) * sum(d.nbytes for d in drafts if d.writing.sparse is None))
    return max(min(int(_AIM * whole) - base, most), 0)


def ladder(grouping: Grouping, draft: Draft) -> Ladder:
    """The ways to store a weight, from few bytes to many; one alone where readers compute with its codes."""
    writing = draft.writing
    if not draft.stored_only:
        return [Rung(draft, draft.nbytes, 0.0)]
    values = _sample(writing.values(), draft.own)
    peak = magnitude(values)
    rungs = [Rung(draft, draft.nbytes, _error(values, draft))]
    for size in _BLOCKS:
        groups = per_block(writing.dims, draft.own, size)
        finer = grouping.redrafted(draft, dataclasses.replace(writing, groups=groups), peak)
        if finer.stored_only and finer.nbytes > rungs[-1].nbytes:
            rungs.append(Rung(finer, finer.nbytes, _error(values, finer)))
    whole = values.size == writing.weight.elements
    decoded = set(draft.choice.values()) == {decode.NAME}
    if whole and decoded and writing.weight.tensor.data_type == Tensor.FLOAT and fits_float16(peak):
        rungs.append(Rung(None, draft.original_nbytes // 2, _HALF_ERROR))
    return rungs


def importance(drafts: Sequence[Draft], ladders: Sequence[Ladder], damage: Mapping[str, float]) -> list[float]:
    """What an error of each weight counts: the damage of its first rung over the error of that."""
    found = []
    for draft, rungs in zip(drafts, ladders, strict=True):
        known = damage.get(draft.writing.weight.name)
        share = draft.original_nbytes if known is None and not damage else 0.0
        error = rungs[0].error
        found.append((known if known is not None else share * error) / error if error > 0 else 0.0)
    return found


def allotted(ladders: Sequence[Ladder], importance: Sequence[float], left: int, enough: float = 0.0) -> list[Rung]:
    """The rung of each ladder, such that Σ importance · error is small and the extra bytes are within ``left``.

    Args:
        ladders: the ways to store each weight.
        importance: what an error of each weight counts.
        left: bytes to spend.
        enough: the sum below which nothing more is spent.
    """
    at = [0] * len(ladders)

    def lost() -> float:
        return sum(weight * rungs[a].error for weight, rungs, a in zip(importance, ladders, at, strict=True))

    def best_step() -> tuple[float, int, int]:
        steps = [(0.0, -1, 0)]
        for i, rungs in enumerate(ladders):
            now = rungs[at[i]]
            for j in range(at[i] + 1, len(rungs)):
                extra = rungs[j].nbytes - now.nbytes
                if 0 < extra <= left:
                    steps.append((importance[i] * (now.error - rungs[j].error) / extra, i, j))
        return max(steps, key=lambda step: step[0])

    while True:
        gain, index, rung = best_step()
        if gain <= 0 or not math.isfinite(gain) or lost() <= enough:
            return [rungs[a] for rungs, a in zip(ladders, at, strict=True)]
        left -= ladders[index][rung].nbytes - ladders[index][at[index]].nbytes
        at[index] = rung


def _sample(values: np.ndarray, own: tuple[int, ...]) -> np.ndarray:
    """Evenly spaced channels of a weight, all of them where it is small."""
    if values.size <= _SAMPLE or not own:
        return np.require(values, requirements=["A", "C"])
    axis = own[-1]
    step = min(-(-values.size // _SAMPLE), values.shape[axis])
    return np.ascontiguousarray(values[tuple(slice(None, None, step if i == axis else 1) for i in range(values.ndim))])


def _error(sample: np.ndarray, draft: Draft) -> float:
    """Expected ‖W−Ŵ‖²/‖W‖² of a weight, from a sample of its channels."""
    groups = draft.writing.groups
    if sample.shape != draft.writing.dims:
        block = groups.shape[groups.shared[0]]
        blocked = len(groups.shared) == 1 and block in _BLOCKS
        groups = (per_block if blocked else _whole)(sample.shape, draft.own, block)
    error = expected_error(sample, draft.writing.grid, groups)
    return error if math.isfinite(error) else 0.0


def _whole(dims: tuple[int, ...], own: tuple[int, ...], _: int) -> Groups:
    return per_channel(dims, own)
