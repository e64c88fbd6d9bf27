"""How one operator ties the indices of several axes together: which have to be removed at the same time.

A tie gives each index along each of its axes a label; indices of equal label are kept or removed together. So a tie
says all there is to say of an operator: an elementwise one labels both sides 0, 1, 2, ...; Flatten labels its output
0, 0, 0, 1, 1, 1, ...; a layer has one tie for what it reads and another one for what it computes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import onnx

    from onnxcompress.graph.channel_world import World

Role = Literal["producer", "consumer", "rider"]
SHAPE_ELEMENT = 1000  # `End.element` of the first element of a shape


@dataclass(frozen=True)
class Axis:
    """One axis of an activation or of a stored tensor, counted from the start.

    A stored tensor that can be copied for each of its readers is looked at for one of them alone: ``reader`` is the
    first output of that node and ``index`` the number of the input.
    """

    value: str
    axis: int
    reader: str = ""
    index: int = -1


@dataclass(frozen=True)
class Count:
    """An integer that counts the indices before ``upto`` that are kept: an element of a stored tensor or attribute.

    ``where`` is an attribute or the number of an input of the node whose first output is ``reader``. An element that
    reaches its readers through a Concat and further operators names the value that it is part of then, and its place
    there, as ``flow``. Where the node reads the Concat itself, which can be copied for it, ``part`` says of which input
    of the Concat the element is, and its place in that.
    """

    reader: str
    where: str | int
    position: int
    value: int
    upto: int
    flow: tuple[str, int] | None = None
    part: tuple[int, int] | None = None


@dataclass(frozen=True)
class Indices:
    """A stored tensor of indices along an axis, which are counted anew."""

    reader: str
    index: int


Port = Axis | Count | Indices


@dataclass(frozen=True, eq=False)
class End:
    """One side of a tie: the labels (length,) along an axis.

    ``element`` says where the node has it: an input number, −1 − number for an output, `SHAPE_ELEMENT` + position
    for a length of which a shape is made.
    """

    port: Port
    labels: np.ndarray
    role: Role = "rider"
    element: int | None = None


@dataclass(frozen=True, eq=False)
class Tie:
    """Ends whose indices of equal label belong together, at the node known as ``reader``.

    ``heads``: along the axis there are several products of two activations. ``optional``: an axis may be in several
    such ties, of which one is enough.
    """

    reader: str
    ends: tuple[End, ...]
    heads: bool = False
    optional: bool = False

    def has(self, port: Port) -> bool:
        """True where that axis is one of the ends."""
        return any(end.port == port for end in self.ends)


@dataclass(eq=False)
class Ties:
    """All ties of one node; axes that are in none of them cannot be narrowed, for ``reason``."""

    world: World
    node: onnx.NodeProto
    ties: list[Tie] = field(default_factory=list)
    seed: Axis | None = None
    reason: str = ""

    @property
    def reader(self) -> str:
        """The name under which the node is known."""
        return reader_name(self.node)

    def read(self, index: int, axis: int, labels: np.ndarray, role: Role = "rider", *, plain: bool = False) -> End:
        """An axis of an input; ``plain`` where a stored tensor is not to be copied for each of its readers."""
        name = self.node.input[index]
        if plain or self.world.stored(name) is None:
            return End(Axis(name, axis), labels, role, index)
        return End(Axis(name, axis, self.reader, index), labels, role, index)

    def made(self, axis: int, labels: np.ndarray, output: int = 0) -> End:
        """An axis of an output."""
        return End(Axis(self.node.output[output], axis), labels, "rider", -1 - output)

    def count(
        self, where: str | int, position: int, value: int, labels: np.ndarray, *, upto: int | None = None
    ) -> End:  # fmt: skip
        """An integer of the node that follows."""
        return End(Count(self.reader, where, position, value, len(labels) if upto is None else upto), labels)

    def renumbered(self, index: int, labels: np.ndarray) -> End:
        """Stored indices that count along an axis with these labels."""
        return End(Indices(self.reader, index), labels)

    def tie(self, *ends: End, heads: bool = False, optional: bool = False) -> None:
        """Tie axes."""
        self.ties.append(Tie(self.reader, tuple(ends), heads, optional))

    def along(self, before: int, after: int, *more: End, index: int = 0, output: int = 0) -> None:
        """Tie an axis of an input to the same one of an output, if its length is known."""
        length = self.world.length(self.node.input[index], before)
        if length is not None:
            labels = np.arange(length)
            self.tie(self.read(index, before, labels), self.made(after, labels, output), *more)

    def uses(self, output: int) -> bool:
        """True where anything reads that output."""
        names = self.node.output
        return output < len(names) and bool(names[output] and self.world.uses(names[output]))


def reader_name(node: onnx.NodeProto) -> str:
    """A name for a node: its first output that has one."""
    return next((name for name in node.output if name), "")
