"""What a graph does with one of its inputs: the facts from which plausible values are guessed.

The input is followed forward through operators that move or select its values (Cast, Reshape, Slice, If, a
local function ...) and, for what concerns shapes and scale only, through arithmetic with constants. Noted on
the way: the row count of tables that it indexes, constants that it is compared with, constants that it is
scaled by, the sizes that constant weights prescribe for its axes, and every operator slot where a path ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.graph.scopes import Scope, Scopes, Use, attribute_value, constant_tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

    from onnxcompress.graph.model import Model, Tensor

SMALL = 65536  # constants with more elements are never read

# Operators whose outputs hold values of these input slots, unchanged. None: of every slot.
_MOVES: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand"), (0,)),
    **dict.fromkeys(("Slice", "Split", "Gather", "Pad", "Tile", "Clip", "Relu", "Dropout", "Abs"), (0,)),
    **dict.fromkeys(("SplitToSequence", "SequenceAt", "DynamicSlice", "CastLike", "QuantizeLinear"), (0,)),
    **dict.fromkeys(("Concat", "Max", "Min"), None),
    "Where": (1, 2),
}
_KEEPS_SHAPE = frozenset({"Identity", "Cast", "Clip", "Relu", "Dropout", "Abs", "CastLike", "QuantizeLinear"})
_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "BatchNormalization", "DequantizeLinear"})
# Indices of table look-ups: operator -> index slot -> (table slot, axis attribute's default)
_LOOKUPS: dict[str, dict[int, int]] = {
    "Gather": {1: 0},
    "GatherBlockQuantized": {1: 0},
    "EmbedLayerNormalization": {0: 2, 1: 4},
    "Embedding": {1: 0},
}
_BEHIND_TABLES = frozenset({"Identity", "Cast", "DequantizeLinear", "Transpose"})

Axes = tuple[int, ...] | None  # for each axis of the value now: the axis of the input it was, or -1


@dataclass
class Facts:
    """What is known of one input: ``sizes`` by axis, ``ends`` and ``scales`` with their operators."""

    rows: int | None = None
    compared: set[float] = field(default_factory=set)
    scales: list[tuple[str, float]] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)
    rank: int | None = None
    ends: set[tuple[str, int]] = field(default_factory=set)

    def reaches(self, *operators: str) -> bool:
        """True where a path ends in one of these operators, in any slot."""
        return any(op in operators for op, _ in self.ends)


@dataclass(frozen=True)
class _Place:
    """A value on the way: ``exact`` while it still holds the input's own values."""

    scope: Scope
    name: str
    axes: Axes
    same_shape: bool = True
    exact: bool = True


