"""Groups of channels made smaller: what the removal of channels costs, and models whose layers do not read them.

whole model -> refitted (consumers do not read the channels) -> narrowed (there are no such channels)
"""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.errors import RuntimeFailure
from onnxcompress.graph import multiply_adds, writer
from onnxcompress.graph.channel_ties import reader_name
from onnxcompress.graph.edit import Namer
from onnxcompress.graph.model import Model
from onnxcompress.graph.scopes import Scopes
from onnxcompress.passes.shares import Ladder
from onnxcompress.solvers.removal import removal
from onnxcompress.stats.whatif import WhatIf

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.channel_group import Group
    from onnxcompress.graph.multiply_adds import Layer
    from onnxcompress.passes.base import Context
    from onnxcompress.passes.consumers import Consumer
    from onnxcompress.stats.archive import Archive

Array = np.ndarray
Gone = dict[int, tuple[int, ...]]  # channels that go, by the number of their group
UNIT = 8  # what runtimes work on at once: numbers of channels are multiples of it
_LEAST_SHARE = 8  # of which a group keeps one part
_MOST_STOPS = 32
_TRIED = (0.125, 0.25, 0.5)  # shares of a group that are removed on trial
_ON_TRIAL = 1 << 30  # bytes of weights, which are all in memory then


