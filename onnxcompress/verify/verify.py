"""A compressed model against its original: does it still do the same, and what has been won.

In this order, so that nothing is run twice and no failure hides an earlier one: the file itself
(`structure`); loading; calls of both models on the same inputs, from which come fidelity, metrics, and the
warm-up for timing; latency in pairs; budgets. A compressed model that fails is a result, not an error; errors
are for what keeps verification from being done: the device, the memory, the data, an original that does not
run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from onnxcompress.errors import RuntimeFailure
from onnxcompress.graph.model import Model
from onnxcompress.progress import Silent
from onnxcompress.report import BudgetResult, Fidelity, Latency, LayerTime, Metric
from onnxcompress.runtime.crowding import crowded
from onnxcompress.runtime.failures import LimitReached, UnsupportedModel
from onnxcompress.runtime.intervals import rounds_for
from onnxcompress.runtime.machine import usable_cores
from onnxcompress.runtime.session import Session
from onnxcompress.runtime.timing import Callers, Timing, paired
from onnxcompress.stats.scores import producers
from onnxcompress.verify.budgets import judge
from onnxcompress.verify.calls import Calls, Outcome
from onnxcompress.verify.facts import size_bytes
from onnxcompress.verify.layer_times import layer_times
from onnxcompress.verify.metrics import relative_drop
from onnxcompress.verify.options import VerifyOptions
from onnxcompress.verify.preflight import require_judgeable
from onnxcompress.verify.structure import structure_checks

if TYPE_CHECKING:
    from pathlib import Path

    from onnxcompress.data.dataset import Dataset
    from onnxcompress.progress import Progress

__all__ = ["Verification", "VerifyOptions", "verify"]

_POOR_DB = 15.0  # SQNR below which a result is pointed out
_CROWDED = "other processes use the cores: latency was measured with threads that sleep when they wait for each other"


@dataclass(frozen=True)
class Verification:
    """All that was found.

    ``checks`` holds the standing checks, then the budgets. ``resident_bytes`` is the memory that each loaded
    model holds, original first; None where it is not known. ``layer_times`` where they were asked for.
    """

    fidelity: Fidelity | None
    latency: Latency | None
    metrics: dict[str, Metric]
    checks: tuple[BudgetResult, ...]
    notes: tuple[str, ...]
    passed: bool
    resident_bytes: tuple[int, int] | None = None
    layer_times: tuple[LayerTime, ...] = ()


def verify(
    original: Path,
    compressed: Path,
    dataset: Dataset | None,
    options: VerifyOptions | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Verify a compressed model.

    Args:
        original: the model that it was made from.
        compressed: the compressed model.
        dataset: inputs to run both on; without any, only the structure is verified and that both load.
        options: device, budgets, times.
        progress: told how far it is.

    Raises:
        UsageError: a budget cannot be judged without labels.
        ModelError: a file is no usable model.
        DataError: the data or labels do not fit the model.
        RuntimeFailure: the device is not to be had, memory runs out, or the original does not run.
    """
    told = progress or Silent()
    try:
        return _Verifier(original, compressed, options or VerifyOptions(), told).run(dataset)
    finally:
        told.finish()


