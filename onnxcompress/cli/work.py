"""What every verb does around its work: the page opens, the work runs, the report is written and shown."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from onnxcompress.cli.options import DataFlags, MachineFlags, ReportFlags, WriteFlags
from onnxcompress.cli.steps import StepFlags
from onnxcompress.compress import Result, RunOptions, compress
from onnxcompress.recipe import Recipe
from onnxcompress.render.console import Page


def run_recipe(
    model: Path,
    recipe: Recipe,
    write: WriteFlags,
    data: DataFlags,
    machine: MachineFlags,
    report: ReportFlags,
    steps: StepFlags | None = None,
) -> None:
    """Run the recipe on the model, show what came of it, and exit with 1 if it did not pass."""
    report.check(model, write.output, write.eval_data, data.data, data.labels, data.tokenizer)
    with opened(report) as page:
        options = run_options(page, data, machine, write)
        if steps is not None:
            options = dataclasses.replace(options, keep_steps=steps.keep_steps, check_steps=steps.check_steps)
        result = compress(model, recipe, options)
        show(page, result, report, dry_run=write.dry_run)


def run_options(page: Page, data: DataFlags, machine: MachineFlags, write: WriteFlags | None = None) -> RunOptions:
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
        max_memory=machine.memory_bytes(),
        progress=page.progress,
    )


@contextlib.contextmanager
def opened(report: ReportFlags) -> Iterator[Page]:
    """The page of a verb, closed whatever happens, so that no bar stays on the terminal."""
    page = Page(quiet=report.quiet, verbose=report.verbose, stdout_taken=report.json == "-")
    try:
        yield page
    finally:
        page.close()


def show(page: Page, result: Result, report: ReportFlags, *, dry_run: bool = False) -> None:
    """Write the report where it was asked for, show the page, and exit with 1 if the result did not pass."""
    for path in report.files():
        result.report.write_json(path)
    if report.json == "-":
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(json.dumps(result.report.to_json(), indent=2, allow_nan=False) + "\n")
    page.report(result.report, result.path, passed=result.passed, dry_run=dry_run)
    if not result.passed:
        raise typer.Exit(1)
