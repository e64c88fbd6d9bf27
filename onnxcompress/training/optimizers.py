"""How weights move against their gradient: SGD with momentum, Adam, AdamW.

With g the gradient, η the rate of a weight, λ the weight decay, and t counted from 1:

    sgd    g += λ w,   v ← μ v + g,   w ← w − η v
    adam   g += λ w,   m ← β₁ m + (1−β₁) g,   s ← β₂ s + (1−β₂) g²,
           w ← w − η m̂ / (√ŝ + ε)   with   m̂ = m / (1−β₁ᵗ),   ŝ = s / (1−β₂ᵗ)
    adamw  the same without λ in g, and w ← w − η λ w before

Kingma & Ba 2015, arXiv 1412.6980; Loshchilov & Hutter 2019, arXiv 1711.05101.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

Arrays = dict[str, np.ndarray]
Kind = Literal["adamw", "adam", "sgd"]


class Optimizer(Protocol):
    """Moves weights, and remembers what it needs to from step to step."""

    def step(self, weights: Arrays, gradients: Mapping[str, np.ndarray], rates: Mapping[str, float]) -> None:
        """Move each weight in place, at a rate of its own; a weight without gradient stays."""

    def state(self) -> Arrays:
        """All that it remembers, as arrays."""

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what `state` gave."""


@dataclass
class Sgd:
    """Gradient descent with momentum."""

    momentum: float = 0.9
    decay: float = 0.0
    _velocity: Arrays = field(default_factory=dict)

    def step(self, weights: Arrays, gradients: Mapping[str, np.ndarray], rates: Mapping[str, float]) -> None:
        """As of `Optimizer`."""
        for name, gradient in gradients.items():
            slope = gradient + np.float32(self.decay) * weights[name] if self.decay else gradient
            velocity = self._velocity.setdefault(name, np.zeros_like(weights[name]))
            velocity *= np.float32(self.momentum)
            velocity += slope
            weights[name] -= np.float32(rates[name]) * velocity

    def state(self) -> Arrays:
        """As of `Optimizer`."""
        return {f"velocity {name}": v for name, v in self._velocity.items()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """As of `Optimizer`."""
        self._velocity = _named(state, "velocity ")


@dataclass
class Adam:
    """Adam, or with ``decoupled`` decay AdamW."""

    decay: float = 0.0
    decoupled: bool = False
    first: float = 0.9
    second: float = 0.999
    epsilon: float = 1e-8
    _mean: Arrays = field(default_factory=dict)
    _square: Arrays = field(default_factory=dict)
    _count: int = 0

    def step(self, weights: Arrays, gradients: Mapping[str, np.ndarray], rates: Mapping[str, float]) -> None:
        """As of `Optimizer`."""
        self._count += 1
        unbias_mean, unbias_square = 1 - self.first**self._count, 1 - self.second**self._count
        for name, gradient in gradients.items():
            weight, rate = weights[name], rates[name]
            slope = gradient
            if self.decay and self.decoupled:
                weight *= np.float32(1 - rate * self.decay)
            elif self.decay:
                slope = gradient + np.float32(self.decay) * weight
            mean = self._mean.setdefault(name, np.zeros_like(weight))
            square = self._square.setdefault(name, np.zeros_like(weight))
            mean += np.float32(1 - self.first) * (slope - mean)
            square += np.float32(1 - self.second) * (slope * slope - square)
            root = np.sqrt(square / np.float32(unbias_square)) + np.float32(self.epsilon)
            weight -= np.float32(rate / unbias_mean) * mean / root

    def state(self) -> Arrays:
        """As of `Optimizer`."""
        kept = {f"mean {name}": v for name, v in self._mean.items()}
        kept |= {f"square {name}": v for name, v in self._square.items()}
        return kept | {"count": np.array(self._count, np.int64)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """As of `Optimizer`."""
        self._mean, self._square = _named(state, "mean "), _named(state, "square ")
        self._count = int(state["count"])


def optimizer(kind: Kind, decay: float) -> Optimizer:
    """The optimizer of that name."""
    return Sgd(decay=decay) if kind == "sgd" else Adam(decay, decoupled=kind == "adamw")


def clipped(gradients: Mapping[str, np.ndarray], limit: float) -> tuple[Arrays, float]:
    """Gradients shortened together to a norm of at most ``limit``, and the norm that they had.

    A norm that is not finite makes all of them zero: such a step is none.
    """
    norm = float(np.sqrt(sum(float(np.vdot(g, g)) for g in gradients.values())))
    if not np.isfinite(norm):
        return {name: np.zeros_like(g) for name, g in gradients.items()}, norm
    factor = np.float32(limit / norm) if norm > limit else np.float32(1)
    return {name: g * factor for name, g in gradients.items()}, norm


def _named(state: Mapping[str, np.ndarray], prefix: str) -> Arrays:
    return {name.removeprefix(prefix): np.array(v) for name, v in state.items() if name.startswith(prefix)}
