"""What each input of a model is for, from what the graph does with it, its type and shape, and its name.

The graph comes first: an integer that indexes a table of 30,000 rows is a token id, whatever it is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from onnxcompress.data import names
from onnxcompress.data.fit import fixed, kind
from onnxcompress.data.slots import SLOTS, Fill

if TYPE_CHECKING:
    from onnxcompress.data.trace import Facts
    from onnxcompress.graph.interface import Dim, ValueSpec


class Role(Enum):
    """What an input is for."""

    TOKENS = auto()  # indices below the row count of the tables they reach
    MASK = auto()  # ones
    TYPES = auto()  # zeros
    POSITIONS = auto()  # counting up
    LENGTH = auto()  # the length of the sequence beside it
    STATE = auto()  # zeros; a cache of past keys and values starts empty
    CHOICE = auto()  # a scalar that the graph compares with constants, such as a sample rate
    FLAG = auto()  # a boolean
    TIMESTEP = auto()  # a step of a diffusion process
    IMAGE = auto()
    IMAGE_SIZE = auto()  # height and width of the image beside it
    AUDIO = auto()
    FEATURES = auto()  # floats of any other kind
    ONES = auto()  # factors, and integers of which nothing is known
    TEXT = auto()  # strings
    SLOT = auto()  # an argument of an operator, such as a shape or an axis


@dataclass(frozen=True)
class Traced:
    """One input: its declaration, what the graph does with it, and so its role."""

    spec: ValueSpec
    facts: Facts
    role: Role
    fill: Fill | None = None

    @property
    def shape(self) -> tuple[Dim, ...] | None:
        """The declared shape, with open dimensions closed where the graph prescribes a size."""
        if self.spec.shape is None:
            return None
        return tuple(self.facts.sizes.get(i, d) if fixed(d) is None else d for i, d in enumerate(self.spec.shape))


def traced(spec: ValueSpec, facts: Facts) -> Traced:
    """An input with its role."""
    fill = next((SLOTS[end] for end in sorted(facts.ends) if end in SLOTS), None)
    role = _role(spec, facts, fill)
    return Traced(spec, facts, role, fill if role is Role.SLOT else None)


def _role(spec: ValueSpec, facts: Facts, fill: Fill | None) -> Role:
    name = spec.name.lower().rsplit("/", 1)[-1].split(":")[0]
    type_kind = "other" if spec.dtype is None else kind(spec.dtype)
    if type_kind == "string":
        return Role.TEXT
    if fill is not None:
        return Role.SLOT
    if _is_state(name, facts, type_kind):
        return Role.STATE
    if type_kind == "bool":
        return Role.MASK if "mask" in name or len(spec.shape or ()) > 1 else Role.FLAG
    if names.IMAGE_SIZE.search(name) and len(spec.shape or ()) <= 2:
        return Role.IMAGE_SIZE
    if names.TIMESTEP.search(name) and len(spec.shape or ()) <= 1:
        return Role.TIMESTEP
    if type_kind == "int":
        return _integer_role(name, spec, facts)
    return _float_role(name, spec, facts)


def _is_state(name: str, facts: Facts, type_kind: str) -> bool:
    recurrent = any(op in ("LSTM", "GRU", "RNN") and slot in (5, 6) for op, slot in facts.ends)
    return recurrent or (names.STATE.search(name) is not None and type_kind != "bool" and facts.rows is None)


def _integer_role(name: str, spec: ValueSpec, facts: Facts) -> Role:
    role = names.text_role(name)
    if role == "types":
        return Role.TYPES
    if role == "positions":
        return Role.POSITIONS
    if facts.rows is not None:
        return Role.TOKENS
    if _is_image(spec, facts):
        return Role.IMAGE
    if names.LENGTH.search(name):
        return Role.LENGTH
    if names.RATE.search(name) or (facts.compared and _is_scalar(spec)):
        return Role.CHOICE
    if len(facts.compared) > 2 or role == "ids":
        return Role.TOKENS
    return Role.MASK if role == "mask" else Role.ONES


def _float_role(name: str, spec: ValueSpec, facts: Facts) -> Role:
    rank = facts.rank if spec.shape is None else len(spec.shape)
    if names.text_role(name) == "mask":
        return Role.MASK
    if names.RATE.search(name) or (facts.compared and _is_scalar(spec)):
        return Role.CHOICE
    if names.LENGTH.search(name) and rank is not None and rank <= 1:
        return Role.LENGTH
    if names.SCALE.search(name) and rank is not None and rank <= 2:
        return Role.ONES
    if _is_image(spec, facts):
        return Role.IMAGE
    return Role.AUDIO if _is_audio(name, spec, facts) else Role.FEATURES


def _is_scalar(spec: ValueSpec) -> bool:
    return spec.shape is not None and all(d == 1 for d in spec.shape)


def _is_image(spec: ValueSpec, facts: Facts) -> bool:
    """Four axes, or three with channels among them, and two that can be height and width."""
    shape = Traced(spec, facts, Role.IMAGE).shape
    if shape is None:
        return facts.rank == 4
    if len(shape) == 4:
        return True
    return len(shape) == 3 and 3 in (shape[0], shape[2]) and facts.reaches("Transpose", "Unsqueeze", "Resize", "Conv")


def _is_audio(name: str, spec: ValueSpec, facts: Facts) -> bool:
    """One long axis that is convolved or transformed, or a name that says so."""
    shape = spec.shape
    if shape is None or not 1 <= len(shape) <= 3 or (len(shape) == 3 and shape[1] not in (1, 2)):
        return False
    last = fixed(shape[-1])
    if names.AUDIO.search(name):
        return last is None or last >= 128
    if last is not None:
        return last >= 512 and facts.reaches("Conv", "STFT", "DFT")
    return -1 % len(shape) not in facts.sizes and facts.reaches("Conv", "STFT", "DFT", "Pad")
