r"""Cross-layer equalization: what one layer writes and the next one reads gets the same range in every feature.

    f(W₁x)·W₂ = f(diag(1/s)·W₁x)·(diag(s)·W₂)   for positively homogeneous f and s > 0

With r₁ the range of the weights that write a feature and r₂ of those that read it, one scale for a whole tensor loses
least where r₁/s = s·r₂ in all features:  s = √(r₁/r₂), after which both are √(r₁r₂). Where the scales of the weights
before are per output channel they lose nothing whatever s is, and it is the value between, of range a, that one scale
has to hold: then a takes the place of r₁. Where both count, √(r₁a) does.

After M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019,
https://arxiv.org/abs/1906.04721.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray

_WIDEST = 1e4  # s and 1/s at most, around their geometric mean


def equalization(writes: Array | None, reads: Array, value: Array | None = None) -> Array:
    """What each feature is to be divided by, (features,) float32, with a geometric mean of about one.

    A feature that is zero on either side keeps s = 1.

    Args:
        writes: weights (features, ...) that write each feature, or None where their scales are per feature.
        reads: weights (features, ...) that read each feature.
        value: range of each feature between them (features,), or None where it does not count.

    Raises:
        ValueError: there is neither ``writes`` nor ``value``, shapes do not fit, or a number is not finite.
    """
    before = [_reach(a) for a in (writes, value) if a is not None]
    after = _reach(reads)
    if not before or any(a.shape != after.shape for a in before):
        raise ValueError(f"ranges {[a.shape for a in before]} before do not fit {after.shape} after")
    if not all(np.isfinite(a).all() for a in (*before, after)):
        raise ValueError("weights or ranges are not finite")
    live = np.all([a > 0 for a in (*before, after)], axis=0)
    logs = np.zeros(after.shape)
    for reach in before:
        logs[live] += np.log(reach[live]) / len(before)
    logs[live] = (logs[live] - np.log(after[live])) / 2
    if live.any():
        logs[live] -= logs[live].mean()
    return np.exp(np.clip(logs, -np.log(_WIDEST), np.log(_WIDEST))).astype(np.float32)


def _reach(values: Array) -> Array:
    """Largest magnitude of each feature."""
    array = np.asarray(values, np.float64)
    reach: Array = np.abs(array.reshape(len(array), -1)).max(axis=1, initial=0)
    return reach
