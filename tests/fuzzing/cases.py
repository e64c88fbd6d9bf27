"""A case: a damaged model and what is done with it. Each follows from the seed and its number alone."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import onnx

from tests.fuzzing import structure_mutators, wire_mutators
from tests.fuzzing.verbs import LOAD, VERBS

if TYPE_CHECKING:
    from tests.fuzzing.seeds import Seeds

_STEPS = (1, 1, 1, 2, 2, 3, 5)  # changes to one model
_ON_BYTES = 0.5  # of the cases that only read a model
_GENTLE = 0.7  # of whole verbs
_ON_BYTES_OF_VERBS = 0.05  # most of these do not get beyond reading


@dataclass(frozen=True)
class Case:
    """``verb`` is one of `VERBS`, ``model`` a file's bytes, ``changes`` the names of what was done to it."""

    verb: str
    model: bytes
    changes: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """Cases by number; a fraction ``verbs`` of them are whole verbs."""

    seeds: Seeds
    seed: int
    verbs: float

    def case(self, number: int) -> Case:
        """The case of a number."""
        rng = Random(f"{self.seed}:{number}")
        verb = rng.choice(VERBS) if rng.random() < self.verbs else LOAD
        model = rng.choice(self.seeds.plain if verb == LOAD and rng.random() < 0.9 else self.seeds.layered)
        count = rng.choice(_STEPS)
        if rng.random() < (_ON_BYTES if verb == LOAD else _ON_BYTES_OF_VERBS):
            return Case(verb, *_on_bytes(rng, model, count))
        return Case(verb, *_on_structure(rng, model, count, gentle=verb != LOAD and rng.random() < _GENTLE))


def _on_bytes(rng: Random, model: bytes, count: int) -> tuple[bytes, tuple[str, ...]]:
    chosen = rng.choices(wire_mutators.MUTATORS, k=count)
    for change in chosen:
        model = change(rng, model)
    return model, tuple(change.__name__ for change in chosen)


def _on_structure(rng: Random, model: bytes, count: int, *, gentle: bool) -> tuple[bytes, tuple[str, ...]]:
    proto = onnx.ModelProto.FromString(model)
    chosen = rng.choices(structure_mutators.GENTLE if gentle else structure_mutators.MUTATORS, k=count)
    for change in chosen:
        change(rng, proto)
    return bytes(proto.SerializeToString()), tuple(change.__name__ for change in chosen)
