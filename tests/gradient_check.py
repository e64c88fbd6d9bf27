"""Gradients against central differences of the loss along random directions."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnxcompress.training.gradients import Arrays, GradientGraph

_STEPS = tuple(0.3**k for k in range(3, 11))


def direction(weights: Mapping[str, np.ndarray], seed: int) -> Arrays:
    """A random direction, in each weight as long as the weight (or of length 1 where that is zero)."""
    generator = np.random.default_rng(seed)
    found = {}
    for name, weight in weights.items():
        raw = generator.standard_normal(weight.shape)
        found[name] = raw * (float(np.linalg.norm(weight)) or 1.0) / np.linalg.norm(raw)
    return found


def relative_error(graph: GradientGraph, feeds: Arrays, targets: Arrays, seed: int = 0) -> float:
    """|gradient · d − difference| over the larger of the two.

    The step is the one at which two differences agree best, which is found without looking at the gradient.
    """
    along = direction(graph.weights, seed)
    slope = graph.run(graph.weights, feeds, targets)
    expected = sum(float(np.vdot(slope.gradients[k].astype(np.float64), v)) for k, v in along.items())

    def loss(step: float) -> float:
        moved = {k: (w + step * along[k]).astype(np.float32) for k, w in graph.weights.items()}
        return graph.run(moved, feeds, targets).loss

    found = [(loss(h) - loss(-h)) / (2 * h) for h in _STEPS]
    gaps = [abs(a - b) for a, b in itertools.pairwise(found)]
    best = found[int(np.argmin(gaps)) + 1]
    return abs(best - expected) / max(abs(best), abs(expected), 1e-30)
