"""What of the outputs is kept to be looked at: some values of both models, and best classes that changed."""

from __future__ import annotations

from collections import Counter

import numpy as np

from onnxcompress.report import Confusion

_EACH, _MOST = 24, 384  # values of a call, and of all calls
_CONFUSIONS = 20
_CLASSES = 1 << 16  # pairs of classes that are counted


class Samples:
    """An even selection of the values of one output over all calls."""

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []
        self._changed: Counter[tuple[int, int]] = Counter()
        self._every, self._calls = 1, 0

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Take a few values of one call of both models; their shapes are equal."""
        self._calls += 1
        if not x.size or (self._calls - 1) % self._every:
            return
        places = np.linspace(0, x.size - 1, min(_EACH, x.size)).round().astype(np.int64)
        one, two = (v.reshape(-1)[places].astype(np.float64) for v in (x, y))
        finite = np.isfinite(one) & np.isfinite(two)
        self._points += [(float(f"{a:.6g}"), float(f"{b:.6g}")) for a, b in zip(one[finite], two[finite], strict=True)]
        while len(self._points) > _MOST:
            self._points, self._every = self._points[::2], 2 * self._every

    def classes(self, original: np.ndarray, compressed: np.ndarray) -> None:
        """Count the best classes (rows,) that changed."""
        changed = original != compressed
        if len(self._changed) < _CLASSES:
            self._changed.update(zip(original[changed].tolist(), compressed[changed].tolist(), strict=True))

    @property
    def points(self) -> tuple[tuple[float, float], ...]:
        """Values of the original and of the compressed model."""
        return tuple(self._points)

    @property
    def confusions(self) -> tuple[Confusion, ...]:
        """The most frequent changes of class."""
        ranked = sorted(self._changed.items(), key=lambda item: (-item[1], item[0]))
        return tuple(Confusion(*pair, count) for pair, count in ranked[:_CONFUSIONS])


def sqnr_db(x: np.ndarray, y: np.ndarray) -> float:
    """Signal to noise of one call, in decibels; infinite where nothing differs, NaN where there is no signal."""
    wide = x.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        signal, noise = float(np.square(wide).sum()), float(np.square(wide - y).sum())
        return float(10 * np.log10(signal / noise)) if noise else float("inf") if signal else float("nan")
