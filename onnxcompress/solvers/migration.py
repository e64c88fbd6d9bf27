r"""Outliers of an activation migrate into the weights that read it, where they do less harm.

With a positive s for each input feature,  x·W = (x / s)·(diag(s)·W).  Rounded to b bits with one step for the whole
activation and one for each column of the weights, the noise to be expected at the output in one position is

    activation:  Σⱼ min((sⱼ R/(2^b − 1))²/12, E[xⱼ²]) · ‖wⱼ‖²,   R = max(0, maxⱼ highⱼ/sⱼ) − min(0, minⱼ lowⱼ/sⱼ)
    weights:     Σₖ (maxⱼ sⱼ|wⱼₖ| / (2^(b−1) − 1))²/12 · Σⱼ E[xⱼ²]/sⱼ²

where a feature that is narrow beside the step is rounded to zero, and loses no more than itself. With r the largest
magnitude of each feature and m the largest weight that it meets, s is sought in two families:

    sⱼ = rⱼ^α / mⱼ^(1−α)   and   sⱼ = max(1, rⱼ/t)^β

The first flattens everything; the second touches only what is wider than t, which costs the weights little. No s makes
less activation noise than s = r does, where features reach as far on both sides.

After G. Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", ICML
2023, https://arxiv.org/abs/2211.10438; there α is set by hand, here the noise decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Array = np.ndarray

_PAYS = 0.9  # part of the noise that has to be left at most: a migration costs a pass over the activation
_ALPHAS = np.linspace(0, 1, 21)
_THRESHOLDS = 24
_BETAS = (1.0, 0.75, 0.5)
_JUDGED = 512  # columns of a weight from which its noise is told
_LEAST_WEIGHT = 1e-4  # of the largest one: below, rows of weights do not count in the first family
_WIDEST = 1e4  # s and 1/s at most, around their median


@dataclass(frozen=True)
class Migration:
    """What each input feature is divided by, (in,) float32, or None where it does not pay; noise before and after.

    Noise is the expected squared error at the outputs, summed over them, in one position.
    """

    s: Array | None
    before: float
    after: float


def cautious(s: Array) -> Array:
    """Factors (in,) that divide wide features and leave the others alone, the median being one.

    A feature that was quiet on a few samples need not be so on others: multiplied up it would become the outlier.
    """
    found: Array = (np.maximum(s, np.median(s)) / np.median(s)).astype(np.float32)
    return found


class Costs:
    """The noise to be expected for any s.

    Args:
        weights: matrices (in, out) that read one activation.
        low: least value of each feature (in,).
        high: greatest value of each feature (in,).
        square: E[x²] of each feature (in,).
        bits: of an activation and of a weight.

    Attributes:
        reach: largest magnitude of each feature.
        peak: largest weight that each feature meets.

    Raises:
        ValueError: shapes do not fit, there is no weight, or a number is not finite.
    """

    def __init__(self, weights: Sequence[Array], low: Array, high: Array, square: Array, bits: int = 8) -> None:
        self.low, self.high, self.square = (np.asarray(a, np.float64) for a in (low, high, square))
        features = self.low.shape
        fits = self.low.ndim == 1 and self.high.shape == features and self.square.shape == features
        if not weights or not fits or any(w.ndim != 2 or w.shape[:1] != features for w in weights):
            raise ValueError(f"weights {[w.shape for w in weights]} do not fit features {features}")
        self.reach = np.maximum(np.abs(self.low), np.abs(self.high))
        self.peak = np.max([np.abs(w).max(axis=1, initial=0) for w in weights], axis=0).astype(np.float64)
        # a Gram product in float32 would overflow where weights are large
        self._norms = sum(np.einsum("jk,jk->j", w, w, dtype=np.float64) for w in weights)
        numbers = (self.low, self.high, self.square, self.peak, self._norms)
        if not all(np.isfinite(a).all() for a in numbers) or (self.square < 0).any():
            raise ValueError("weights or statistics of features are not finite")
        self._steps = (2**bits - 1, 2 ** (bits - 1) - 1)
        self._columns = [_judged(w) for w in weights]

    def noise(self, s: Array) -> float:
        """Expected squared error, summed over the outputs, when features are divided by s (in,)."""
        return self.of_activation(s) + self.of_weights(s)

    def of_activation(self, s: Array) -> float:
        """The part of the noise that comes of rounding the activation."""
        wide = max(0.0, float((self.high / s).max(initial=0))) - min(0.0, float((self.low / s).min(initial=0)))
        lost = np.minimum(np.square(s * (wide / self._steps[0])) / 12, self.square)
        return float(np.dot(lost, self._norms))

    def of_weights(self, s: Array) -> float:
        """The part of the noise that comes of rounding the weights."""
        factor = s.astype(np.float32)[:, np.newaxis]
        peaks = sum(
            share * float(np.square((columns * factor).max(axis=0, initial=0), dtype=np.float64).sum())
            for columns, share in self._columns
        )
        return float(peaks / self._steps[1] ** 2 / 12 * (self.square / (s * s)).sum())


def migration(
    weights: Array | Sequence[Array], low: Array, high: Array, square: Array, bits: int = 8
) -> Migration:  # fmt: skip
    """The best s for all weights that read one activation.

    Args:
        weights: matrices (in, out), or one of them.
        low: least value of each feature (in,).
        high: greatest value of each feature (in,).
        square: E[x²] of each feature (in,).
        bits: of an activation and of a weight.

    Raises:
        ValueError: shapes do not fit, or a number is not finite.
    """
    matrices = [np.asarray(w, np.float32) for w in ([weights] if isinstance(weights, np.ndarray) else weights)]
    costs = Costs(matrices, low, high, square, bits)
    ones = np.ones(len(costs.low))
    before = costs.noise(ones)
    best, found = before, ones
    for s in candidates(costs.reach, costs.peak):
        noise = costs.noise(s)
        if noise < best:
            best, found = noise, s
    if not best < _PAYS * before:
        return Migration(None, before, before)
    return Migration(found.astype(np.float32), before, best)


def candidates(reach: Array, peak: Array) -> Iterator[Array]:
    """Vectors s (in,) to try, from largest magnitudes of features (in,) and of their weights (in,)."""
    seen = reach > 0
    if not seen.any() or not (peak > 0).any():
        return
    weight = np.maximum(peak, _LEAST_WEIGHT * peak.max())
    width = np.where(seen, reach, 1.0)
    for alpha in _ALPHAS:
        yield _centred(width**alpha / weight ** (1 - alpha), seen)
    low, high = np.quantile(reach[seen], 0.25), reach.max()
    for threshold in np.geomspace(low, high, _THRESHOLDS, endpoint=False):
        for beta in _BETAS:
            yield _centred(np.maximum(1.0, width / threshold) ** beta, seen)


def _centred(s: Array, seen: Array) -> Array:
    """The same up to a factor, which changes nothing: around one, within bounds, one where nothing is seen.

    Rounded to float32, so that noise is told of what is handed out.
    """
    bounded = np.clip(s / np.median(s[seen]), 1 / _WIDEST, _WIDEST)
    return np.where(seen, bounded, 1.0).astype(np.float32).astype(np.float64)


def _judged(weight: Array) -> tuple[Array, float]:
    """Magnitudes of some columns, evenly spread, and for how many each of them stands."""
    step = max(1, -(-weight.shape[1] // _JUDGED))
    columns = np.abs(weight[:, ::step])
    return columns, weight.shape[1] / max(columns.shape[1], 1)
