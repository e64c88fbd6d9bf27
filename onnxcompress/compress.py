"""The whole story: read, run the recipe, write, verify, report.

The result is written beside its target under a temporary name and verified there. It takes the target's name only when
every check and budget holds, else that of ``{name}.rejected.onnx``. A result that turns out slower than the original,
or that misses a budget, is made again in other ways before it is given up, see `attempts`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from onnxcompress import inputs, pipeline, provenance
from onnxcompress.attempts import Attempt, Manner, best, first_manner, following, refuse_idle, taken_back
from onnxcompress.data.options import DataOptions
from onnxcompress.errors import RuntimeFailure, UsageError
from onnxcompress.graph import leftovers, writer
from onnxcompress.graph.model import Model
from onnxcompress.kept import KeptSteps, StepBroke, Watching
from onnxcompress.passes.base import FIDELITY, parts_of
from onnxcompress.progress import Progress, Silent
from onnxcompress.recipe import Recipe
from onnxcompress.report import Report
from onnxcompress.runtime.blas import on_one_thread
from onnxcompress.runtime.machine import machine_facts
from onnxcompress.runtime.session import Device, require
from onnxcompress.search.extents import open_extents, searched, settled_at, tag_of, told
from onnxcompress.targets import target_of
from onnxcompress.verify.budgets import Budgets, judge
from onnxcompress.verify.facts import model_facts, size_bytes
from onnxcompress.verify.preflight import preflight
from onnxcompress.verify.structure import structure_checks
from onnxcompress.verify.verify import Verification, VerifyOptions, verify

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from onnxcompress.passes.base import Extents


_BRIEF = 0.05  # seconds of timing where time does not count


@dataclass(frozen=True)
class RunOptions:
    """Everything about a run that is not part of the recipe.

    ``data`` is what the model is calibrated on, and judged on unless there is ``eval_data``. ``seconds`` is the time
    for measuring latency, ``max_memory`` the bytes that statistics may take. ``keep_steps``: models between steps are
    kept beside the output, and taken up again; ``check_steps``: budgets on fidelity hold after each step; ``profile``:
    layers are timed; ``student`` is what learns from the model.
    """

    output: Path | None = None
    force: bool = False
    dry_run: bool = False
    verify: bool = True
    data: Path | None = None
    eval_data: Path | None = None
    data_options: DataOptions = field(default_factory=DataOptions)
    metric: str | None = None
    device: Device = "cpu"
    threads: int | None = None
    seed: int = 0
    seconds: float = 4.0
    max_memory: int = 1 << 30
    progress: Progress = field(default_factory=Silent)
    keep_steps: bool = False
    check_steps: bool = False
    profile: bool = False
    student: Path | None = None


@dataclass(frozen=True)
class Result:
    """What came of a run. ``path`` is where the model lies, under its rejected name if it did not pass."""

    report: Report
    path: Path | None
    passed: bool


@on_one_thread
def compress(model: Path, recipe: Recipe, options: RunOptions | None = None) -> Result:
    """Run a recipe on a model file, and verify what it made.

    Raises:
        UsageError: a path, an option or a pattern is wrong.
        ModelError: the model cannot be used.
        DataError: the data do not fit the model.
        RuntimeFailure: the device is not to be had, or the machine could not do it.
    """
    return _Run(model, recipe, options or RunOptions()).result()


def verify_models(original: Path, compressed: Path, budgets: Budgets, options: RunOptions | None = None) -> Result:
    """Verify a compressed model against its original; nothing is written.

    Raises:
        the errors of `compress`.
    """
    options = options or RunOptions()
    require(options.device)
    source, made = Model.open(original), Model.open(compressed)
    _, notes, data = inputs.both(source, options, run=True)
    if data is None:
        raise RuntimeFailure(f"there is nothing to compare: {notes[-1]}", "Give --data that the original runs on.")
    found = verify(original, compressed, data, _verify_options(options, budgets), options.progress)
    report = Report(
        provenance.tool(), machine_facts(), Recipe.of((), budgets).resolved(), options.seed,
        model_facts(source), model_facts(made, parameters=model_facts(source).parameters),
        found.fidelity, found.latency, found.metrics, (), found.checks, tuple(dict.fromkeys((*notes, *found.notes))),
        "passed" if found.passed else "failed", found.layer_times,
    )  # fmt: skip
    return Result(report, compressed, found.passed)


class _Run:
    def __init__(self, path: Path, recipe: Recipe, options: RunOptions) -> None:
        self.path = path
        self.recipe = recipe
        self.options = options
        self.source = Model.open(path)
        self.student = None if options.student is None else Model.open(options.student)
        self.target = target_of(options.student or path, tag_of(recipe), options, path)
        require(options.device)
        self.learns = any(getattr(step, "learns_labels", False) for step in recipe.steps)
        self._refuse_unjudgeable()
        self.data, self.notes, self.judged = inputs.both(self.source, options, run=options.verify, learns=self.learns)
        apart = None if open_extents(recipe) is None else inputs.held_apart(self.data, options)
        self.held_back = 0
        if apart is not None:
            (self.data, self.judged), self.held_back = apart, len(apart[1])
            self.notes = (
                *self.notes,
                f"judged on {self.held_back} calls of --data that were held back from calibration",
            )
        if options.verify and (options.data or options.eval_data or recipe.budgets.asked):
            preflight(path, self.judged, _verify_options(options, recipe.budgets))
        self.hashing = ThreadPoolExecutor(1, "hash")
        self.original = self.hashing.submit(model_facts, self.source)
        self.memory: dict[str, Any] = {}
        self.candidate = leftovers.candidate(self.target)
        self.standing: Model | None = None

    def _refuse_unjudgeable(self) -> None:
        names = set(self.recipe.budgets.asked) - {"max_size"}
        if names and not self.options.verify:
            raise UsageError(
                f"{sorted(names)[0]} cannot be judged without verification",
                "Leave out the budget or --no-verify.",
            )
        if self.options.check_steps and not (self.options.verify and set(self.recipe.budgets.asked) & set(FIDELITY)):
            raise UsageError(
                "there is no budget on fidelity to check after each step", "Give one, such as --min-sqnr 20."
            )
        if self.options.eval_data is not None and not self.options.verify:
            raise UsageError("--eval-data has no meaning with --no-verify", "Leave one of them out.")
        for name, given in (("labels", self.options.data_options.labels), ("metric", self.options.metric)):
            if given is not None and not self.options.verify and not (self.learns and name == "labels"):
                raise UsageError(f"--{name} has no meaning with --no-verify", "Leave one of them out.")

    def result(self) -> Result:
        """Try, verify and publish."""
        extents = open_extents(self.recipe)
        if self.options.dry_run:
            return self._foreseen(extents)
        writer.tidy(self.target.parent)
        try:
            if extents is None:
                return self._published(*self._attempted(self.recipe))
            opened = self.recipe
            extent, (attempt, note) = searched(
                extents,
                lambda value: self._attempted(settled_at(opened, value), extents.further(value)),
                lambda made: made[0].holds(extents.budgets),
            )
            self.recipe = settled_at(opened, extent)
            self.notes = (*self.notes, told(extents, extent, opened, self.recipe))
            return self._published(attempt, note)
        finally:
            self.hashing.shutdown(wait=False, cancel_futures=True)
            writer.discard(self.candidate)

    def _foreseen(self, extents: Extents | None) -> Result:
        """The plan of a dry run; with the first extent that would be tried."""
        if extents is not None:
            self.recipe = settled_at(self.recipe, extents.values[extents.first])
            self.notes = (
                *self.notes,
                f"how far to go is found by measuring {', '.join(extents.budgets)}; here the guess",
            )
        _, ran = self._planned(self.recipe, first_manner(self.recipe.budgets))
        return Result(self._report(ran, None, (), None), None, passed=True)

    def _attempted(self, recipe: Recipe, deciding: Collection[str] = ()) -> tuple[Attempt, str | None]:
        """The best of all ways to write what a recipe makes, and what there is to say of the others.

        One is enough where it breaks a budget that is ``deciding`` how far a step goes: it will go another way then.
        """
        manner: Manner | None = first_manner(recipe.budgets)
        tried: list[Attempt] = []
        while manner is not None:
            try:
                model, ran = self._planned(recipe, manner, self._watching() if not tried else None)
            except StepBroke as broke:
                note = f"a budget does not hold after {broke.label}; the steps behind it did not run"
                return Attempt(manner, broke.model, broke.ran, broke.verification), note
            self._write(model)
            tried.append(Attempt(manner, model, ran, self._verified()))
            broken = not tried[-1].holds(deciding)
            manner = following(tried) if self.options.verify and not broken else None
        kept = best(tried)
        return kept, taken_back(tried, kept)

    def _watching(self) -> Watching | None:
        """What looks on between steps, where that is asked for."""
        kept = None
        if self.options.keep_steps:
            sha = self.original.result().sha256
            kept = KeptSteps(self.target, sha, self.data or (), self.options.seed)
            kept.refuse_others(parts_of(self.recipe.steps), force=self.options.force)
        if kept is None and not self.options.check_steps:
            return None
        return Watching(kept, self._judged if self.options.check_steps else None)

    def _judged(self, model: Model) -> Verification:
        """A model between steps, against the budgets on fidelity."""
        self._write(model)
        limits = {name: value for name, value in self.recipe.budgets.asked.items() if name in FIDELITY}
        options = replace(_verify_options(self.options, Budgets(**limits)), latency_seconds=_BRIEF)
        return verify(self.path, self.candidate, self.judged, options, self.options.progress)

    def _planned(
        self, recipe: Recipe, manner: Manner, watch: Watching | None = None
    ) -> tuple[Model, list[pipeline.Ran]]:
        environment = pipeline.Environment(
            self.data, self.options.threads, self.options.seed, manner.fast_forms, self.options.progress,
            noise_limit=manner.noise_limit, chains=manner.chains,
            identity=self.original.result().sha256, max_memory=self.options.max_memory, memory=self.memory, watch=watch,
            dry=self.options.dry_run, student=self.student,
        )  # fmt: skip
        model, ran = pipeline.run(self.source.copy(), recipe.steps, environment)
        ran = refuse_idle(ran)
        model = model.copy()
        provenance.stamp(model, recipe, environment, self.options.data_options, self.held_back)
        return model, ran

    def _write(self, model: Model) -> None:
        progress = self.options.progress
        progress.start("writing", sum(model.nbytes(t) for t in model.tensors() if not model.has_data(t)))
        writer.save(model, self.candidate, told=progress.advance, stem=self.target.name)
        progress.finish()
        self.standing = model

    def _verified(self) -> Verification:
        if not self.options.verify:
            made = Model.open(self.candidate)
            size: dict[str, float | None] = {
                "max_size": self.recipe.budgets.counted_size(size_bytes(made), size_bytes(self.source))
            }
            checks = (*structure_checks(self.source, made), *judge(self.recipe.budgets, size))
            return Verification(None, None, {}, checks, ("not verified: --no-verify",), all(c.ok for c in checks))
        options = _verify_options(self.options, self.recipe.budgets)
        return verify(self.path, self.candidate, self.judged, options, self.options.progress)

    def _published(self, attempt: Attempt, note: str | None) -> Result:
        found = attempt.verification
        if note is not None:
            self.notes = (*self.notes, note)
        if self.standing is not attempt.model:
            self._write(attempt.model)
        place = self.target if found.passed else self.target.with_suffix(".rejected.onnx")
        report = self._report(attempt.ran, found, found.notes, place)  # of this file, whoever replaces it
        writer.publish(self.candidate, place, new=found.passed and not self.options.force)
        return Result(report, place, found.passed)

    def _report(self, ran: Sequence[pipeline.Ran], found: Verification | None, notes: tuple[str, ...],
                place: Path | None) -> Report:  # fmt: skip
        original, compressed = self.original.result(), None
        if place is not None:
            kept = original.parameters - sum(r.removed for r in ran)
            compressed = replace(model_facts(self.candidate, parameters=kept), path=str(place))
        return Report(
            provenance.tool(), machine_facts(), self.recipe.resolved(), self.options.seed, original, compressed,
            found.fidelity if found else None, found.latency if found else None, found.metrics if found else {},
            tuple(r.record() for r in ran), found.checks if found else (), tuple(dict.fromkeys((*self.notes, *notes))),
            "passed" if found is None or found.passed else "failed",
            found.layer_times if found else (),
        )  # fmt: skip


def _verify_options(options: RunOptions, budgets: Budgets) -> VerifyOptions:
    return VerifyOptions(
        device=options.device, threads=options.threads, budgets=budgets, metric=options.metric,
        latency_seconds=options.seconds, profile=options.profile,
    )  # fmt: skip
