"""Which sizes to give to the open dimensions of the inputs, most plausible first.

Each open dimension belongs to a class (batch, sequence, height ...) by the name that the exporter gave it, or
else by the role of its input and its place. Dimensions of one class have one size everywhere, so lengths
agree across inputs, and a name that is a sum ("past_sequence_length + 1") is computed. A plan says the size
of every class; plans are tried in the order of how many steps they are away from the most plausible one.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from onnxcompress.data import names
from onnxcompress.data.fit import fixed
from onnxcompress.data.roles import Role, Traced

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onnxcompress.graph.interface import Dim


class Axis(Enum):
    """Classes of open dimensions, and other things that a plan has to choose."""

    BATCH = auto()
    SEQUENCE = auto()
    PAST = auto()
    TOTAL = auto()  # past and sequence together
    HEIGHT = auto()
    WIDTH = auto()
    CHANNELS = auto()
    SAMPLES = auto()
    FRAMES = auto()
    FREE = auto()
    FLAG = auto()
    RANK = auto()


def _each(*sizes: int) -> tuple[tuple[int, ...], ...]:
    return tuple((n,) for n in sizes)


# Several sizes in one choice are taken in turn: most models of sequences take any length.
_OPTIONS: dict[Axis, tuple[tuple[int, ...], ...]] = {
    Axis.BATCH: _each(1, 2),
    Axis.SEQUENCE: ((64, 16, 32), *_each(64, 32, 16, 128, 8, 1)),
    Axis.PAST: _each(0, 16, 1),
    Axis.HEIGHT: _each(224),
    Axis.WIDTH: _each(224),
    Axis.CHANNELS: _each(3, 1, 4),
    Axis.SAMPLES: _each(16000, 48000, 32000, 80000, 160000, 480000, 1024, 512),
    Axis.FRAMES: _each(96, 64, 128, 200, 16, 3000, 1),
    Axis.FREE: _each(4, 1, 2, 16, 32),
    Axis.FLAG: _each(0, 1),
    Axis.RANK: _each(2, 1, 3, 4, 0),
}
STREAMED = _each(576, 512, 256, 1024, 1536, 16000, 320, 160)  # audio that comes in frames, with a state

Pairs = tuple[tuple[int, int], ...]
_CLASSIFIED: Pairs = (
    (224, 224),
    (320, 320),
    (640, 640),
    (256, 256),
    (299, 299),
    (96, 96),
    (64, 64),
    (32, 32),
)
_DETECTED: Pairs = (
    (320, 320),
    (640, 640),
    (416, 416),
    (224, 224),
    (512, 512),
    (48, 320),
    (32, 320),
    (64, 64),
)
_TEXT_LINES: Pairs = ((48, 320), (32, 320), (32, 128), (64, 320), (64, 256), (320, 320), (224, 224))

_MOST = 80  # plans


@dataclass(frozen=True)
class Plan:
    """The choice for every class; a class with several sizes takes them in turn, call by call."""

    chosen: Mapping[Axis, tuple[int, ...]]

    def size(self, axis: Axis, call: int) -> int:
        """The size of a class in one call."""
        if axis is Axis.TOTAL:
            return self.size(Axis.PAST, call) + self.size(Axis.SEQUENCE, call)
        sizes = self.chosen.get(axis) or _OPTIONS[axis][0]
        return sizes[call % len(sizes)]


def plans(inputs: Mapping[str, Traced], *, output_rank: int | None, text_line: bool) -> Iterator[Plan]:
    """All plans for a model, most plausible first; one empty plan where nothing is open."""
    present = _present(inputs)
    options: list[list[dict[Axis, tuple[int, ...]]]] = []
    for axis in sorted(present - {Axis.HEIGHT, Axis.WIDTH, Axis.TOTAL}, key=lambda a: a.value):
        options.append([{axis: sizes} for sizes in _options(axis, inputs)])
    if present & {Axis.HEIGHT, Axis.WIDTH}:
        options.append(_spatial(inputs, present, output_rank, text_line))
    steps = itertools.product(*(range(len(o)) for o in options))
    for step in sorted(steps, key=lambda s: (sum(s), s))[:_MOST]:
        merged: dict[Axis, tuple[int, ...]] = {}
        for option, place in zip(options, step, strict=True):
            merged |= option[place]
        yield Plan(merged)


def _options(axis: Axis, inputs: Mapping[str, Traced]) -> Sequence[tuple[int, ...]]:
    if axis is Axis.SAMPLES and any(t.role is Role.STATE for t in inputs.values()):
        return STREAMED
    return _OPTIONS[axis]


def _spatial(
    inputs: Mapping[str, Traced], present: set[Axis], output_rank: int | None, text_line: bool
) -> list[dict[Axis, tuple[int, ...]]]:
    """Heights and widths together; where the model fixes one of them, the other one only."""
    pairs = _DETECTED
    if text_line:
        pairs = _TEXT_LINES
    elif output_rank is not None and output_rank <= 2:
        pairs = _CLASSIFIED
    if Axis.HEIGHT not in present:  # fixed height: that of a line of text, or square
        heights = [s[-2] for t in inputs.values() if t.role is Role.IMAGE and (s := t.shape) and len(s) > 2]
        height = next((h for h in heights if isinstance(h, int)), 0)
        likely = (320, 160, 96) if 0 < height <= 64 else (height or 224,)
        widths = (*likely, *(p[1] for p in pairs))
        return [{Axis.WIDTH: (w,)} for w in dict.fromkeys(widths)]
    if Axis.WIDTH not in present:
        return [{Axis.HEIGHT: (h,)} for h in dict.fromkeys(p[0] for p in pairs)]
    return [{Axis.HEIGHT: (h,), Axis.WIDTH: (w,)} for h, w in pairs]


def _present(inputs: Mapping[str, Traced]) -> set[Axis]:
    found: set[Axis] = set()
    for entry in inputs.values():
        if entry.role is Role.FLAG:
            found.add(Axis.FLAG)
        if entry.shape is None and entry.facts.rank is None:
            found.add(Axis.RANK)
        for place, dim in enumerate(entry.shape or ()):
            if fixed(dim) is None:
                found |= {part for part in _terms(dim, place, entry) if isinstance(part, Axis)}
    return found | ({Axis.PAST, Axis.SEQUENCE} if Axis.TOTAL in found else set())


def concrete(entry: Traced, plan: Plan, call: int) -> tuple[int, ...]:
    """The shape of one input in one call."""
    shape = entry.shape
    if shape is None:
        rank = entry.facts.rank if entry.facts.rank is not None else plan.size(Axis.RANK, call)
        shape = tuple(entry.facts.sizes.get(i) for i in range(rank))
    return tuple(_size(dim, place, entry, plan, call, len(shape)) for place, dim in enumerate(shape))


def _size(dim: Dim, place: int, entry: Traced, plan: Plan, call: int, rank: int) -> int:
    known = fixed(dim)
    if known is not None:
        return known
    terms = _terms(dim, place, entry, rank)
    return sum(plan.size(t, call) if isinstance(t, Axis) else t for t in terms)


def _terms(dim: Dim, place: int, entry: Traced, rank: int | None = None) -> list[Axis | int]:
    """A dimension as a sum of classes and numbers, almost always of one."""
    rank = rank if rank is not None else len(entry.shape or ())
    if isinstance(dim, str) and "+" in dim:
        parts = [p.strip() for p in dim.split("+")]
        return [int(p) if p.isdecimal() else _class(p, place, entry, rank) for p in parts]
    return [_class(dim, place, entry, rank)]


def _class(dim: Dim, place: int, entry: Traced, rank: int) -> Axis | int:
    if entry.role is Role.AUDIO and place == rank - 1:
        return Axis.SAMPLES
    named = _by_name(dim.lower()) if isinstance(dim, str) else None
    return named if named is not None else _by_place(place, entry, rank)


_NAMED = (
    (names.BATCH_DIM, Axis.BATCH), (names.TOTAL_DIM, Axis.TOTAL), (names.PAST_DIM, Axis.PAST),
    (names.HEIGHT_DIM, Axis.HEIGHT), (names.WIDTH_DIM, Axis.WIDTH), (names.CHANNEL_DIM, Axis.CHANNELS),
    (names.SAMPLES_DIM, Axis.SAMPLES), (names.FRAMES_DIM, Axis.FRAMES), (names.SEQUENCE_DIM, Axis.SEQUENCE),
)  # fmt: skip


def _by_name(name: str) -> Axis | None:
    return next((axis for pattern, axis in _NAMED if pattern.search(name)), None)


def _by_place(place: int, entry: Traced, rank: int) -> Axis | int:
    role = entry.role
    if role in (Role.TOKENS, Role.MASK, Role.TYPES, Role.POSITIONS):
        return Axis.SEQUENCE if place == rank - 1 or place >= 2 else Axis.BATCH
    if role is Role.STATE:
        cached = rank == 4 and place == 2 and names.PAST_DIM.search(entry.spec.name.lower())
        return Axis.PAST if cached else 1
    if role is Role.IMAGE:
        return _image_axis(place, entry, rank)
    if role is Role.AUDIO:
        return Axis.SAMPLES if place == rank - 1 else Axis.BATCH if place == 0 else 1
    if role is Role.FEATURES and rank >= 2:
        return Axis.BATCH if place == 0 else Axis.FRAMES if rank == 3 else Axis.FREE
    return Axis.BATCH if rank else 1


def _image_axis(place: int, entry: Traced, rank: int) -> Axis:
    axes = (Axis.BATCH, Axis.HEIGHT, Axis.WIDTH, Axis.CHANNELS)
    if channels_first(entry.shape or (), entry.facts.sizes):
        axes = (Axis.BATCH, Axis.CHANNELS, Axis.HEIGHT, Axis.WIDTH)
    return axes[max(place + 4 - rank, 0)]


def channels_first(shape: Sequence[Dim], sizes: Mapping[int, int]) -> bool:
    """True unless the last axis, and not that before height and width, looks like channels."""
    if len(shape) < 3:
        return True
    first, last = shape[-3], shape[-1]
    return not (isinstance(last, int) and last <= 4 and not (isinstance(first, int) and first <= 4)) or 1 in sizes
