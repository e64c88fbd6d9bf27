"""What values a trained weight may have; the optimizer moves a shadow of it in float, the model sees its projection.

The gradient at the projection is taken for that at the shadow (straight-through: Bengio, Léonard & Courville 2013,
arXiv 1308.3432). With ŵ what the model sees and w the shadow:

    free     ŵ = w
    sparse   ŵ = w on a fixed support, 0 elsewhere
    half     ŵ = w rounded to float16
    codes    ŵ = o + s · clip(round((w − o) / s), low, high),   on the grid that the stored codes stand for
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

Array = np.ndarray
_BEYOND = 0.45  # of a step, that a shadow may leave its range: the way back must not be long


class Constraint(Protocol):
    """A set of values; arrays have the shape of the weight, float32."""

    def projected(self, shadow: Array) -> Array:
        """What the model sees."""

    def held(self, shadow: Array) -> Array:
        """The shadow, where it strayed so far that a gradient would not find back."""

    def spread(self, shadow: Array) -> float:
        """The root mean square of the values that can move."""


@dataclass(frozen=True)
class Free:
    """Any values."""

    def projected(self, shadow: Array) -> Array:
        """As of `Constraint`."""
        return shadow

    def held(self, shadow: Array) -> Array:
        """As of `Constraint`."""
        return shadow

    def spread(self, shadow: Array) -> float:
        """As of `Constraint`."""
        return _rms(shadow)


@dataclass(frozen=True, eq=False)
class Sparse:
    """Zero but where ``support`` is true."""

    support: Array

    def projected(self, shadow: Array) -> Array:
        """As of `Constraint`."""
        return np.where(self.support, shadow, np.float32(0))

    def held(self, shadow: Array) -> Array:
        """As of `Constraint`."""
        return self.projected(shadow)

    def spread(self, shadow: Array) -> float:
        """As of `Constraint`."""
        return _rms(shadow[self.support])


@dataclass(frozen=True)
class Half:
    """Values of a float16."""

    def projected(self, shadow: Array) -> Array:
        """As of `Constraint`."""
        return shadow.astype(np.float16).astype(np.float32)

    def held(self, shadow: Array) -> Array:
        """As of `Constraint`."""
        return shadow

    def spread(self, shadow: Array) -> float:
        """As of `Constraint`."""
        return _rms(shadow)


@dataclass(frozen=True, eq=False)
class Codes:
    """``origin`` + ``step`` · code for whole codes from ``low`` to ``high``; all of the weight's shape.

    Where ``free`` is false the code is that of ``codes``, and stays.
    """

    origin: Array
    step: Array
    codes: Array
    free: Array
    low: int
    high: int

    def coded(self, shadow: Array) -> Array:
        """The codes, int16."""
        safe = np.where(self.free, self.step, np.float32(1))
        found = np.clip(np.rint((shadow - self.origin) / safe), self.low, self.high).astype(np.int16)
        return np.asarray(np.where(self.free, found, self.codes))

    def values(self, codes: Array) -> Array:
        """What codes stand for."""
        return np.asarray(self.origin + self.step * codes.astype(np.float32), np.float32)

    def projected(self, shadow: Array) -> Array:
        """As of `Constraint`."""
        return self.values(self.coded(shadow))

    def held(self, shadow: Array) -> Array:
        """As of `Constraint`."""
        ends = [self.origin + self.step * np.float32(e) for e in (self.low - _BEYOND, self.high + _BEYOND)]
        return np.asarray(np.clip(shadow, np.minimum(*ends), np.maximum(*ends)))

    def started(self, wanted: Array) -> Array:
        """A shadow whose projection is that of the present codes, as close to ``wanted`` as that allows."""
        seen, reach = self.values(self.codes), np.abs(self.step) * np.float32(_BEYOND)
        return np.asarray(np.clip(wanted, seen - reach, seen + reach), np.float32)

    def spread(self, shadow: Array) -> float:
        """As of `Constraint`."""
        return _rms(shadow[self.free])


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if values.size else 0.0