class _Verifier:
    def __init__(self, original: Path, compressed: Path, options: VerifyOptions, progress: Progress) -> None:
        self.paths = original, compressed
        self.models = Model.open(original), Model.open(compressed)
        self.options = options
        self.progress = progress
        self.checks: list[BudgetResult] = []
        self.notes: list[str] = []
        self.resident: tuple[int, int] | None = None
        self.outcome = Outcome()
        self.latency: Latency | None = None
        self.layer_times: tuple[LayerTime, ...] = ()
        self.reason = "no data were given"
        self.spin = True

    def run(self, dataset: Dataset | None) -> Verification:
        standing = structure_checks(*self.models)
        self.checks += [check for check in standing if check.name != "size" or not self.options.may_grow]
        sessions = self._load()
        if sessions and dataset is not None:
            self._compare(*sessions, dataset)
        fidelity = self.outcome.fidelity
        self.checks += judge(self.options.budgets, self._measured(fidelity), self.reason)
        return Verification(
            fidelity=fidelity,
            latency=self.latency,
            metrics=self.outcome.metrics,
            checks=tuple(self.checks),
            notes=tuple(self.notes),
            passed=all(check.ok for check in self.checks),
            resident_bytes=self.resident,
            layer_times=self.layer_times,
        )

    def _load(self) -> tuple[Session, Session] | None:
        """Both models loaded; None where there is nothing to compare."""
        self.progress.start("loading both models")
        device, threads = self.options.device, self.options.threads
        self.spin = not (self.options.latency and device == "cpu" and crowded(threads or usable_cores(), wait=True))
        try:
            first = Session(self.paths[0], device, threads, spin=self.spin)
        except UnsupportedModel as error:
            self.reason = f"the original cannot be run: {error.message}"
            self.notes.append(f"only the structure was verified; {self.reason}")
            return None
        except RuntimeFailure as error:
            raise type(error)(f"the original cannot be run: {error.message}", error.hint) from error
        try:
            second = Session(self.paths[1], device, threads, spin=self.spin)
        except LimitReached:
            raise
        except RuntimeFailure as error:
            self._fail("loads", error.message)
            return None
        self.checks.append(BudgetResult("loads", "loads", "loads", ok=True))
        if first.resident_bytes is not None and second.resident_bytes is not None:
            self.resident = first.resident_bytes, second.resident_bytes
        self._note_placement(first, second)
        if not next(check.ok for check in self.checks if check.name == "interface"):
            self.reason = "the interface differs"
            return None
        return first, second

    def _fail(self, name: str, message: str) -> None:
        self.checks.append(BudgetResult(name, name, message, ok=False))
        self.reason = message

    def _note_placement(self, *sessions: Session) -> None:
        for which, session in zip(("original", "compressed model"), sessions, strict=True):
            if session.nodes_on_cpu:
                nodes = session.nodes_on_cpu
                shown = ", ".join(nodes[:10]) + (", ..." if len(nodes) > 10 else "")
                self.notes.append(f"{len(nodes)} nodes of the {which} placed on the CPU by ONNX Runtime: {shown}")

    def _compare(self, first: Session, second: Session, dataset: Dataset) -> None:
        self.notes += dataset.notes
        calls = Calls(first, second, producers(self.models[0].proto.graph), self.options.metric, self.progress)
        self.outcome = calls.compare(dataset, self.options.fidelity_seconds)
        self.notes += self.outcome.notes
        if self.outcome.fault is not None:
            self._fail("runs", self.outcome.fault)
            return
        if self.outcome.fidelity is None:
            self.reason = "the made-up inputs do not run"
            return
        self.checks.append(BudgetResult("runs", "runs", "runs", ok=True))
        self.checks.append(BudgetResult("finite", 0.0, float(self.outcome.bad), self.outcome.bad == 0))
        require_judgeable(self.options.budgets, self.outcome.fidelity, bool(self.outcome.metrics))
        self._warn(self.outcome.fidelity)
        if self.options.latency:
            self._time(first, second)
        if self.options.profile:
            graphs = [model.proto.graph for model in self.models]
            self.layer_times = layer_times(self.paths, graphs, self.outcome.kept, first.device, first.threads)

    def _warn(self, fidelity: Fidelity) -> None:
        """Point out a result that is far from the original, which is no failure unless a budget makes it one."""
        if math.isnan(fidelity.sqnr_db):
            self.reason = "no value of the outputs could be compared, as they are empty, padding, or not finite"
            self.notes.insert(0, f"NOT COMPARED: {self.reason}")
        if fidelity.sqnr_db < _POOR_DB:
            what = f"LOW FIDELITY to the original: {fidelity.sqnr_db:.1f} dB"
            self.notes.insert(0, f"{what}; a budget such as --min-sqnr {_POOR_DB:.0f} refuses such a result")

    def _time(self, first: Session, second: Session) -> None:
        self.progress.start("timing both models")
        kept = self.outcome.kept

        def callers(number: int) -> Callers:
            """Of the sessions that are there, and then of others, loaded in the other order each time."""
            a, b = (first, second) if not number else self._again(first, second_first=number % 2 == 1)
            return [(a.caller(feeds), b.caller(feeds)) for feeds in kept]

        seconds, times = self.options.latency_seconds, self.outcome.times
        pair_ms = min(map(sum, times)) if times else 0.0
        rounds = range(rounds_for(seconds, first.load_ms + second.load_ms, pair_ms))
        timing = paired(
            [partial(callers, number) for number in rounds], seconds, times if first.device == "cpu" else ()
        )
        if not self.spin:
            self.notes.append(_CROWDED)
        self.latency = _latency(timing, first, second, self.outcome.batch)
        if timing.speedup_high < 1:
            self.notes.insert(0, f"SLOWER than the original: {timing.speedup:.2f} times its speed")

    def _again(self, known: Session, *, second_first: bool) -> list[Session]:
        """Both models loaded once more."""
        order = (1, 0) if second_first else (0, 1)
        found = {i: Session(self.paths[i], known.device, known.threads, spin=self.spin) for i in order}
        return [found[0], found[1]]

    def _measured(self, fidelity: Fidelity | None) -> dict[str, float | None]:
        before, after = (size_bytes(model) for model in self.models)
        found: dict[str, float | None] = {
            "max_size": self.options.budgets.counted_size(after, before),
            "min_speedup": self.latency.speedup if self.latency else None,
        }
        if fidelity:
            found |= {
                "min_sqnr": fidelity.sqnr_db,
                "min_cosine": fidelity.cosine,
                "min_agreement": fidelity.agreement,
            }
            found["max_drop"] = None if fidelity.agreement is None else 1 - fidelity.agreement
        for name, metric in self.outcome.metrics.items():
            found["max_drop"] = relative_drop(name, metric)
        return found


def _latency(timing: Timing, first: Session, second: Session, batch: int | None) -> Latency:
    return Latency(
        device=first.device,
        threads=first.threads,
        batch=batch,
        pairs=timing.units,
        original_ms=timing.original_ms,
        compressed_ms=timing.compressed_ms,
        speedup=timing.speedup,
        speedup_low=timing.speedup_low,
        speedup_high=timing.speedup_high,
        load_original_ms=first.load_ms,
        load_compressed_ms=second.load_ms,
        pairs_ms=timing.pairs_ms,
    )
