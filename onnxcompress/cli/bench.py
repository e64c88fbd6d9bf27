"""`onnxcompress bench`: how fast are these models, and what do they hold?"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Option

from onnxcompress.cli import completion
from onnxcompress.cli.flags import flat
from onnxcompress.cli.help import Command
from onnxcompress.cli.options import DataFlags
from onnxcompress.cli.tables import PageFlags, check_csv, put
from onnxcompress.errors import UsageError

if TYPE_CHECKING:
    from onnxcompress.benching.facts import Options

app = typer.Typer(rich_markup_mode=None, add_completion=False)
Models = Annotated[
    list[Path],
    typer.Argument(
        metavar="MODEL",
        help="The ONNX models; the first is what others are compared with.",
        autocompletion=completion.models,
    ),
]


@dataclass(frozen=True)
class SettingFlags:
    """What is measured, and how long that may take."""

    device: Annotated[Literal["cpu", "cuda"], Option("--device", help="Where the models run.")] = "cpu"
    threads: Annotated[
        str | None, Option("--threads", metavar="N,N", help="Threads of the runtime; its choice by default.")
    ] = None
    batch: Annotated[
        str | None, Option("--batch", metavar="N,N", help="Sizes of the batch axis of synthetic inputs.")
    ] = None
    sequence: Annotated[
        str | None, Option("--sequence", metavar="N,N", help="Sizes of the sequence axis of synthetic inputs.")
    ] = None
    seconds: Annotated[float, Option("--seconds", help="Time within calls, for each setting.")] = 4.0
    seed: Annotated[int, Option("--seed", min=0, help="Seed of synthetic inputs.")] = 0
    profile: Annotated[bool, Option("--profile", help="Show what operators and layers take.")] = False
    memory: Annotated[
        bool, Option("--memory/--no-memory", help="Measure load time and peak memory, in a process for each.")
    ] = True
    csv: Annotated[
        str | None, Option("--csv", metavar="PATH|-", help="Write a row for each model and setting as CSV.")
    ] = None

    def options(self, page: Any, data: DataFlags) -> Options:
        """What is asked, as the library takes it.

        Raises:
            UsageError: the options do not go together, or a list is none.
        """
        from onnxcompress.benching.facts import Options

        for name in ("labels", "metric"):
            if getattr(data, name) is not None:
                raise UsageError(f"--{name} has no meaning here", "Only speed and memory are measured; leave it out.")
        return Options(
            threads=counts(self.threads, "--threads"), batches=counts(self.batch, "--batch"),
            sequences=counts(self.sequence, "--sequence"), device=self.device, data=data.data,
            data_options=data.options(), seed=self.seed, seconds=self.seconds, profile=self.profile,
            memory=self.memory, progress=page.progress,
        )  # fmt: skip


def counts(text: str | None, name: str) -> tuple[int | None, ...]:
    """Numbers by commas, each once; without a list one None.

    Raises:
        UsageError: a part is no whole number above zero.
    """
    if text is None:
        return (None,)
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,9}", part) and int(part) for part in parts):
        raise UsageError(f"{name} is {text!r}", f"Give whole numbers from 1 on, by commas, such as {name} 1,8.")
    return tuple(dict.fromkeys(map(int, parts)))


@app.command("bench", cls=Command)
@flat
def bench(models: Models, settings: SettingFlags, data: DataFlags, page: PageFlags) -> None:
    """Measure latency, throughput, load time and peak memory of models, all in turns, on several settings."""
    from onnxcompress.benching import measuring
    from onnxcompress.render import bench as shown
    from onnxcompress.render.console_blocks import BlocksPage

    taken = (*models, data.data, data.tokenizer)
    page.check(*taken)
    check_csv(settings.csv, *taken, Path(page.json) if page.json else None)
    if (page.json, settings.csv) == ("-", "-"):
        raise UsageError("--json and --csv cannot both go to standard output", "Give one of them a file.")
    view = BlocksPage(quiet=page.quiet, verbose=page.verbose, stdout_taken="-" in (page.json, settings.csv))
    with contextlib.closing(view):
        found = measuring.bench(models, settings.options(view, data))
        page.write(found.to_json())
        if settings.csv is not None:
            put(shown.to_csv(found), settings.csv)
        view.show(shown.blocks(found, verbose=page.verbose), shown.closing(found))
