"""Options of what happens between the steps of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import typer


@dataclass(frozen=True)
class StepFlags:
    """What happens between steps."""

    panel: ClassVar[str] = "Steps"

    keep_steps: Annotated[
        bool, typer.Option("--keep-steps", help="Keep the models between steps, and take up those of an earlier run.")
    ] = False
    check_steps: Annotated[
        bool, typer.Option("--check-steps", help="Hold the model to the budgets on fidelity after every step.")
    ] = False