def stops_of(group: Group) -> list[int]:
    """Numbers of channels that may go, increasing: what stays is a multiple of eight, or any number of heads."""
    unit = 1 if group.kind == "heads" else UNIT
    least = -(-group.channels // (_LEAST_SHARE * unit)) * unit
    counts = list(range(least, group.channels, unit))[::-1]
    thin = -(-len(counts) // _MOST_STOPS) or 1
    return [group.channels - n for n in counts[thin - 1 :: thin]]


@dataclass(frozen=True, eq=False)
class Route:
    """A group with the order in which its channels go, and what that costs at each stop, the first being none."""

    channels: int
    order: tuple[int, ...]
    stops: tuple[int, ...]
    ladder: Ladder

    def gone(self, stop: int) -> tuple[int, ...]:
        """The channels that are gone at a stop."""
        return tuple(sorted(self.order[: self.stops[stop]]))

    @property
    def tried(self) -> list[int]:
        """The stops that are tried."""
        near = [min(range(1, len(self.stops)), key=lambda i: abs(self.stops[i] / self.channels - t)) for t in _TRIED]
        return sorted(set(near))


@dataclass(frozen=True, eq=False)
class Readers:
    """All consumers of some groups (by number) of a model, with what they see where that is known.

    ``by_rows``: channels go by the weights that make them, not by what their removal costs.
    """

    model: Model
    groups: Mapping[int, Group]
    consumers: Sequence[Consumer]
    archive: Archive | None
    by_rows: bool = False

    def route(self, number: int, layers: Sequence[Layer]) -> Route | None:
        """What the removal of channels of a group costs; None where none can be removed."""
        group = self.groups[number]
        own = [c for c in self.consumers if number in c.places]
        scores = self._row_shares(group) if self.by_rows else None
        found = removal([c.reader(number, self.archive) for c in own], stops_of(group), scores=scores)
        stops, errors = [0], [0.0]
        for stop, error in zip(found.stops, found.errors, strict=True):
            if group.fits(set(range(group.channels)) - set(found.order[:stop])):
                stops.append(stop)
                errors.append(error)
        places = multiply_adds.cut_places(group, layers)
        cuts = tuple({k: sum(len(p[c]) for c in found.order[:stop]) for k, p in places.items()} for stop in stops)
        ladder = Ladder(tuple(errors), cuts)
        return Route(group.channels, found.order, tuple(stops), ladder) if len(stops) > 1 else None

    def _row_shares(self, group: Group) -> Array:
        """Σ|w| of the rows that make a channel over Σ|w| of the layer, summed over layers, (channels,)."""
        tensors = {t.name: t for t in self.model.proto.graph.initializer}
        found = np.zeros(group.channels)
        for slot in group.slots:
            tensor = tensors.get(slot.tensor)
            if slot.role != "producer" or tensor is None or len(tensor.dims) < 2:
                continue
            size = np.abs(np.moveaxis(self.model.array(tensor), slot.axis, 0).astype(np.float64))
            rows = size.reshape(slot.length, -1).sum(axis=1)
            whole = rows.sum()
            found += np.array([rows[list(own)].sum() for own in slot.places]) / (whole if whole > 0 else 1.0)
        return found

    # ------------------------------------------------------------------------- trials

    def damage(self, routes: Mapping[int, Route], context: Context, feeds: Feeds | None) -> dict[int, dict[int, float]]:
        """What the removal of parts of each group (by stop) does to the outputs, where that can be measured."""
        fit = [n for n in routes if all(c.sole for c in self.consumers if n in c.places)]
        own = [c for c in self.consumers if any(n in c.places for n in fit)]
        names = [name for c in own for name in (c.tensor, c.bias) if name is not None]
        if not fit or feeds is None or sum(c.values().nbytes for c in own) > _ON_TRIAL:
            return {}
        found: dict[int, dict[int, float]] = {}
        try:
            trials = (
                context.probe.whatif(self.model, [], names)
                if context.probe is not None
                else WhatIf(self.model, [], names, [feeds], distributions=False)
            )
            context.progress.start("measuring which channels matter", len(fit))
            for number in fit:
                context.progress.advance(self.groups[number].label)
                route = routes[number]
                for stop in route.tried:
                    noise = trials.noise({}, self._changed({number: route.gone(stop)}))
                    found.setdefault(number, {})[stop] = noise
            context.progress.finish()
        except RuntimeFailure as error:
            context.notes.append(f"what groups of channels do to the outputs was not measured: {error.message}")
        return found

    def _changed(self, gone: Gone) -> dict[str, Array]:
        own = [c for c in self.consumers if c.sole and any(n in c.places for n in gone)]
        return {name: array for c in own for name, array in c.without(gone, self.archive).items()}

    # ------------------------------------------------------------------------- models

    def refitted(self, gone: Gone) -> Model:
        """A copy whose consumers do without channels; those with other readers stay as they are."""
        twin = self.model.copy()
        tensors = {t.name: t for t in twin.proto.graph.initializer}
        with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
            for consumer in self.consumers:
                if not consumer.sole or not any(n in consumer.places for n in gone):
                    continue
                for name, array in consumer.without(gone, self.archive).items():
                    path = Path(folder) / str(len(list(Path(folder).iterdir())))
                    array.tofile(path)
                    read = functools.partial(_read, path, array.dtype, array.shape)
                    twin.set_lazy(tensors[name], tensors[name].data_type, array.shape, read)
            return Model.scratch(lambda path: writer.save(twin, path, durable=False))

    def blinded(self, refitted: Model, gone: Gone) -> Model:
        """A copy of a refitted model in which no consumer at all reads channels that are gone."""
        twin = refitted.copy()
        scopes = Scopes(twin.proto)
        namer = Namer(scopes.names())
        nodes = {reader_name(node): node for node in twin.proto.graph.node}
        for consumer in self.consumers:
            own = {n: channels for n, channels in gone.items() if n in consumer.places}
            if consumer.sole or not own:
                continue
            tensor = twin.proto.graph.initializer.add(name=namer(f"{consumer.tensor}_blind"))
            twin.set_array(tensor, consumer.without(own, None)[consumer.tensor])
            node = nodes[reader_name(consumer.nodes[0])]
            for index, name in enumerate(node.input):
                if name == consumer.tensor:
                    node.input[index] = tensor.name
        return twin


def _read(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> Array:
    return np.fromfile(path, dtype).reshape(shape)
