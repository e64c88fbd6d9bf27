"""Fine-tuning: weights are trained on labels, in whatever form the model comes.

    minimise  − mean of log softmax(y)[label]   for whole-number labels,   else  ‖y − label‖² / var label

Zeros of pruned weights stay zero, and codes stay codes (straight-through, see `training.constraints`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic.dataclasses import dataclass

from onnxcompress.errors import DataError, UsageError
from onnxcompress.passes.base import register
from onnxcompress.passes.learning import Learning
from onnxcompress.training.objective import Asked

if TYPE_CHECKING:
    from onnxcompress.graph.model import Model
    from onnxcompress.passes.base import Context, Rewritten


@register
@dataclass(frozen=True, kw_only=True)
class Finetune(Learning):
    """Train a model on labels; zeros and codes of a compressed one stay what they are."""

    name: ClassVar[str] = "finetune"
    learns_labels: ClassVar[bool] = True

    @property
    def tag(self) -> str:
        """``finetuned``."""
        return "finetuned"

    def rewrite(self, model: Model, context: Context) -> Rewritten:
        """The model with trained weights, or as it is where that gains nothing.

        Raises:
            UsageError: there are no data, or onnx-ad is not installed.
            DataError: there are no labels, or they fit no output.
            ModelError: the model has no gradient.
        """
        if context.probe is None:
            raise UsageError("finetune has to see real inputs", "Give them with --data, and --labels.")
        data = context.probe.data
        if data.labels is None:
            raise DataError(
                "there are no labels to learn", "Give them with --labels, or as an array labels in the data."
            )
        return self.learned(model, None, data, Asked(features=0, labels=1.0, teacher=0), context)
