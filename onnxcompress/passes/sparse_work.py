"""The weights of a model that are to be pruned, each with what it sees, looked at one at a time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from onnxcompress.errors import ModelError, RuntimeFailure
from onnxcompress.forms.base import Writing, not_finite
from onnxcompress.forms.sparse import Kept
from onnxcompress.graph.edit import Namer
from onnxcompress.graph.layers import output_axes, weights
from onnxcompress.graph.model import Tensor
from onnxcompress.graph.scopes import Scopes, attribute_value
from onnxcompress.passes.enriching import any_rows
from onnxcompress.passes.selection import Selection
from onnxcompress.passes.sparsities import Curve, Target
from onnxcompress.passes.survey import unfit
from onnxcompress.passes.watching import watched
from onnxcompress.solvers.groups import Grid, per_channel
from onnxcompress.solvers.low_rank_residual import plus
from onnxcompress.solvers.metric import plain_error
from onnxcompress.training.importance import Measured, Sensitivity, measured

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxcompress.forms.rows import Rows
    from onnxcompress.graph.layers import Weight
    from onnxcompress.graph.model import Model
    from onnxcompress.passes.base import Context
    from onnxcompress.passes.rounding import Rounding
    from onnxcompress.solvers.supports import Pattern
    from onnxcompress.training.importance import Kind

Array = np.ndarray
BY_GRADIENT = ("gradient", "taylor", "fisher")
_LEAST_SIDES, _TURNS = 8, 3
_GRADIENT_CALLS = 32  # at most, each of which is run forth and back several times


@dataclass(frozen=True)
class Work:
    """``fit``: the weights that may change; ``reasons``: why the others stay."""

    model: Model
    scopes: Scopes
    namer: Namer
    fit: tuple[Weight, ...]
    reasons: tuple[tuple[Weight, str], ...]
    rounding: Rounding | None
    often: Mapping[str, Array]
    importance: str
    felt: Mapping[str, Array] = field(default_factory=dict)
    tried: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, model: Model, context: Context, include: Sequence[str], exclude: Sequence[str], importance: str
    ) -> Work:
        """Look at a model; what layers see is measured where it counts.

        Raises:
            UsageError: a pattern matches nothing.
            DataError: a value is not finite on the data.
            ModelError: weights are to go by gradients, and the model has none.
        """
        scopes = Scopes(model.proto)
        found = list(weights(model, scopes))
        selection = Selection(include, exclude, found)
        told = [(w, unfit(w) or selection.reason(w)) for w in found]
        felt = _felt(model, context, [w for w, reason in told if reason is None], scopes, importance)
        told = [(w, reason or felt.reasons.get(w.label)) for w, reason in told]
        fit = tuple(w for w, reason in told if reason is None)
        rounding = watched(model, context, fit, scopes.main, learn=False) if importance != "magnitude" else None
        often = _lookups(model, context, fit, scopes) if importance != "magnitude" else {}
        reasons = tuple((w, reason) for w, reason in told if reason is not None)
        return cls(model, scopes, Namer(scopes.names()), fit, reasons, rounding, often, importance, felt.means)

    def writing(self, weight: Weight) -> Writing:
        """The weight with a scale for each output, whose rows solvers see."""
        own = next((axes for leaf in weight.leaves if (axes := output_axes(leaf)) is not None), (0,))
        return Writing(self.model, weight, Grid(8), per_channel(weight.dims, own), self.namer)

    def rows(self, weight: Weight) -> Rows | None:
        """The way to its rows, None where no reader sees any."""
        writing = self.writing(weight)
        seen = self.rounding.seen(writing) if self.rounding is not None else None
        return seen[0] if seen is not None else any_rows(writing)

    def shape(self, weight: Weight) -> tuple[int, int]:
        """Outputs and inputs."""
        rows = self.rows(weight)
        return (rows.out, rows.inputs) if rows is not None else (weight.dims[0], weight.elements // weight.dims[0])

    def target(self, weight: Weight) -> Target:
        """Its rows (out, in) and the metric of what it sees.

        Raises:
            ModelError: a value is not finite.
        """
        writing, rows = self.writing(weight), self.rows(weight)
        known = self.rounding.metric(writing) if self.rounding is not None else None
        values = np.asarray(writing.values(), np.float32)
        if not np.isfinite(values).all():
            raise not_finite(weight)
        matrix = rows.matrix(values) if rows is not None else values.reshape(self.shape(weight))
        often = self.often.get(weight.name) if rows is not None and rows.own == 1 else None
        return Target(matrix, None if known is None else known[1], often, self._sensitivity(weight, rows, often))

    def _sensitivity(self, weight: Weight, rows: Rows | None, often: Array | None) -> Sensitivity | None:
        mean = self.felt.get(weight.name) if weight.scope is self.scopes.main else None
        if mean is None:
            return None
        matrix = rows.matrix(mean) if rows is not None else mean.reshape(self.shape(weight))
        if often is not None:  # a row that these calls do not look up will be on others: that of the average lookup
            matrix = np.asarray(often[:, None] * (matrix.sum(axis=0) / often.sum()), np.float32)
        return Sensitivity(cast("Kind", self.importance), matrix)

    def zeros(self, weight: Weight) -> int:
        """Weights that are zero already."""
        return int(weight.elements - np.count_nonzero(self.model.view(weight.tensor)))

    def on_trial(self, weight: Weight, sparsity: float) -> Array:
        """The weight with zeros put in, in its own shape and type; the error of that is remembered."""
        target = self.target(weight)
        changed = target.trial(sparsity)
        self.tried[weight.name] = target.error(changed)
        return self._stored(weight, changed)

    def curve(self, weight: Weight, sparsity: float, *, damaged: bool) -> Curve:
        """What sparsities do to a weight; the trial's error counts where ``damaged``: what that did is known."""
        target = self.target(weight)
        tried = self.tried.get(weight.name)
        if tried is None:
            tried = target.error(target.trial(sparsity)) if damaged else 0.0
        return Curve(weight.name, weight.elements, target.curve(), tried)

    def solved(self, weight: Weight, pattern: Pattern, zeros: int) -> Kept:
        """The weight as it will be, in its own shape and type."""
        target = self.target(weight)
        found = target.solved(pattern, zeros, self.importance)
        return Kept(self._stored(weight, found), plain_error(target.rows, found))

    def takes_product(self, weight: Weight, rank: int) -> bool:
        """Whether a product of a rank can stand beside what stays of it: it is a matrix, and many times as wide."""
        out, inputs = self.shape(weight)
        known = self.rounding.metric(self.writing(weight)) if self.rounding is not None else None
        plain = self.rows(weight) is not None and (known is None or known[1].ndim == 2)
        return plain and min(out, inputs) >= _LEAST_SIDES * rank and weight.tensor.data_type == Tensor.FLOAT

    def solved_beside(self, weight: Weight, pattern: Pattern, zeros: int, rank: int) -> Kept:
        """The same beside a product of a rank, which is found together with it."""
        target = self.target(weight)

        def project(rest: Array) -> Array:
            return replace(target, rows=rest).solved(pattern, zeros, self.importance)

        both, _ = plus(target.rows, target.metric, rank, project, sweeps=_TURNS)
        left, right = (f.astype(np.float16) for f in (both.left, both.right))
        product = left.astype(np.float32) @ right.astype(np.float32)
        found = project(target.rows - product)  # once more, for what float16 has rounded away
        return Kept(self._stored(weight, found), plain_error(target.rows, found + product), (left, right))

    def _stored(self, weight: Weight, matrix: Array) -> Array:
        rows = self.rows(weight)
        values = rows.values(matrix) if rows is not None else matrix.reshape(weight.dims)
        dtype = self.model.view(weight.tensor).dtype
        return np.ascontiguousarray(values.reshape(weight.dims).astype(dtype))


