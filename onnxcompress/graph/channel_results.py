"""A finished search read as groups of channels and refusals."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.graph.channel_group import Carrier, Counted, Group, Refusal, Renumbered, Slot
from onnxcompress.graph.channel_search import components
from onnxcompress.graph.channel_ties import Axis, Count, Indices, reader_name

if TYPE_CHECKING:
    import onnx

    from onnxcompress.graph.channel_group import Kind, Places
    from onnxcompress.graph.channel_search import Search
    from onnxcompress.graph.channel_ties import End, Port

_AT_ONCE = "its outputs can only be removed all at once"
_SINGLE = "it has a single output"


class Result:
    """A finished search, seen as groups: ``group_of`` (elements,) numbers them, ``channel_of`` the channels in each."""

    def __init__(self, search: Search) -> None:
        self.search = search
        self.roots = roots = search.run()
        self.seeds = [port for _, port in search.layers if port is not None]
        spans = [search.elements(port) for port in self.seeds]
        whole = [(np.arange(s.start, s.stop), np.full(s.stop - s.start, s.start)) for s in spans]
        wide = components(search.count, [(np.arange(search.count), roots), *whole])
        led = sorted({int(wide[search.starts[port]]) for port in self.seeds})
        number = np.full(search.count, -1)
        number[led] = np.arange(len(led))
        self.group_of = number[wide]
        members = np.unique(roots[self.group_of >= 0])
        members = members[np.argsort(self.group_of[members], kind="stable")]
        sizes = np.bincount(self.group_of[members], minlength=len(led))
        self.channels = [int(n) for n in sizes]
        channel = np.full(search.count, -1)
        channel[members] = np.arange(len(members)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        self.channel_of = channel[roots]
        self.readers: dict[Port, list[tuple[str, End]]] = {}
        self.consumers: dict[Port, list[str]] = {}
        for tie in search.active.values():
            summing = any(end.role == "consumer" for end in tie.ends)
            for end in tie.ends:
                self.readers.setdefault(end.port, []).append((tie.reader, end))
                if summing and end.role != "consumer":
                    self.consumers.setdefault(end.port, []).append(tie.reader)
        self.reasons = self._refused()

    def _refused(self) -> dict[int, str]:
        """Why groups cannot be narrowed."""
        reasons: dict[int, str] = {}
        for port, reason in self.search.fixed.items():
            for group in np.unique(self.group_of[self.search.elements(port)]):
                reasons.setdefault(int(group), reason)
        alone = self._alone()
        read = {int(g) for port in self.consumers for g in np.unique(self.group_of[self.search.elements(port)])}
        for group, channels in enumerate(self.channels):
            if channels < 2:
                lengths = {self.search.lengths[port] for port in self.seeds if self._group_at(port) == group}
                reasons.setdefault(group, _SINGLE if lengths == {1} else _AT_ONCE)
            elif group in alone and alone[group] == channels:
                reasons.setdefault(group, "each of its channels is all that some value has")
            if group not in read:
                reasons.setdefault(group, "no layer with a stored weight reads its outputs")
        return reasons

    def _alone(self) -> dict[int, int]:
        """For each group the number of channels that have some axis to themselves, so that they have to stay."""
        found = set()
        for port in self.search.starts:
            roots = self.roots[self.search.elements(port)]
            if len(roots) and isinstance(port, Axis) and (roots == roots[0]).all():
                found.add(int(roots[0]))
        counts: dict[int, int] = {}
        for root in found:
            group = int(self.group_of[root])
            counts[group] = counts.get(group, 0) + 1
        return counts

    def _group_at(self, seed: Port) -> int:
        """The group of the outputs of a layer."""
        return int(self.group_of[self.search.starts[seed]])

    def settled(self) -> dict[int, int]:
        """Choices that led to a group, by node."""
        taken = {}
        for choice in self.search.choices:
            groups = {int(g) for g in np.unique(self.group_of[self.search.elements(choice.port)])} - {-1}
            if groups and not groups & set(self.reasons):
                taken[id(choice.node)] = choice.rank
        return taken

    def groups(self) -> list[Group | Refusal]:
        """Groups and refusals in the order of their layers."""
        layers: dict[int, list[onnx.NodeProto]] = {}
        found: list[Group | Refusal] = []
        for node, port in self.search.layers:
            if port is not None:
                layers.setdefault(self._group_at(port), []).append(node)
        parts = self._parts()
        for node, port in self.search.layers:
            group = -1 if port is None else self._group_at(port)
            reason = self.search.ties(node).reason if port is None else self.reasons.get(group)
            if reason is not None:
                found.append(Refusal(_label(node), reason))
            elif layers[group][0] is node:
                found.append(self._group(group, layers[group], parts[group]))
        return found

    def _parts(self) -> dict[int, list[tuple[Port, Places]]]:
        """For each group that can be narrowed the axes that it is on, with its places along them."""
        parts: dict[int, list[tuple[Port, Places]]] = {}
        for port in self.search.starts:
            elements = self.search.elements(port)
            groups = self.group_of[elements]
            for group in [int(g) for g in np.unique(groups) if g >= 0 and int(g) not in self.reasons]:
                where = np.flatnonzero(groups == group)
                if isinstance(port, Count):
                    where = where[where < port.upto]
                places = _places(where, self.channel_of[elements][where], self.channels[group])
                parts.setdefault(group, []).append((port, places))
        return parts

    def _group(self, group: int, layers: list[onnx.NodeProto], parts: list[tuple[Port, Places]]) -> Group:
        stored = self.search.world.stored
        axes = [(port, places) for port, places in parts if isinstance(port, Axis)]
        slots = [slot for p, places in axes if stored(p.value) is not None for slot in self._slots(p, places)]
        carriers = [self._carrier(port, places) for port, places in axes if stored(port.value) is None]
        counted = [Counted(p.reader, p.where, p.position, p.value, q, p.part) for p, q in parts if isinstance(p, Count)]
        indices = [(port, places) for port, places in parts if isinstance(port, Indices)]
        renumbered = [Renumbered(p.reader, p.index, q, self.search.lengths[p]) for p, q in indices]
        return Group(
            channels=self.channels[group],
            slots=tuple(slots),
            kind=self._kind(layers, [port for port, _ in parts]),
            layers=tuple(_label(node) for node in layers),
            carriers=tuple(carriers),
            counted=tuple(counted),
            renumbered=tuple(renumbered),
            label=_label(layers[0]),
        )

    def _kind(self, layers: list[onnx.NodeProto], ports: list[Port]) -> Kind:
        heads = {end.port for tie in self.search.active.values() if tie.heads for end in tie.ends}
        if heads.intersection(ports):
            return "heads"
        return "channels" if any(node.op_type.startswith("Conv") for node in layers) else "neurons"

    def _slots(self, port: Axis, places: Places) -> list[Slot]:
        """A slot for each reader of a stored tensor, in the role that the axis has there."""
        length, shared = self.search.lengths[port], not port.reader
        found = {(end.role, reader, end.element or 0): None for reader, end in self.readers[port]}
        return [
            Slot(port.value, port.axis, role, places, length, reader, index, shared) for role, reader, index in found
        ]

    def _carrier(self, port: Axis, places: Places) -> Carrier:
        consumers = dict.fromkeys(self.consumers.get(port, ()))
        return Carrier(port.value, port.axis, places, self.search.lengths[port], tuple(consumers))


def _places(where: np.ndarray, channels: np.ndarray, count: int) -> Places:
    """For each of ``count`` channels the indices that belong to it."""
    order = np.argsort(channels, kind="stable")
    bounds = np.searchsorted(channels[order], np.arange(count + 1))
    indices = [int(i) for i in where[order]]
    return tuple(tuple(indices[a:b]) for a, b in pairwise(bounds))


def _label(node: onnx.NodeProto) -> str:
    return node.name or reader_name(node)
