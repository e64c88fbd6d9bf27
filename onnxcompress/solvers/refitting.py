"""A linear layer fitted to what it should give, on what it gets in a model that was changed before it.

With inputs Z (n, in) of the changed model, outputs Y (n, out) of the original and R = Y − Z Wᵀ,

    Δ = argmin ‖R − Z Δ‖² + λ ‖Δ‖² = (ZᵀZ + λ I)⁻¹ ZᵀR,      Wᵀ ← Wᵀ + Δ

The ridge λ keeps the layer where the data say nothing; it is the one of a few under which samples that were not fitted
lose least. Ridge regression: Hoerl & Kennard 1970; sequential statistics as in SparseGPT, arXiv 2301.00774.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)  # of the mean square of an input
_GAIN = 0.995  # of the error on other samples, above which a change is not worth it


@dataclass
class Sums:
    """ZᵀZ (in, in), ZᵀR (in, out), ‖R‖² and the number of rows, over some samples."""

    inputs: Array
    products: Array
    energy: float
    count: int

    @classmethod
    def none(cls, width: int, outputs: int) -> Sums:
        """Of no samples."""
        return cls(np.zeros((width, width)), np.zeros((width, outputs)), 0.0, 0)

    def add(self, inputs: Array, residuals: Array) -> None:
        """Add rows of Z (n, in) and of R (n, out)."""
        z, r = inputs.astype(np.float64), residuals.astype(np.float64)
        self.inputs += z.T @ z
        self.products += z.T @ r
        self.energy += float(np.square(r).sum())
        self.count += len(z)

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.inputs + other.inputs, self.products + other.products,
            self.energy + other.energy, self.count + other.count,
        )  # fmt: skip

    def left(self, change: Array) -> float:
        """‖R − Z Δ‖², from the sums alone."""
        return self.energy - 2 * float((change * self.products).sum()) + float((change * (self.inputs @ change)).sum())

    def change(self, ridge: float) -> Array:
        """Δ (in, out) for a ridge relative to the mean square of an input.

        Raises:
            numpy.linalg.LinAlgError: the inputs are all zero.
        """
        width = len(self.inputs)
        strength = ridge * float(np.trace(self.inputs)) / width
        return np.linalg.solve(self.inputs + strength * np.eye(width), self.products)


def refitted(learned: Sums, held: Sums) -> tuple[Array, float] | None:
    """The change Δ (in, out) and the share of the error on held samples that is left; None where it is no gain."""
    if not learned.count or not held.count or held.energy <= 0 or not np.isfinite(held.energy + learned.energy):
        return None
    best: tuple[float, float] | None = None
    for ridge in RIDGES:
        try:
            left = held.left(learned.change(ridge))
        except np.linalg.LinAlgError:
            continue
        if np.isfinite(left) and (best is None or left < best[0]):
            best = (left, ridge)
    if best is None or best[0] > _GAIN * held.energy:
        return None
    return (learned + held).change(best[1]), best[0] / held.energy
