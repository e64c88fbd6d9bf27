"""The options that verbs share, in groups; each says in one sentence what it does."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer
from typer import Option

from onnxcompress.cli import completion, quantities
from onnxcompress.errors import UsageError

if TYPE_CHECKING:
    from onnxcompress.data.options import DataOptions
    from onnxcompress.verify.budgets import Budgets

_SUFFIXES = (".html", ".md", ".json")
STEM = "{stem}"  # in the name of a report: that of the model, without its suffix
ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", help="The ONNX model; it is never changed.", autocompletion=completion.models)
]
ModelPaths = Annotated[
    list[Path],
    typer.Argument(
        metavar="MODEL",
        help="The ONNX model, or several, or folders of them; - is standard input. They are never changed.",
        autocompletion=completion.models,
    ),
]


@dataclass(frozen=True)
class WriteFlags:
    """What becomes of the result."""

    panel: ClassVar[str] = "Output"

    output: Annotated[
        Path | None,
        Option(
            "-o",
            "--output",
            help="The file to write, - for standard output, a folder for several models; by default beside the model.",
        ),
    ] = None
    force: Annotated[bool, Option("--force", help="Overwrite the output if it exists.")] = False
    dry_run: Annotated[bool, Option("--dry-run", help="Show the plan with predicted sizes and write nothing.")] = False
    no_verify: Annotated[
        bool, Option("--no-verify", help="Do not run the models: nothing is compared or measured.")
    ] = False
    eval_data: Annotated[
        Path | None,
        Option(
            "--eval-data",
            help="Inputs to judge the result on, which --labels belong to; by default --data.",
            rich_help_panel="Data",
        ),
    ] = None


@dataclass(frozen=True)
class ReportFlags:
    """Where the report goes, and how much is said."""

    panel: ClassVar[str] = "Reports and messages"

    json: Annotated[
        str | None, Option("--json", metavar="PATH|-", help="Write the report as JSON; - is standard output.")
    ] = None
    report: Annotated[
        list[Path],
        Option(
            "--report",
            metavar="PATH",
            help="Write the report to a file: .html, .md or .json; {stem} in its name is the model's. May be repeated.",
        ),
    ] = dataclasses.field(default_factory=list)
    junit: Annotated[Path | None, Option("--junit", help="Write checks and budgets as a JUnit .xml file.")] = None
    quiet: Annotated[bool, Option("-q", "--quiet", help="Print the last line only.")] = False
    verbose: Annotated[bool, Option("-v", "--verbose", help="List every layer and every output.")] = False
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False

    def __post_init__(self) -> None:
        if self.quiet and self.verbose:
            raise UsageError("--quiet and --verbose exclude each other", "Leave one of them out.")
        if self.json == "":
            raise UsageError("--json needs a path", "Give a file name, or - for standard output.")
        for path in self.report:
            if path.suffix.lower() not in _SUFFIXES:
                raise UsageError(
                    f"--report cannot write {path.suffix or 'a file without a suffix'}",
                    f"Supported are {', '.join(_SUFFIXES)}, such as --report report.html.",
                )
        if self.junit is not None and self.junit.suffix.lower() != ".xml":
            raise UsageError("--junit writes XML", "Give a file with that suffix, such as --junit checks.xml.")
        if len({p.resolve() for p in self.files()}) < len(self.files()):
            raise UsageError("two reports would go to the same file", "Give each a name of its own.")

    def named(self, stem: str) -> ReportFlags:
        """These flags for a model of that name, put in place of ``{stem}``."""
        fill = {p: p.with_name(p.name.replace(STEM, stem)) for p in (*self.report, self.junit) if p is not None}
        return dataclasses.replace(self, report=[fill[p] for p in self.report], junit=self.junit and fill[self.junit])

    @property
    def pictures(self) -> bool:
        """Whether a page is wanted that shows more than the other reports, such as the time of each layer."""
        return any(path.suffix.lower() == ".html" for path in self.report)

    def files(self) -> tuple[Path, ...]:
        """The files that the report is written to."""
        given = (Path(self.json) if self.json not in (None, "-") else None, *self.report, self.junit)
        return tuple(p for p in given if p is not None)

    def check(self, *taken: Path | None) -> None:
        """Refuse a report that cannot be written, or that would overwrite a file that the verb works on.

        Raises:
            UsageError: the report cannot go there.
        """
        used = {p.resolve() for p in taken if p is not None}
        for path in self.files():
            if path.resolve() in used:
                raise UsageError(f"the report would overwrite {path}", "Give the report a name of its own.")
            if path.is_file() and path.suffix.lower() not in (*_SUFFIXES, ".xml"):
                raise UsageError(
                    f"the report would overwrite {path}, which is no report", "Give the report a name of its own."
                )
            folder = path.resolve().parent
            if path.is_dir() or not folder.is_dir():
                raise UsageError(f"the report cannot be written to {path}", "Give a file in a folder that exists.")
            if not os.access(folder if not path.exists() or path.is_file() else path, os.W_OK):
                raise UsageError(f"the report may not be written to {path}", "Give a place that you may write to.")


@dataclass(frozen=True)
class DataFlags:
    """What the model is calibrated and evaluated on."""

    panel: ClassVar[str] = "Data"

    data: Annotated[
        Path | None,
        Option("--data", help="Real inputs: a folder of .npz calls, one .npz, images, or a text file."),
    ] = None
    labels: Annotated[Path | None, Option("--labels", help="The right answers: an .npy with a row a sample.")] = None
    metric: Annotated[
        str | None,
        Option("--metric", help="The task metric to compute from the labels, such as accuracy or top5."),
    ] = None
    tokenizer: Annotated[Path | None, Option("--tokenizer", help="The tokenizer.json for a text file.")] = None
    mean: Annotated[str | None, Option("--mean", metavar="R,G,B", help="Mean of the pixels on a scale of 0 to 1.")] = (
        None
    )
    std: Annotated[
        str | None, Option("--std", metavar="R,G,B", help="Deviation of the pixels on a scale of 0 to 1.")
    ] = None
    layout: Annotated[Literal["auto", "nchw", "nhwc"], Option("--layout", help="Order of an image input's axes.")] = (
        "auto"
    )
    size: Annotated[str | None, Option("--size", metavar="HxW", help="Image size where the model leaves it open.")] = (
        None
    )
    limit: Annotated[int | None, Option("--limit", min=1, help="Use at most so many calls of the data.")] = None

    def options(self, eval_data: Path | None = None) -> DataOptions:
        """How the data is to be read, and those that the result is judged on.

        Raises:
            UsageError: the options do not go together.
        """
        from onnxcompress.data.options import DataOptions

        given = [f.name for f in dataclasses.fields(self) if getattr(self, f.name) not in (None, "auto")]
        if self.data is None and eval_data is not None:
            given = [name for name in given if name == "limit"]
        if self.data is None and given:
            raise UsageError(f"--{given[0]} has no meaning without --data", "Say with --data where the inputs are.")
        return DataOptions(
            labels=self.labels,
            tokenizer=self.tokenizer,
            mean=quantities.numbers(self.mean, "--mean") if self.mean else None,
            std=quantities.numbers(self.std, "--std") if self.std else None,
            layout=self.layout,
            size=quantities.height_width(self.size, "--size") if self.size else None,
            limit=self.limit,
        )


@dataclass(frozen=True)
class PlaceFlags:
    """Where it runs."""

    panel: ClassVar[str] = "Machine"

    device: Annotated[Literal["cpu", "cuda"], Option("--device", help="Where the models run.")] = "cpu"
    threads: Annotated[
        int | None, Option("--threads", min=1, help="Threads of the runtime; its choice by default.")
    ] = None
    seed: Annotated[int, Option("--seed", min=0, help="Seed of everything random.")] = 0
    max_memory: Annotated[
        str, Option("--max-memory", metavar="SIZE", help="Memory for statistics of --data, such as 500MB.")
    ] = "1GiB"

    def memory_bytes(self) -> int:
        """The memory for statistics.

        Raises:
            UsageError: it is no size.
        """
        return quantities.bytes_of(self.max_memory, "--max-memory")


@dataclass(frozen=True)
class MachineFlags(PlaceFlags):
    """Where it runs, and how long it is measured there."""

    timing_seconds: Annotated[
        float,
        Option(
            "--timing-seconds",
            min=0,
            envvar="ONNXCOMPRESS_TIMING_SECONDS",
            metavar="S",
            help="Time for measuring latency; twice that where it is noisy.",
        ),
    ] = 4.0


@dataclass(frozen=True)
class JobFlags:
    """How several models share the machine."""

    panel: ClassVar[str] = "Machine"

    jobs: Annotated[
        int, Option("--jobs", min=1, help="Of several models, so many at once; times are measured less surely then.")
    ] = 1


@dataclass(frozen=True)
class BudgetFlags:
    """What the result must hold; otherwise the exit code is 1 and the output is not put in place."""

    panel: ClassVar[str] = "Budgets"

    max_drop: Annotated[
        str | None,
        Option("--max-drop", metavar="SHARE", help="The task metric may drop by so much, such as 0.5%."),
    ] = None
    min_sqnr: Annotated[
        float | None, Option("--min-sqnr", metavar="DB", help="Least SQNR of the worst output, in dB.")
    ] = None
    min_cosine: Annotated[
        float | None, Option("--min-cosine", metavar="C", help="Least cosine similarity of the worst output.")
    ] = None
    min_speedup: Annotated[
        str | None,
        Option("--min-speedup", metavar="FACTOR", help="Least speed-up over the original, such as 1.5."),
    ] = None
    max_size: Annotated[
        str | None,
        Option("--max-size", metavar="SIZE", help="Most bytes, such as 20MiB, or 30% of the original."),
    ] = None
    min_agreement: Annotated[
        str | None, Option("--min-agreement", metavar="SHARE", help="Least top-1 agreement, such as 99%.")
    ] = None

    def budgets(self, base: Budgets | None = None) -> Budgets:
        """The budgets as the verification takes them; those of ``base`` hold where no flag was given.

        Raises:
            UsageError: a limit is out of range or not understood.
        """
        from onnxcompress.verify import budgets

        read = {
            "max_drop": budgets.parse_fraction,
            "min_speedup": budgets.parse_factor,
            "max_size": budgets.parse_size,
            "min_agreement": budgets.parse_fraction,
        }
        given = {n: v for n, v in dataclasses.asdict(self).items() if v is not None}
        values = {n: read[n](v, "--" + n.replace("_", "-")) if n in read else v for n, v in given.items()}
        return dataclasses.replace(base or budgets.Budgets(), **values)
