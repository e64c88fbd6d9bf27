"""How is trained: everything that a user may turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxcompress.errors import UsageError
from onnxcompress.training.schedules import Schedule

if TYPE_CHECKING:
    from onnxcompress.training import optimizers, schedules

_STEPS, _MOST_EPOCHS = 1500, 300  # by default


@dataclass(frozen=True)
class Settings:
    """How is trained.

    Attributes:
        epochs: times that all data are seen, parts of one included; by default enough for 1500 steps, at most 300.
        learning_rate: of every weight; by default 0.5 % of each weight's root mean square (not for sgd), and less
            where the loss rises.
        optimizer: which one.
        weight_decay: of the optimizer.
        schedule: of the rate.
        warmup: share of the steps in which the rate goes up.
        clip: most that the norm of all gradients together may be.
        batch_size: samples in a batch.
        patience: looks at held-back calls without a gain after which it ends; 0 holds none back.
        minutes: most that it may take; what fits in depends on the machine.

    Raises:
        UsageError: a value is out of range.
    """

    epochs: float | None = None
    learning_rate: float | None = None
    optimizer: optimizers.Kind = "adamw"
    weight_decay: float = 0.0
    schedule: schedules.Kind = "cosine"
    warmup: float = 0.05
    clip: float = 1.0
    batch_size: int = 32
    patience: int = 10
    minutes: float | None = None

    def __post_init__(self) -> None:
        above = {"epochs": self.epochs, "learning_rate": self.learning_rate, "clip": self.clip,
                 "batch_size": self.batch_size, "minutes": self.minutes}  # fmt: skip
        for name, value in above.items():
            if value is not None and not value > 0:
                raise UsageError(f"{name} {value:g} cannot be trained with", "Give a number above 0.")
        for name, least in (("weight_decay", self.weight_decay), ("patience", self.patience)):
            if least < 0:
                raise UsageError(f"{name} {least:g} is below 0", "Give 0 or more.")
        if self.optimizer == "sgd" and self.learning_rate is None:
            raise UsageError("sgd has no learning_rate of its own", "Give one, such as 0.01.")
        self.schedule_of()

    def schedule_of(self) -> Schedule:
        """The schedule."""
        return Schedule(self.schedule, self.warmup)

    def steps(self, per_epoch: int) -> int:
        """Steps in all, where an epoch has so many."""
        epochs = min(-(-_STEPS // per_epoch), _MOST_EPOCHS) if self.epochs is None else self.epochs
        return max(1, round(epochs * per_epoch))
