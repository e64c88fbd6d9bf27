"""`onnxcompress merge`: several models become one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Option

from onnxcompress.cli import completion, quantities
from onnxcompress.cli.flags import flat
from onnxcompress.cli.help import Command
from onnxcompress.cli.options import BudgetFlags, DataFlags, MachineFlags, ReportFlags, WriteFlags

if TYPE_CHECKING:
    from onnxcompress.merging.merge import MergeOptions
    from onnxcompress.verify.budgets import Budgets

app = typer.Typer(rich_markup_mode=None, add_completion=False)
Models = Annotated[
    list[Path],
    typer.Argument(
        metavar="A B ...", help="The models; the result has the inputs and outputs of the first.",
        autocompletion=completion.models,
    ),
]  # fmt: skip


@dataclass(frozen=True)
class MergeFlags:
    """How models become one."""

    coefficients: Annotated[
        str | None,
        Option("--coefficients", metavar="C,C,...", help="A factor for each model, such as 0.7,0.3; by default alike."),
    ] = None
    search: Annotated[
        bool, Option("--search", help="Find the shares that score best on --data with --labels, greedily.")
    ] = False
    ensemble: Annotated[
        Literal["outputs", "probabilities"] | None,
        Option("--ensemble", help="Average outputs, or their softmax, in one graph instead of mixing weights."),
    ] = None

    def options(self, budgets: Budgets) -> MergeOptions:
        """What is asked, as the library takes it.

        Raises:
            UsageError: the coefficients are no numbers.
        """
        from onnxcompress.merging.merge import MergeOptions

        given = None if self.coefficients is None else quantities.numbers(self.coefficients, "--coefficients")
        return MergeOptions(given, self.search, self.ensemble, budgets)


@app.command("merge", cls=Command)
@flat
def merge(
    models: Models, merged: MergeFlags, data: DataFlags, write: WriteFlags, budgets: BudgetFlags,
    machine: MachineFlags, report: ReportFlags,
) -> None:  # fmt: skip
    """Make several models one, and compare it with the first.

    Weights are mixed where the graphs agree, whatever their tensors are called; with --ensemble the models stand in one
    graph, and what they compute alike is computed once.
    """
    from onnxcompress.cli import work
    from onnxcompress.merging.merge import merge as made_one

    report = report.named(models[0].stem)
    report.check(*models, write.output, write.eval_data, data.data, data.labels, data.tokenizer)
    with work.opened(report) as page:
        options = work.run_options(page, data, machine, write, profile=report.pictures)
        result = made_one(models, merged.options(budgets.budgets()), options)
        work.show(page, result, report, dry_run=write.dry_run)
