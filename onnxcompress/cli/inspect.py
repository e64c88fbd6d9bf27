"""`onnxcompress inspect`: what is in this model?"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Option

from onnxcompress.cli import streams
from onnxcompress.cli.flags import flat
from onnxcompress.cli.help import Command
from onnxcompress.cli.options import ModelPath
from onnxcompress.cli.tables import PageFlags
from onnxcompress.errors import UsageError

if TYPE_CHECKING:
    from onnxcompress.inspection.facts import Inspection, Options
    from onnxcompress.render.blocks import Block

app = typer.Typer(rich_markup_mode=None, add_completion=False)
Sort = Literal["bytes", "name", "macs", "zeros", "op"]


@dataclass(frozen=True)
class LookFlags:
    """What is shown, and how shapes are found."""

    layers: Annotated[bool, Option("--layers", help="Show a row for each stored tensor in place of the page.")] = False
    sort: Annotated[Sort | None, Option("--sort", help="Order of --layers; by default the most bytes first.")] = None
    top: Annotated[int | None, Option("--top", min=1, help="Rows of --layers; all by default.")] = None
    run: Annotated[
        bool, Option("--run/--no-run", help="Watch shapes in one run on synthetic inputs, or infer them only.")
    ] = True
    threads: Annotated[
        int | None, Option("--threads", min=1, help="Threads of the runtime; its choice by default.")
    ] = None
    seed: Annotated[int, Option("--seed", min=0, help="Seed of synthetic inputs.")] = 0

    def __post_init__(self) -> None:
        for name in ("sort", "top"):
            if getattr(self, name) is not None and not self.layers:
                raise UsageError(f"--{name} has no meaning without --layers", "Add --layers, or leave it out.")

    def options(self, page: Any) -> Options:
        """What is asked, as the library takes it."""
        from onnxcompress.inspection.facts import Options

        return Options(run=self.run, threads=self.threads, seed=self.seed, progress=page.progress)

    def shown(self, found: Inspection, *, verbose: bool) -> tuple[Block, ...]:
        """The page, or the rows."""
        from onnxcompress.render import inspection

        if self.layers:
            return inspection.layers(found, self.sort or "bytes", self.top)
        return inspection.blocks(found, verbose=verbose)


@app.command("inspect", cls=Command)
@flat
def inspect(model: ModelPath, look: LookFlags, page: PageFlags) -> None:
    """Show what is in a model: size, work, memory, values of its tensors, and what each verb could do to it.

    Nothing is written but the JSON that --json asks for.
    """
    from onnxcompress.inspection.look import inspect as look_at
    from onnxcompress.render.console_blocks import BlocksPage
    from onnxcompress.render.inspection import closing

    page.check(model)
    view = BlocksPage(quiet=page.quiet, verbose=page.verbose, stdout_taken=page.json == "-")
    with contextlib.closing(view), streams.reading(model) as source:
        found = look_at(source, look.options(view))
        if model == streams.DASH:
            found = dataclasses.replace(found, model=streams.named(found.model))
        page.write(found.to_json())
        view.show(look.shown(found, verbose=page.verbose), closing(found, model))
