"""The ranking of a model: estimated for all layers, measured for those about which it matters most.

What each layer loses of its own output is told by what it sees (see `local`); what arrives at the outputs is measured
as far as time allows (see `trials`). The fewest layers that have to be left out of a compression follow from it (see
`exclusion`), and all that remain are rounded at once to see whether that is so.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from onnxcompress import inputs, pipeline, provenance
from onnxcompress.errors import ModelError, RuntimeFailure
from onnxcompress.graph.model import Model
from onnxcompress.graph.scopes import Scopes
from onnxcompress.passes.rounding import layers
from onnxcompress.passes.simplify import Simplify
from onnxcompress.runtime.failures import LimitReached
from onnxcompress.runtime.session import require
from onnxcompress.search import local
from onnxcompress.search.candidates import Candidate, Rounded, found
from onnxcompress.search.exclusion import Knowledge, pattern
from onnxcompress.search.lifting import lifted
from onnxcompress.search.sensitivity import LayerDamage, Options, Rest, Sensitivity
from onnxcompress.search.static_trials import StaticDamage, applies, static_damage
from onnxcompress.search.trials import SESSIONS, Trials
from onnxcompress.stats.archive import Archive, collected
from onnxcompress.stats.probe import Probe
from onnxcompress.verify.facts import model_facts
from onnxcompress.verify.options import VerifyOptions
from onnxcompress.verify.preflight import preflight

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from onnxcompress.data.dataset import Dataset
    from onnxcompress.graph.layers import Weight
    from onnxcompress.search.sensitivity import Source

_GRAM_CALLS = 8  # what layers see differs far less from call to call than from layer to layer
_TRIAL_CALLS = 8  # at most; fewer where a trial would last longer than half a second
_WEIGHTS_SHARE = 0.6  # of the time, where static integers are tried as well
_CHECKS = 10  # times that the layers which stay are rounded together


def sensitivity(path: Path, options: Options) -> Sensitivity:
    """Rank the layers of a model file.

    Raises:
        UsageError: a path or a pattern is wrong.
        ModelError: the model cannot be used, or has no weights to compress.
        DataError: the data do not fit the model.
        RuntimeFailure: the device is not to be had, or the model does not run.
    """
    require(options.device)
    source = Model.open(path)
    data, notes = inputs.find(source, options, run=True)
    if data is None:
        raise RuntimeFailure(f"there is nothing to measure: {notes[-1]}", "Give --data that the model runs on.")
    if options.data is not None:
        preflight(path, data, VerifyOptions(device=options.device, threads=options.threads))
    else:
        notes = ("measured on synthetic inputs, as no data was given: real inputs may rank layers otherwise", *notes)
    if options.device != "cpu":
        notes = (*notes, "layers were measured on the CPU")
    return _Run(source, data, options, list(notes)).result()


class _Run:
    def __init__(self, source: Model, data: Dataset, options: Options, notes: list[str]) -> None:
        self.options = options
        self.data = data
        self.notes = notes
        self.facts = model_facts(source)
        self.model = lifted(self._simplified(source))
        self.scopes = Scopes(self.model.proto)
        self.found = found(self.model, self.scopes, options.bits, options.include, options.exclude)
        if not self.found.fit:
            reasons = "; ".join(dict.fromkeys(reason for _, reason in self.found.left)) or "it holds no float weights"
            raise ModelError(f"there is no layer to rank: {reasons}", "Start from the float model.")
        self.rounded = Rounded()

    def _simplified(self, source: Model) -> Model:
        """The model as `quantize` sees it, so that names agree."""
        if not self.options.simplify:
            return source
        environment = pipeline.Environment(
            None, self.options.threads, self.options.seed, progress=self.options.progress
        )  # fmt: skip
        return pipeline.run(source.copy(), (Simplify(),), environment)[0]

    def result(self) -> Sensitivity:
        """Estimate, measure, and choose what to leave out."""
        archive = self._archive()
        knowledge = Knowledge(10 ** (-self.options.min_sqnr / 10), self._estimated(archive))
        started = time.perf_counter()
        deadline = started + self.options.seconds
        chained = self._chained()
        calls = list(self.data.take(_TRIAL_CALLS))
        trials = Trials(self.model, calls, self.rounded, self.options.progress, threads=self.options.threads)
        reachable = [c for c in self.found.fit if c.weight.scope is self.scopes.main and c.weight.constant is None]
        reserved = (1 - _WEIGHTS_SHARE) * self.options.seconds if chained else 0.0
        trials.run(reachable, knowledge, deadline - reserved, reserved)
        excluded, rest = self._excluded(trials, knowledge, deadline)
        failed, opening = trials.failed, trials.opening
        del trials  # and with it the weights that it holds
        static = self._static(knowledge, deadline, opening) if chained else StaticDamage({})
        self.notes.extend(static.notes)
        rows = [self._row(c, knowledge, archive, static, failed) for c in self.found.fit]
        rows.sort(key=lambda row: (row.noise is None, -(row.noise or 0.0), row.name))
        rows += [_layer(weight, None, reason=reason) for weight, reason in self.found.left]
        return Sensitivity(
            provenance.tool(), self.facts, self.data.source, len(calls), self.options.seed, self.options.bits,
            self.options.min_sqnr, time.perf_counter() - started, knowledge.gain, tuple(rows),
            tuple(map(pattern, excluded)), rest, tuple(dict.fromkeys(self.notes)),
        )  # fmt: skip

    def _estimated(self, archive: Archive) -> dict[str, float]:
        estimated = {}
        self.options.progress.start("estimating what layers lose", len(self.found.fit))
        for candidate in self.found.fit:
            self.options.progress.advance(candidate.name)
            error = local.local_error(candidate, self.rounded, archive)
            if error is not None:
                estimated[candidate.name] = error
        self.options.progress.finish()
        return estimated

    def _archive(self) -> Archive:
        """What layers see; nothing where the model does not run so."""
        options = self.options
        nodes = layers([c.weight for c in self.found.fit], self.scopes.main)
        if not nodes:
            return Archive()
        calls = self.data.take(_GRAM_CALLS)
        identity = f"{self.facts.sha256} sensitivity {options.simplify} {self.model.opset}"
        try:
            return collected(
                self.model, nodes, calls, identity,
                threads=options.threads, max_memory=options.max_memory, progress=options.progress,
            )  # fmt: skip
        except LimitReached:
            raise
        except RuntimeFailure as error:
            self.notes.append(f"nothing was estimated, as layers could not be watched: {error.message}")
            return Archive()

    def _chained(self) -> bool:
        wanted, possible = self.options.activations, self.options.bits == 8 and applies(self.model)
        if wanted and not possible:
            self.notes.append("no layer can run on static integers")
        return possible and wanted is not False

    def _static(self, knowledge: Knowledge, deadline: float, opening: float) -> StaticDamage:
        if time.perf_counter() + SESSIONS * opening > deadline:
            return StaticDamage({}, ("static integers were not tried for lack of time, see --seconds",))
        order = [name for name, _ in knowledge.ranked(c.name for c in self.found.fit)]
        probe = Probe(self.data.take(_GRAM_CALLS), self.options.threads, self.options.progress)
        return static_damage(self.model, order, probe, deadline)

    def _excluded(self, trials: Trials, knowledge: Knowledge, deadline: float) -> tuple[list[str], Rest]:
        """The layers to leave out: as many as the sum says, and more where all others together make too much noise."""
        fit = {c.name: c for c in self.found.fit}
        ranked = knowledge.ranked(fit)
        count = len(knowledge.excluded(fit))
        together = None
        for check in range(_CHECKS):
            together = trials.together([fit[name] for name, _ in ranked[count:]])
            last = together is None or together <= knowledge.limit or check == _CHECKS - 1
            if last or time.perf_counter() > deadline:
                break
            count += 1
        if together is not None and together > knowledge.limit:
            self.notes.append("the layers that stay make more noise together than was asked for: leave out some more")
        return [name for name, _ in ranked[:count]], Rest(sum(noise for _, noise in ranked[count:]), together)

    def _row(
        self, candidate: Candidate, knowledge: Knowledge, archive: Archive, static: StaticDamage,
        failed: Mapping[str, str],
    ) -> LayerDamage:  # fmt: skip
        name, noise = candidate.name, knowledge.noise(candidate.name)
        measured = knowledge.measured.get(name)
        reason = failed.get(name)
        if knowledge.estimated.get(name) == 0 and local.dead(candidate, archive):
            reason = "the data never exercise it"
        elif noise is None and reason is None:
            reached = candidate.weight.scope is self.scopes.main
            reason = "not measured for lack of time" if reached else "in a local function, or its name is not unique"
        source: Source = "measured" if measured is not None else "unknown" if noise is None else "estimated"
        return _layer(
            candidate.weight, self.options.bits, candidate.draft.writing.groups.members,
            estimated=knowledge.estimated.get(name), measured=measured, static=static.noise.get(name),
            noise=noise, source=source, reason=reason,
        )  # fmt: skip


def _layer(
    weight: Weight, bits: int | None, members: int | None = None, *, estimated: float | None = None,
    measured: float | None = None, static: float | None = None, noise: float | None = None,
    source: Source = "unknown", reason: str | None = None,
) -> LayerDamage:  # fmt: skip
    nodes = [str(leaf.use.node.name or leaf.use.node.output[0]) for leaf in weight.leaves if leaf.use.node is not None]
    return LayerDamage(
        weight.label, tuple(dict.fromkeys(nodes)), weight.op, weight.dims, weight.elements, bits, members,
        estimated, measured, static, noise, source, reason,
    )  # fmt: skip
