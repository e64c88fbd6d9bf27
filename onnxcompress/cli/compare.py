"""`onnxcompress compare`: what differs between these two models, and where do their values part?"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Option

from onnxcompress.cli import completion
from onnxcompress.cli.flags import flat
from onnxcompress.cli.help import Command
from onnxcompress.cli.options import DataFlags, ReportFlags
from onnxcompress.cli.tables import PageFlags
from onnxcompress.errors import UsageError

if TYPE_CHECKING:
    from onnxcompress.comparing.facts import Comparison, Options

app = typer.Typer(rich_markup_mode=None, add_completion=False)
First = Annotated[Path, typer.Argument(metavar="A", help="One model.", autocompletion=completion.models)]
Second = Annotated[
    Path, typer.Argument(metavar="B", help="Another one, such as A compressed.", autocompletion=completion.models)
]


@dataclass(frozen=True)
class CompareFlags:
    """What counts as parted, and where the models run."""

    threshold: Annotated[
        float, Option("--threshold", metavar="DB", help="SQNR below which a value counts as parted.")
    ] = 20.0
    min_sqnr: Annotated[
        float | None,
        Option("--min-sqnr", metavar="DB", help="Exit with 1 if an output or a value within is below."),
    ] = None
    top: Annotated[int, Option("--top", min=1, help="Rows of each table; the JSON and the HTML have all.")] = 12
    device: Annotated[Literal["cpu", "cuda"], Option("--device", help="Where the models run.")] = "cpu"
    threads: Annotated[
        int | None, Option("--threads", min=1, help="Threads of the runtime; its choice by default.")
    ] = None
    seed: Annotated[int, Option("--seed", min=0, help="Seed of synthetic inputs.")] = 0
    report: Annotated[
        list[Path],
        Option(
            "--report", metavar="PATH", help="Write the comparison to a file: .html, .md or .json; may be repeated."
        ),
    ] = dataclasses.field(default_factory=list)

    def options(self, page: Any, data: DataFlags) -> Options:
        """What is asked, as the library takes it.

        Raises:
            UsageError: the options do not go together.
        """
        from onnxcompress.comparing.facts import Options

        for name in ("labels", "metric"):
            if getattr(data, name) is not None:
                raise UsageError(f"--{name} has no meaning here", "Values of two models are compared; leave it out.")
        return Options(
            threshold=self.threshold, min_sqnr=self.min_sqnr, device=self.device, threads=self.threads,
            seed=self.seed, data=data.data, data_options=data.options(), progress=page.progress,
        )  # fmt: skip

    def write(self, found: Comparison) -> None:
        """Write the files that were asked for, each whole or not at all."""
        import json

        from onnxcompress.cli.files import write_whole
        from onnxcompress.render.comparison_files import html_page, markdown_page

        for path in self.report:
            made = {".html": html_page, ".md": markdown_page}.get(path.suffix.lower())
            text = json.dumps(found.to_json(), indent=2, allow_nan=False) + "\n" if made is None else made(found)
            write_whole(path, text)


@app.command("compare", cls=Command)
@flat
def compare(a: First, b: Second, compared: CompareFlags, data: DataFlags, page: PageFlags) -> None:
    """Compare two models: their graphs and stored tensors, and where along the graph their values part."""
    from onnxcompress.comparing.compare import compare as look_at
    from onnxcompress.render import comparison
    from onnxcompress.render.console_blocks import BlocksPage

    files = ReportFlags(json=page.json, report=list(compared.report), quiet=page.quiet, verbose=page.verbose)
    files.check(a, b, data.data, data.tokenizer)
    view = BlocksPage(quiet=page.quiet, verbose=page.verbose, stdout_taken=page.json == "-")
    with contextlib.closing(view):
        found = look_at(a, b, compared.options(view, data))
        page.write(found.to_json())
        compared.write(found)
        view.show(comparison.blocks(found, top=None if page.verbose else compared.top), comparison.closing(found))
    if not found.passed:
        raise typer.Exit(1)
