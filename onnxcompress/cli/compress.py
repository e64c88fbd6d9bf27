"""`onnxcompress compress`: the steps and budgets of a recipe."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from onnxcompress.cli import completion
from onnxcompress.cli.flags import flat
from onnxcompress.cli.help import Command
from onnxcompress.cli.options import BudgetFlags, DataFlags, JobFlags, MachineFlags, ModelPaths, ReportFlags, WriteFlags
from onnxcompress.cli.recovery import RecoverFlags
from onnxcompress.cli.steps import StepFlags

app = typer.Typer(rich_markup_mode=None, add_completion=False)
RecipeName = Annotated[
    str,
    typer.Option(
        "--recipe",
        metavar="FILE|NAME",
        help="A recipe.toml, or the name of a recipe that ships with it.",
        autocompletion=completion.recipes,
    ),
]


@app.command("compress", cls=Command)
@flat
def compress(
    context: typer.Context, models: ModelPaths, recipe: RecipeName, steps: StepFlags, recovery: RecoverFlags,
    data: DataFlags, write: WriteFlags, budgets: BudgetFlags, machine: MachineFlags, jobs: JobFlags,
    report: ReportFlags,
) -> None:  # fmt: skip
    """Run the steps of a recipe, and hold the result to its budgets.

    Budgets given as options replace those of the recipe.
    """
    from onnxcompress.cli.batch import Asked, run_models
    from onnxcompress.recipe import Recipe

    found = Recipe.from_toml(Path(recipe)) if _is_file(recipe) else Recipe.ready(recipe)
    found = dataclasses.replace(found, budgets=budgets.budgets(found.budgets))
    run_models(context, models, Asked(recovery.recipe(found), write, data, machine, report, steps), jobs)


def _is_file(recipe: str) -> bool:
    return recipe.endswith(".toml") or Path(recipe).exists()
