"""Ties of operators that move, join or cut channels without changing their values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.graph.bodies import integer
from onnxcompress.graph.channel_world import LARGEST
from onnxcompress.graph.scopes import attribute_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from onnxcompress.graph.channel_ties import End, Ties


def identity(ties: Ties, skipped: Iterable[int] = (), *, outputs: Iterable[int] = (0,)) -> None:
    """Every axis of the first input is the same one of the output, but for some."""
    shape = ties.world.shape(ties.node.input[0])
    left_out = set(skipped)
    for axis in range(len(shape or ())):
        if axis not in left_out:
            length = ties.world.length(ties.node.input[0], axis)
            if length is not None:
                labels = np.arange(length)
                made = [ties.made(axis, labels, output) for output in outputs]
                ties.tie(ties.read(0, axis, labels), *made)


def transpose(ties: Ties) -> None:
    """Transpose: axes change places."""
    shape = ties.world.shape(ties.node.input[0])
    rank = len(shape or ())
    given = attribute_value(ties.node, "perm", [])
    order = [int(i) for i in given] or list(reversed(range(rank)))  # type: ignore[attr-defined]
    for after, before in enumerate(order):
        if before < rank:
            ties.along(before, after)


def concat(ties: Ties) -> None:
    """Concat: channels of one input come behind those of another, or side by side along another axis."""
    world, node = ties.world, ties.node
    shapes = [world.shape(name) for name in node.input]
    if any(shape is None for shape in shapes):
        ties.reason = f"Concat reads values of unknown shape for {node.output[0]!r}"
        return
    known = [() if shape is None else shape for shape in shapes]
    rank = len(known[0])
    if any(len(shape) != rank for shape in known):
        return
    joined = integer(node, "axis", 1) % max(rank, 1)
    for axis in range(rank):
        lengths = [shape[axis] for shape in known]
        sizes = [n for n in lengths if isinstance(n, int)]
        if len(sizes) != len(lengths) or sum(sizes) > LARGEST:
            continue
        if axis == joined:
            starts = np.cumsum([0, *sizes])
            ends = [ties.read(i, axis, starts[i] + np.arange(n)) for i, n in enumerate(sizes)]
            ties.tie(*ends, ties.made(axis, np.arange(starts[-1])))
        elif len(set(sizes)) == 1:
            labels = np.arange(sizes[0])
            ties.tie(*[ties.read(i, axis, labels) for i in range(len(sizes))], ties.made(axis, labels))


def split(ties: Ties) -> None:
    """Split: parts of stated sizes, which follow, or equal parts, which lose the same places."""
    world, node = ties.world, ties.node
    shape = world.shape(node.input[0])
    sizes = world.listed(node, "split", 1)
    if shape is None or sizes is None:
        ties.reason = f"the sizes of the parts of {node.input[0]!r} are not stored"
        return
    cut = integer(node, "axis", 0) % max(len(shape), 1)
    outputs = [i for i, name in enumerate(node.output) if name]
    identity(ties, [cut], outputs=outputs)
    length = world.length(node.input[0], cut)
    if length is None:
        return
    parts = len(node.output)
    stored = bool(sizes)
    if not stored and length % parts:
        ties.reason = f"{node.input[0]!r} is split into unequal parts without stated sizes"
        return
    lengths = sizes if stored else [length // parts] * parts
    starts = np.cumsum([0, *lengths])
    labels = np.arange(length) if stored else np.arange(length) % (length // parts)
    if starts[-1] != length or len(lengths) != parts:
        return
    where: str | int = 1 if world.given(node, 1) else "split"
    ends: list[End] = [ties.read(0, cut, labels)]
    for i in range(parts):
        part = labels[starts[i] : starts[i + 1]]
        ends += [ties.made(cut, part, i)] if i in outputs else []
        ends += [ties.count(where, i, lengths[i], part)] if stored else []
    ties.tie(*ends)


def cut_slice(ties: Ties) -> None:
    """Slice with stored bounds and step 1 along an axis, and any step along others."""
    world, node = ties.world, ties.node
    shape = world.shape(node.input[0])
    given = [world.listed(node, n, i) for n, i in (("starts", 1), ("ends", 2), ("axes", 3), ("steps", 4))]
    starts, ends, axes, steps = given
    if shape is None or axes is None or (not axes and (world.given(node, 3) or not starts)):
        ties.reason = f"{node.input[0]!r} is sliced along axes that are not stored"
        return
    places = [axis % len(shape) for axis in axes] or list(range(len(starts or [])))
    identity(ties, places)
    ties.reason = f"{node.input[0]!r} is sliced along its channels at bounds that are not stored, or in steps"
    if starts is None or ends is None or steps is None:
        return
    for i, axis in enumerate(places):
        length = world.length(node.input[0], axis)
        if length is not None and (not steps or steps[i] == 1):
            _bounded(ties, axis, length, i, (starts[i], ends[i]))


def _bounded(ties: Ties, axis: int, length: int, position: int, bounds: tuple[int, int]) -> None:
    first, last, _ = slice(*bounds).indices(length)
    labels = np.arange(length)
    counts = []
    for (where, index), bound, now in zip((("starts", 1), ("ends", 2)), (first, last), bounds, strict=True):
        open_ended = now >= length or (now == 0 and index == 1)
        if not open_ended:
            place: str | int = index if ties.world.given(ties.node, index) else where
            counts.append(ties.count(place, position, bound, labels, upto=bound))
    if first < last:
        ties.tie(ties.read(0, axis, labels), ties.made(axis, labels[first:last]), *counts)


def gather(ties: Ties) -> None:
    """Gather: stored indices along an axis are counted anew; other axes stay as they are."""
    world, node = ties.world, ties.node
    shape, picked = world.shape(node.input[0]), world.shape(node.input[1])
    if shape is None or picked is None:
        ties.reason = f"Gather reads values of unknown shape for {node.output[0]!r}"
        return
    along = integer(node, "axis", 0) % max(len(shape), 1)
    for axis in range(len(shape)):
        length = world.length(node.input[0], axis)
        if length is not None and axis != along:
            labels = np.arange(length)
            after = axis if axis < along else axis + len(picked) - 1
            ties.tie(ties.read(0, axis, labels, plain=True), ties.made(after, labels))
    ties.reason = f"single channels of {node.input[0]!r} are picked, or at places that are not stored"
    length, indices = world.length(node.input[0], along), world.integers(node, 1)
    if length is None or indices is None or len(picked) != 1:
        return
    if all(-length <= i < length for i in indices):
        labels = np.asarray(indices, np.int64) % length
        places = ties.renumbered(1, np.arange(length))
        data = ties.read(0, along, np.arange(length), plain=True)
        ties.tie(data, ties.read(1, 0, labels), ties.made(along, labels), places)


RULES: dict[str, Callable[[Ties], None]] = {
    "Transpose": transpose, "Concat": concat, "Split": split, "Slice": cut_slice, "Gather": gather,
}  # fmt: skip
