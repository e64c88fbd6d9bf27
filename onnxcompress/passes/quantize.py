"""Quantization of weights: ŵ = s · (q − z), q an integer of few bits, and for each layer the form that runs fastest.

Weights of MatMul, Gemm, Conv, ConvTranspose, Gather, LSTM, GRU and RNN are found in every scope, through whatever only
moves them about. Each is stored once. With the scheme ``auto`` a matrix product becomes an integer product where the
cost table says that this is faster (activations in two eight-bit passes, see `forms.dynamic`), an embedding is decoded
after its lookup, and every other weight decodes itself when the model is loaded, at the original's speed.
"""

from __future__ import annotations

import functools
import math
from dataclasses import field
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic.dataclasses import dataclass

from onnxcompress.errors import UsageError
from onnxcompress.forms import static
from onnxcompress.forms.chains import units
from onnxcompress.forms.product import features, product
from onnxcompress.graph.layers import weights
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.scopes import Scopes
from onnxcompress.passes.allotment import Rung, allotted, importance, ladder, spare
from onnxcompress.passes.base import Context, Planned, Skip, register
from onnxcompress.passes.choosing import Chooser
from onnxcompress.passes.enriching import Enriching
from onnxcompress.passes.equalizing import equalized, favoured
from onnxcompress.passes.grouping import Draft, Grouping, Kept, block_of, quantized_values
from onnxcompress.passes.mixture import middle_bits, mixed, raised
from onnxcompress.passes.outcomes import coded, shorter_float, skipped
from onnxcompress.passes.refusals import refuse, refuse_quantized
from onnxcompress.passes.survey import Chaining, Method, Survey, survey, unfit
from onnxcompress.solvers.groups import Grid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np

    from onnxcompress.progress import Progress
    from onnxcompress.stats.activations import Observed
    from onnxcompress.stats.probe import Probe

Scheme = Literal["auto", "static", "dynamic", "weight-only", "float16", "bfloat16"]
Target = Literal["cpu", "cuda", "portable"]

_WORTH = 0.75  # a weight is left alone unless it shrinks below this part of its bytes
_MOST_ON_TRIAL = 1 << 28  # bytes of weights, which are all in memory then
_BESIDE_INTEGERS = 0.25  # part of the noise of integer operators below which that of weights needs no more bytes
_NODE_BYTES = 200  # of a decoded weight, roughly


