"""What every verb does around its work: the page opens, the work runs, the report is written and shown."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from onnxcompress.cli import streams
from onnxcompress.cli.files import write_whole
from onnxcompress.cli.options import DataFlags, MachineFlags, ReportFlags, WriteFlags
from onnxcompress.cli.steps import StepFlags
from onnxcompress.compress import Result, RunOptions, compress
from onnxcompress.recipe import Recipe
from onnxcompress.render import ci, html
from onnxcompress.render.console import Page
from onnxcompress.render.junit import junit
from onnxcompress.render.markdown import markdown


def run_recipe(
    model: Path,
    recipe: Recipe,
    write: WriteFlags,
    data: DataFlags,
    machine: MachineFlags,
    report: ReportFlags,
    steps: StepFlags | None = None,
    student: Path | None = None,
) -> None:
    """Run the recipe on the model, show what came of it, and exit with 1 if it did not pass."""
    report.check(model, student, write.output, write.eval_data, data.data, data.labels, data.tokenizer)
    taken = write.output == streams.DASH
    with opened(report, stdout_taken=taken) as page, streams.opened(model, write, report, steps) as files:
        options = run_options(page, data, machine, files.write, profile=report.pictures)
        if steps is not None:
            options = dataclasses.replace(options, keep_steps=steps.keep_steps, check_steps=steps.check_steps)
        options = dataclasses.replace(options, student=student)
        result = files.deliver(compress(files.model, recipe, options))
        show(page, result, report, dry_run=write.dry_run)


def run_options(
    page: Page, data: DataFlags, machine: MachineFlags, write: WriteFlags | None = None, *, profile: bool = False
) -> RunOptions:
    """The options of a run from the flags of a verb."""
    write = write or WriteFlags()
    return RunOptions(
        output=write.output,
        force=write.force,
        dry_run=write.dry_run,
        verify=not write.no_verify,
        data=data.data,
        eval_data=write.eval_data,
        data_options=data.options(write.eval_data),
        metric=data.metric,
        device=machine.device,
        threads=machine.threads,
        seed=machine.seed,
        seconds=machine.timing_seconds,
        max_memory=machine.memory_bytes(),
        progress=page.progress,
        profile=profile,
    )


@contextlib.contextmanager
def opened(report: ReportFlags, *, stdout_taken: bool = False) -> Iterator[Page]:
    """The page of a verb, closed whatever happens, so that no bar stays on the terminal."""
    page = Page(quiet=report.quiet, verbose=report.verbose, stdout_taken=stdout_taken or report.json == "-")
    try:
        yield page
    finally:
        page.close()


def show(page: Page, result: Result, report: ReportFlags, *, dry_run: bool = False) -> None:
    """Write the report where it was asked for, show the page, and exit with 1 if the result did not pass."""
    write_reports(result, report, dry_run=dry_run)
    if report.json == "-":
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(json.dumps(result.report.to_json(), indent=2, allow_nan=False) + "\n")
    if ci.in_actions() and not dry_run:
        ci.write_summary(result.report, result.path, passed=result.passed)
        for line in ci.errors(result.report):
            page.line(line)
    page.report(result.report, result.path, passed=result.passed, dry_run=dry_run)
    if not result.passed:
        raise typer.Exit(1)


def write_reports(result: Result, report: ReportFlags, *, dry_run: bool = False) -> None:
    """Write the files that were asked for, each whole or not at all."""
    for path in report.files():
        suffix = ".xml" if path == report.junit else path.suffix.lower()
        if suffix == ".html":
            text = html.page(result.report, result.path, passed=result.passed, dry_run=dry_run)
        elif suffix == ".md":
            text = markdown(result.report, result.path, passed=result.passed, dry_run=dry_run)
        elif suffix == ".xml":
            text = junit(result.report)
        else:
            text = json.dumps(result.report.to_json(), indent=2, allow_nan=False) + "\n"
        write_whole(path, text)
