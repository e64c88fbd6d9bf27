"""Several models of one command: which they are, where each result and each report goes, and what is refused at once.

A folder stands for the models directly in it. What the tool made itself carries its provenance, and is left out
wherever there are others: so a second run on a folder works on the same models as the first. A folder of nothing but
results is taken as it is, which is how one verb works on what another one made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxcompress.cli.options import STEM, ReportFlags
from onnxcompress.errors import OnnxCompressError, UsageError
from onnxcompress.graph.model import Model
from onnxcompress.provenance import PREFIX

_REJECTED = ".rejected.onnx"


@dataclass(frozen=True)
class Job:
    """One of several models: where its result goes, and the reports of it alone."""

    model: Path
    output: Path
    report: ReportFlags


def several(models: Sequence[Path]) -> bool:
    """Whether these are more than the one file that a verb works on by itself."""
    return len(models) != 1 or models[0].is_dir()


def jobs_of(models: Sequence[Path], tag: str, folder: Path | None, report: ReportFlags) -> tuple[Job, ...]:
    """A job for each model, folders replaced by what is in them.

    Args:
        models: files and folders, as given.
        tag: what results are called after their model's name.
        folder: where results go; beside their models without it.
        report: reports, with ``{stem}`` in the names of those that are written for each model.

    Raises:
        UsageError: a folder has no models, the output is no folder, or two things would be written to one file.
    """
    found = tuple(model for given in models for model in _expanded(given))
    _refuse_folder(folder, len(found))
    _refuse_plain_names(report, len(found))
    jobs = tuple(
        Job(
            model,
            (folder or model.parent) / f"{model.stem}.{tag}.onnx",
            replace(report.named(model.stem), json=None),
        )
        for model in found
    )
    _refuse_repeated(found)
    _refuse_shared_place("output", ((job.output, job.model) for job in jobs))
    _refuse_shared_place("report", ((path, job.model) for job in jobs for path in job.report.files()))
    inputs = {job.model.resolve() for job in jobs}
    for job in jobs:
        if job.output.resolve() in inputs:
            raise UsageError(
                f"the output of {job.model} would be {job.output}, another of the models",
                "Leave that model out, or give a folder with -o.",
            )
    return jobs


def _expanded(given: Path) -> tuple[Path, ...]:
    """The model, or those in the folder."""
    if not given.is_dir():
        return (given,)
    there = sorted(p for p in given.glob("*.onnx") if p.is_file() and not p.name.startswith("."))
    whole = [p for p in there if not p.name.endswith(_REJECTED)]
    models = [p for p in whole if not _made_here(p)] or whole
    if not models:
        raise UsageError(f"the folder {given} has no models", "Give a folder with .onnx files in it, or files.")
    return tuple(models)


def _made_here(path: Path) -> bool:
    """Whether this tool wrote that file. One that cannot be read is a model to fail on, not one to pass over."""
    try:
        return any(entry.key.startswith(PREFIX) for entry in Model.open(path).proto.metadata_props)
    except (OnnxCompressError, OSError):
        return False


def _refuse_folder(folder: Path | None, count: int) -> None:
    if folder is None:
        return
    if str(folder) == "-" or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"-o {folder} is no folder for {count} results", "Give a folder; it is made if need be.")
    if not folder.exists() and folder.suffix.lower() == ".onnx":
        raise UsageError(
            f"-o {folder} names one file for several models", "Give a folder; each result is called after its model."
        )


def _refuse_plain_names(report: ReportFlags, count: int) -> None:
    if STEM in (report.json or ""):
        raise UsageError("--json is one file for all models", f"Leave {STEM} out; --report can write one for each.")
    for option, path in (*(("--report", p) for p in report.report), ("--junit", report.junit)):
        if path is not None and count > 1 and STEM not in path.name:
            raise UsageError(
                f"{option} {path} is one file for {count} models",
                f"Put {STEM}, the name of the model, into it, such as {option} {path.stem}-{STEM}{path.suffix}.",
            )


def _refuse_repeated(models: Sequence[Path]) -> None:
    seen: set[Path] = set()
    for model in models:
        if model.resolve() in seen:
            raise UsageError(f"{model} is given twice", "Give each model once.")
        seen.add(model.resolve())


def _refuse_shared_place(what: str, places: Iterator[tuple[Path, Path]]) -> None:
    """Refuse two models of which one would overwrite what came of the other."""
    owners: dict[Path, Path] = {}
    for place, model in places:
        other = owners.setdefault(place.resolve(), model)
        if other != model:
            raise UsageError(
                f"the {what} of {other} and that of {model} would both be {place}",
                "Run them apart, or give one of the models another name.",
            )
