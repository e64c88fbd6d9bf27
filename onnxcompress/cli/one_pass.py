"""The verb of a pass: a recipe of one step, after the simplifier unless that is turned off."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from onnxcompress.cli.flags import flat
from onnxcompress.cli.help import Command
from onnxcompress.cli.options import BudgetFlags, DataFlags, JobFlags, MachineFlags, ModelPaths, ReportFlags, WriteFlags
from onnxcompress.cli.recovery import NoRecovery, RecoverFlags
from onnxcompress.passes.base import Pass, find_pass

_SIMPLIFY = "simplify"
_RECOVERABLE = ("prune", "factorize", "quantize")


@dataclass(frozen=True)
class Prepared:
    """A pass that works on a simplified graph."""

    no_simplify: Annotated[bool, typer.Option("--no-simplify", help="Leave out the simplifier that runs first.")] = (
        False
    )

    def steps(self) -> tuple[Pass, ...]:
        """What runs before the pass."""
        return () if self.no_simplify else (find_pass(_SIMPLIFY)(),)


@dataclass(frozen=True)
class Unprepared:
    """A pass that needs nothing before it."""

    def steps(self) -> tuple[Pass, ...]:
        """Nothing runs before the pass."""
        return ()


def app_of(name: str) -> typer.Typer:
    """The verb of the pass of that name."""
    kind = find_pass(name)

    def command(
        context: typer.Context, models: ModelPaths, options: Any, prepared: Prepared, recovery: RecoverFlags,
        data: DataFlags, write: WriteFlags, budgets: BudgetFlags, machine: MachineFlags, jobs: JobFlags,
        report: ReportFlags,
    ) -> None:  # fmt: skip
        # Not needed for the help, nor by the shell that completes options.
        from onnxcompress.cli.batch import Asked, run_models
        from onnxcompress.recipe import Recipe

        recipe = Recipe.of(recovery.steps((*prepared.steps(), options)), budgets.budgets())
        run_models(context, models, Asked(recipe, write, data, machine, report), jobs)

    command.__annotations__ |= {
        "options": kind,
        "prepared": Unprepared if name == _SIMPLIFY else Prepared,
        "recovery": RecoverFlags if name in _RECOVERABLE else NoRecovery,
    }
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    app.command(name, cls=Command, help=_paragraph(kind))(flat(command))
    return app


def _paragraph(kind: type) -> str:
    return (inspect.getdoc(kind) or "").split("\n\n", 1)[0]
