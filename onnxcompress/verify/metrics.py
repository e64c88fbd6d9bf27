"""Task metrics of both models on labelled data, summed call by call.

    accuracy  share of rows whose best class is the label (binary outputs: above ½, or above 0 for logits)
    top5      share of rows whose label is among the five best classes
    mse, rmse, mae   errors of the output against the label

Labels run along the first axis of all calls joined; negative class labels are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from onnxcompress.errors import DataError, UsageError
from onnxcompress.report import Metric

_Score = Callable[[np.ndarray, np.ndarray], tuple[float, int]]


def _hits(x: np.ndarray, labels: np.ndarray, best: int) -> tuple[float, int]:
    counted = labels >= 0
    if x.dtype.kind == "f" and x.ndim == labels.ndim + 1 and x.shape[-1] > 1:
        right = (_best(x, best) == labels[..., None]).any(axis=-1)
    else:
        x = x.reshape(labels.shape)
        right = (x > _threshold(x)) == (labels > 0) if x.dtype.kind == "f" else x == labels
    return float(np.count_nonzero(right & counted)), int(np.count_nonzero(counted))


def _best(x: np.ndarray, count: int) -> np.ndarray:
    """The classes of the highest scores, in no order."""
    count = min(count, x.shape[-1])
    ranked: np.ndarray = (
        x.argmax(axis=-1)[..., None] if count == 1 else np.argpartition(x, -count, axis=-1)[..., -count:]
    )
    return ranked


def _threshold(x: np.ndarray) -> float:
    return 0.5 if x.size and x.min() >= 0 and x.max() <= 1 else 0.0


def _squares(x: np.ndarray, labels: np.ndarray) -> tuple[float, int]:
    return float(np.square(x.astype(np.float64) - labels.reshape(x.shape)).sum()), x.size


def _distances(x: np.ndarray, labels: np.ndarray) -> tuple[float, int]:
    return float(np.abs(x.astype(np.float64) - labels.reshape(x.shape)).sum()), x.size


_SCORES: dict[str, _Score] = {
    "accuracy": lambda x, labels: _hits(x, labels, 1),
    "top5": lambda x, labels: _hits(x, labels, 5),
    "mse": _squares,
    "rmse": _squares,
    "mae": _distances,
}
_OF_CLASSES = {"accuracy", "top5"}
METRICS = tuple(_SCORES)


class MetricMeter:
    """One metric of both models."""

    def __init__(self, labels: np.ndarray, metric: str | None = None) -> None:
        """Choose the metric.

        Args:
            labels: one entry for each row of all calls joined.
            metric: its name; by default accuracy for whole-number labels, else rmse.

        Raises:
            UsageError: no metric has that name, or it does not fit these labels.
        """
        self.name = metric or ("accuracy" if labels.dtype.kind in "iub" else "rmse")
        if self.name not in _SCORES:
            raise UsageError(f"there is no metric {self.name!r}", f"Use one of {', '.join(METRICS)}.")
        if self.name in _OF_CLASSES and labels.dtype.kind not in "iub":
            raise UsageError(f"{self.name} needs whole-number labels", "Give class numbers, or use --metric rmse.")
        self._labels = labels.astype(np.int64) if labels.dtype.kind == "b" else labels
        self._output: str | None = None
        self._position = 0
        self._sums = np.zeros(2)
        self._counted = 0

    def add(self, original: Mapping[str, Any], compressed: Mapping[str, Any], preferred: Collection[str] = ()) -> None:
        """Add what one call gave; ``preferred`` names outputs known to be scores of classes.

        Raises:
            DataError: no output fits the labels, or there are fewer labels than samples.
        """
        if self._output is None:
            self._output = self._choose(original, preferred)
        rows = [self._rows(np.asarray(outputs[self._output])) for outputs in (original, compressed)]
        end = self._position + len(rows[0])
        if end > len(self._labels):
            raise DataError(
                f"the data hold more samples than the {len(self._labels)} labels",
                "Give one label per sample.",
            )
        labels = self._labels[self._position : end]
        for i, x in enumerate(rows):
            if x.shape != rows[0].shape:  # cannot be compared: nothing of it is right
                self._sums[i] += 0.0 if self.name in _OF_CLASSES else math.inf
                continue
            total, counted = _SCORES[self.name](x, labels)
            self._sums[i] += total
            self._counted += counted if i == 0 else 0
        self._position = end

    def result(self) -> dict[str, Metric]:
        """The metric of both models, by its name.

        Raises:
            DataError: there are more labels than samples, or none of them counts.
        """
        if self._position != len(self._labels):
            raise DataError(
                f"there are {len(self._labels)} labels for {self._position} samples",
                "Give one label per sample.",
            )
        if not self._counted:
            raise DataError("no label is a class number of zero or more", "Check the labels.")
        means = [float(s) / self._counted for s in self._sums]
        original, compressed = (math.sqrt(m) for m in means) if self.name == "rmse" else means
        return {self.name: Metric(original, compressed)}

    def _rows(self, x: np.ndarray) -> np.ndarray:
        """The output with samples on the first axis; one sample may come without it."""
        scores = self.name in _OF_CLASSES and x.dtype.kind == "f" and not self._binary()
        wanted = self._labels.ndim + (1 if scores else 0)
        return x[None] if x.ndim == wanted - 1 else x

    def _choose(self, outputs: Mapping[str, Any], preferred: Collection[str]) -> str:
        arrays = {n: self._rows(np.asarray(v)) for n, v in outputs.items() if isinstance(v, np.ndarray)}
        fitting = [n for n, x in arrays.items() if self._fits(x)]
        if not fitting:
            raise DataError(
                f"no output of the model fits labels of shape {list(self._labels.shape)} for {self.name}",
                "Check the shape of the labels, or choose another --metric.",
            )
        return next((n for n in fitting if n in preferred), fitting[0])

    def _fits(self, x: np.ndarray) -> bool:
        labels = self._labels[: len(x)] if x.ndim else self._labels[:0]
        if self.name not in _OF_CLASSES:
            return x.dtype.kind in "fiu" and x.ndim > 0 and x.size == labels.size
        if x.dtype.kind == "f" and x.ndim == labels.ndim + 1 and x.shape[:-1] == labels.shape:
            return x.shape[-1] > self._labels.max(initial=0) or (x.shape[-1] == 1 and self._binary())
        return x.shape == labels.shape and (x.dtype.kind in "iu" or self._binary())

    def _binary(self) -> bool:
        return self.name == "accuracy" and bool(np.all(self._labels <= 1))


def relative_drop(name: str, metric: Metric) -> float:
    """How much worse the compressed model is, as a fraction of the original's metric; negative if better."""
    drop = metric.original - metric.compressed if name in _OF_CLASSES else metric.compressed - metric.original
    if metric.original == 0:
        return math.inf if drop > 0 else 0.0
    return drop / abs(metric.original)
