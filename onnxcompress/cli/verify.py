"""`onnxcompress verify`: is this compressed model as good as that original?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxcompress.cli import completion
from onnxcompress.cli.flags import flat
from onnxcompress.cli.help import Command
from onnxcompress.cli.options import BudgetFlags, DataFlags, MachineFlags, ReportFlags

app = typer.Typer(rich_markup_mode=None, add_completion=False)
Original = Annotated[
    Path, typer.Argument(metavar="ORIGINAL", help="The model as it was.", autocompletion=completion.models)
]
Compressed = Annotated[
    Path, typer.Argument(metavar="COMPRESSED", help="The model to judge.", autocompletion=completion.models)
]


@app.command("verify", cls=Command)
@flat
def verify(
    original: Original, compressed: Compressed, budgets: BudgetFlags, data: DataFlags,
    machine: MachineFlags, report: ReportFlags,
) -> None:  # fmt: skip
    """Compare a compressed model with its original: interface, fidelity, latency, size and budgets."""
    from onnxcompress.cli import work
    from onnxcompress.compress import verify_models

    report = report.named(compressed.stem)
    report.check(original, compressed, data.data, data.labels, data.tokenizer)
    with work.opened(report) as page:
        options = work.run_options(page, data, machine, profile=report.pictures)
        work.show(page, verify_models(original, compressed, budgets.budgets(), options), report)
