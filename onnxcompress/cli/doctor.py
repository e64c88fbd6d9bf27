"""`onnxcompress doctor`: what does this machine do well, and what stands in the way?"""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from onnxcompress.cli.flags import flat
from onnxcompress.cli.help import Command
from onnxcompress.cli.tables import PageFlags

app = typer.Typer(rich_markup_mode=None, add_completion=False)
Measure = Annotated[
    bool,
    typer.Option("--measure/--no-measure", help="Measure which forms are fast: ten seconds, then remembered."),
]


@app.command("doctor", cls=Command)
@flat
def doctor(page: PageFlags, measure: Measure = True) -> None:
    """Show versions, processor features, providers, memory, threads and fast forms of this machine, and advice."""
    from onnxcompress.diagnosis.look import look
    from onnxcompress.render import doctor as shown
    from onnxcompress.render.console_blocks import BlocksPage

    page.check()
    view = BlocksPage(quiet=page.quiet, verbose=page.verbose, stdout_taken=page.json == "-")
    with contextlib.closing(view):
        found = look(view.progress, measure=measure)
        page.write(found.to_json())
        view.show(shown.blocks(found, verbose=page.verbose), shown.closing(found))
