"""The task metric of one model on labelled data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.errors import UsageError
from onnxcompress.report import Metric
from onnxcompress.runtime.session import Session
from onnxcompress.verify.metrics import MetricMeter, relative_drop

if TYPE_CHECKING:
    from pathlib import Path

    from onnxcompress.data.dataset import Dataset
    from onnxcompress.runtime.session import Device


def score(model: Path, data: Dataset, metric: str | None, device: Device, threads: int | None) -> tuple[str, float]:
    """The name of the metric and its value.

    Raises:
        UsageError: there are no labels.
        DataError: they do not fit.
        RuntimeFailure: the model does not run.
    """
    if data.labels is None:
        raise UsageError("a score needs labels", "Give them with --labels.")
    session = Session(model, device, threads)
    meter = MetricMeter(data.labels, metric)
    for feeds in data:
        outputs = session.run(feeds)
        meter.add(outputs, outputs)
    ((name, found),) = meter.result().items()
    return name, found.compressed


def better(name: str, known: float, other: float) -> bool:
    """Whether the second of two values of that metric is better than the first."""
    return relative_drop(name, Metric(known, other)) < 0
