"""`onnxcompress distill`: a student learns to give what a teacher gives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxcompress.cli import completion
from onnxcompress.cli.flags import flat
from onnxcompress.cli.help import Command
from onnxcompress.cli.options import BudgetFlags, DataFlags, MachineFlags, ReportFlags, WriteFlags
from onnxcompress.passes.distill import Distill

app = typer.Typer(rich_markup_mode=None, add_completion=False)
Teacher = Annotated[
    Path, typer.Argument(metavar="TEACHER", help="The model to learn from.", autocompletion=completion.models)
]
Student = Annotated[
    Path, typer.Argument(metavar="STUDENT", help="The model that learns.", autocompletion=completion.models)
]


@app.command("distill", cls=Command)
@flat
def distill(
    teacher: Teacher, student: Student, options: Distill, data: DataFlags, write: WriteFlags, budgets: BudgetFlags,
    machine: MachineFlags, report: ReportFlags,
) -> None:  # fmt: skip
    """Train a student to give what a teacher gives, and compare it with the teacher.

    The student has the inputs and outputs of the teacher, and may be compressed: zeros and codes stay what they are.
    """
    from onnxcompress.cli.work import run_recipe
    from onnxcompress.recipe import Recipe

    recipe = Recipe.of((options,), budgets.budgets())
    run_recipe(teacher, recipe, write, data, machine, report.named(student.stem), student=student)
