"""One look at a model before it is planned: its weights, what is asked of each, and what runs on static integers."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from onnxcompress.errors import RuntimeFailure
from onnxcompress.forms import costs, dynamic, static
from onnxcompress.forms.chain_costs import Everywhere, shipped
from onnxcompress.forms.product import product
from onnxcompress.graph.edit import Namer
from onnxcompress.graph.layers import LAYER_INPUTS, Weight, is_layer, weights
from onnxcompress.graph.scopes import Scopes
from onnxcompress.passes.activations import OnePass, Reader, one_pass
from onnxcompress.passes.base import Planned
from onnxcompress.passes.grouping import not_zero, pays
from onnxcompress.passes.integers import Planner, Static
from onnxcompress.passes.selection import Selection
from onnxcompress.passes.watching import counted, watched
from onnxcompress.report import Histogram, LayerRecord
from onnxcompress.runtime.machine import isa_class

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnxcompress.forms.base import Codes, Solve
    from onnxcompress.forms.chains import Unit
    from onnxcompress.graph.model import Model
    from onnxcompress.passes.base import Context
    from onnxcompress.passes.rounding import Rounding

_MEASURED = "vnni"
_LEAST_SHARE = 0.25  # of the noise, that products off static integers may make in any case
_SATURATING = ("avx2", "generic")
Method = Literal["feedback", "nearest", "learned"]
TINY = 1024  # values; below, the nodes that decode a weight eat up what its codes save


@dataclass(frozen=True)
class Chaining:
    """What is asked of static integers. ``forced``: even where their costs were not measured.

    ``value_bits``: 8, or 16 for processors other than those that ONNX Runtime's CPU provider knows.
    """

    allowed: bool
    forced: bool = False
    value_bits: Literal[8, 16] = 8
    reduce_range: bool | None = None

    @property
    def weight_bits(self) -> int:
        """Seven where the processor adds products of eight bits up in sixteen, which saturates."""
        reduced = isa_class() in _SATURATING if self.reduce_range is None else self.reduce_range
        return 7 if reduced else 8

    def portability(self) -> str:
        """The sentence for the report."""
        if self.value_bits == 16:
            return (
                "values on static integers have 16 bits, for which ONNX Runtime's CPU provider has no kernels:"
                " the model is slower here, and meant for processors that have them"
            )
        if self.weight_bits == 7:
            return "weights on static integers have 7 bits, so that sums do not saturate on processors without VNNI"
        return (
            "weights on static integers have all 8 bits: on x86 processors without VNNI sums can saturate,"
            " and --reduce-range makes a model for those"
        )


@dataclass(frozen=True)
class Survey:
    """What was found. ``fit``: the weights that may change; ``reasons``: why the others stay."""

    scopes: Scopes
    namer: Namer
    fit: tuple[Weight, ...]
    reasons: tuple[tuple[Weight, str], ...]
    planner: Planner | None
    static: Static
    rounding: Rounding | None

    @property
    def rest(self) -> list[Weight]:
        """The weights that may change and are not a part of what runs on static integers."""
        return [w for w in self.fit if w.scope is not self.scopes.main or w.name not in self.static.weights]

    @property
    def solve(self) -> Solve | None:
        """What rounds weights on what layers see."""
        return self.rounding.solve if self.rounding is not None else None

    def one_pass(self, model: Model, context: Context) -> OnePass | None:
        """The activations of products off static integers that one eight-bit pass is enough for."""
        if "one pass" not in context.notebook:
            readers = self._readers(context) if context.fast_forms and context.probe is not None else {}
            left = max(context.noise_limit - self.static.noise, context.noise_limit * _LEAST_SHARE)
            context.notebook["one pass"] = one_pass(model, context, readers, left) if readers else None
        known: OnePass | None = context.notebook["one pass"]
        return known

    def noise(self, context: Context) -> float:
        """What activations of eight bits leave at the worst output, as far as it was measured."""
        known: OnePass | None = context.notebook.get("one pass")
        return self.static.noise + (known.noise if known is not None else 0.0)

    def _readers(self, context: Context) -> dict[str, list[Reader]]:
        """The weights that are multiplied by each activation off static integers."""
        found: dict[str, list[Reader]] = {}
        for weight in self.rest:
            reading = [product(leaf, weight.dims, weight.tensor.data_type) for leaf in weight.leaves]
            names = {p.x if p is not None else None for p in reading}
            for p in reading:
                if p is None or p.leaf.use.scope is not self.scopes.main or p.x not in context.observed:
                    continue
                rows = sum(math.prod(shape[:-1]) for shape in context.observed[p.x].shapes)
                alone = len(names) == 1 and len({q.transposed for q in reading if q is not None}) == 1
                found.setdefault(p.x, []).append(Reader(weight, p.transposed, alone, float(rows * weight.elements)))
        return found

    def edits(self) -> Iterator[Planned]:
        """What becomes of the operators that run on static integers."""
        if self.planner is None:
            return
        writer = self.planner.writer(self.static)
        for unit in self.static.units:
            made = writer.write(unit, self.planner.writing(unit), self.planner.bias(unit))
            before = self.planner.model.nbytes(unit.weight.tensor) if unit.weight is not None else 0
            form = static.NAME if self.planner.value_bits == 8 else static.WIDE
            label = unit.weight.label if unit.weight is not None else unit.name
            record = LayerRecord(label, unit.op, "done", None, form, self.planner.weight_bits, before, made.nbytes)
            yield Planned(
                record, made.edit, functools.partial(_error, made.codes), functools.partial(_spread, made.codes)
            )


def survey(
    model: Model, context: Context, include: Sequence[str], exclude: Sequence[str], wanted: Chaining,
    method: Method = "feedback",
) -> Survey:  # fmt: skip
    """Look at a model.

    Args:
        model: the model as it is.
        context: what is known of it.
        include: patterns of what may change.
        exclude: patterns of what may not.
        wanted: what is asked of static integers.
        method: how weights are rounded where it is known what layers see.

    Raises:
        UsageError: a pattern matches nothing.
        ModelError: a weight is not finite.
        DataError: a value is not finite on the data.
    """
    scopes = Scopes(model.proto)
    found = list(weights(model, scopes))
    selection = Selection(include, exclude, found)
    namer = Namer(scopes.names())
    fit, reasons = [], []
    for weight in found:
        reason = unfit(weight) or selection.reason(weight)
        if reason is None:
            fit.append(weight)
        else:
            reasons.append((weight, reason))
    seeing = [w for w in found if selection.reason(w) is None] if method != "nearest" else []
    rounding = watched(model, context, seeing, scopes.main, learn=method == "learned")
    planner, part = None, Static()
    wide = wanted.value_bits == 16
    chains = Everywhere() if wide else context.chains or (shipped(_MEASURED) if wanted.forced else None)
    ready = wanted.allowed and context.chained and model.opset >= (static.WIDE_OPSET if wide else static.MIN_OPSET)
    if ready and context.probe is not None and chains is not None:
        planner = Planner(model, scopes, namer, context.probe, chains, functools.partial(_otherwise, context))
        planner.rounding = rounding
        planner.weight_bits, planner.value_bits = wanted.weight_bits, wanted.value_bits
        part = _static(planner, context, selection)
        if part.units:
            context.notes.append(wanted.portability())
        context.notes.extend(_spared(part))
    kept = [(w, r) for w, r in reasons if w.scope is not scopes.main or w.name not in part.weights]
    return Survey(scopes, namer, tuple(fit), tuple(kept), planner, part, rounding)


def _spared(part: Static) -> Iterator[str]:
    """The layers that stay in float for the sake of the outputs, those that would do most first."""
    found = sorted((u for u in part.spared if u.weight is not None), key=lambda u: -part.damage.get(u.key, 0.0))
    if found:
        shown = ", ".join(u.name for u in found[:5]) + (", ..." if len(found) > 5 else "")
        kept = counted([u.name for u in found])
        yield f"{kept} kept off static integers, as the outputs would lose too much: {shown}"


def _otherwise(context: Context, unit: Unit, float_us: float) -> float:
    """Microseconds of a unit where it is not put on static integers: products have other forms that are fast."""
    if unit.weight is None or unit.op == "Conv" or unit.inputs[0] not in context.observed:
        return float_us
    inputs, outputs = unit.weight.dims[1 - unit.own_axis], unit.weight.dims[unit.own_axis]
    shapes = context.observed[unit.inputs[0]].shapes
    known = [costs.expected(context.costs, form, shapes, inputs, outputs) for form in (dynamic.ONE_PASS,)]
    return float_us / max([1.0, *(s for s in known if s is not None)])


def _static(planner: Planner, context: Context, selection: Selection) -> Static:
    zeros: dict[str, int] = context.notebook.setdefault("zeros", {})

    def usable(unit: Unit) -> bool:
        weight = unit.weight
        if weight is None:
            return True
        if pays(planner.model, weight, not_zero(planner.model, weight, zeros), 8):
            return False  # codes of those values that are not zero are decoded when the model is loaded
        return selection.reason(weight) is None and not weight.overridable

    try:
        return planner.found(context.noise_limit, usable, context.progress)
    except RuntimeFailure as error:
        context.notes.append(f"no operator was put on static integers: {error.message}")
        return Static()


def _spread(codes: Codes | None) -> Histogram | None:
    return None if codes is None else codes.histogram


def _error(codes: Codes | None) -> float | None:
    return None if codes is None else codes.error


def unfit(weight: Weight) -> str | None:
    """Why a tensor is not to be quantized, or None."""
    if weight.overridable:
        return "an input that callers may override"
    if not weight.leaves:
        return "nothing reads it"
    if not any(is_layer(leaf) for leaf in weight.leaves):
        biases = all(leaf.op in LAYER_INPUTS for leaf in weight.leaves)
        return f"bias or state of {weight.op}" if biases else f"no weight of a layer: read by {weight.op}"
    if weight.elements < TINY:
        return f"tiny: fewer than {TINY} values"
    if len(weight.dims) < 2:
        return "one-dimensional"
    return None
