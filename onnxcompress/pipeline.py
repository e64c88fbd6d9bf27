"""Runs the steps of a recipe on a model: look, plan, apply, guard, record.

A planning pass is asked for its outcomes and changes nothing; the edits are applied together and the result is guarded.
Where a form needs a newer operator set, the model is raised first and planned again; where it cannot be raised, or
computes something else afterwards, the plan is made within the old operator set.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from onnxcompress import guards
from onnxcompress.errors import OnnxCompressError, RuntimeFailure
from onnxcompress.forms import remembered
from onnxcompress.forms.chain_costs import shipped
from onnxcompress.forms.unpacking import unpacked
from onnxcompress.graph import edit
from onnxcompress.graph.interface import Interface, interface
from onnxcompress.graph.writer import settled
from onnxcompress.passes.base import Context, Pass, Planned, PlanningPass, Skip, parts_of
from onnxcompress.passes.repacking import repacked
from onnxcompress.progress import Progress, Silent
from onnxcompress.report import LayerRecord, Step
from onnxcompress.runtime.machine import IsaClass, isa_class
from onnxcompress.runtime.memory import peak_bytes
from onnxcompress.stats.activations import Observed, observe
from onnxcompress.stats.equivalence import raised_alike
from onnxcompress.stats.output_noise import NOISE_LIMIT
from onnxcompress.stats.probe import Probe
from onnxcompress.stats.sensitivity import damage
from onnxcompress.verify.facts import count_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnxcompress.data.dataset import Dataset
    from onnxcompress.forms.costs import Point
    from onnxcompress.graph.model import Model

_OBSERVED_CALLS = 4
_WHOLE = ("simplify", "recover")  # which take no part of the model away, though they may store it otherwise


class Watch(Protocol):
    """Who looks on while steps run."""

    def taken_up(self, parts: Sequence[Pass], asked: Sequence[Pass]) -> tuple[Model | None, list[Ran]]:
        """The model behind steps that need not run, and what they did; None and nothing where all have to."""

    def done(self, number: int, parts: Sequence[Pass], model: Model, ran: Sequence[Ran]) -> None:
        """A step is done, that of the number from 0."""


@dataclass(frozen=True)
class Environment:
    """What a run has besides the model and the recipe.

    ``data`` is None where the model is not to be run; ``dry``: nothing will be written; ``student`` learns from the
    model; ``watch`` may take steps up and look at what they made. ``isa`` is the kind of processor to choose forms for,
    ``tuned`` what they were measured to cost, which is added to.
    """

    data: Dataset | None = None
    threads: int | None = None
    seed: int = 0
    fast_forms: bool = True
    progress: Progress = field(default_factory=Silent)
    noise_limit: float = NOISE_LIMIT
    chains: bool = True
    identity: str | None = None
    max_memory: int = 1 << 30
    memory: dict[str, Any] = field(default_factory=dict)
    watch: Watch | None = None
    dry: bool = False
    student: Model | None = None
    isa: IsaClass = field(default_factory=isa_class)
    tuned: dict[str, list[Point]] = field(default_factory=dict)

    @property
    def real(self) -> bool:
        """Whether the data were given, and not made up."""
        return self.data is not None and self.data.source != "synthetic"

    def probe(self, model: Model, before: str) -> Probe | None:
        """What runs the model on real data; ``before`` tells what was done to it already."""
        if self.data is None or not self.real:
            return None
        key = f"{before} opset {model.opset} {'free' if self.fast_forms else 'decoded'}"
        identity = None if self.identity is None else f"{self.identity} {key}"
        memory = self.memory.setdefault(key, {})
        return Probe(self.data, self.threads, self.progress, identity, self.max_memory, memory)

    @property
    def chained(self) -> bool:
        """Whether operators may be put on static integers."""
        return self.chains and self.fast_forms


@dataclass(frozen=True)
class Ran:
    """One step that ran, as it was ``asked`` for. What its weights lost is known once they have been written.

    ``removed``: parameters that it cut out of the model.
    """

    step: Pass
    seconds: float
    outcomes: Sequence[Planned | Skip]
    layers: Sequence[LayerRecord]
    notes: tuple[str, ...]
    asked: Pass | None = None
    removed: int = 0

    def record(self) -> Step:
        """The record for the report."""
        layers = [
            dataclasses.replace(o.record, error=o.error(), histogram=o.histogram())
            if isinstance(o, Planned)
            else o.record
            for o in self.outcomes
        ]
        options = dataclasses.asdict(self.asked or self.step)  # type: ignore[call-overload]
        return Step(self.step.name, options, self.seconds, peak_bytes() or 0, (*self.layers, *layers), self.notes)


def run(model: Model, steps: Sequence[Pass], environment: Environment) -> tuple[Model, list[Ran]]:
    """The model after all steps, its weights still to be computed, and what each step did.

    Raises:
        ModelError: a pass refuses the model.
        UsageError: an option does not fit the model.
    """
    before = interface(model.proto)
    loose = unpacked(model)
    model, found = _steps(model if loose is None else settled(loose), before, steps, environment)
    if loose is None:
        return model, found
    note = "weights that came packed for their zeros were unpacked, and are packed again where they stay in float"
    return repacked(model), [replace(found[0], notes=(*found[0].notes, note)), *found[1:]]


def _steps(model: Model, before: Interface, steps: Sequence[Pass], environment: Environment) -> tuple[Model, list[Ran]]:
    """The same for a model without weights that are packed for their zeros."""
    ran: list[Ran] = []
    parts = [(step, part) for step in steps for part in parts_of([step])]
    own = parts_of(steps)
    source = earlier = model
    if environment.watch is not None:
        known, ran = environment.watch.taken_up(own, [asked for asked, _ in parts])
        model = model if known is None else known
    origin = model
    for number, (asked, step) in enumerate(parts):
        if number < len(ran):
            continue
        if number == 0 or parts[number - 1][0] is not asked:
            origin = model
        environment.progress.start(step.name)
        state = _State(
            ", ".join(repr(r.step) for r in ran),
            origin,
            source,
            earlier,
            final=not any(_plans(p) for _, p in parts[number + 1 :]),
        )
        if _plans(step):
            earlier = model
        model, done = _run(model, step, before, environment, state)
        environment.progress.finish()
        ran.append(replace(done, asked=asked))
        if not state.final and step.name != "simplify":
            model = settled(model)
        if environment.watch is not None:
            environment.watch.done(number, own, model, ran)
    return model, ran


@dataclass(frozen=True)
class _State:
    """What was done to a model ``before`` a step, and models that it came from, see `Context`.

    ``final``: it is the last one that works on weights.
    """

    before: str
    origin: Model
    source: Model
    earlier: Model
    final: bool


def _plans(step: Pass) -> bool:
    return isinstance(step, PlanningPass)


def _run(model: Model, step: Pass, before: Interface, environment: Environment, state: _State) -> tuple[Model, Ran]:
    started, removed = time.perf_counter(), 0
    if isinstance(step, PlanningPass):
        parameters = count_parameters(model)
        model, outcomes, notes = _planned(model, step, environment, state)
        layers: Sequence[LayerRecord] = ()
        if any(o.record.ranks for o in outcomes):
            removed = parameters - count_parameters(model)
    else:
        context = Context(
            seed=environment.seed, progress=environment.progress, probe=environment.probe(model, state.before),
            origin=state.origin, source=state.source, earlier=state.earlier, dry=environment.dry,
            student=environment.student, notebook=environment.memory.setdefault(step.name, {}),
        )  # fmt: skip
        parameters = count_parameters(model)
        rewritten = step.rewrite(model, context)
        if step.name not in _WHOLE:
            counted: Callable[[Model], int] = getattr(step, "parameters", count_parameters)
            removed = parameters - counted(rewritten.model)
        model, outcomes, notes, layers = rewritten.model, (), rewritten.notes, rewritten.layers
    guards.check(before, model, step.name)
    return model, Ran(step, time.perf_counter() - started, outcomes, layers, notes, removed=removed)


def _planned(
    model: Model, step: PlanningPass, environment: Environment, state: _State
) -> tuple[Model, Sequence[Planned | Skip], tuple[str, ...]]:
    notes: list[str] = []
    limit = None
    wanted = step.wanted_opset(model, real=environment.real) if environment.chained else 1
    while True:
        if wanted > model.opset and limit is None:
            model, limit = _at_opset(model, wanted, environment, notes)
        model, told = _prepared(model.copy(), step, environment, state.before)
        # what was measured of one model is not of the other
        done = f"{state.before}, prepared for {step!r}" if told else state.before
        context, more = _context(model, step, environment, limit, replace(state, before=done))
        outcomes = list(step.plan(model, context))
        wanted = max((o.edit.min_opset for o in outcomes if isinstance(o, Planned)), default=1)
        if wanted <= model.opset or limit is not None:
            break
    edit.apply(model, [o.edit for o in outcomes if isinstance(o, Planned)])
    return model, outcomes, tuple(dict.fromkeys((*notes, *told, *more, *context.notes)))


def _prepared(model: Model, step: PlanningPass, environment: Environment, before: str) -> tuple[Model, tuple[str, ...]]:
    """The model as the pass wants it, once for each way in which it is tried."""
    probe = environment.probe(model, before)
    if probe is None or not environment.fast_forms:
        return model, ()
    if "prepared" not in probe.memory:
        probe.memory["prepared"] = step.prepared(model, probe, environment.progress)
    made, told = probe.memory["prepared"]
    return made.copy(), told


def _at_opset(model: Model, wanted: int, environment: Environment, notes: list[str]) -> tuple[Model, int | None]:
    """The model at a newer operator set, or as it is, and then the limit that it has."""
    try:
        newer = raised_alike(model, wanted, seed=environment.seed)
    except OnnxCompressError as error:
        notes.append(f"opset left at {model.opset}: {error.message}")
        return model, model.opset
    notes.append(f"opset raised from {model.opset} to {wanted}, which the chosen forms need")
    return newer, None


def _context(
    model: Model, step: PlanningPass, environment: Environment, limit: int | None, state: _State
) -> tuple[Context, list[str]]:
    """What the pass may know, from running the model where that is wanted and possible."""
    observed: dict[str, Observed] = {}
    notes: list[str] = []
    watched = step.watched(model) if environment.fast_forms else ()
    if watched and environment.data is None:
        notes.append("the model was not run, so no form was chosen whose speed depends on the shapes that layers see")
    elif watched and environment.data is not None:
        calls = environment.data.take(_OBSERVED_CALLS)
        try:
            observed = observe(model, watched, calls, noise=environment.real, threads=environment.threads)
        except RuntimeFailure as error:
            notes.append(f"layers could not be watched: {error.message}")
    measured = step.measured(model, observed)
    table = remembered.costs(environment.isa, measured, environment.progress, environment.tuned)
    context = Context(
        observed=observed, costs=table, seed=environment.seed, fast_forms=environment.fast_forms,
        progress=environment.progress, opset_limit=limit, probe=environment.probe(model, state.before),
        chains=shipped(environment.isa), chained=environment.chained, noise_limit=environment.noise_limit,
        final=state.final,
    )  # fmt: skip
    return replace(context, damage=_damage(model, step, context, environment)), notes


def _damage(model: Model, step: PlanningPass, context: Context, environment: Environment) -> dict[str, float]:
    """What the trials of a pass do to the outputs; nothing where the model cannot be run so."""
    trials = step.trials(model, context) if environment.data is not None else {}
    if not trials or environment.data is None:
        return {}
    try:
        return damage(model, trials, environment.data.first(), environment.progress, threads=environment.threads)
    except RuntimeFailure:
        return {}