class Tracer:
    """Follows the inputs of one model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._scopes = Scopes(model.proto)
        self._bodies = {id(s.body): s for s in self._scopes.all}
        self._functions = {(f.domain, f.name): f for f in model.proto.functions}

    def facts(self, name: str, rank: int | None) -> Facts:
        """What the graph does with the input of that name."""
        facts = Facts()
        queue = [_Place(self._scopes.main, name, None if rank is None else tuple(range(rank)))]
        seen: set[tuple[int, str]] = set()
        while queue:
            place = queue.pop()
            key = (id(place.scope), place.name)
            if key in seen:
                continue
            seen.add(key)
            for use in self._scopes.uses(place.scope, place.name):
                if use.node is not None:
                    queue.extend(self._step(use, use.node, place, facts))
        return facts

    def _step(self, use: Use, node: onnx.NodeProto, place: _Place, facts: Facts) -> Iterator[_Place]:
        """Note what a node does with the value, and yield where the value goes on."""
        op = node.op_type
        inner = self._formal(node, use.index)
        if inner is not None:
            yield replace(place, scope=inner[0], name=inner[1])
            return
        if place.exact:
            facts.ends.add((op, use.index))
            self._note_values(use, node, facts)
        self._note_shapes(use, node, place, facts)
        if op in _MOVES:
            slots = _MOVES[op]
            if slots is None or use.index in slots:
                after = self._moved(use, node, place)
                yield from (replace(after, scope=use.scope, name=out) for out in node.output if out)
        elif op in _ARITHMETIC and self._others_constant(use, node):
            yield replace(place, scope=use.scope, name=node.output[0], exact=False)

    def _formal(self, node: onnx.NodeProto, slot: int) -> tuple[Scope, str] | None:
        """The formal input that a Loop, a Scan or a local function gives to an actual one."""
        body: onnx.GraphProto | onnx.FunctionProto | None = self._functions.get((node.domain, node.op_type))
        names = [] if body is None else [str(n) for n in body.input]
        if node.op_type in ("Loop", "Scan") and not node.domain:
            body = next((a.g for a in node.attribute if a.name == "body"), None)
            names = [] if body is None else [i.name for i in body.input]
            if node.op_type == "Loop" and slot < 2:
                return None
        if body is None or slot >= len(names) or id(body) not in self._bodies:
            return None
        return self._bodies[id(body)], names[slot]

    # --------------------------------------------------------------------------- values

    def _note_values(self, use: Use, node: onnx.NodeProto, facts: Facts) -> None:
        table = _LOOKUPS.get(node.op_type, {}).get(use.index)
        rows: int | None = None
        if table is not None and table < len(node.input):
            axis = attribute_value(node, "axis", attribute_value(node, "gather_axis", 0))
            rows = self._rows(use.scope, node.input[table], int(axis) if isinstance(axis, int) else 0)
        if node.op_type == "OneHot" and use.index == 0:
            depth = self.constant(use.scope, node.input[1])
            rows = None if depth is None else int(depth.ravel()[0])
        if rows is not None:
            facts.rows = rows if facts.rows is None else min(rows, facts.rows)
        if node.op_type == "Conv" and use.index == 0 and len(node.input) > 2:
            self._note_first_layer(use.scope, node, facts)
        if node.op_type == "Equal":
            other = self.constant(use.scope, node.input[1 - use.index])
            if other is not None and other.size <= SMALL and other.dtype.kind in "biuf":
                facts.compared |= {float(v) for v in np.unique(other)}

    def _note_first_layer(self, scope: Scope, node: onnx.NodeProto, facts: Facts) -> None:
        """Biases against filter norms: filters made for values up to 255 are tiny beside their biases."""
        weight, bias = self.constant(scope, node.input[1]), self.constant(scope, node.input[2])
        if weight is not None and bias is not None and weight.size:
            norm = float(np.median(np.linalg.norm(weight.reshape(len(weight), -1).astype(np.float32), axis=1)))
            facts.scales.append(("Conv", float(np.median(np.abs(bias.astype(np.float32)))) / max(norm, 1e-9)))

    def _rows(self, scope: Scope, name: str, axis: int) -> int | None:
        """Rows of a constant table, which may lie behind a Cast, a Transpose or a DequantizeLinear."""
        tensor = self._tensor(scope, name)
        if tensor is not None:
            return int(tensor.dims[axis]) if -len(tensor.dims) <= axis < len(tensor.dims) else None
        owner = scope.resolve(name)
        node = None if owner is None else owner.producers.get(name)
        if owner is None or node is None or node.op_type not in _BEHIND_TABLES:
            return None
        if node.op_type == "Transpose":
            perm = attribute_value(node, "perm")
            if not isinstance(perm, list):
                return None
            axis = int(perm[axis])
        return self._rows(owner, node.input[0], axis)

    def _tensor(self, scope: Scope, name: str) -> Tensor | None:
        owner = scope.resolve(name)
        if owner is None:
            return None
        node = owner.constants.get(name)
        return owner.initializers.get(name) if node is None else constant_tensor(node)

    def constant(self, scope: Scope, name: str) -> np.ndarray | None:
        """The values of a small constant; None for anything else."""
        tensor = self._tensor(scope, name)
        if tensor is None or np.prod(tensor.dims, dtype=np.int64) > SMALL:
            return None
        return self._model.array(tensor)

    # --------------------------------------------------------------------------- shapes and scale

    def _others_constant(self, use: Use, node: onnx.NodeProto) -> bool:
        others = [name for i, name in enumerate(node.input) if i != use.index and name]
        return all(self._tensor(use.scope, name) is not None for name in others)

    def _moved(self, use: Use, node: onnx.NodeProto, place: _Place) -> _Place:
        op, axes = node.op_type, place.axes
        if op in _KEEPS_SHAPE:
            return place
        if op == "Transpose" and axes is not None:
            perm = attribute_value(node, "perm")
            order = perm if isinstance(perm, list) else list(range(len(axes)))[::-1]
            fits = sorted(order) == list(range(len(axes)))
            return replace(place, axes=tuple(axes[int(p)] for p in order) if fits else None, same_shape=False)
        if op == "Unsqueeze" and axes is not None:
            return replace(place, axes=self._unsqueezed(use, node, axes), same_shape=False)
        if op in ("Pad", "Slice", "Concat") and axes is not None:  # sizes change, the order of axes does not
            return replace(place, axes=(-1,) * len(axes), same_shape=False)
        return replace(place, axes=None, same_shape=False)

    def _unsqueezed(self, use: Use, node: onnx.NodeProto, axes: tuple[int, ...]) -> Axes:
        given = attribute_value(node, "axes")
        if given is None and len(node.input) > 1:
            values = self.constant(use.scope, node.input[1])
            given = None if values is None else values.ravel().tolist()
        if not isinstance(given, list):
            return None
        rank = len(axes) + len(given)
        new, rest = {int(a) % rank for a in given}, iter(axes)
        return tuple(-1 if i in new else next(rest, -1) for i in range(rank))

    def _note_shapes(self, use: Use, node: onnx.NodeProto, place: _Place, facts: Facts) -> None:
        if node.op_type in ("Add", "Sub", "Mul", "Div"):
            value = self.constant(use.scope, node.input[1 - use.index])
            if value is not None and value.size and value.dtype.kind == "f":
                facts.scales.append((node.op_type, float(np.abs(value).mean())))
        for axis, size, rank in self._prescribed(use, node):
            if place.same_shape and place.axes is None and rank is not None:
                facts.rank = facts.rank or rank
                facts.sizes.setdefault(axis % rank, size)
            elif place.axes is not None and -len(place.axes) <= axis < len(place.axes) and place.axes[axis] >= 0:
                facts.sizes.setdefault(place.axes[axis], size)

    def _prescribed(self, use: Use, node: onnx.NodeProto) -> Iterator[tuple[int, int, int | None]]:
        """(axis, size, rank if known) that constant weights demand of the value in this slot."""
        op, slot = node.op_type, use.index
        dims = [self._dims(use.scope, name) for name in node.input]
        weight = next((d for i, d in enumerate(dims) if d is not None and i != slot), None)
        if weight is None:
            return
        group = attribute_value(node, "group", 1)
        if op in ("Conv", "ConvInteger") and slot == 0 and len(weight) > 2:
            yield 1, weight[1] * (group if isinstance(group, int) else 1), len(weight)
        elif op == "ConvTranspose" and slot == 0 and len(weight) > 2:
            yield 1, weight[0], len(weight)
        elif op == "MatMul" and len(weight) > 1:
            yield (-1, weight[-2], None) if slot == 0 else (-2, weight[-1], None)
        elif op == "Gemm" and slot == 0 and len(weight) == 2:
            yield 1, weight[1 if attribute_value(node, "transB", 0) else 0], 2
        elif op in ("LSTM", "GRU", "RNN") and len(dims) > 2 and (recurrence := dims[2]) and len(weight) == 3:
            yield (-1, weight[2], 3) if slot == 0 else (-1, recurrence[-1], 3)
        elif op in ("BatchNormalization", "InstanceNormalization", "PRelu") and slot == 0 and weight:
            yield 1, weight[0], None
        elif op in ("Add", "Sub", "Mul", "Div", "LayerNormalization") and weight and weight[-1] > 1:
            yield -1, weight[-1], None

    def _dims(self, scope: Scope, name: str) -> list[int] | None:
        tensor = self._tensor(scope, name) if name else None
        return None if tensor is None else [int(d) for d in tensor.dims]
