"""The likelihood that a model gives to targets drawn from its own outputs, where there are no labels.

With y an output, t a target drawn for it, and σ² the variance of the output over some calls:

    classes   t ~ softmax(y),    ℓ = − log softmax(y)[t]
    numbers   t ~ N(y, σ²),      ℓ = (y − t)² / (2 σ²) + constant

The expected square of ∂ℓ/∂w is the diagonal of the Fisher information (Kunstner, Hennig & Balles 2019, arXiv
1905.12558), while the gradient of the distance between the outputs and themselves is zero. Targets of rows, or of
elements, are drawn independently, so products of the gradients of two vanish on average: the square of the gradient of
a mean over n of them is 1/n of their mean square. Losses are weighted by √n to undo that, so that each output counts
by its average row, or element, however many there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from onnxcompress.errors import ModelError
from onnxcompress.stats.scores import class_like, probabilities, producers
from onnxcompress.training.exposing import FLAT, Exposing, joined, values_before, values_behind, variance
from onnxcompress.training.losses import Loss

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from onnxcompress.graph.model import Model

Array = np.ndarray
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class _Part:
    """An output, the loss on it, and how targets are drawn: with a deviation, or as classes, of scores or odds."""

    output: str
    loss: Loss
    deviation: float | None
    odds: bool = False

    def drawn(self, value: Array, rng: np.random.Generator) -> Array:
        """Targets for an output: numbers of its shape, or int64 labels without its last axis."""
        if self.deviation is not None:
            noise = rng.standard_normal(value.shape, np.float32)
            return np.asarray(value + np.float32(self.deviation) * noise, np.float32)
        return _labels(value if self.odds else _softmax(value), rng)


@dataclass(frozen=True, eq=False)
class Likelihood:
    """``model`` has the values as outputs that the losses read; ``terms`` are rows or elements in the first call."""

    model: Model
    parts: tuple[_Part, ...]
    terms: int

    def reaching(self, names: Sequence[str]) -> list[str]:
        """The weights, out of these, that the losses depend on."""
        before = values_before(self.model.proto.graph, {part.loss.output for part in self.parts})
        return [name for name in names if name in before]

    @property
    def losses(self) -> list[Loss]:
        """Their sum is the negative logarithm of the likelihood."""
        return [part.loss for part in self.parts]

    def drawn(self, given: Mapping[str, Array], rng: np.random.Generator) -> Arrays:
        """Targets of a call, from what the model gives."""
        return {part.loss.output: part.drawn(given[part.output], rng) for part in self.parts}

    def factor(self, given: Mapping[str, Array]) -> float:
        """What gradients of a call are multiplied by, as it has more or fewer rows than the first."""
        return math.sqrt(sum(_terms(given[p.output], p.loss) for p in self.parts) / self.terms)


def likelihood(model: Model, names: Collection[str], shown: Sequence[Mapping[str, Array]]) -> Likelihood:
    """The likelihood of targets at all outputs that depend on weights.

    Args:
        model: not changed.
        names: of the weights.
        shown: float outputs in some calls, which show what they are like.

    Raises:
        ModelError: no output is float32, varies, and depends on the weights.
    """
    twin = model.copy()
    graph = twin.proto.graph
    build, made, like = Exposing(graph, values_behind(graph, set(names))), producers(graph), joined(shown)
    parts = []
    floats = [o.name for o in graph.output if o.type.tensor_type.elem_type == TensorProto.FLOAT]
    for name in (n for n in floats if n in build.reached):
        value, spread = like[name], variance(like[name])
        if spread <= FLAT:
            continue
        if class_like(name, value, made.get(name)):
            odds = probabilities(value.reshape(-1, value.shape[-1]))
            read = build.logs(name, value.ndim) if odds else build.exposed(name, value.ndim)
            weight = math.sqrt(_rows(shown[0][name]))
            parts.append(_Part(name, Loss("cross_entropy", read, weight=weight), None, odds))
        else:
            weight = math.sqrt(shown[0][name].size) / (2 * spread)
            loss = Loss("mse", build.exposed(name, value.ndim), weight=weight)
            parts.append(_Part(name, loss, math.sqrt(spread)))
    if not parts:
        raise ModelError("no output of the model is float32, varies, and depends on its weights", "Leave it as it is.")
    return Likelihood(twin, tuple(parts), sum(_terms(shown[0][p.output], p.loss) for p in parts))


def _terms(value: Array, loss: Loss) -> int:
    return _rows(value) if loss.kind == "cross_entropy" else max(value.size, 1)


def _rows(value: Array) -> int:
    return max(math.prod(value.shape[:-1]), 1)


def _softmax(value: Array) -> Array:
    raised = np.exp(value - value.max(axis=-1, keepdims=True), dtype=np.float64)
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def _labels(odds: Array, rng: np.random.Generator) -> Array:
    """A class for each row of probabilities, int64."""
    edges = np.cumsum(np.maximum(odds, 0), axis=-1, dtype=np.float64)
    places = rng.random((*odds.shape[:-1], 1)) * edges[..., -1:]
    return np.asarray(np.minimum((edges <= places).sum(axis=-1), odds.shape[-1] - 1), np.int64)
