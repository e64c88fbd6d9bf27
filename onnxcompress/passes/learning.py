"""What passes that train have in common: their options, and where they may stand among other steps."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal

from pydantic.dataclasses import dataclass

from onnxcompress.errors import ModelError, UsageError
from onnxcompress.forms.unpacking import unpacked
from onnxcompress.graph import writer
from onnxcompress.graph.writer import settled
from onnxcompress.passes.base import Rewritten
from onnxcompress.passes.repacking import repacked
from onnxcompress.training.settings import Settings
from onnxcompress.training.teaching import Lesson, taught

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxcompress.data.dataset import Dataset
    from onnxcompress.graph.model import Model
    from onnxcompress.passes.base import Context, Pass
    from onnxcompress.training.objective import Asked
    from onnxcompress.training.teaching import Taught

_QUANTIZE, _RECOVER, _ALIKE = "quantize", "recover", ("simplify",)


@dataclass(frozen=True, kw_only=True)
class Learning:
    """The options of training."""

    epochs: float | None = field(
        default=None, metadata={"help": "Times that the data are seen; by default enough for 1500 steps, at most 300."}
    )
    learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Of every weight; by default 0.5 % of each weight's root mean square, less where the loss rises."
        },
    )
    optimizer: Literal["adamw", "adam", "sgd"] = field(default="adamw", metadata={"help": "How steps are made."})
    weight_decay: float = field(default=0.0, metadata={"help": "Share by which weights shrink, times the rate."})
    schedule: Literal["cosine", "linear", "constant"] = field(
        default="cosine", metadata={"help": "How the rate goes down."}
    )
    warmup: float = field(default=0.05, metadata={"help": "Share of the steps in which the rate goes up."})
    clip: float = field(default=1.0, metadata={"help": "Most that the norm of all gradients together may be."})
    batch_size: int = field(default=32, metadata={"help": "Samples in a batch."})
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
        self.settings()

    def settings(self) -> Settings:
        """How is trained."""
        return Settings(
            self.epochs, self.learning_rate, self.optimizer, self.weight_decay, self.schedule, self.warmup, self.clip,
            self.batch_size, self.patience, self.minutes,
        )  # fmt: skip

    def learned(
        self, student: Model, teacher: Model | None, data: Dataset, asked: Asked, context: Context
    ) -> Rewritten:
        """The student with trained weights, or as it is where that gains nothing.

        Raises:
            the errors of `taught`.
        """
        whole = settled(student)
        loose = unpacked(whole)
        if writer.serialized_size(whole) > writer.SINGLE_FILE_LIMIT:
            raise ModelError("a model above 2 GiB cannot be trained", "Its graph of gradients would not load.")
        lesson = Lesson(
            whole if loose is None else settled(loose), teacher, data, self.settings(), asked, layers=self.layers,
            guide=context.earlier, seed=context.seed, threads=context.probe.threads if context.probe else None,
            dry=context.dry,
        )  # fmt: skip
        key, known = lesson.key(), context.notebook
        if key not in known:  # another attempt at the same recipe comes to the same
            known[key] = taught(lesson, context.progress)
        found: Taught = known[key]
        if found.model is None:
            return Rewritten(whole, found.notes)
        return Rewritten(found.model if loose is None else repacked(found.model), found.notes)


def refuse_weight(name: str, value: float) -> None:
    """Refuse a weight of a part of the loss that is none.

    Raises:
        UsageError: it is below 0.
    """
    if value < 0:
        raise UsageError(f"{name} {value:g} is below 0", "Give 0 or more.")


def refuse_temperature(value: float) -> None:
    """Refuse a temperature that is none.

    Raises:
        UsageError: it is not above 0.
    """
    if not value > 0:
        raise UsageError(f"the temperature {value:g} is not positive", "Give a number above 0.")


def misplaced(steps: Sequence[Pass]) -> tuple[int, str, str] | None:
    """The number, from 0, of a step `recover` that cannot do anything where it stands, why, and how to mend it."""
    for number, step in enumerate(steps):
        if step.name != _RECOVER:
            continue
        before = steps[:number]
        if all(s.name in _ALIKE for s in before):
            return number, "recover has nothing to recover, as no step before it changes weights", "Put it behind one."
        if any(_integer(s) for s in before):
            return (
                number,
                "recover has no gradient of layers that quantize makes compute with integers",
                "Put it before, or quantize below 8 bits or with the scheme weight-only.",
            )
    return None


def with_recovery(steps: Sequence[Pass], recover: Pass) -> tuple[Pass, ...]:
    """Steps with recovery at their end, or before the first that makes layers compute with integers.

    Raises:
        UsageError: nothing before that changes weights.
    """
    place = next((n for n, step in enumerate(steps) if _integer(step)), len(steps))
    made = (*steps[:place], recover, *steps[place:])
    wrong = misplaced(made)
    if wrong is not None and place < len(steps):
        raise UsageError(
            "--recover has no gradient of layers that quantize makes compute with integers",
            "Quantize below 8 bits, or with --scheme weight-only.",
        )
    if wrong is not None:
        raise UsageError(wrong[1].replace("recover has", "--recover has"), "Give a recipe with such a step.")
    return made


def _integer(step: Any) -> bool:
    """Whether a step may make layers compute with integers."""
    if step.name != _QUANTIZE or step.scheme in ("weight-only", "float16", "bfloat16"):
        return False
    return bool(step.bits == 8 or step.average_bits is not None or step.scheme in ("static", "dynamic"))
