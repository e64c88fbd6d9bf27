"""`onnxcompress sensitivity`: which layers can a model least do without?"""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from onnxcompress.cli.files import write_whole
from onnxcompress.cli.flags import flat
from onnxcompress.cli.help import Command
from onnxcompress.cli.options import DataFlags, ModelPath, PlaceFlags, ReportFlags
from onnxcompress.errors import UsageError

if TYPE_CHECKING:
    from onnxcompress.search.sensitivity import Options, Sensitivity

app = typer.Typer(rich_markup_mode=None, add_completion=False)
Bits = Literal[8, 4, 3, 2]


@dataclass(frozen=True)
class RankingFlags:
    """What is ranked, and how long that may take."""

    bits: Bits = field(default=8, metadata={"help": "Bits of a weight on trial."})
    min_sqnr: float = field(
        default=20.0, metadata={"help": "SQNR of the worst output that the layers to exclude are chosen for, in dB."}
    )
    seconds: float = field(default=30.0, metadata={"help": "Time for measuring; layers beyond it are estimated."})
    activations: bool | None = field(
        default=None,
        metadata={"help": "Try layers on static integers too; default: where they can run on them.",
                  "flag": "--activations/--no-activations"},
    )  # fmt: skip
    include: tuple[str, ...] = field(default=(), metadata={"help": "Only weights whose name, or a reader's, matches."})
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "No weights whose name, or a reader's, matches."})
    top: Annotated[int, typer.Option("--top", min=1, help="Rows of the table; the JSON has all.")] = 20
    no_simplify: bool = field(default=False, metadata={"help": "Leave out the simplifier that runs first."})

    def options(self, page: Any, data: DataFlags, machine: PlaceFlags) -> Options:
        """What is asked, as the library takes it.

        Raises:
            UsageError: the options do not go together.
        """
        from onnxcompress.search.sensitivity import Options

        return Options(
            bits=self.bits, min_sqnr=self.min_sqnr, seconds=self.seconds, activations=self.activations,
            include=self.include, exclude=self.exclude, simplify=not self.no_simplify, data=data.data,
            data_options=data.options(), device=machine.device, threads=machine.threads, seed=machine.seed,
            max_memory=machine.memory_bytes(), progress=page.progress,
        )  # fmt: skip


@app.command("sensitivity", cls=Command)
@flat
def sensitivity(
    model: ModelPath, ranking: RankingFlags, data: DataFlags, machine: PlaceFlags, report: ReportFlags
) -> None:
    """Rank the layers of a model by the damage that compressing each of them alone does to the outputs.

    Nothing is written but the JSON that --json or --report ask for.
    """
    from onnxcompress.render.console_sensitivity import RankingPage
    from onnxcompress.search.ranking import sensitivity as rank

    for name in ("labels", "metric"):
        if getattr(data, name) is not None:
            raise UsageError(f"--{name} has no meaning here", "Layers are ranked by what outputs lose; leave it out.")
    report = report.named(model.stem)
    report.check(model, data.data, data.labels, data.tokenizer)
    page = RankingPage(quiet=report.quiet, verbose=report.verbose, stdout_taken=report.json == "-")
    with contextlib.closing(page):
        found = rank(model, ranking.options(page, data, machine))
        _write(found, report)
        page.ranking(found, model, ranking.top)


def _write(found: Sensitivity, report: ReportFlags) -> None:
    text = json.dumps(found.to_json(), indent=2, allow_nan=False) + "\n"
    for path in report.files():
        write_whole(path, text)
    if report.json == "-":
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(text)
            sys.stdout.flush()
