"""A verb on several models: each in a process of its own, and what came of all of them in one table.

The exit code is the worst of theirs, in the order 0 < 1 < 2 < 3 < 4; an interruption ends all at once.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from onnxcompress.cli import children, command_line, streams
from onnxcompress.cli.files import write_whole
from onnxcompress.cli.models import Job, jobs_of, several
from onnxcompress.cli.options import DataFlags, JobFlags, MachineFlags, ReportFlags, WriteFlags
from onnxcompress.cli.steps import StepFlags
from onnxcompress.cli.work import run_recipe
from onnxcompress.errors import UsageError
from onnxcompress.provenance import tool
from onnxcompress.recipe import Recipe
from onnxcompress.render import batch, ci, words
from onnxcompress.render.batch import Finished
from onnxcompress.render.console_blocks import BlocksPage
from onnxcompress.report import Report
from onnxcompress.runtime.machine import usable_cores
from onnxcompress.search.extents import tag_of

# What the process of one model is told otherwise.
_OWN = ("models", "jobs", "output", "json", "report", "junit", "quiet")
_RUNTIME = 4  # the exit code of a process that died


@dataclass(frozen=True)
class Asked:
    """What was asked of every model alike."""

    recipe: Recipe
    write: WriteFlags
    data: DataFlags
    machine: MachineFlags
    report: ReportFlags
    steps: StepFlags | None = None


def run_models(context: Any, models: Sequence[Path], asked: Asked, flags: JobFlags) -> None:
    """Run the recipe on each of the models, and exit with the worst of the exit codes.

    Raises:
        UsageError: they cannot be run together; nothing has been done then.
    """
    write, data, report = asked.write, asked.data, asked.report
    if not several(models):
        run_recipe(
            models[0], asked.recipe, write, data, asked.machine, report.named(streams.stem(models[0])), asked.steps
        )
        return
    if streams.DASH in models:
        raise UsageError("standard input is one model, and there are others", "Run it by itself.")
    jobs = jobs_of(models, tag_of(asked.recipe), write.output, report)
    data.options(write.eval_data)
    asked.machine.memory_bytes()
    read = (write.eval_data, data.data, data.labels, data.tokenizer)
    for flagged in (report, *(job.report for job in jobs)):
        flagged.check(*(job.model for job in jobs), *(job.output for job in jobs), *read)
    with folder_made(None if write.dry_run else write.output):
        found = _run(context, jobs, asked, min(flags.jobs, len(jobs)))
    raise typer.Exit(batch.worst(found))


def _run(context: Any, jobs: Sequence[Job], asked: Asked, at_once: int) -> list[Finished]:
    """Run the jobs and show what came of them."""
    report = asked.report
    threads = None
    if asked.machine.threads is None and at_once > 1:
        threads = max(1, usable_cores() // at_once)
    page = BlocksPage(quiet=report.quiet, verbose=report.verbose, stdout_taken=report.json == "-")
    found: dict[int, Finished] = {}
    with contextlib.closing(page), tempfile.TemporaryDirectory(prefix="onnxcompress-") as scratch:
        commands = [
            _command(context, job, asked, Path(scratch) / f"{index}.json", threads) for index, job in enumerate(jobs)
        ]
        page.progress.start("models", len(jobs))
        page.progress.advance(jobs[0].model.name, 0)
        with contextlib.closing(children.run(commands, at_once, threads, Path(scratch))) as ended:
            for one in ended:
                job = jobs[one.index]
                found[one.index] = finished = _finished(job, one, Path(scratch) / f"{one.index}.json")
                page.progress.advance(next((j.model.name for i, j in enumerate(jobs) if i not in found), ""))
                _tell(page, finished, one, report, f"{len(found)} of {len(jobs)}")
        page.one((), "")
        ordered = [found[index] for index in range(len(jobs))]
        _write(json.dumps(batch.to_json(ordered, tool(), at_once), indent=2, allow_nan=False) + "\n", report.json)
        page.show(batch.blocks(ordered, at_once), batch.last(ordered, dry_run=asked.write.dry_run))
    return ordered


def _command(context: Any, job: Job, asked: Asked, place: Path, threads: int | None) -> list[str]:
    """The arguments of the process for one model."""
    options = [f"--json={place}", *(f"--report={p}" for p in job.report.report)]
    options += [f"--junit={job.report.junit}"] if job.report.junit is not None else []
    options += [f"--output={job.output}"] if asked.write.output is not None else []
    options += [f"--threads={threads}"] if threads is not None else []
    options += [] if asked.report.verbose else ["--quiet"]
    return [context.info_name, *command_line.again(context, _OWN), *options, "--", str(job.model)]


def _finished(job: Job, one: children.Ended, place: Path) -> Finished:
    """What came of a model, from what its process left."""
    report = Report.from_json(json.loads(place.read_text(encoding="utf-8"))) if place.exists() else None
    if one.code in (0, 1) and report is not None:
        said = one.stdout.splitlines()[-1].partition(": ")[2].partition(" ")[2]
        output = Path(report.compressed.path) if report.compressed is not None else None
        return Finished(job.model, one.code, said, output, report=report)
    if 1 < one.code <= _RUNTIME:
        told = {kind: rest for kind, _, rest in (line.partition(": ") for line in one.stderr.splitlines())}
        return Finished(job.model, one.code, told.get("error", "it failed"), hint=told.get("hint"), report=report)
    how = f"was ended by signal {-one.code}" if one.code < 0 else f"ended with {one.code}"
    return Finished(
        job.model,
        _RUNTIME,
        f"its process {how}",
        hint="It may have run out of memory; run fewer --jobs at once, or this model alone.",
        report=report,
    )


def _tell(page: BlocksPage, finished: Finished, one: children.Ended, report: ReportFlags, place: str) -> None:
    """Say what came of one model as soon as it is known; ``place`` is where that is in the whole."""
    if report.debug:
        sys.stderr.write(one.stderr)
    elif finished.code > 1:
        where = f"{words.safe(finished.model)}: {words.safe(finished.said)}"
        sys.stderr.write(f"error: {where}\n" + (f"hint: {words.safe(finished.hint)}\n" if finished.hint else ""))
    sys.stderr.flush()
    if ci.in_actions() and finished.report is not None and finished.code == 1:
        for line in ci.errors(finished.report):
            page.line(line)
    page.one(one.stdout.splitlines()[:-1] if report.verbose else (), batch.line(finished, place))


def _write(text: str, place: str | None) -> None:
    if place == "-":
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(text)
            sys.stdout.flush()
    elif place is not None:
        write_whole(Path(place), text)


@contextlib.contextmanager
def folder_made(folder: Path | None) -> Iterator[None]:
    """A folder for results, which goes again if there are none."""
    new = folder is not None and not folder.exists()
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if new and folder is not None:
            with contextlib.suppress(OSError):  # it holds results
                folder.rmdir()
