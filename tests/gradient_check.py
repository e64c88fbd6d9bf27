"""Gradients against central differences of the loss along random directions, in float64 or float32."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnxcompress.graph import writer
from onnxcompress.graph.opset import raised
from onnxcompress.training import gradients
from tests.float64 import Float64

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from onnxcompress.graph.model import Model
    from onnxcompress.training.gradients import Arrays, GradientGraph
    from onnxcompress.training.losses import Loss

_STEPS = tuple(0.3**k for k in range(3, 11))
_FINE = (1e-5, 1e-6, 1e-7, 1e-8)  # small, so that no kink of a deep network is crossed


def direction(weights: Mapping[str, np.ndarray], seed: int) -> Arrays:
    """A random direction, in each weight as long as the weight (or of length 1 where that is zero)."""
    generator = np.random.default_rng(seed)
    found = {}
    for name, weight in weights.items():
        raw = generator.standard_normal(weight.shape)
        found[name] = raw * (float(np.linalg.norm(weight)) or 1.0) / np.linalg.norm(raw)
    return found


def float64_loss(
    model: Model, losses: Sequence[Loss], names: Collection[str], targets: Arrays, feeds: Arrays
) -> Callable[[Arrays], float]:
    """The loss as a function of weights, computed in float64 from the model as it is, nothing rewritten."""
    model = raised(model, gradients.OPSET) if model.opset < gradients.OPSET else model
    proto = onnx.ModelProto.FromString(writer.to_bytes(model))
    gradients._keep_outputs(proto, losses)
    gradients._promote(proto, list(names))
    gradients._append(proto, losses)
    found = Float64(proto)
    given = {**feeds, **{gradients._TARGET + k: v for k, v in targets.items()}}
    there = {i.name for i in proto.graph.input}
    fixed = {k: v for k, v in given.items() if k in there}
    return lambda weights: float(found.run({**fixed, **weights})[gradients._LOSS])


def float64_error(
    graph: GradientGraph, loss: Callable[[Arrays], float], feeds: Arrays, targets: Arrays, seed: int = 0
) -> float:
    """|gradient · d − difference| over the larger of the two, the difference taken in float64.

    The step is the one at which two differences agree best, which is found without looking at the gradient.
    """
    along = direction(graph.weights, seed)
    slope = graph.run(graph.weights, feeds, targets)
    expected = sum(float(np.vdot(slope.gradients[k].astype(np.float64), v)) for k, v in along.items())
    wide = {k: w.astype(np.float64) for k, w in graph.weights.items()}

    def moved(step: float) -> float:
        return loss({k: w + step * along[k] for k, w in wide.items()})

    return _error(moved, expected, _FINE)


def relative_error(graph: GradientGraph, feeds: Arrays, targets: Arrays, seed: int = 0) -> float:
    """The same with the loss of the graph itself, in float32."""
    along = direction(graph.weights, seed)
    slope = graph.run(graph.weights, feeds, targets)
    expected = sum(float(np.vdot(slope.gradients[k].astype(np.float64), v)) for k, v in along.items())

    def moved(step: float) -> float:
        weights = {k: (w + step * along[k]).astype(np.float32) for k, w in graph.weights.items()}
        return graph.run(weights, feeds, targets).loss

    return _error(moved, expected, _STEPS)


def _error(moved: Callable[[float], float], expected: float, steps: Sequence[float]) -> float:
    found = [(moved(h) - moved(-h)) / (2 * h) for h in steps]
    gaps = [abs(a - b) for a, b in itertools.pairwise(found)]
    best = found[int(np.argmin(gaps)) + 1]
    return abs(best - expected) / max(abs(best), abs(expected), 1e-30)
