"""``-``: a model from standard input, or a result to standard output."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxcompress.errors import ModelError, OnnxCompressError, RuntimeFailure, UsageError

if TYPE_CHECKING:
    from onnxcompress.cli.options import ReportFlags, WriteFlags
    from onnxcompress.cli.steps import StepFlags
    from onnxcompress.compress import Result
    from onnxcompress.report import ModelFacts

DASH = Path("-")
_APART = re.compile(r"--(?:json|csv|output)|-[a-zA-Z]*o")  # the value is the next word
_WITHIN = re.compile(r"--(?:json|csv|output)=-|-[a-zA-Z]*o-")


def stdout_taken(arguments: Sequence[str]) -> bool:
    """Whether standard output belongs to values or to a model, so that everything said goes to standard error.

    >>> stdout_taken(["bench", "m.onnx", "--csv=-"]), stdout_taken(["inspect", "-"])
    (True, False)
    """
    words = list(arguments)
    if "--" in words:
        words = words[: words.index("--")]
    pairs = zip(words, [*words[1:], ""], strict=True)
    return any(_WITHIN.fullmatch(word) or (_APART.fullmatch(word) and after == "-") for word, after in pairs)


@dataclass(frozen=True)
class Streams:
    """The model and the output of a run, with a file in place of each that is a stream."""

    model: Path
    write: WriteFlags
    piped_in: bool = False
    piped_out: bool = False

    def deliver(self, result: Result) -> Result:
        """Write a result that passed to standard output, and name streams as such in what is told of it.

        Raises:
            ModelError: the result is more than one file.
            RuntimeFailure: whoever reads went away.
        """
        report, path = result.report, result.path
        if self.piped_in:
            report = dataclasses.replace(report, original=named(report.original))
        if self.piped_out and report.compressed is not None and path is not None:
            if result.passed:
                _send(path)
            report = dataclasses.replace(report, compressed=named(report.compressed))
            path = DASH if result.passed else None
        return dataclasses.replace(result, report=report, path=path)


@contextlib.contextmanager
def opened(model: Path, write: WriteFlags, report: ReportFlags, steps: StepFlags | None) -> Iterator[Streams]:
    """Files in place of streams, as long as they are needed.

    Raises:
        UsageError: a stream cannot be used so.
        ModelError: what comes through standard input cannot be used.
    """
    piped_in, piped_out = model == DASH, write.output == DASH
    if not (piped_in or piped_out):
        yield Streams(model, write)
        return
    if piped_in and write.output is None and not write.dry_run:
        raise UsageError("a model from standard input has no folder to write beside", "Give -o FILE, or -o -.")
    if piped_out:
        _refuse_output(write, report, steps)
    with _scratch() as folder, reading(model) as source:
        output = folder / "stdout.onnx" if piped_out else write.output
        yield Streams(source, dataclasses.replace(write, output=output), piped_in, piped_out)


@contextlib.contextmanager
def reading(model: Path) -> Iterator[Path]:
    """The file of a model, made for one from standard input as long as it is needed.

    Raises:
        UsageError: standard input is a terminal, or closed.
        ModelError: what comes through it cannot be used.
    """
    if model != DASH:
        yield model
        return
    with _scratch() as folder:
        path = folder / "stdin.onnx"
        try:
            _spool(path)
            yield path
        except OnnxCompressError as error:  # of a file that nobody knows
            error.message = error.message.replace(str(path), "standard input")
            raise


def named(facts: ModelFacts) -> ModelFacts:
    """The facts of a model that is no file by its own name."""
    return dataclasses.replace(facts, path=str(DASH))


def stem(model: Path) -> str:
    """What reports of a model are called by."""
    return "stdin" if model == DASH else model.stem


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    import tempfile  # which the help of all verbs need not wait for

    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        yield Path(folder)


def _spool(path: Path) -> None:
    from onnxcompress.graph.piped import spool

    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("standard input is no model but a terminal", "Pipe a model into it, or give a path.")
    spool(sys.stdin.buffer, path)


def _refuse_output(write: WriteFlags, report: ReportFlags, steps: StepFlags | None) -> None:
    if report.json == "-":
        raise UsageError("-o and --json cannot both go to standard output", "Give one of them a file.")
    if steps is not None and steps.keep_steps:
        raise UsageError("--keep-steps keeps models beside the output, and -o - has no folder", "Give -o a file.")
    if not write.dry_run and (sys.stdout is None or sys.stdout.isatty()):
        raise UsageError("a model is not written to a terminal", "Redirect standard output, or give -o a file.")


def _send(path: Path) -> None:
    from onnxcompress.graph.model import Model
    from onnxcompress.verify.facts import model_files

    if len(model_files(Model.open(path))) > 1:
        raise ModelError(
            "the compressed model is too large for one file, and standard output cannot carry its external data",
            "Give -o a file.",
        )
    try:
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        raise RuntimeFailure(
            "standard output was closed before the whole model was written", "Check the command that reads it."
        ) from error
