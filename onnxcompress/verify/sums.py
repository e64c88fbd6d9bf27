"""Sums over everything that two models gave, from which fidelity is computed: no outputs are kept.

For each channel: Σx², Σy², Σxy, Σ(x−y)² and max |x−y| with x of the original and y of the compressed model,
in double precision, from which

    SQNR = 10 log₁₀(Σx² / Σ(x−y)²) dB        cosine = Σxy / √(Σx² Σy²)

An original that is NaN or infinite somewhere is not compared there. Where the original is finite and the
compressed model is not, the value is counted as bad.
"""

from __future__ import annotations

import math

import numpy as np

IDENTICAL_DB = 200.0
_CHUNK = 1 << 16  # elements at once: three double copies of them stay in the cache
_ZERO_OUTPUT_TOLERANCE = 1e-4


class Sums:
    """Running sums over arrays seen as ``(outer, channels, inner)``."""

    def __init__(self, channels: int = 1) -> None:
        self.xx, self.yy, self.xy, self.dd, self.peak = np.zeros((5, channels))
        self.bad = 0
        self.count = 0  # elements of each channel
        self.compared = 0  # elements of all of them that both have

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Add two arrays of the same shape ``(outer, channels, inner)``."""
        outer, channels, inner = x.shape
        if not x.size:
            return
        self.count += outer * inner
        columns = max(1, min(inner, _CHUNK // channels))
        rows = max(1, _CHUNK // (channels * columns))
        for i in range(0, outer, rows):
            for j in range(0, inner, columns):
                part = np.s_[i : i + rows, :, j : j + columns]
                self._add(x[part].astype(np.float64), y[part].astype(np.float64))

    def _add(self, x: np.ndarray, y: np.ndarray) -> None:
        with np.errstate(all="ignore"):
            difference = x - y
            errors = _products(difference, difference)
            if not np.isfinite(errors).all():
                x, y = self._finite(x, y)
                difference = x - y
                errors = _products(difference, difference)
            else:
                self.compared += x.size
            self.xx += _products(x, x)
            self.yy += _products(y, y)
            self.xy += _products(x, y)
            self.dd += errors
        np.maximum(self.peak, difference.max(axis=(0, 2)), out=self.peak)
        np.maximum(self.peak, -difference.min(axis=(0, 2)) + 0.0, out=self.peak)

    def _finite(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both with zeros wherever one of them is not finite; counts what only the original has."""
        x_finite, y_finite = np.isfinite(x), np.isfinite(y)
        self.bad += int(np.count_nonzero(x_finite & ~y_finite))
        both = x_finite & y_finite
        self.compared += int(np.count_nonzero(both))
        return np.where(both, x, 0.0), np.where(both, y, 0.0)

    def add_apart(self, x: np.ndarray, y: np.ndarray) -> None:
        """Add two arrays that cannot be compared, as if each stood against zeros: all is error."""
        for one, other in ((x, np.zeros_like(x)), (np.zeros_like(y), y)):
            self.add(one.reshape(1, 1, -1), other.reshape(1, 1, -1))

    def rms(self) -> np.ndarray:
        """Magnitude of each channel of the original."""
        return np.sqrt(self.xx / max(1, self.count))

    def rms_of(self, channels: list[int]) -> float:
        """Magnitude of some channels of the original together."""
        return math.sqrt(float(self.xx[channels].mean()) / max(1, self.count))

    def merged(self) -> Sums:
        """The same sums over all channels as one."""
        whole = Sums()
        for name in ("xx", "yy", "xy", "dd"):
            getattr(whole, name)[:] = getattr(self, name).sum()
        whole.peak[:] = self.peak.max()
        whole.bad, whole.count, whole.compared = self.bad, self.count * len(self.xx), self.compared
        return whole

    def figures(self, channels: list[int] | None = None) -> tuple[float, float, float]:
        """SQNR in dB, cosine, and largest absolute error, over all channels or some; NaN where nothing was compared."""
        if not self.compared:
            return math.nan, math.nan, math.nan
        chosen: slice | list[int] = slice(None) if channels is None else channels
        xx, yy, xy, dd = (float(s[chosen].sum()) for s in (self.xx, self.yy, self.xy, self.dd))
        peak = float(self.peak[chosen].max())
        return sqnr_db(xx, dd, peak), cosine(xx, yy, xy, dd), peak


def sqnr_db(signal: float, error: float, largest_error: float = math.inf) -> float:
    """Signal to quantization noise ratio in dB, capped where the two are identical.

    An output that is all zeros has no ratio: NaN if it came back as nearly that, else 0 dB.
    """
    if error == 0:
        return IDENTICAL_DB
    if signal == 0:
        return math.nan if largest_error <= _ZERO_OUTPUT_TOLERANCE else 0.0
    return min(IDENTICAL_DB, 10 * (math.log10(signal) - math.log10(error)))


def cosine(xx: float, yy: float, xy: float, dd: float) -> float:
    """Cosine of the angle between the two; NaN where the original is all zeros and the other is not."""
    if dd == 0:
        return 1.0
    if xx == 0:
        return math.nan
    return 0.0 if yy == 0 else max(-1.0, min(1.0, xy / math.sqrt(xx) / math.sqrt(yy)))


def _products(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sums of products per channel of arrays ``(outer, channels, inner)``, without the threads of BLAS."""
    sums: np.ndarray = np.einsum("oci,oci->c", x, y)
    return sums
