"""The search along ties: from the outputs of each layer to everything that has to be removed with them.

Every index along every axis that is reached is an element of a union-find structure. Ties unite indices; an operator
that cannot follow fixes a whole axis. The search is undirected: a rule does not know from where it was reached.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.graph.bodies import is_standard
from onnxcompress.graph.channel_layers import LAYERS
from onnxcompress.graph.channel_rules import ties_of
from onnxcompress.graph.channel_ties import SHAPE_ELEMENT, Axis, Count, Port, Tie, Ties

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import onnx

    from onnxcompress.graph.channel_world import Landing, World

_SHAPED = {"Reshape": 1, "Expand": 1, "Resize": 3}  # operators that a shape can follow in, and which input it is


@dataclass(frozen=True, eq=False)
class Choice:
    """One of several optional ties of a node that was chosen, as number ``rank`` by significance."""

    node: onnx.NodeProto
    rank: int
    port: Port


@dataclass(eq=False)
class Search:
    """All axes that hang together with the outputs of layers.

    ``starts`` and ``lengths`` give each axis its range of elements; ``roots`` (elements,) names for each of them one
    that it is united with. ``fixed`` are axes that cannot be narrowed, with the reason. ``preferred`` says for a node
    (by id) which of its optional ties to choose, by significance; ``otherwise`` is for all others.
    """

    world: World
    known: dict[int, Ties]
    preferred: Mapping[int, int] = field(default_factory=dict)
    otherwise: int = 0
    starts: dict[Port, int] = field(default_factory=dict)
    lengths: dict[Port, int] = field(default_factory=dict)
    fixed: dict[Port, str] = field(default_factory=dict)
    layers: list[tuple[onnx.NodeProto, Port | None]] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    active: dict[int, Tie] = field(default_factory=dict)
    count: int = 0
    _edges: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    _waiting: deque[Port] = field(default_factory=deque)
    _undecided: deque[tuple[onnx.NodeProto, Port, list[Tie]]] = field(default_factory=deque)

    def run(self) -> np.ndarray:
        """Look until nothing is waiting; returns the roots."""
        seeds = []
        for node in self.world.model.proto.graph.node:
            factors = (1,) if node.op_type.startswith("Conv") else (0, 1)
            if is_standard(node, *LAYERS) and any(self.world.constant(node, i) is not None for i in factors):
                ties = self.ties(node)
                led = [(ties.seed, tie) for tie in ties.ties if ties.seed is not None and tie.has(ties.seed)]
                led = [(seed, tie) for seed, tie in led if all(len(end.labels) for end in tie.ends)]
                self.layers.append((node, led[0][0] if led else None))
                seeds += led
        for seed, tie in seeds:  # the elements of layers come first, so that they are the roots
            self._touch(seed, next(len(e.labels) for e in tie.ends if e.port == seed))
        for _, tie in seeds:
            self._activate(tie)
        while self._waiting or self._undecided:
            if self._waiting:
                self._look_at(self._waiting.popleft())
            else:
                self._decide(*self._undecided.popleft())
        return components(self.count, self._edges)

    def ties(self, node: onnx.NodeProto) -> Ties:
        """The ties of a node, found once."""
        if id(node) not in self.known:
            self.known[id(node)] = ties_of(self.world, node)
        return self.known[id(node)]

    def elements(self, port: Port) -> slice:
        """The elements of an axis."""
        return slice(self.starts[port], self.starts[port] + self.lengths[port])

    def _touch(self, port: Port, length: int) -> bool:
        """Reach an axis; False where its length is known to be another one."""
        if port not in self.starts:
            known = self.world.length(port.value, port.axis) if isinstance(port, Axis) else None
            self.starts[port], self.lengths[port] = self.count, length
            self.count += length
            self._waiting.append(port)
            if known is not None and known != length:
                self._fix(port, "the lengths of axes that belong together are not the same")
        return self.lengths[port] == length

    def _fix(self, port: Port, reason: str) -> None:
        name = port.value if isinstance(port, Axis) else port.reader
        self.fixed.setdefault(port, f"{reason} (at {name!r})")

    def _activate(self, tie: Tie) -> None:
        if id(tie) in self.active:
            return
        self.active[id(tie)] = tie
        first = self.count
        self.count += 1 + max(int(end.labels.max(initial=0)) for end in tie.ends)
        for end in tie.ends:
            if self._touch(end.port, len(end.labels)):
                self._edges.append((self.starts[end.port] + np.arange(len(end.labels)), first + end.labels))
            else:
                self._fix(end.port, "the lengths of axes that belong together are not the same")

    # ---------------------------------------------------------------------------- what touches an axis

    def _look_at(self, port: Port) -> None:
        if isinstance(port, Count) and port.flow is not None:
            self._land(port, self.world.landings(*port.flow))
        if not isinstance(port, Axis) or port.reader:
            return
        maker = self.world.maker(port.value)
        if self.world.stored(port.value) is None:
            if maker is None:
                self._fix(port, "the channels are those of an input of the model")
            else:
                for output in [i for i, name in enumerate(maker.output) if name == port.value]:
                    self._engage(maker, port, -1 - output)
        for use in self.world.uses(port.value):
            if use.node is None:
                self._fix(port, "the channels are those of an output of the model")
            elif use.scope is not self.world.scopes.main:
                self._fix(port, "the value is read within the body of another node")
            elif is_standard(use.node, "Shape"):
                self._land(port, self.world.shape_landings(use.node, port.axis))
            else:
                self._engage(use.node, port, use.index)

    def _land(self, port: Port, landings: Iterable[Landing]) -> None:
        """Shapes in which the number of channels ends up have to follow."""
        for landing in landings:
            node = landing.node
            if node is None or not is_standard(node, *_SHAPED) or landing.index != _SHAPED[node.op_type]:
                self._fix(port, "the number of channels is computed with")
            else:
                self._engage(node, port, SHAPE_ELEMENT + landing.position)

    def _engage(self, node: onnx.NodeProto, port: Port, element: int) -> None:
        """Follow the ties of a node that has the axis at one of its inputs or outputs."""
        ties = self.ties(node)
        found = [t for t in ties.ties if any(e.port == port and e.element == element for e in t.ends)]
        if not found:
            weight = isinstance(port, Axis) and self.world.stored(port.value) is not None
            self._fix(port, f"a weight is read by {node.op_type} too" if weight else ties.reason)
        elif len(found) > 1 and all(tie.optional for tie in found):
            self._undecided.append((node, port, found))
        else:
            for tie in found:
                self._activate(tie)

    def _decide(self, node: onnx.NodeProto, port: Port, ties: list[Tie]) -> None:
        """Choose one of several ties, unless one of them was reached on another way."""
        if any(id(tie) in self.active for tie in ties):
            return
        ordered = sorted(ties, key=lambda tie: -_significance(tie, port))
        rank = min(self.preferred.get(id(node), self.otherwise), len(ordered) - 1)
        self.choices.append(Choice(node, rank, port))
        self._activate(ordered[rank])


def _significance(tie: Tie, port: Port) -> int:
    """How many indices a label lasts: most for the outermost factor of an axis."""
    labels = next(end.labels for end in tie.ends if end.port == port)
    return int(np.argmax(labels != labels[0]))


def components(count: int, edges: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """For each of ``count`` elements the lowest one that it is united with, directly or not."""
    roots = np.arange(count)
    if not edges:
        return roots
    left = np.concatenate([a for a, _ in edges])
    right = np.concatenate([b for _, b in edges])
    while True:
        ends = roots[left], roots[right]
        if np.array_equal(*ends):
            return roots
        low = np.minimum(*ends)
        for end in ends:
            np.minimum.at(roots, end, low)
        while not np.array_equal(above := roots[roots], roots):
            roots = above
