"""What a pass is: options that look at a model and say what is to change, and a registry of all of them.

A pass is a frozen pydantic dataclass whose fields are its options. It is one of two kinds:

* a *planning* pass yields an outcome for every weight, `Planned` or `Skip`, and changes nothing itself;
* a *rewriting* pass returns a whole new structure (the simplifier, which is a chain of graph rewrites).

`register` makes it known to the recipe schema and the command line. Packages add passes through the entry-point
group ``onnxcompress.passes``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

from onnxcompress.errors import UsageError
from onnxcompress.progress import Progress, Silent
from onnxcompress.stats.output_noise import NOISE_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np

    from onnxcompress.forms.chain_costs import ChainCosts
    from onnxcompress.forms.costs import CostTable
    from onnxcompress.graph.edit import Edit
    from onnxcompress.graph.model import Model
    from onnxcompress.report import Histogram, LayerRecord
    from onnxcompress.stats.activations import Observed
    from onnxcompress.stats.probe import Probe


FIDELITY = ("max_drop", "min_sqnr", "min_cosine", "min_agreement")
_GUESS = 4  # of the shares that may go, a quarter


@dataclass(frozen=True)
class Context:
    """What a pass may know besides the model.

    ``observed`` maps names of layer inputs to what was seen of them when the model ran, empty where it could not
    be run; ``damage`` maps initializers that were on trial to the error at the outputs; ``costs`` is what forms
    cost on the processor that the output is for; ``opset_limit`` is set when the model cannot be raised to a newer
    operator set; without ``fast_forms`` every weight is decoded at load. ``probe`` runs the model on real data, and is
    None where there are none; ``chains`` is what operators cost on static integers, None
    where that was not measured, and ``chained`` whether they may be put on them. ``noise_limit`` is the noise-to-signal
    ratio that may be left at the outputs; ``final`` is false where another step will work on the
    weights; ``origin`` is the model before the step of which a pass is a later part,
    ``source`` that before all steps, and ``earlier`` that before the last step that worked on weights; ``dry``: nothing
    that takes long is to be done, as nothing will be written; ``student`` is what learns from the model of the run.
    ``notebook`` is a pass's own, to keep what it need not find twice; ``notes`` are sentences for the report.
    """

    observed: Mapping[str, Observed] = field(default_factory=dict)
    damage: Mapping[str, float] = field(default_factory=dict)
    costs: CostTable = field(default_factory=dict)
    seed: int = 0
    opset_limit: int | None = None
    fast_forms: bool = True
    progress: Progress = field(default_factory=Silent)
    probe: Probe | None = None
    chains: ChainCosts | None = None
    chained: bool = True
    noise_limit: float = NOISE_LIMIT
    final: bool = True
    origin: Model | None = None
    source: Model | None = None
    earlier: Model | None = None
    dry: bool = False
    student: Model | None = None
    notebook: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Skip:
    """A weight that stays as it is, and why."""

    record: LayerRecord


@dataclass(frozen=True)
class Planned:
    """A weight that changes: how, what it will cost, and what its error and its values are once it was computed."""

    record: LayerRecord
    edit: Edit
    error: Callable[[], float | None]
    histogram: Callable[[], Histogram | None] = field(default=lambda: None)


@dataclass(frozen=True)
class Rewritten:
    """The outcome of a rewriting pass."""

    model: Model
    notes: tuple[str, ...]
    layers: tuple[LayerRecord, ...] = ()


@runtime_checkable
class PlanningPass(Protocol):
    """A pass that says for each weight what becomes of it."""

    name: ClassVar[str]

    @property
    def tag(self) -> str:
        """What the name of an output file says of this pass, such as ``int8``."""

    def wanted_opset(self, model: Model, *, real: bool) -> int:
        """The operator set that its plan would like to start from; ``real``: there are calibration data."""

    def prepared(self, model: Model, probe: Probe, progress: Progress) -> tuple[Model, tuple[str, ...]]:
        """The model as it is to be planned for, computing the same, and what was done to it in words."""

    def watched(self, model: Model) -> Sequence[str]:
        """Names of values of the main graph that it wants to know of when the model runs."""

    def measured(self, model: Model, observed: Mapping[str, Observed]) -> Sequence[tuple[int, int, int]]:
        """Products (rows, in_features, out_features) whose forms are to be measured on this machine."""

    def trials(self, model: Model, context: Context) -> Mapping[str, Callable[[], np.ndarray]]:
        """Weights whose importance it wants to know, with the values that they would have."""

    def plan(self, model: Model, context: Context) -> Iterator[Planned | Skip]:
        """Look at the model, change nothing, and yield one outcome for each weight."""


@runtime_checkable
class RewritingPass(Protocol):
    """A pass that returns a new structure."""

    name: ClassVar[str]

    @property
    def tag(self) -> str:
        """What the name of an output file says of this pass, such as ``simplified``."""

    def rewrite(self, model: Model, context: Context) -> Rewritten:
        """Return a changed copy of the model, or the model itself where nothing can be done."""


@dataclass(frozen=True)
class Extents:
    """How far a pass may go where that was left open: ``values``, ascending, and the place of the ``first`` to try.

    ``budgets`` decide: it goes as far as they hold where ``most`` is asked for, and else no further than they need.
    """

    values: tuple[float, ...]
    first: int
    budgets: tuple[str, ...]
    most: bool = False

    def further(self, value: float) -> tuple[str, ...]:
        """The budgets that, broken at a value, are kept by another one; none where it is the last resort."""
        return () if value == (self.values[0] if self.most else self.values[-1]) else self.budgets


def shares_open(budgets: Mapping[str, float]) -> Extents | None:
    """Shares of a model that a pass may take away: as few as a speed needs, or as many as a fidelity allows."""
    values = tuple(k / 20 for k in range(1, 19))
    if "min_speedup" in budgets:
        wanted = 1 - 1 / max(budgets["min_speedup"], 1.0)
        return Extents(values, min(range(len(values)), key=lambda i: abs(values[i] - wanted)), ("min_speedup",))
    bounds = tuple(name for name in FIDELITY if name in budgets)
    return Extents(values, _GUESS, bounds, most=True) if bounds else None


@runtime_checkable
class Adjustable(Protocol):
    """A pass that can leave it open how far it goes."""

    def extents(self, budgets: Mapping[str, float]) -> Extents | None:
        """What is open with these budgets; None where all was said."""

    def at(self, extent: float) -> Pass:
        """The pass that goes so far."""


Pass = PlanningPass | RewritingPass


def parts_of(steps: Sequence[Pass]) -> list[Pass]:
    """The passes that run for steps: for most the pass itself."""
    found: list[Pass] = []
    for step in steps:
        parts: Callable[[], tuple[Pass, ...]] | None = getattr(step, "parts", None)
        found += (step,) if parts is None else parts()
    return found


_registry: dict[str, type] = {}
_Kind = TypeVar("_Kind", bound=type)


def register(kind: _Kind) -> _Kind:
    """Class decorator: makes a pass known under its ``name``."""
    _registry[str(vars(kind)["name"])] = kind
    return kind


def passes() -> dict[str, type]:
    """All passes by name: those of this package and those that other packages bring."""
    from onnxcompress.passes import distill, factorize, finetune, prune, quantize, recover, simplify  # noqa: F401 - which registers

    for entry in metadata.entry_points(group="onnxcompress.passes"):
        if entry.name not in _registry:
            entry.load()
    return dict(sorted(_registry.items()))


def find_pass(name: str) -> type:
    """The pass of that name.

    Raises:
        UsageError: there is none.
    """
    known = passes()
    if name not in known:
        raise UsageError(f"there is no pass called {name!r}", f"There are: {', '.join(known)}.")
    return known[name]
