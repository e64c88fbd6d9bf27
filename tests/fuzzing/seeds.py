"""What is mutated: the models of ONNX's backend tests, some of them between layers, and the sample models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.backend_models import KINDS, examples
from tests.backend_variants import SIDES, embedded
from tests.fuzzing.networks import NETWORKS

_SAMPLES = Path(__file__).parents[2] / "sample_models"
_SMALL = ("simple", "pytorch-converted", "pytorch-operator")  # kinds that are read and not computed


@dataclass(frozen=True)
class Seeds:
    """Serialized models: ``plain`` of any kind, ``layered`` with stored weights, which verbs work on."""

    plain: tuple[bytes, ...]
    layered: tuple[bytes, ...]


def seeds(*, few: bool) -> Seeds:
    """All models; ``few``: those that are there at once."""
    kinds = _SMALL if few else KINDS
    found = [example for kind in kinds for example in examples(kind)]
    layered = list[bytes]()
    for number, example in enumerate(found):
        made = embedded(example, SIDES[number % len(SIDES)], every=False)
        if made is not None:
            layered.append(made.model)
    samples = [path.read_bytes() for path in sorted(_SAMPLES.glob("*.onnx"))]
    networks = [*NETWORKS, samples[0]] * (1 + len(layered) // len(NETWORKS))  # as often as all others together
    return Seeds(tuple([e.model for e in found] + samples), tuple(layered + networks))
