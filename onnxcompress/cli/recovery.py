"""Options of `--recover`: training behind the steps of a verb, on what the original gives."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from typer import Option

from onnxcompress.cli.flags import build
from onnxcompress.errors import UsageError

if TYPE_CHECKING:
    from onnxcompress.passes.base import Pass
    from onnxcompress.recipe import Recipe

_PREFIX = "recover_"


@dataclass(frozen=True)
class RecoverFlags:
    """Training behind other steps."""

    panel: ClassVar[str] = "Recovery"

    recover: Annotated[
        bool, Option("--recover", help="Train what is left, on --data without labels, to give what the original gives.")
    ] = False
    recover_epochs: Annotated[
        float | None,
        Option("--recover-epochs", help="Times that the data are seen; by default 1500 steps, at most 300."),
    ] = None
    recover_minutes: Annotated[
        float | None, Option("--recover-minutes", help="Most that it may take; what fits in depends on the machine.")
    ] = None
    recover_learning_rate: Annotated[
        float | None, Option("--recover-learning-rate", help="By default 0.2 % of each weight's root mean square.")
    ] = None
    recover_optimizer: Annotated[
        Literal["adamw", "adam", "sgd"] | None, Option("--recover-optimizer", help="How steps are made; default adamw.")
    ] = None
    recover_schedule: Annotated[
        Literal["cosine", "linear", "constant"] | None,
        Option("--recover-schedule", help="How the rate goes down; default cosine."),
    ] = None
    recover_batch_size: Annotated[
        int | None, Option("--recover-batch-size", help="Samples in a batch; default 32.")
    ] = None
    recover_temperature: Annotated[
        float | None, Option("--recover-temperature", help="That classes are softened with; default 2.")
    ] = None
    recover_features: Annotated[
        float | None, Option("--recover-features", help="Weight of hidden values of the same name; default 1.")
    ] = None
    recover_patience: Annotated[
        int | None, Option("--recover-patience", help="Looks at held-back calls without a gain; default 10, 0: none.")
    ] = None
    recover_layers: Annotated[
        list[str], Option("--recover-layers", metavar="GLOB", help="Train only weights that match. May be repeated.")
    ] = field(default_factory=list)

    def steps(self, steps: tuple[Pass, ...]) -> tuple[Pass, ...]:
        """The steps with recovery among them, if it was asked for.

        Raises:
            UsageError: an option is out of range, or recovery has no place.
        """
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "recover"}
        given = {name: value for name, value in given.items() if value not in (None, [], ())}
        if not self.recover:
            if given:
                flag = next(iter(given)).replace("_", "-")
                raise UsageError(f"--{flag} has no meaning without --recover", "Add --recover, or leave it out.")
            return steps
        from onnxcompress.passes.learning import with_recovery
        from onnxcompress.passes.recover import Recover

        return with_recovery(steps, build(Recover, {n.removeprefix(_PREFIX): v for n, v in given.items()}))

    def recipe(self, recipe: Recipe) -> Recipe:
        """The same for a recipe."""
        return dataclasses.replace(recipe, steps=self.steps(recipe.steps))


@dataclass(frozen=True)
class NoRecovery:
    """A pass behind which nothing can be recovered."""

    def steps(self, steps: tuple[Pass, ...]) -> tuple[Pass, ...]:
        """The steps as they are."""
        return steps
