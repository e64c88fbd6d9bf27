"""Pruning of structures: channels, hidden neurons or attention heads are cut out, and what reads the others takes over.

    minimise  ‖(W − W')x‖²   subject to   W'_S = 0   for every weight W that reads the channels S,

channels of all that is coupled going together (`graph.channels`), in the order and at the cost that `solvers.removal`
finds. How many go of each group is decided by what a trial of each does to the outputs, for each multiply-add saved.
The tensors become smaller, and so does the work: no runtime has to know of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from onnxcompress.errors import ModelError, RuntimeFailure
from onnxcompress.graph import multiply_adds
from onnxcompress.graph.channel_group import Group
from onnxcompress.graph.channel_world import World
from onnxcompress.graph.channels import channel_groups
from onnxcompress.graph.constants import lift_constants
from onnxcompress.graph.layers import weights
from onnxcompress.graph.narrowing import narrowed
from onnxcompress.passes.base import Context, Rewritten
from onnxcompress.passes.consumers import consumers
from onnxcompress.passes.seen import archive_of, one_call, shapes, threads_of, with_powers
from onnxcompress.passes.selection import Selection
from onnxcompress.passes.shares import chosen_stops, expected, joined
from onnxcompress.passes.takeover import UNIT, Gone, Readers, Route, stops_of
from onnxcompress.report import LayerRecord
from onnxcompress.stats.removal_check import broken, departs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.channels import Refusal
    from onnxcompress.graph.model import Model
    from onnxcompress.graph.multiply_adds import Cuts, Layer

Structure = Literal["channels", "neurons", "heads", "all"]
FORM = "narrow"
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_INTEGERS = frozenset(
    {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DequantizeLinear", "MatMulNBits"}
)
_NEEDED = "its channels do more to the outputs than others"


@dataclass(frozen=True)
class Structures:
    """Cut channels, neurons or heads out of the model until a share of its multiply-adds is gone."""

    name: ClassVar[str] = "prune"

    structure: Structure
    ratio: float
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    row_share: bool = False

    @property
    def tag(self) -> str:
        """``narrow30``."""
        return f"narrow{100 * self.ratio:g}"

    def rewrite(self, model: Model, context: Context) -> Rewritten:
        """A narrower copy of the model.

        Raises:
            UsageError: a pattern matches nothing.
            ModelError: nothing can be removed, or the result does not compute what it should.
            DataError: a value is not finite on the data.
        """
        model = model.copy()
        lift_constants(model)
        world = World(model)
        feeds = one_call(model, context)
        layers = multiply_adds.layers(world, shapes(world, feeds, context))
        work = _Work(self, world, layers, context)
        if not work.groups:
            raise _nothing(work.reasons, world)
        own = consumers(world, work.groups)
        archive = archive_of(model, own, context)
        readers = Readers(model, work.groups, with_powers(own, archive, context), archive, self.row_share)
        gone, made = work.narrowed(readers, feeds, self.ratio)
        return Rewritten(made, tuple(dict.fromkeys((*work.told(gone), *context.notes))), tuple(work.records(gone)))


@dataclass(frozen=True, eq=False)
class _Work:
    """A model and the groups of it that may become smaller, by number; for other layers (by output) why not."""

    asked: Structures
    world: World
    layers: Sequence[Layer]
    context: Context
    groups: dict[int, Group] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Find the groups."""
        found = [w for w in weights(self.world.model, self.world.scopes) if w.scope is self.world.scopes.main]
        selection = Selection(self.asked.include, self.asked.exclude, found)
        left_out = {w.name: reason for w in found if (reason := selection.reason(w)) is not None}
        for number, one in enumerate(channel_groups(self.world.model)):
            if isinstance(one, Group):
                reason = self._unwanted(one, left_out)
                if reason is None:
                    self.groups[number] = one
                else:
                    self.reasons.update({layer.name: reason for layer in self.producing(one)})
            else:
                self._refused(one)

    def _refused(self, refusal: Refusal) -> None:
        for layer in self.layers:
            if refusal.label in (layer.node.name, layer.name):
                self.reasons.setdefault(layer.name, refusal.reason)

    def _unwanted(self, group: Group, left_out: Mapping[str, str]) -> str | None:
        """Why a group is not to be narrowed."""
        if self.asked.structure not in ("all", group.kind):
            return f"its outputs are {group.kind}"
        for layer in self.producing(group):
            if layer.weight in left_out:
                return f"its channels are those of {layer.weight!r} too, which is {left_out[layer.weight]}"
        if not stops_of(group):
            return f"it has {group.channels} channels, of which a multiple of {UNIT} stays"
        return None

    def producing(self, group: Group) -> list[Layer]:
        """The layers whose outputs are the channels."""
        made = {(s.tensor, s.reader) for s in group.slots if s.role != "consumer"}
        return [layer for layer in self.layers if (layer.weight, layer.name) in made]

    def narrowed(self, readers: Readers, feeds: Feeds | None, ratio: float) -> tuple[Gone, Model]:
        """The channels that go, and the model without them."""
        context, routes = self.context, dict[int, Route]()
        context.progress.start("ordering channels", len(self.groups))
        for number, group in self.groups.items():
            context.progress.advance(group.label)
            route = readers.route(number, self.layers)
            if route is not None:
                routes[number] = route
        context.progress.finish()
        damage = readers.damage(routes, context, feeds)
        ladders = expected([route.ladder for route in routes.values()], [damage.get(n, {}) for n in routes])
        stops = chosen_stops(ladders, self.layers, ratio)
        gone = {n: route.gone(stop) for (n, route), stop in zip(routes.items(), stops, strict=True) if stop}
        if not gone:
            raise _nothing(self.reasons, self.world)
        refitted = readers.refitted(gone)
        made = _narrowed(refitted, self.groups, gone)
        self._check(readers, refitted, made, gone, feeds)
        return gone, made

    def _check(self, readers: Readers, refitted: Model, made: Model, gone: Gone, feeds: Feeds | None) -> None:
        """Refuse a result that is not sound, or computes something else.

        Raises:
            ModelError: it is so; a group that is wrong by itself is named.
        """
        wrong = self._wrong(readers, refitted, made, gone, feeds)
        if wrong is None:
            return
        for number in gone:
            one = {number: gone[number]}
            own = self._wrong(readers, refitted, _narrowed(refitted, self.groups, one), one, feeds)
            if own is not None:
                raise _unsound(self.groups[number].label, own)
        raise _unsound(", ".join(self.groups[n].label for n in list(gone)[:3]), wrong)

    def _wrong(self, readers: Readers, refitted: Model, made: Model, gone: Gone, feeds: Feeds | None) -> str | None:
        reason = broken(refitted, made)
        if reason is not None or feeds is None:
            return reason
        try:
            return departs(readers.blinded(refitted, gone), made, feeds, threads_of(self.context))
        except RuntimeFailure as error:
            self.context.notes.append(f"outputs without the channels were not compared: {error.message}")
            return None

    # ------------------------------------------------------------------------- what there is to tell

    def cuts(self, gone: Gone) -> Cuts:
        """What is removed of the weights of layers."""
        parts = []
        for number, channels in gone.items():
            places = multiply_adds.cut_places(self.groups[number], self.layers)
            parts.append({key: sum(len(own[c]) for c in channels) for key, own in places.items()})
        return joined(parts)

    def told(self, gone: Gone) -> list[str]:
        """Notes: what was removed, and what that saves."""
        whole, left = multiply_adds.total(self.layers), multiply_adds.total(self.layers, self.cuts(gone))
        parts = []
        for kind in ("channels", "neurons", "heads"):
            own = [n for n in gone if self.groups[n].kind == kind]
            every = sum(g.channels for g in self.groups.values() if g.kind == kind)
            if own:
                parts.append(f"{sum(len(gone[n]) for n in own)} of {every} {kind}")
        notes = [
            f"removed {', '.join(parts)}: {whole:.4g} multiply-adds a call became {left:.4g},"
            f" {100 * (1 - left / whole):.1f} % less"
        ]
        if 1 - left / whole < self.asked.ratio * (1 - 1e-6):
            notes.append(f"no more can go than that, though {100 * self.asked.ratio:g} % was asked for")
        return notes

    def records(self, gone: Gone) -> list[LayerRecord]:
        """One record for the weight of each layer."""
        cuts, shares = self.cuts(gone), dict[str, float]()
        for number, channels in gone.items():
            group = self.groups[number]
            shares |= {layer.name: len(channels) / group.channels for layer in self.producing(group)}
        found: dict[str, LayerRecord] = {}
        for layer in self.layers:
            tensor = self.world.stored(layer.weight)
            if tensor is None or layer.weight in found:
                continue
            before = self.world.model.nbytes(tensor)
            after = before * math.prod(layer.left(cuts)) // math.prod(layer.dims)
            op, share = layer.node.op_type, shares.get(layer.name)
            if after < before:
                record = LayerRecord(layer.weight, op, "done", None, FORM, None, before, after, sparsity=share)
            else:
                reason = self.reasons.get(layer.name, _NEEDED)
                record = LayerRecord(layer.weight, op, "skipped", reason, None, None, before, before)
            found[layer.weight] = record
        return list(found.values())


