"""The likelihood that a model gives to targets drawn from its own outputs, where there are no labels.

With y an output, t a target drawn for it, and σ² the variance of the output over some calls:

    t ~ N(y, σ²),    ℓ = (y − t)² / (2 σ²) + constant

The expected square of ∂ℓ/∂w is the diagonal of the Fisher information (Kunstner, Hennig & Balles 2019, arXiv
1905.12558), while the gradient of the distance between the outputs and themselves is zero. Targets of elements are
drawn independently, so products of the gradients of two vanish on average: the square of the gradient of a mean over n
of them is 1/n of their mean square. Losses are weighted by √n to undo that, so that each output counts by its average
element, however many there are.

Scores of classes are numbers as well, those of a Softmax at what it reads. Labels drawn from them are nearly always the
best class where a model is sure, which has no gradient then, and a few calls decide: at half the weights of the digits
of the sample models that loses 9 dB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from onnxcompress.errors import ModelError
from onnxcompress.training.exposing import FLAT, Exposing, joined, values_before, values_behind, variance
from onnxcompress.training.losses import Loss

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import onnx

    from onnxcompress.graph.model import Model

Array = np.ndarray
Arrays = dict[str, np.ndarray]
_ODDS = ("Softmax", "LogSoftmax")


@dataclass(frozen=True)
class _Part:
    """A value, the loss on it, and its deviation σ."""

    value: str
    loss: Loss
    deviation: float


@dataclass(frozen=True, eq=False)
class Likelihood:
    """``model`` has the values as outputs that the losses read; ``terms`` are the elements in the first call."""

    model: Model
    parts: tuple[_Part, ...]
    terms: int

    @property
    def losses(self) -> list[Loss]:
        """Their sum is the negative logarithm of the likelihood."""
        return [part.loss for part in self.parts]

    def reaching(self, names: Sequence[str]) -> list[str]:
        """The weights, out of these, that the losses depend on."""
        before = values_before(self.model.proto.graph, {part.loss.output for part in self.parts})
        return [name for name in names if name in before]

    def drawn(self, given: Mapping[str, Array], rng: np.random.Generator) -> Arrays:
        """Targets of a call, from what the model gives."""
        return {
            p.loss.output: given[p.value]
            + np.float32(p.deviation) * rng.standard_normal(given[p.value].shape, np.float32)
            for p in self.parts
        }

    def factor(self, given: Mapping[str, Array]) -> float:
        """What gradients of a call are multiplied by, as it has more or fewer elements than the first."""
        return math.sqrt(sum(given[p.value].size for p in self.parts) / self.terms)


def judged(graph: onnx.GraphProto) -> list[str]:
    """The values that targets are drawn for: the float32 outputs, or what is read by the Softmax that makes them."""
    made = {name: node for node in graph.node for name in node.output}
    found = []
    for output in graph.output:
        if output.type.tensor_type.elem_type != TensorProto.FLOAT:
            continue
        node = made.get(output.name)
        while node is not None and node.op_type == "Identity":
            node = made.get(node.input[0])
        found.append(node.input[0] if node is not None and node.op_type in _ODDS else output.name)
    return list(dict.fromkeys(found))


def likelihood(model: Model, names: Collection[str], shown: Sequence[Mapping[str, Array]]) -> Likelihood:
    """The likelihood of targets at all `judged` values that depend on weights.

    Args:
        model: not changed.
        names: of the weights.
        shown: those values in some calls, which show what they are like.

    Raises:
        ModelError: none of them is float32, varies, and depends on the weights.
    """
    twin = model.copy()
    graph = twin.proto.graph
    build, like = Exposing(graph, values_behind(graph, set(names))), joined(shown)
    parts = []
    for value in judged(model.proto.graph):
        spread = variance(like[value])
        if value in build.reached and spread > FLAT:
            weight = math.sqrt(max(shown[0][value].size, 1)) / (2 * spread)
            read = build.exposed(value, like[value].ndim)
            parts.append(_Part(value, Loss("mse", read, weight=weight), math.sqrt(spread)))
    if not parts:
        raise ModelError("no output of the model is float32, varies, and depends on its weights", "Leave it as it is.")
    return Likelihood(twin, tuple(parts), max(sum(shown[0][p.value].size for p in parts), 1))