@register
@dataclass(frozen=True, kw_only=True)
class Quantize:
    """Store weights as integers of few bits, in the form that runs fastest."""

    name: ClassVar[str] = "quantize"

    bits: Literal[8, 7, 6, 5, 4, 3, 2, 1] = field(
        default=8, metadata={"help": "Bits of a weight; with --average-bits the least. 3 are stored in 4."}
    )
    ternary: bool = field(default=False, metadata={"help": "With --bits 2: the codes -1, 0 and 1 only."})
    average_bits: float | None = field(
        default=None,
        metadata={"help": "Bits with scales on average: each weight gets 8, 4 or 2 bits, and blocks, by its effect."},
    )  # fmt: skip
    codebook_length: Literal[1, 2, 4] | None = field(
        default=None,
        metadata={"help": "Places in a table of 2^bits entries in place of codes, each for so many weights."},
    )  # fmt: skip
    residual_rank: int | None = field(
        default=None,
        metadata={"help": "Add a product of matrices of so many columns, in float16, to each quantized weight."},
    )  # fmt: skip
    scheme: Scheme = field(
        default="auto",
        metadata={"help": "Integers as is fastest, in static operators, in products, in storage; or short floats."},
    )  # fmt: skip
    block_size: int | None = field(
        default=None,
        metadata={"help": "Weights that share a scale, 0: a channel; default: as needed at 8 bits, 16 at 2, else 32."},
    )  # fmt: skip
    symmetric: bool = field(default=True, metadata={"help": "Zero points in the middle of the range (none stored)."})
    per_tensor: bool = field(default=False, metadata={"help": "One scale for a whole weight."})
    target: Target = field(
        default="cpu", metadata={"help": "Where the model will run; portable: standard ONNX operators only."}
    )
    activation_bits: Literal[16, 8] | None = field(
        default=None,
        metadata={"help": "Bits of activations: 8, or 16 (dynamic: in two passes; static: for NPUs)."},
    )  # fmt: skip
    reduce_range: bool | None = field(
        default=None,
        metadata={"help": "7-bit weights on static integers; default: as the processor needs.",
                  "flag": "--reduce-range/--full-range"},
    )  # fmt: skip
    rounding: Method = field(
        default="feedback",
        metadata={"help": "With --data: errors cancel on what layers see; to nearest; or learned, which takes long."},
    )  # fmt: skip
    include: tuple[str, ...] = field(default=(), metadata={"help": "Only weights whose name, or a reader's, matches."})
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "No weights whose name, or a reader's, matches."})
    requantize: bool = field(default=False, metadata={"help": "Accept a model that is quantized already."})
    tune: bool = field(
        default=False, metadata={"help": "Measure the forms on this machine, for the layers of this model."}
    )

    def __post_init__(self) -> None:
        """Refuse combinations that mean nothing."""
        refuse(self)

    @property
    def tag(self) -> str:
        """``int8``, ``int4``, ``ternary``, ``codebook4``, ..., or the float type."""
        if self.scheme in ("float16", "bfloat16"):
            return self.scheme
        if self.codebook_length is not None:
            return f"codebook{self.bits}" + (f"x{self.codebook_length}" if self.codebook_length > 1 else "")
        if self.average_bits is not None:
            return f"int{self.average_bits:g}"
        return "ternary" if self.ternary else f"int{self.bits}"

    def wanted_opset(self, model: Model, *, real: bool) -> int:
        """That of scales by channel, where operators may run on static integers."""
        found = real and self._may_be_static and any(u.weight for u in units(model))
        return (static.WIDE_OPSET if self._wide else static.MIN_OPSET) if found else 1

    @property
    def _chaining(self) -> Chaining:
        return Chaining(self._may_be_static, self.scheme == "static", 16 if self._wide else 8, self.reduce_range)

    @property
    def _wide(self) -> bool:
        return self.scheme == "static" and self.activation_bits == 16

    @property
    def _may_be_static(self) -> bool:
        special = self.codebook_length or self.residual_rank or self.average_bits
        plain = self.bits == 8 and self.symmetric and not self.block_size and not self.per_tensor and not special
        eight = self.activation_bits != 16 or self._wide
        return self.scheme in ("auto", "static") and plain and eight and self.target != "cuda"

    def prepared(self, model: Model, probe: Probe, progress: Progress) -> tuple[Model, tuple[str, ...]]:
        """With outliers moved into weights, where activations may be quantized; with few bits, where these gain."""
        grid = self._grid
        if grid.bits < 8 and self.scheme not in ("float16", "bfloat16"):
            return favoured(model, probe, progress, grid, block_of(grid, self.block_size))
        if self.bits == 8 and self.scheme in ("auto", "static", "dynamic") and self.target != "cuda" and not self._wide:
            return equalized(model, probe, progress)
        return model, ()

    def watched(self, model: Model) -> Sequence[str]:
        """The left-hand sides of products by constant weights."""
        return tuple(dict.fromkeys(x for x, _ in self._products(model)))

    def measured(self, model: Model, observed: Mapping[str, Observed]) -> Sequence[tuple[int, int, int]]:
        """The distinct products of the model as it ran, where ``tune`` asks for it."""
        if not self.tune:
            return ()
        found = [
            (math.prod(shape[:-1]), *dims)
            for x, dims in self._products(model)
            if x in observed
            for shape in observed[x].shapes
        ]
        return tuple(dict.fromkeys(found))

    def _products(self, model: Model) -> Iterator[tuple[str, tuple[int, int]]]:
        """Left-hand side and (in_features, out_features) of each product in the main graph that may change."""
        if self.scheme in ("float16", "bfloat16") or self.target == "cuda":
            return
        scopes = Scopes(model.proto)
        for weight in weights(model, scopes):
            for leaf in weight.leaves if unfit(weight) is None else ():
                found = product(leaf, weight.dims, weight.tensor.data_type)
                if found is not None and found.x in scopes.main.defined and leaf.use.scope is scopes.main:
                    yield found.x, features(weight.dims, found)

    def trials(self, model: Model, context: Context) -> Mapping[str, Callable[[], np.ndarray]]:
        """The weights that might be stored more precisely, as they would be quantized."""
        if self.scheme in ("float16", "bfloat16"):
            return {}
        grouping = self._grouping(model, context)
        if not (grouping.open or self.average_bits or self._may_be_raised(context)):
            return {}
        found = self._survey(model, context)
        main = [w for w in found.rest if w.scope is found.scopes.main and w.constant is None]
        drafts = [grouping.draft(model, w, found.namer) for w in main]
        tried = [d for d in drafts if d.stored_only or not grouping.open]
        if sum(d.original_nbytes for d in tried) > _MOST_ON_TRIAL * (4 if self.average_bits else 1):
            return {}
        return {d.writing.weight.name: functools.partial(quantized_values, d) for d in tried}

    def _may_be_raised(self, context: Context) -> bool:
        """Whether weights that break the output may have more bits than were asked for."""
        plain = self.codebook_length is None and self.residual_rank is None and self.average_bits is None
        return self.bits < 8 and plain and not self.ternary and context.probe is not None

    def plan(self, model: Model, context: Context) -> Iterator[Planned | Skip]:
        """One outcome for every stored float tensor, and one for every other operator that runs on integers."""
        if not self.requantize:
            refuse_quantized(model)
        if self.scheme == "static" and context.probe is None:
            raise UsageError("--scheme static has to see real inputs", "Give them with --data.")
        found = self._survey(model, context)
        for weight, reason in found.reasons:
            yield Skip(skipped(model, weight, reason))
        if self.scheme in ("float16", "bfloat16"):
            kind = Tensor.FLOAT16 if self.scheme == "float16" else Tensor.BFLOAT16
            yield from (shorter_float(model, weight, found.namer, kind) for weight in found.fit)
        else:
            chained = list(found.edits())
            yield from chained
            yield from self._integers(model, found, context, chained)

    def _survey(self, model: Model, context: Context) -> Survey:
        known = context.notebook.get("survey")
        if known is None:
            known = survey(model, context, self.include, self.exclude, self._chaining, self.rounding)
            context.notebook["survey"] = known
        return cast("Survey", known)

    def _integers(
        self, model: Model, found: Survey, context: Context, chained: Sequence[Planned]
    ) -> Iterator[Planned | Skip]:
        grouping = self._grouping(model, context)
        drafts = []
        for weight in found.rest:
            draft = grouping.draft(model, weight, found.namer)
            lacking = grouping.enriching.lacking(draft.writing)
            if lacking is not None and self.codebook_length is not None:
                yield Skip(skipped(model, weight, lacking))
                continue
            if lacking is not None:
                context.notes.append(f"no residual for {weight.label}: {lacking}")
            drafts.append(draft)
        saved = sum(u.record.bytes_before - u.record.bytes_after for u in chained)
        rungs = self._rungs(model, found, grouping, drafts, context, saved)
        for draft, rung in zip(drafts, rungs, strict=True):
            weight = draft.writing.weight
            before = model.nbytes(weight.tensor)
            if rung.nbytes + _NODE_BYTES > before * _WORTH:
                reason = "too small: scales and decoding would eat up what its codes save"
                yield Skip(skipped(model, weight, reason))
            elif rung.draft is None:
                yield shorter_float(model, weight, found.namer, Tensor.FLOAT16)
            else:
                yield coded(rung.draft, before)

    def _rungs(
        self, model: Model, found: Survey, grouping: Grouping, drafts: Sequence[Draft], context: Context, saved: int
    ) -> Sequence[Rung]:
        """How finely each weight is stored."""
        if self.average_bits is not None:
            return mixed(grouping, drafts, context.damage, found.rounding, self.average_bits, self._lowest)
        if grouping.open:
            ladders = [ladder(grouping, d) for d in drafts]
            weighed, spend = importance(drafts, ladders, context.damage), spare(model, drafts, saved)
            return allotted(ladders, weighed, spend, _BESIDE_INTEGERS * found.noise(context))
        if self._may_be_raised(context):
            drafts, names, left = raised(grouping, drafts, context.damage, context.noise_limit)
            if names:
                context.notes.append(f"8 bits where {self.bits} break the output: {', '.join(names)}")
            if left:
                much = "most of what is lost comes from weights too large for 8 bits in so small a file"
                context.notes.append(f"{much}: {', '.join(left)}; --average-bits shares bytes out by effect")
        return [Rung(d, d.nbytes, 0.0) for d in drafts]

    @property
    def _lowest(self) -> int:
        return 2 if self.bits == 8 else self.bits

    @property
    def _grid(self) -> Grid:
        bits = self.bits if self.average_bits is None else middle_bits(self.average_bits, self._lowest)
        return Grid(8 if self.codebook_length is not None else bits, self.symmetric, self.ternary)

    def _grouping(self, model: Model, context: Context) -> Grouping:
        found = self._survey(model, context)
        dynamic = self.scheme in ("auto", "dynamic") and self.bits == 8 and self.symmetric
        one_pass = found.one_pass(model, context) if dynamic and self.activation_bits is None else None
        chooser = Chooser(self.scheme, self.target, self.activation_bits, context, one_pass)
        enriching = Enriching(
            self.bits, self.codebook_length or 0, self.residual_rank or 0, not self.per_tensor, context.seed,
            found.rounding,
        )  # fmt: skip
        kept = context.notebook.setdefault("codes", {})
        solve = None if found.solve is None else Kept(found.solve, kept)
        favour = None if found.rounding is None else found.rounding.favour
        zeros = context.notebook.setdefault("zeros", {})
        return Grouping(self._grid, self.block_size, self.per_tensor, chooser, solve, enriching, favour, zeros)
