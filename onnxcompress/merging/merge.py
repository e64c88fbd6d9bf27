"""The whole story of a merge: read, mix or join, write, verify, report."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxcompress import inputs, provenance
from onnxcompress.compress import Result, RunOptions
from onnxcompress.errors import UsageError
from onnxcompress.graph import leftovers, writer
from onnxcompress.graph.model import Model
from onnxcompress.merging.ensemble import Kind, ensemble, unmixed
from onnxcompress.merging.mixing import Mixture
from onnxcompress.merging.scores import better, score
from onnxcompress.merging.soup import Shares, searched
from onnxcompress.recipe import Recipe
from onnxcompress.report import Report, Step
from onnxcompress.runtime.blas import on_one_thread
from onnxcompress.runtime.machine import machine_facts
from onnxcompress.runtime.memory import peak_bytes
from onnxcompress.runtime.session import require
from onnxcompress.targets import target_of
from onnxcompress.verify.budgets import Budgets
from onnxcompress.verify.facts import model_facts
from onnxcompress.verify.options import VerifyOptions
from onnxcompress.verify.verify import Verification, verify

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxcompress.data.dataset import Dataset

_TAG = "merged"
_ROUNDING = 1e-6


@dataclass(frozen=True)
class MergeOptions:
    """How models become one.

    ``coefficients``: a share for each; by default all alike. ``search`` finds them on the labels of the data.
    ``ensemble``: average outputs in one graph, or probabilities, in place of weights.
    """

    coefficients: tuple[float, ...] | None = None
    search: bool = False
    ensemble: Kind | None = None
    budgets: Budgets = field(default_factory=Budgets)


@on_one_thread
def merge(models: Sequence[Path], asked: MergeOptions, options: RunOptions) -> Result:
    """Merge model files into one, and compare it with the first of them.

    Raises:
        UsageError: a path or an option is wrong.
        ModelError: the models do not fit together.
        DataError: the data do not fit the models.
        RuntimeFailure: the machine could not do it.
    """
    return _Merge(models, asked, options).result()


class _Merge:
    def __init__(self, paths: Sequence[Path], asked: MergeOptions, options: RunOptions) -> None:
        self.paths, self.asked, self.options = tuple(paths), asked, options
        _refuse(paths, asked, options)
        require(options.device)
        self.models = [Model.open(path) for path in paths]
        self.target = target_of(self.paths[0], _TAG, options, *self.paths[1:])
        self.data, notes, self.judged = inputs.both(
            self.models[0], options, run=options.verify, learns=asked.search
        )  # fmt: skip
        if asked.search and (self.data is None or self.data.labels is None):
            raise UsageError("--search needs labels", "Give --data and --labels, or the shares with --coefficients.")
        self.notes = list(notes)
        self.candidate = leftovers.candidate(self.target)
        self.mixture: Mixture | None = None

    def result(self) -> Result:
        started = time.perf_counter()
        if self.asked.ensemble is None:
            self.mixture = Mixture(self.models)
        shares = self._shares()
        made = self._made(shares)
        parts = ", ".join(f"{path.name} {share:.3g}" for path, share in zip(self.paths, shares, strict=True))
        self.notes.append(f"{'outputs' if self.asked.ensemble else 'weights'} merged: {parts}")
        if self.asked.ensemble and (whole := unmixed(self.models[0])):
            self.notes.append(f"no mean of integers: {', '.join(whole)} is that of {self.paths[0].name}")
        if abs(sum(shares) - 1) > _ROUNDING:
            self.notes.append(f"the coefficients sum to {sum(shares):.3g}, so this is no mean")
        said = {
            "models": [str(path) for path in self.paths], "coefficients": list(shares), "ensemble": self.asked.ensemble,
        }  # fmt: skip
        step = Step("merge", said, time.perf_counter() - started, peak_bytes() or 0, ())
        if self.options.dry_run:
            return Result(self._report(step, None, None), None, passed=True)
        writer.tidy(self.target.parent)
        try:
            self._stamp(made, shares)
            writer.save(made, self.candidate, stem=self.target.name)
            return self._published(step)
        finally:
            writer.discard(self.candidate)

    def _published(self, step: Step) -> Result:
        found = self._verified()
        if self.judged is not None and self.judged.labels is not None and self.options.verify:
            self._note_scores(self.judged)
        place = self.target if found.passed else self.target.with_suffix(".rejected.onnx")
        report = self._report(step, found, place)
        writer.publish(self.candidate, place, new=found.passed and not self.options.force)
        return Result(report, place, found.passed)

    def _shares(self) -> Shares:
        count = len(self.paths)
        if self.asked.coefficients is not None:
            return self.asked.coefficients
        if not self.asked.search:
            return (1 / count,) * count
        return self._found(count)

    def _found(self, count: int) -> Shares:
        data, progress = self.data, self.options.progress
        if data is None:
            raise UsageError("--search needs labels", "Give --data and --labels.")
        names: set[str] = set()
        with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
            path = Path(folder) / "trial.onnx"
            progress.start("trying shares")

            def scored(shares: Shares) -> float:
                writer.save(self._made(shares), path, durable=False)
                name, value = score(path, data, self.options.metric, self.options.device, self.options.threads)
                names.add(name)
                return value

            found, value = searched(count, scored, lambda known, other: better(next(iter(names)), known, other))
            progress.finish()
        self.notes.append(f"shares found on --data: {next(iter(names))} {value:.4f}")
        return found

    def _made(self, shares: Shares) -> Model:
        if self.mixture is not None:
            return self.mixture.mixed(shares)
        return ensemble(self.models, shares, self.asked.ensemble or "outputs")

    def _stamp(self, made: Model, shares: Shares) -> None:
        hashes = [model_facts(model).sha256 for model in self.models]
        said = {"models": hashes, "coefficients": list(shares), "ensemble": self.asked.ensemble}
        version = provenance.tool().version
        entries = {f"{provenance.PREFIX}version": version, f"{provenance.PREFIX}merge": json.dumps(said)}
        provenance.put(made, entries)

    def _verified(self) -> Verification:
        o = self.options
        limits = VerifyOptions(
            device=o.device, threads=o.threads, budgets=self.asked.budgets, metric=o.metric,
            latency_seconds=o.seconds, profile=o.profile, may_grow=self.asked.ensemble is not None,
        )  # fmt: skip
        return verify(self.paths[0], self.candidate, self.judged if o.verify else None, limits, o.progress)

    def _note_scores(self, data: Dataset) -> None:
        """What each of the models scores by itself."""
        o = self.options
        for path in self.paths:
            name, value = score(path, data, o.metric, o.device, o.threads)
            self.notes.append(f"{path.name} alone: {name} {value:.4f}")

    def _report(self, step: Step, found: Verification | None, place: Path | None) -> Report:
        compressed = None if place is None else replace(model_facts(self.candidate), path=str(place))
        return Report(
            provenance.tool(), machine_facts(), Recipe.of((), self.asked.budgets).resolved(), self.options.seed,
            model_facts(self.models[0]), compressed,
            found.fidelity if found else None, found.latency if found else None, found.metrics if found else {},
            (step,), found.checks if found else (),
            tuple(dict.fromkeys((*self.notes, *(found.notes if found else ())))),
            "passed" if found is None or found.passed else "failed", found.layer_times if found else (),
        )  # fmt: skip


def _refuse(paths: Sequence[Path], asked: MergeOptions, options: RunOptions) -> None:
    if len(paths) < 2:
        raise UsageError("there is one model alone", "Give two or more to merge.")
    if asked.coefficients is not None:
        if asked.search:
            raise UsageError("--search and --coefficients exclude each other", "Leave one of them out.")
        if len(asked.coefficients) != len(paths):
            raise UsageError(
                f"{len(asked.coefficients)} coefficients were given for {len(paths)} models", "Give one for each."
            )
        if asked.ensemble is not None and abs(sum(asked.coefficients) - 1) > _ROUNDING:
            raise UsageError("the coefficients of an ensemble do not sum to 1", "Give shares, such as 0.7,0.3.")
    if not options.verify and asked.budgets.asked:
        raise UsageError("budgets cannot be judged without verification", "Leave out the budgets or --no-verify.")