def _narrowed(refitted: Model, groups: Mapping[int, Group], gone: Gone) -> Model:
    kept = {n: [c for c in range(groups[n].channels) if c not in set(channels)] for n, channels in gone.items()}
    try:
        return narrowed(refitted, {groups[n]: channels for n, channels in kept.items()})
    except ValueError as error:
        raise _unsound(", ".join(groups[n].label for n in list(gone)[:3]), str(error)) from error


def _unsound(label: str, reason: str) -> ModelError:
    return ModelError(
        f"the channels of {label!r} cannot be removed: {reason}", "Leave that layer out with --exclude, and report it."
    )


def _nothing(reasons: Mapping[str, str], world: World) -> ModelError:
    """The error of a model of which nothing can be removed."""
    distinct = list(dict.fromkeys(reason.partition(" (at ")[0] for reason in reasons.values()))[:3]
    why = "; ".join(distinct) or _without_layers(world)
    return ModelError(
        f"no structure of the model can be removed: {why}",
        "Ask for --structure all, or remove single weights with --sparsity.",
    )


def _without_layers(world: World) -> str:
    """Why a model has no layer whose channels could go."""
    scopes = world.scopes
    operators = {node.op_type for scope in scopes.all for node in scope.body.node}
    if recurrent := sorted(operators & _RECURRENT):
        return f"its weights are those of {', '.join(recurrent)}, whose gates are one tensor"
    if operators & _INTEGERS:
        return "its layers are quantized"
    if any(w.scope is not scopes.main for w in weights(world.model, scopes)):
        return "its layers are in subgraphs or functions"
    return "it has no layers with stored weights"
