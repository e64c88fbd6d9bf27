"""Recovery: weights that earlier steps changed are trained until the model gives what the original gives.

    minimise  Σ over outputs  KL(softmax(t/T) ‖ softmax(y/T)) · T²,  or  ‖t − y‖² / var t  where they are no classes,

t of the original, y of the model, on the calibration data, without labels. Zeros of pruned weights stay zero, and
codes stay codes (straight-through, see `training.constraints`). The gradient is that of an ONNX graph which onnx-ad
derives and ONNX Runtime runs.

Hinton, Vinyals & Dean 2015, arXiv 1503.02531; Bengio, Léonard & Courville 2013, arXiv 1308.3432.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from onnxcompress.errors import UsageError
from onnxcompress.forms.unpacking import unpacked
from onnxcompress.graph import writer
from onnxcompress.graph.model import Model
from onnxcompress.passes.base import Context, Rewritten, register
from onnxcompress.passes.repacking import repacked
from onnxcompress.training.objective import Asked
from onnxcompress.training.settings import Settings
from onnxcompress.training.teaching import Lesson, taught

if TYPE_CHECKING:
    from onnxcompress.training.teaching import Taught


@register
@dataclass(frozen=True, kw_only=True)
class Recover:
    """Train the weights behind other steps until the model gives what the original gives."""

    name: ClassVar[str] = "recover"

    epochs: float | None = field(
        default=None, metadata={"help": "Times that the data are seen; by default enough for 1500 steps, at most 300."}
    )
    learning_rate: float | None = field(
        default=None, metadata={"help": "Of every weight; by default 0.5 % of each weight's root mean square."}
    )
    optimizer: Literal["adamw", "adam", "sgd"] = field(default="adamw", metadata={"help": "How steps are made."})
    weight_decay: float = field(default=0.0, metadata={"help": "Share by which weights shrink, times the rate."})
    schedule: Literal["cosine", "linear", "constant"] = field(
        default="cosine", metadata={"help": "How the rate goes down."}
    )
    warmup: float = field(default=0.05, metadata={"help": "Share of the steps in which the rate goes up."})
    clip: float = field(default=1.0, metadata={"help": "Most that the norm of all gradients together may be."})
    batch_size: int = field(default=32, metadata={"help": "Samples in a batch."})
    temperature: float = field(default=2.0, metadata={"help": "That outputs which are classes are softened with."})
    features: float = field(
        default=1.0, metadata={"help": "Weight of hidden values that keep their names; 0 leaves them out."}
    )
    patience: int = field(
        default=10, metadata={"help": "Looks at held-back calls without a gain that end it; 0 holds none back."}
    )
    minutes: float | None = field(
        default=None, metadata={"help": "Most that it may take; what fits in depends on the machine."}
    )
    layers: tuple[str, ...] = field(
        default=(), metadata={"help": "Only weights whose name, or a reader's, matches; tables only so."}
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        self._settings()
        if not self.temperature > 0:
            raise UsageError(f"the temperature {self.temperature:g} is not positive", "Give a number above 0.")
        if self.features < 0:
            raise UsageError(f"features {self.features:g} is below 0", "Give 0 or more.")

    @property
    def tag(self) -> str:
        """``recovered``."""
        return "recovered"

    def _settings(self) -> Settings:
        return Settings(
            self.epochs, self.learning_rate, self.optimizer, self.weight_decay, self.schedule, self.warmup, self.clip,
            self.batch_size, self.patience, self.minutes,
        )  # fmt: skip

    def rewrite(self, model: Model, context: Context) -> Rewritten:
        """The model with trained weights, or as it is where that gains nothing.

        Raises:
            UsageError: there are no data, or onnx-ad is not installed.
            ModelError: the model has no gradient.
        """
        if context.probe is None or context.source is None:
            raise UsageError("recover has to see real inputs", "Give them with --data.")
        settled = Model.scratch(lambda path: writer.save(model, path, durable=False))
        loose = unpacked(settled)
        whole = settled if loose is None else Model.scratch(lambda path: writer.save(loose, path, durable=False))
        asked = Asked(self.temperature, features=self.features)
        lesson = Lesson(
            whole, context.source, context.probe.data, self._settings(), asked, layers=self.layers,
            guide=context.earlier, seed=context.seed, threads=context.probe.threads, dry=context.dry,
        )  # fmt: skip
        key = lesson.key()
        known: dict[str, Any] = context.notebook
        if key not in known:
            known[key] = taught(lesson, context.progress)
        found: Taught = known[key]
        if found.model is None:
            return Rewritten(settled, found.notes)
        return Rewritten(found.model if loose is None else repacked(found.model), found.notes)