def _felt(model: Model, context: Context, fit: Sequence[Weight], scopes: Scopes, importance: str) -> Measured:
    """The gradients of weights, if they are to go by these; reasons by label."""
    probe = context.probe
    if importance not in BY_GRADIENT or probe is None or not fit:
        return Measured({}, {})
    main = [w.name for w in fit if w.scope is scopes.main]
    inner = {w.label: "in a subgraph or a function, so it has no gradient" for w in fit if w.scope is not scopes.main}
    squared = importance == "fisher"
    key = f"gradients {squared} {context.seed} {' '.join(main)}"
    if key not in probe.memory:
        try:
            probe.memory[key] = measured(
                model, main, probe.calls(model, _GRADIENT_CALLS), squared=squared, seed=context.seed,
                threads=probe.threads, progress=context.progress,
            )  # fmt: skip
        except ModelError as error:
            raise ModelError(error.message, "Choose an --importance without gradients, such as hessian.") from error
    found: Measured = probe.memory[key]
    return Measured(found.means, found.reasons | inner)


def _lookups(model: Model, context: Context, fit: Sequence[Weight], scopes: Scopes) -> dict[str, Array]:
    """How often each row is looked up of the tables of the main graph, where the model can be run on real data."""
    reading: dict[str, str] = {}
    for weight in fit:
        nodes = [leaf.use.node for leaf in weight.leaves if leaf.op == "Gather" and leaf.use.scope is scopes.main]
        plain = [n for n in nodes if n is not None and attribute_value(n, "axis", 0) == 0 and n.input[0] == weight.name]
        if plain and len(weight.dims) == 2 and plain[0].input[1] in scopes.main.defined:
            reading[weight.name] = plain[0].input[1]
    if context.probe is None or not reading:
        return {}
    rows = {w.name: w.dims[0] for w in fit}
    found: dict[str, Array] = {}
    try:
        for name, index in reading.items():
            found[name] = context.probe.lookups(model, {index: rows[name]})[index]
    except RuntimeFailure as error:
        context.notes.append(f"lookups in tables were not counted: {error.message}")
    return found
