"""Ties of operators that give values another shape: which part of an axis becomes which part of another one.

A Reshape keeps the order of its values, so an axis is a product of factors that appear again on the other side: with
(B, S, H·D) → (B, S, H, D) the third axis has the factors H and D, and channels can be blocks of D, one for each of H,
or places within all blocks. One of these factors is enough to narrow by.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.graph.bodies import integer
from onnxcompress.graph.channel_ties import SHAPE_ELEMENT, Axis, Count, End, Ties
from onnxcompress.graph.channel_world import LARGEST, Element, Length
from onnxcompress.graph.scopes import attribute_value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnxcompress.graph.channel_inference import Dim

_SHAPE_INPUT = 5  # opset from which the shape is an input


@dataclass
class _Side:
    """The axes of one side of a Reshape that are longer than 1, and their factors (number, size) from both ends."""

    rest: list[list[Dim]]  # [axis, length still to be explained]
    front: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    back: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def take(self, at: int, factor: int, size: int) -> None:
        """Explain part of the first (``at`` 0) or last (−1) axis that is left."""
        axis, length = self.rest[at]
        parts = (self.front if at == 0 else self.back).setdefault(int(axis), [])
        parts.insert(0 if at else len(parts), (factor, size))
        left = int(length) // size
        self.rest[at][1] = left
        if left == 1:
            self.rest.pop(at)

    def factors(self) -> dict[int, list[tuple[int, int]]]:
        """The factors of each axis in order; −1 for one that is mixed with others."""
        unknown = {int(axis): [(-1, int(n))] for axis, n in self.rest if isinstance(n, int)}
        axes = {*self.front, *self.back, *unknown}
        return {a: self.front.get(a, []) + unknown.get(a, []) + self.back.get(a, []) for a in sorted(axes)}


def factors(before: Sequence[Dim], after: Sequence[Dim]) -> tuple[dict[int, list[tuple[int, int]]], ...]:
    """The factors that the axes of two shapes with the same values in the same order share.

    Axes come as ``{axis: [(factor, size), ...]}``, those of length 1 or of unknown length not at all; a factor has
    the same number on both sides.
    """
    sides = [_Side([[i, n] for i, n in enumerate(shape) if n != 1]) for shape in (before, after)]
    count = 0
    for at in (0, -1):
        while sides[0].rest and sides[1].rest:
            first, second = sides[0].rest[at][1], sides[1].rest[at][1]
            if first == second and not isinstance(first, int):
                for side in sides:
                    side.rest.pop(at)
                continue
            if not isinstance(first, int) or not isinstance(second, int) or not first or not second:
                break
            if first % second and second % first:
                break
            for side in sides:
                side.take(at, count, min(first, second))
            count += 1
    return tuple(side.factors() for side in sides)


def labels(parts: list[tuple[int, int]], factor: int) -> np.ndarray:
    """For each index along an axis its place along one of the factors."""
    sizes = [size for _, size in parts]
    place = [number for number, _ in parts].index(factor)
    inner = int(np.prod(sizes[place + 1 :], dtype=np.int64))
    return np.arange(int(np.prod(sizes, dtype=np.int64))) // inner % sizes[place]


def _tied(ties: Ties, before: Sequence[Dim], after: Sequence[Dim], followers: Callable[..., list[End] | None]) -> None:
    """Tie the axes of both shapes factor by factor; ``followers`` gives what follows an axis of the output."""
    read, made = factors(before, after)
    for number, size in sorted({f for parts in (*read.values(), *made.values()) for f in parts}):
        sides = [parts for parts in (*read.values(), *made.values()) if (number, size) in parts]
        if number < 0 or any(math.prod(n for _, n in parts) > LARGEST for parts in sides):
            continue
        ends: list[End] = []
        for axis, parts in read.items():
            if any(f == number for f, _ in parts):
                ends.append(ties.read(0, axis, labels(parts, number)))
        followed: list[End] | None = []
        for axis, parts in made.items():
            if followed is not None and any(f == number for f, _ in parts):
                places = labels(parts, number)
                more = followers(axis, places, read.get(axis) == parts)
                followed = None if more is None else [*followed, ties.made(axis, places), *more]
        if followed is not None:
            ties.tie(*ends, *followed, optional=True)


def reshape(ties: Ties) -> None:
    """Reshape to a shape of which the elements for the narrowed axes follow."""
    world, node = ties.world, ties.node
    before = world.shape(node.input[0])
    sources = world.sources(node, 1)
    if world.model.opset < _SHAPE_INPUT:
        given = [int(n) for n in attribute_value(node, "shape", [])]  # type: ignore[attr-defined]
        sources = [Element(ties.reader, -1, i, n) for i, n in enumerate(given)]
    ties.reason = "a Reshape mixes the axis with others, or its shape cannot follow"
    if before is None or sources is None:
        return
    stored = [s.value if isinstance(s, Element) else None for s in sources]
    if integer(node, "allowzero", 0) and 0 in stored:
        return
    after = _target(ties, before, stored)

    def follow(axis: int, places: np.ndarray, same: bool) -> list[End] | None:
        return _following(ties, sources[axis], axis, places, same=same)

    if not _copies_moved(before, after, stored):
        _tied(ties, before, after, follow)


def _target(ties: Ties, before: Sequence[Dim], stored: Sequence[int | None]) -> list[Dim]:
    """The shape of the output, as far as it is known."""
    name = ties.node.output[0]
    inferred = ties.world.shape(name) or ()
    after: list[Dim] = []
    for axis, n in enumerate(stored):
        known: Dim = inferred[axis] if len(inferred) == len(stored) else f"{name}[{axis}]"
        if n == 0 and axis < len(before):
            known = before[axis]
        elif n is not None and n > 0:
            known = n
        after.append(known)
    return after


def _copies_moved(before: Sequence[Dim], after: Sequence[Dim], stored: Sequence[int | None]) -> bool:
    """True where a 0 copies the length of an axis that the values of another axis come from."""
    if 0 not in stored:
        return False
    read, made = factors(before, after)
    return any(n == 0 and read.get(axis) != made.get(axis) for axis, n in enumerate(stored))


def _following(
    ties: Ties, source: Element | Length | None, axis: int, places: np.ndarray, *, same: bool
) -> list[End] | None:  # fmt: skip
    """What follows when an axis of the output of a Reshape is narrowed; None where its length cannot follow."""
    if source is None:
        return None
    if isinstance(source, Length):
        known = ties.world.length(source.value, source.axis)
        there = End(Axis(source.value, source.axis), places, "rider", SHAPE_ELEMENT + axis)
        return [there] if known == len(places) else None
    if source.value == 0:
        return [] if same else None
    return [] if source.value < 0 else [counted(ties, source, axis, places)]


def counted(ties: Ties, source: Element, position: int, places: np.ndarray, index: int = 1) -> End:
    """The stored element of a shape, which the node reads at a position, that is the length of a labelled axis."""
    where: str | int = "shape" if source.index < 0 else source.index
    port = Count(source.reader, where, source.position, source.value, len(places), source.flow)
    if source.flow == (ties.node.input[index], position):
        part = (source.index, source.position)
        port = Count(ties.reader, index, position, source.value, len(places), part=part)
    return End(port, places, "rider", SHAPE_ELEMENT + position)


def flatten(ties: Ties) -> None:
    """Flatten: axes before a place become one, and those from there on."""
    shape = ties.world.shape(ties.node.input[0])
    if shape is None:
        ties.reason = f"the shape of {ties.node.input[0]!r} is not known"
        return
    at = integer(ties.node, "axis", 1)
    at = at + len(shape) if at < 0 else at
    parts: list[Dim] = []
    for number, dims in enumerate((shape[:at], shape[at:])):
        lengths = [n for n in dims if isinstance(n, int)]
        whole = len(lengths) == len(dims)
        others = [n for n in dims if n != 1]
        length: Dim = int(np.prod(lengths, dtype=np.int64)) if whole else f"{ties.node.output[0]}[{number}]"
        parts.append(others[0] if len(others) == 1 else length)
    ties.reason = "a Flatten mixes the axis with axes of unknown length"
    _tied(ties, shape, parts, lambda *_: [])


def squeeze(ties: Ties) -> None:
    """Squeeze and Unsqueeze: axes of length 1 go or come."""
    world, node = ties.world, ties.node
    shape = world.shape(node.input[0])
    axes = world.listed(node, "axes", 1)
    ties.reason = f"the axes of {node.op_type} for {node.output[0]!r} are not known"
    if shape is None or axes is None:
        return
    if node.op_type == "Unsqueeze":
        rank = len(shape) + len(axes)
        added = {a % rank for a in axes}
        kept = [a for a in range(rank) if a not in added]
        pairs = list(zip(range(len(shape)), kept, strict=False))
    elif axes:
        gone = {a % len(shape) for a in axes}
        pairs = [(a, i) for i, a in enumerate(a for a in range(len(shape)) if a not in gone)]
    else:  # a narrowed axis of length 1 would go as well
        ties.reason = f"Squeeze removes whatever axes of {node.input[0]!r} have the length 1"
        return
    for before, after in pairs:
        ties.along(before, after)


def expand(ties: Ties) -> None:
    """Expand: axes of length 1 are repeated to a length that follows; others stay."""
    world, node = ties.world, ties.node
    shape, sources = world.shape(node.input[0]), world.sources(node, 1)
    ties.reason = f"{node.input[0]!r} is expanded to a shape that cannot follow"
    if shape is None or sources is None:
        return
    rank = max(len(shape), len(sources))
    for axis in range(rank):
        before, at = axis - rank + len(shape), axis - rank + len(sources)
        length = shape[before] if before >= 0 else 1
        source = sources[at] if at >= 0 else Element("", 1, 0, 1)
        if not isinstance(length, int) or source is None:
            continue
        target = source.value if isinstance(source, Element) else world.length(source.value, source.axis)
        if target is None or not 1 <= target <= LARGEST or not 1 <= length <= LARGEST:
            continue
        places = np.arange(max(length, target))
        ends = [ties.made(axis, places)] + ([ties.read(0, before, places)] if length != 1 else [])
        if target != 1 and isinstance(source, Element):
            ends.append(counted(ties, source, at, places))
        elif target != 1 and isinstance(source, Length):
            ends.append(End(Axis(source.value, source.axis), places, "rider", SHAPE_ELEMENT + at))
        ties.tie(*ends)


def depth_to_space(ties: Ties) -> None:
    """DepthToSpace and SpaceToDepth: channels of blocks, before (DCR) or behind (CRD) the places within a block."""
    node, world = ties.node, ties.world
    channels, block = world.length(node.input[0], 1), integer(node, "blocksize", 1)
    ties.along(0, 0)
    ties.reason = f"{node.op_type} moves values along the axis"
    columns = attribute_value(node, "mode", b"DCR") == b"CRD"
    if channels is None or block < 1:
        return
    if node.op_type == "SpaceToDepth" and channels * block * block > LARGEST:
        return
    if node.op_type == "SpaceToDepth":
        deep = np.arange(channels * block * block)
        ties.tie(ties.read(0, 1, np.arange(channels)), ties.made(1, deep // block**2 if columns else deep % channels))
    elif channels % (block * block) == 0:
        made = channels // (block * block)
        read = np.arange(channels) // (block * block) if columns else np.arange(channels) % made
        ties.tie(ties.read(0, 1, read), ties.made(1, np.arange(made)))


RULES: dict[str, Callable[[Ties], None]] = {
    "Reshape": reshape, "Flatten": flatten, "Squeeze": squeeze, "Unsqueeze": squeeze, "Expand": expand,
    "DepthToSpace": depth_to_space, "SpaceToDepth": depth_to_space,
}  # fmt: skip
