"""Where a positive scale of each feature can be absorbed by constants, so that the model computes the same.

    f(x)·W = (f(x)/s)·(diag(s)·W) = f(x/s)·(diag(s)·W)   for a positively homogeneous f that keeps features apart

A value is looked at with all that is scaled along with it: through operators f as above, up to operators whose
constants take 1/s, and down to layers whose weights take s. Every reader on the way has to be one of these. Features
lie along one axis, counted from the end, as constants broadcast.

The idea is that of M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV
2019, https://arxiv.org/abs/1906.04721, and of SmoothQuant, https://arxiv.org/abs/2211.10438.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnxcompress.graph import absorb_rules as rules
from onnxcompress.graph.absorb_rules import Operand, Refused, World
from onnxcompress.graph.bodies import is_standard
from onnxcompress.graph.scopes import Scopes
from onnxcompress.graph.shapes import ranks

if TYPE_CHECKING:
    from onnxcompress.graph.model import Model
    from onnxcompress.graph.scopes import Use


@dataclass(frozen=True)
class Site:
    """Constants that take up a scale of ``features`` features between them.

    ``values``: what the consumers read, each with the axis of its features, from the end. ``producers``: constants to
    be divided by s, ``consumers``: weights to be multiplied by it.
    """

    values: tuple[tuple[str, int], ...]
    features: int
    producers: tuple[Operand, ...]
    consumers: tuple[Operand, ...]


@dataclass(frozen=True)
class Refusal:
    """Why a value cannot be scaled for free."""

    value: str
    reason: str


def sites(model: Model) -> list[Site | Refusal]:
    """For each value of the main graph that a layer with stored weights reads: its site, each once, or why not."""
    scopes = Scopes(model.proto)
    world = World(model, scopes, ranks(model))
    found: list[Site | Refusal] = []
    done: set[str] = set()
    for node in model.proto.graph.node:
        if not node.input or not is_standard(node, *rules.LAYERS) or node.input[0] in done:
            continue
        if world.constant(node, 1) is None:
            continue
        result = _absorbing(world, node.input[0])
        done |= {name for name, _ in result.values} if isinstance(result, Site) else {node.input[0]}
        found.append(result)
    return found


def absorbing(model: Model, value: str) -> Site | Refusal:
    """The site of one value of the main graph, or why there is none."""
    return _absorbing(World(model, Scopes(model.proto), ranks(model)), value)


def _absorbing(world: World, value: str) -> Site | Refusal:
    """Of a product of two values either factor may take the scale: first the left ones are tried, then the right."""
    reason = ""
    for side in (0, 1):
        try:
            return _Search(world, side).run(value)
        except Refused as refused:
            reason = reason or str(refused)
    return Refusal(value, reason)


@dataclass
class _Search:
    """All that is scaled along with one value; ``axes`` of values from the end, ``waiting`` those to be looked at."""

    world: World
    side: int
    axes: dict[str, int] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    producers: dict[tuple[str, int], Operand] = field(default_factory=dict)
    consumers: dict[tuple[str, int], Operand] = field(default_factory=dict)
    read: dict[str, int] = field(default_factory=dict)

    def run(self, value: str) -> Site:
        """Look until nothing is waiting.

        Raises:
            Refused: a producer or a reader cannot be scaled.
        """
        self._reach(value, rules.feature_axis(self.world, value))
        while self.waiting:
            name = self.waiting.pop()
            self._up(name, self.axes[name])
            for use in self.world.scopes.uses(self.world.scopes.main, name):
                self._down(name, self.axes[name], use)
        operands = [*self.producers.values(), *self.consumers.values()]
        counts = {operand.features for operand in operands}
        if len(counts) != 1 or not self.producers or not self.consumers:
            raise Refused(f"the layers around it disagree on the number of features: {sorted(counts)}")
        (features,) = counts
        if features < 2:
            raise Refused("it has a single feature")
        self._require_one_scale(features)
        self._require_weights_once(operands)
        read = tuple(self.read.items())
        return Site(read, features, tuple(self.producers.values()), tuple(self.consumers.values()))

    def _reach(self, name: str, axis: int) -> None:
        if name not in self.axes:
            self.axes[name] = axis
            self.waiting.append(name)
        elif self.axes[name] != axis:
            raise Refused(f"{name!r} has its features along several axes")

    def _up(self, name: str, axis: int) -> None:
        """Who makes the value: constants that take 1/s, or values to be divided in its place."""
        node = self.world.scopes.main.producers.get(name)
        if node is None:
            raise Refused(f"{name!r} is an input of the model or a stored tensor")
        if node.output[0] != name:
            raise Refused(f"{name!r} is a further output of {node.op_type}")
        if is_standard(node, *rules.FACTORS) and any(value in self.axes for value in node.input):
            return  # it was reached through one of its factors, which is scaled already
        took = rules.producing(self.world, node, axis)
        if took is not None:
            operands, behind = took
            self.producers |= {(o.reader, o.index): o for o in operands}
            for value in behind:
                self._reach(value, axis)
            return
        passed = rules.passing_up(self.world, node, axis, self.side)
        if passed is None:
            raise Refused(f"{node.op_type}, which computes {name!r}, cannot take a scale for each feature")
        self._reach(*passed)

    def _down(self, name: str, axis: int, use: Use) -> None:
        """Who reads the value: a layer that takes s, or an operator that hands the scale on."""
        node = use.node
        if node is None:
            raise Refused(f"{name!r} is an output of the graph")
        if use.scope is not self.world.scopes.main:
            raise Refused(f"{name!r} is read within the body of another node")
        if is_standard(node, "Shape", "Size"):
            return
        operand = rules.consuming(self.world, node, use.index, axis)
        if operand is not None:
            self.consumers[operand.reader, operand.index] = operand
            self.read[name] = axis
            return
        passed = rules.passing_down(self.world, node, use.index, axis)
        if passed is None:
            raise Refused(f"{node.op_type}, which reads {name!r} as well, cannot take a scale for each feature")
        self._reach(node.output[0], passed)

    def _require_one_scale(self, features: int) -> None:
        """No node may scale twice what it computes, nor cut the features into pieces."""
        scopes = self.world.scopes
        readers = {id(u.node): u.node for name in self.axes for u in scopes.uses(scopes.main, name) if u.node}
        for node in readers.values():
            scaled = [name for name in node.input if name in self.axes]
            both = is_standard(node, "Mul") and any((node.output[0], i) in self.producers for i in (0, 1))
            if len(scaled) > (0 if both else 1):
                raise Refused(f"{node.op_type} reads several values that would be scaled")
            if is_standard(node, "Reshape") and rules.last_length(self.world, node) != features:
                raise Refused("its features are reshaped")

    def _require_weights_once(self, operands: list[Operand]) -> None:
        """Vectors can be copied where others read them; weights would make the file larger."""
        for operand in operands:
            uses = self.world.scopes.uses(self.world.scopes.main, operand.name)
            if len(uses) > 1 and operand.elements > operand.features:
                raise Refused(f"the weight {operand.name!r} is read elsewhere too")
