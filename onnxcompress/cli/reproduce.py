"""`onnxcompress reproduce`: does the original still give this very result?"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from onnxcompress.cli import completion
from onnxcompress.cli.flags import flat
from onnxcompress.cli.help import Command
from onnxcompress.cli.tables import PageFlags

app = typer.Typer(rich_markup_mode=None, add_completion=False)
Output = Annotated[
    Path, typer.Argument(metavar="OUTPUT", help="A result of this tool.", autocompletion=completion.models)
]
Original = Annotated[
    Path,
    typer.Option("--from", metavar="INPUT", help="The model that it was made of.", autocompletion=completion.models),
]
Data = Annotated[Path | None, typer.Option("--data", help="The data that it was made with, if there were any.")]
Tokenizer = Annotated[Path | None, typer.Option("--tokenizer", help="The tokenizer.json, if those are a text file.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Threads of the runtime; its choice by default.")]


@app.command("reproduce", cls=Command)
@flat
def reproduce(
    output: Output, original: Original, page: PageFlags, data: Data = None, tokenizer: Tokenizer = None,
    threads: Threads = None,
) -> None:  # fmt: skip
    """Compress a model again as a result says that it was made, and compare the two byte for byte.

    Nothing is written but the JSON that --json asks for. Exit code 1 where they differ.
    """
    from onnxcompress import reproduction
    from onnxcompress.render import reproduction as shown
    from onnxcompress.render.console_blocks import BlocksPage

    page.check(output, original, data, tokenizer)
    view = BlocksPage(quiet=page.quiet, verbose=page.verbose, stdout_taken=page.json == "-")
    with contextlib.closing(view):
        options = reproduction.ReproduceOptions(data, tokenizer, threads, view.progress)
        found = reproduction.reproduce(output, original, options)
        page.write(found.to_json())
        view.show(shown.blocks(found, verbose=page.verbose), shown.closing(found, output))
    if not found.identical:
        raise typer.Exit(1)
