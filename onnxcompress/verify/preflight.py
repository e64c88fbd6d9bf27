"""What would keep a result from being verified, found before any work is done for it.

A device that is not there, data that do not run, labels that fit no output, a budget that nothing can tell:
each is an error that should not come after an hour of compression.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.errors import RuntimeFailure, UsageError
from onnxcompress.graph.model import Model
from onnxcompress.runtime.failures import LimitReached, UnsupportedModel
from onnxcompress.runtime.session import Session
from onnxcompress.stats.scores import producers
from onnxcompress.verify.calls import SYNTHETIC
from onnxcompress.verify.fidelity import FidelityMeter
from onnxcompress.verify.metrics import MetricMeter

if TYPE_CHECKING:
    from pathlib import Path

    from onnxcompress.data.dataset import Dataset
    from onnxcompress.report import Fidelity
    from onnxcompress.verify.budgets import Budgets
    from onnxcompress.verify.options import VerifyOptions


def preflight(original: Path, dataset: Dataset | None, options: VerifyOptions) -> None:
    """Run the original once as `verify` would, and raise what `verify` would raise because of it.

    Raises:
        UsageError: a budget cannot be judged, or the metric does not fit the labels.
        DataError: the data or labels do not fit the model.
        RuntimeFailure: the device is not to be had, or the original does not run.
    """
    labels = None
    if dataset is not None and dataset.labels is not None:
        labels = MetricMeter(dataset.labels, options.metric)
    elif options.metric is not None:
        raise UsageError(f"there are no labels to compute {options.metric} from", "Give them with --labels.")
    try:
        session = Session(original, options.device, options.threads)
    except UnsupportedModel:
        return
    if dataset is None:
        return
    feeds = dataset.first()
    try:
        outputs = session.run(feeds)
    except RuntimeFailure as error:
        if dataset.source != SYNTHETIC or isinstance(error, LimitReached):
            raise
        return
    meter = FidelityMeter(session.outputs, producers(Model.open(original).proto.graph))
    meter.add(feeds, outputs, outputs)
    if labels:
        labels.add(outputs, outputs, meter.score_outputs)
    require_judgeable(options.budgets, meter.result(dataset.source), labels is not None)


def require_judgeable(budgets: Budgets, fidelity: Fidelity | None, has_metric: bool) -> None:
    """Refuse a budget on what these data cannot tell.

    Raises:
        UsageError: there is such a budget.
    """
    if fidelity is None or fidelity.agreement is not None:
        return
    for name in ("max_drop", "min_agreement"):
        if name in budgets.asked and (name == "min_agreement" or not has_metric):
            raise UsageError(
                f"--{name.replace('_', '-')} cannot be judged: no output of this model is scores of classes",
                "Give --data with --labels for --max-drop, or set a limit with --min-sqnr or --min-cosine.",
            )
