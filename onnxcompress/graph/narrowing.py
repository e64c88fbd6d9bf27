"""Channels cut out of a model: the same function but for the channels removed, with smaller tensors.

Large tensors stay where they are until they are written. A constant that its readers see narrowed in different ways
is copied for each of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnxcompress.graph.channel_ties import reader_name
from onnxcompress.graph.constants import declare_initializers
from onnxcompress.graph.edit import Namer
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.narrowing_shapes import Joined, rejoin, stored
from onnxcompress.graph.scopes import Scopes, Use

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnxcompress.graph.channel_group import Group, Places

_SMALL = 64  # values that are stored at once, as an ordinary tensor

_Reader = tuple[str, int]  # the first output of a node, and which of its inputs


@dataclass
class _Cut:
    """What happens to a stored tensor as one of its readers sees it.

    ``gone``: indices removed along each axis. ``numbers``: new values of single elements. ``missing``: what indices
    are counted without, along the axis of ``length`` that they are of.
    """

    gone: dict[int, set[int]] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)
    missing: set[int] = field(default_factory=set)
    length: int = 0

    def key(self) -> tuple[object, ...]:
        """Equal for readers that can share a tensor."""
        gone = tuple(sorted((axis, tuple(sorted(indices))) for axis, indices in self.gone.items() if indices))
        return gone, tuple(sorted(self.numbers.items())), tuple(sorted(self.missing))

    def dims(self, before: Sequence[int]) -> tuple[int, ...]:
        """The shape that is left of a shape."""
        return tuple(n - len(self.gone.get(axis, ())) for axis, n in enumerate(before))

    def apply(self, array: np.ndarray) -> np.ndarray:
        """The values that are left."""
        if self.missing:
            kept = np.array([i not in self.missing for i in range(self.length)])
            renumbered = (np.cumsum(kept) - 1)[array % self.length]
            array = renumbered.astype(array.dtype)
        for axis, indices in self.gone.items():
            array = np.take(array, [i for i in range(array.shape[axis]) if i not in indices], axis)
        if self.numbers:
            flat = array.reshape(-1).copy()
            for position, value in self.numbers.items():
                flat[position] = value
            array = flat.reshape(array.shape)
        return np.ascontiguousarray(array)


@dataclass
class _Plan:
    """All cuts of a model: of tensors for all readers (by name) or for one, of attributes; ``changed`` are values."""

    common: dict[str, _Cut] = field(default_factory=dict)
    own: dict[_Reader, _Cut] = field(default_factory=dict)
    numbers: dict[tuple[str, str | int, int], int] = field(default_factory=dict)
    joined: dict[_Reader, Joined] = field(default_factory=dict)
    changed: dict[tuple[str, int], tuple[int, set[int]]] = field(default_factory=dict)

    def add(self, group: Group, removed: Sequence[int]) -> None:
        """Note what the removal of some channels of a group means."""
        for slot in group.slots:
            cut = (
                self.common.setdefault(slot.tensor, _Cut())
                if slot.everywhere
                else self.own.setdefault((slot.reader, slot.index), _Cut())
            )
            cut.gone.setdefault(slot.axis, set()).update(_removed(slot.places, removed))
            name = slot.tensor if slot.everywhere else f"{slot.tensor} as {slot.reader} reads it"
            self._note(name, slot.axis, slot.length, cut.gone[slot.axis])
        for carrier in group.carriers:
            self._note(carrier.value, carrier.axis, carrier.length, _removed(carrier.places, removed))
        for item in group.counted:
            if item.part is not None and isinstance(item.where, int):
                joined = self.joined.setdefault((item.reader, item.where), {})
                joined[item.part] = joined.get(item.part, item.value) - len(_removed(item.places, removed))
                continue
            place = item.reader, item.where, item.position
            self.numbers[place] = self.numbers.get(place, item.value) - len(_removed(item.places, removed))
        for indices in group.renumbered:
            cut = self.own.setdefault((indices.reader, indices.index), _Cut())
            cut.missing |= _removed(indices.places, removed)
            cut.length = indices.length

    def _note(self, value: str, axis: int, length: int, gone: set[int]) -> None:
        _, before = self.changed.setdefault((value, axis), (length, set()))
        before |= gone

    def check(self) -> None:
        """Everything keeps at least one channel.

        Raises:
            ValueError: an axis would be empty.
        """
        for (value, axis), (length, gone) in self.changed.items():
            if len(gone) >= length:
                raise ValueError(f"nothing would be left of axis {axis} of {value!r}")


def _removed(places: Places, channels: Iterable[int]) -> set[int]:
    return {index for channel in channels for index in places[channel]}


def narrowed(model: Model, kept: Mapping[Group, Sequence[int]]) -> Model:
    """A copy of a model with only some channels of each group.

    Args:
        model: the model from which the groups are.
        kept: for each group the channels that stay, by number; groups that are not named stay as they are.

    Raises:
        ValueError: no channel of a group would be left, there is no channel of such a number, one is named twice, or
            some value would have no channels at all.
    """
    plan = _Plan()
    for group, channels in kept.items():
        chosen = {int(c) for c in channels}
        if not chosen:
            raise ValueError(f"no channel of {group.label!r} would be left")
        if len(chosen) != len(channels) or not chosen <= set(range(group.channels)):
            raise ValueError(f"{group.label!r} has {group.channels} channels, each to be named once: {sorted(chosen)}")
        if len(chosen) < group.channels:
            plan.add(group, [c for c in range(group.channels) if c not in chosen])
    plan.check()
    twin = model.copy()
    scopes = Scopes(twin.proto)
    nodes = {reader_name(node): node for node in twin.proto.graph.node}
    _count(model, scopes, plan, nodes)
    namer = Namer(scopes.names())
    names = {*plan.common, *(nodes[reader].input[index] for reader, index in plan.own)}
    for name in sorted(names):
        _cut_tensor(model, twin, scopes, name, plan, namer)
    rejoin(model, twin, scopes, plan.joined, namer)
    _forget_types(twin.proto.graph, {value for value, _ in plan.changed} | names)
    declare_initializers(twin.proto)
    return twin


# ------------------------------------------------------------------------- numbers


def _count(model: Model, scopes: Scopes, plan: _Plan, nodes: Mapping[str, onnx.NodeProto]) -> None:
    """Write the numbers that are attributes, and note those in stored tensors."""
    for (reader, where, position), value in plan.numbers.items():
        if isinstance(where, int):
            now = model.array(stored(scopes, nodes[reader].input[where])).reshape(-1)[position]
            if now != value:
                plan.own.setdefault((reader, where), _Cut()).numbers[position] = value
            continue
        for attribute in nodes[reader].attribute:
            if attribute.name == where and attribute.type == onnx.AttributeProto.INTS:
                attribute.ints[position] = value
            elif attribute.name == where:
                attribute.i = value


# ------------------------------------------------------------------------- tensors


def _cut_tensor(model: Model, twin: Model, scopes: Scopes, name: str, plan: _Plan, namer: Namer) -> None:
    """Cut a stored tensor: in place where all readers see it alike, else in copies."""
    tensor = stored(scopes, name)
    source = Tensor()
    source.CopyFrom(tensor)  # the tensor itself is about to change
    cuts: dict[tuple[object, ...], tuple[_Cut, list[Use]]] = {}
    for use in scopes.uses(scopes.main, name):
        cut = _cut_for(scopes, use, plan, name)
        cuts.setdefault(cut.key(), (cut, []))[1].append(use)
    whole = _Cut().key()
    first = next(iter(cuts)) if whole not in cuts else whole
    for key, (cut, uses) in cuts.items():
        if key == whole:
            continue
        target = tensor
        if key != first:
            target = twin.proto.graph.initializer.add(name=namer(f"{name}_narrowed"))
            for use in uses:
                if use.node is not None:
                    use.node.input[use.index] = target.name
        _fill(model, twin, source, target, cut)


def _cut_for(scopes: Scopes, use: Use, plan: _Plan, name: str) -> _Cut:
    """What one reader sees of a tensor: the cut for all readers and its own one."""
    common = plan.common.get(name, _Cut())
    main = use.node is not None and use.scope is scopes.main
    own = plan.own.get((reader_name(use.node), use.index)) if main and use.node is not None else None
    if own is None:
        return common
    axes = {*common.gone, *own.gone}
    gone = {axis: common.gone.get(axis, set()) | own.gone.get(axis, set()) for axis in axes}
    return _Cut(gone, own.numbers, own.missing, own.length)


def _fill(model: Model, twin: Model, source: Tensor, target: Tensor, cut: _Cut) -> None:
    dims = cut.dims(source.dims)
    if math.prod(dims) <= _SMALL:
        twin.set_array(target, cut.apply(model.array(source)))
    else:
        twin.set_lazy(target, source.data_type, dims, lambda: cut.apply(model.view(source)))


def _forget_types(graph: onnx.GraphProto, names: set[str]) -> None:
    """Drop recorded types of values whose shapes have changed."""
    for index in reversed([i for i, v in enumerate(graph.value_info) if v.name in names]):
        del graph.value_info[index]
