"""Recovery: weights that earlier steps changed are trained until the model gives what the original gives.

    minimise  Σ over outputs  KL(softmax(t/T) ‖ softmax(y/T)) · T²,  or  ‖t − y‖² / var t  where they are no classes,

t of the original, y of the model, on the calibration data, without labels. Zeros of pruned weights stay zero, and
codes stay codes (straight-through, see `training.constraints`). The gradient is that of an ONNX graph which onnx-ad
derives and ONNX Runtime runs.

Hinton, Vinyals & Dean 2015, arXiv 1503.02531; Bengio, Léonard & Courville 2013, arXiv 1308.3432.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, ClassVar

from pydantic.dataclasses import dataclass

from onnxcompress.errors import UsageError
from onnxcompress.passes.base import register
from onnxcompress.passes.learning import Learning, refuse_temperature, refuse_weight
from onnxcompress.training.objective import Asked

if TYPE_CHECKING:
    from onnxcompress.graph.model import Model
    from onnxcompress.passes.base import Context, Rewritten


@register
@dataclass(frozen=True, kw_only=True)
class Recover(Learning):
    """Train the weights behind other steps until the model gives what the original gives."""

    name: ClassVar[str] = "recover"
    looks_back: ClassVar[bool] = True  # at models from before the last step, so that no run may begin with it

    temperature: float = field(default=2.0, metadata={"help": "That outputs which are classes are softened with."})
    features: float = field(
        default=1.0, metadata={"help": "Weight of hidden values that keep their names; 0 leaves them out."}
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        self.settings()
        refuse_temperature(self.temperature)
        refuse_weight("features", self.features)

    @property
    def tag(self) -> str:
        """``recovered``."""
        return "recovered"

    def rewrite(self, model: Model, context: Context) -> Rewritten:
        """The model with trained weights, or as it is where that gains nothing.

        Raises:
            UsageError: there are no data, or onnx-ad is not installed.
            ModelError: the model has no gradient.
        """
        if context.probe is None or context.source is None:
            raise UsageError("recover has to see real inputs", "Give them with --data.")
        asked = Asked(self.temperature, features=self.features)
        return self.learned(model, context.source, context.probe.data, asked, context)
