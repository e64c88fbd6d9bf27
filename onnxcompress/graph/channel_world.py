"""A model with what is known of its values: shapes, stored tensors, and where the elements of shapes come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from onnxcompress.graph.bodies import integer, is_standard
from onnxcompress.graph.channel_inference import inferred, remaining, stated, tells_more, unclaimed
from onnxcompress.graph.constants import StoredTensors
from onnxcompress.graph.scopes import Scopes, Use, attribute_value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxcompress.graph.channel_inference import Dim
    from onnxcompress.graph.model import Model, Tensor

_CARRIERS = ("Identity", "Cast", "Unsqueeze", "Squeeze")
LARGEST = 1 << 24  # longer axes are not looked at
_ROUNDS = 64  # of inference, at most
_INTEGERS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)


@dataclass(frozen=True)
class Element:
    """A stored element of a shape: input ``index`` of the node known as ``reader``, at ``position``."""

    reader: str
    index: int
    position: int
    value: int
    flow: tuple[str, int] | None = None


@dataclass(frozen=True)
class Length:
    """An element of a shape that is the length of an axis of some value."""

    value: str
    axis: int


Source = Element | Length | None


@dataclass(frozen=True, eq=False)
class Landing:
    """Where an element of a shape is read in the end; ``node`` None where that is an output or cannot be followed."""

    node: onnx.NodeProto | None
    index: int
    position: int


class World:
    """A model with what is known of the values of its main graph."""

    def __init__(self, model: Model) -> None:
        self.model, self.scopes = model, Scopes(model.proto)
        self._stored = StoredTensors(model, self.scopes)
        self._shapes: dict[str, tuple[Dim, ...]] = {}
        self._infer()

    def stored(self, name: str) -> Tensor | None:
        """A tensor of the main graph that nobody can replace."""
        return self._stored.get(name)

    def constant(self, node: onnx.NodeProto, index: int) -> Tensor | None:
        """The stored tensor that a node reads there, if it is one."""
        return self.stored(node.input[index]) if self.given(node, index) else None

    @staticmethod
    def given(node: onnx.NodeProto, index: int) -> bool:
        """True where an optional input is there."""
        return index < len(node.input) and bool(node.input[index])

    def uses(self, name: str) -> list[Use]:
        """Everything that reads a value of the main graph."""
        return self.scopes.uses(self.scopes.main, name)

    def maker(self, name: str) -> onnx.NodeProto | None:
        """The node that computes a value; None for inputs and stored tensors."""
        return self.scopes.main.producers.get(name)

    def shape(self, name: str) -> tuple[Dim, ...] | None:
        """The shape of a value; None where not even the number of its axes is known."""
        tensor = self.stored(name)
        return tuple(tensor.dims) if tensor is not None else self._shapes.get(name)

    def length(self, name: str, axis: int) -> int | None:
        """The length of an axis, where it is known and not beyond reason."""
        shape = self.shape(name)
        found = shape[axis] if shape is not None and axis < len(shape) else None
        return found if isinstance(found, int) and found <= LARGEST else None

    def integers(self, node: onnx.NodeProto, index: int) -> list[int] | None:
        """The stored integers that a node reads there."""
        tensor = self.constant(node, index)
        if tensor is None or tensor.data_type not in _INTEGERS or len(tensor.dims) > 1:
            return None
        return [int(n) for n in self.model.array(tensor).reshape(-1)]

    def listed(self, node: onnx.NodeProto, attribute: str, index: int) -> list[int] | None:
        """Integers that older operator sets have as an attribute and newer ones as an input; None where unknown."""
        given = attribute_value(node, attribute)
        if given is not None:
            return [int(n) for n in given]  # type: ignore[attr-defined]
        return self.integers(node, index) if self.given(node, index) else []

    def _infer(self) -> None:
        """Infer shapes; those behind a Reshape to a computed shape, which onnx cannot follow, are given to it."""
        proto = unclaimed(self.model)
        waiting = {n.output[0]: n for n in self.model.proto.graph.node if is_standard(n, "Reshape")}
        for _ in range(_ROUNDS):
            self._shapes, types = inferred(proto)
            found = False
            for name, node in list(waiting.items()):
                dims = self._reshaped(node)
                if dims is None or not types.get(name) or not tells_more(dims, self._shapes.get(name)):
                    continue
                proto.graph.value_info.append(stated(proto, name, types[name], dims))
                found = bool(waiting.pop(name))
            if not found:
                return

    def _reshaped(self, node: onnx.NodeProto) -> list[Dim] | None:
        """The shape behind a Reshape, from where the elements of its target come from."""
        before, sources = self.shape(node.input[0]), self.sources(node, 1)
        if before is None or sources is None:
            return None
        if integer(node, "allowzero", 0) and any(isinstance(s, Element) and s.value == 0 for s in sources):
            return None
        dims: list[Dim] = []
        for axis, source in enumerate(sources):
            found: Dim = f"{node.output[0]}[{axis}]"
            if isinstance(source, Element) and source.value > 0:
                found = source.value
            elif isinstance(source, Element) and source.value == 0 and axis < len(before):
                found = before[axis]
            elif isinstance(source, Length):
                found = (self.shape(source.value) or ())[source.axis]
            dims.append(found)
        open_ended = [i for i, s in enumerate(sources) if isinstance(s, Element) and s.value == -1]
        if len(open_ended) == 1:
            at = open_ended[0]
            known = self._demanded(node.output[0]) if at == len(dims) - 1 else None
            dims[at] = known or remaining(before, [d for i, d in enumerate(dims) if i != at]) or dims[at]
        return dims

    def _demanded(self, name: str) -> int | None:
        """The length of the last axis of a value that a stored weight is multiplied with."""
        for use in self.uses(name):
            if use.node is not None and use.index == 0 and is_standard(use.node, "MatMul"):
                weight = self.constant(use.node, 1)
                if weight is not None and len(weight.dims) > 1:
                    return int(weight.dims[-2])
        return None

    # ---------------------------------------------------------------------------- elements of shapes

    def sources(self, node: onnx.NodeProto, index: int) -> list[Source] | None:
        """Where the elements of the shape that a node reads come from; None where not even their number is known."""
        stored = self.integers(node, index)
        if stored is not None:
            return [Element(node.output[0], index, i, n) for i, n in enumerate(stored)]
        return self._computed(node.input[index]) if self.given(node, index) else None

    def _computed(self, name: str) -> list[Source] | None:
        maker = self.maker(name)
        found: list[Source] | None = None
        if maker is not None and is_standard(maker, "Concat"):
            found = self._concatenated(maker)
        elif maker is not None and is_standard(maker, "Shape"):
            shape = self.shape(maker.input[0])
            found = None if shape is None else [Length(maker.input[0], i) for i in _shape_axes(maker, len(shape))]
        elif maker is not None and (is_standard(maker, *_CARRIERS) or self._keeps(maker)):
            found = self._computed(maker.input[0])
        elif maker is not None and is_standard(maker, "Gather", "Slice"):
            picked, inner = self._picked(maker), self._computed(maker.input[0])
            found = None if picked is None or inner is None or max(picked) >= len(inner) else [inner[i] for i in picked]
        if found is None:
            shape = self.shape(name)
            lengths = [n for n in (shape or ()) if isinstance(n, int)]
            if shape is not None and len(shape) == len(lengths) <= 1:
                found = [None] * (lengths[0] if lengths else 1)
        return found

    def _concatenated(self, node: onnx.NodeProto) -> list[Source] | None:
        found: list[Source] = []
        for index in range(len(node.input)):
            part = self.sources(node, index)
            if part is None:
                return None
            for source in part:
                flow = (node.output[0], len(found))
                if isinstance(source, Element) and source.flow is None:
                    found.append(Element(source.reader, source.index, source.position, source.value, flow))
                else:
                    found.append(None if isinstance(source, Element) else source)
        return found

    def _keeps(self, node: onnx.NodeProto) -> bool:
        """A Reshape of a shape to one axis keeps its elements in order."""
        return is_standard(node, "Reshape") and self.integers(node, 1) in ([-1], [1])

    def _picked(self, node: onnx.NodeProto) -> list[int] | None:
        """The elements of a shape that a Gather or Slice picks."""
        shape = self.shape(node.input[0])
        if shape is None or len(shape) != 1 or not isinstance(shape[0], int):
            return None
        places = list(range(shape[0]))
        if node.op_type == "Gather":
            indices = self.integers(node, 1)
            fits = indices and all(-len(places) <= i < len(places) for i in indices)
            return [places[i] for i in indices or []] if fits else None
        starts, ends, steps = (self.listed(node, n, i) for n, i in (("starts", 1), ("ends", 2), ("steps", 4)))
        if not starts or not ends or steps is None or len(starts) != 1:
            return None
        return places[slice(starts[0], ends[0], steps[0] if steps else 1)] or None

    def landings(self, name: str, position: int) -> Iterator[Landing]:
        """Every place where an element of a shape is read, behind operators that pick and join elements."""
        for use in self.uses(name):
            node = use.node
            if node is None or use.scope is not self.scopes.main:
                yield Landing(None, 0, 0)
            elif use.index == 0 and (is_standard(node, *_CARRIERS) or self._keeps(node)):
                yield from self.landings(node.output[0], position)
            elif use.index == 0 and is_standard(node, "Gather", "Slice"):
                picked = self._picked(node)
                if picked is None:
                    yield Landing(None, 0, 0)
                for place in [i for i, taken in enumerate(picked or []) if taken == position]:
                    yield from self.landings(node.output[0], place)
            elif is_standard(node, "Concat"):
                before = [self.sources(node, i) for i in range(use.index)]
                if any(part is None for part in before):
                    yield Landing(None, 0, 0)
                else:
                    yield from self.landings(node.output[0], position + sum(len(part or []) for part in before))
            else:
                yield Landing(node, use.index, position)

    def shape_landings(self, node: onnx.NodeProto, axis: int) -> Iterator[Landing]:
        """Every place where the length of an axis is read that a Shape node gives."""
        shape = self.shape(node.input[0])
        axes = [] if shape is None else _shape_axes(node, len(shape))
        if shape is None or len(axes) > len(shape):
            yield Landing(None, 0, 0)
        if axis in axes:
            yield from self.landings(node.output[0], axes.index(axis))


def _shape_axes(node: onnx.NodeProto, rank: int) -> list[int]:
    start, end = integer(node, "start", 0), integer(node, "end", rank)
    return list(range(rank))[start:end]
