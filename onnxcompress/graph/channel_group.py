"""A group of channels as a value: where its channels are, and what follows when some of them are removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection

    from onnxcompress.graph.channel_ties import Role

Places = tuple[tuple[int, ...], ...]
Kind = Literal["channels", "neurons", "heads"]


@dataclass(frozen=True)
class Slot:
    """One axis of one stored tensor that holds channels of a group.

    ``role``: ``producer`` is a layer weight's axis of outputs or a bias, ``consumer`` a layer weight's axis of inputs,
    and ``rider`` anything else that has values for each channel. ``places``: for each channel of the group the indices
    along the axis, of ``length`` in all. ``reader`` (its first output) and ``index`` (its input) say which node reads
    it; ``everywhere``: all other readers read it narrowed too, where false this one alone does.
    """

    tensor: str
    axis: int
    role: Role
    places: Places
    length: int
    reader: str
    index: int
    everywhere: bool


@dataclass(frozen=True)
class Carrier:
    """An activation with channels of a group along an axis.

    ``consumers``: the layers (each by its first output) whose weights have a consumer slot for what they read of it.
    """

    value: str
    axis: int
    places: Places
    length: int
    consumers: tuple[str, ...]


@dataclass(frozen=True)
class Counted:
    """An integer that becomes smaller by the number of places that are removed.

    It is an element of an attribute, or of the stored tensor that is input ``where`` of the node whose first output
    is ``reader``; ``value`` is what it means now. Where that input comes from a Concat, ``part`` says of which input of
    the Concat the element is, and its place in that.
    """

    reader: str
    where: str | int
    position: int
    value: int
    places: Places
    part: tuple[int, int] | None = None


@dataclass(frozen=True)
class Renumbered:
    """Stored indices along an axis of ``length`` places, which are counted anew."""

    reader: str
    index: int
    places: Places
    length: int


@dataclass(frozen=True)
class Group:
    """Channels that can be removed one by one, each from everything at once.

    ``kind``: outputs of convolutions, hidden outputs of matrix products, or heads of attention. ``layers``: the nodes
    whose outputs they are. ``carriers``: the activations; ``counted`` and ``renumbered``: attributes and constants
    that follow.
    """

    channels: int
    slots: tuple[Slot, ...]
    kind: Kind
    layers: tuple[str, ...]
    carriers: tuple[Carrier, ...]
    counted: tuple[Counted, ...]
    renumbered: tuple[Renumbered, ...]
    label: str

    def fits(self, kept: Collection[int]) -> bool:
        """Whether something is left along every axis if only these channels are kept."""
        axes = {(slot.places, slot.length) for slot in self.slots}
        axes |= {(carrier.places, carrier.length) for carrier in self.carriers}
        for places, length in axes:
            if sum(len(indices) for indices in places) == length and not any(places[channel] for channel in kept):
                return False
        return True

    @property
    def values(self) -> tuple[Carrier, ...]:
        """What layers with stored weights read of the channels."""
        return tuple(carrier for carrier in self.carriers if carrier.consumers)


@dataclass(frozen=True)
class Refusal:
    """A layer whose outputs cannot be narrowed, and why."""

    label: str
    reason: str
