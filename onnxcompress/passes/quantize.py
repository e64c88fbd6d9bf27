"""Quantization of weights: ŵ = s · (q − z), q an integer of few bits, and for each layer the form that runs fastest.

Weights of MatMul, Gemm, Conv, ConvTranspose, Gather, LSTM, GRU and RNN are found in every scope, through whatever only
moves them about. Each is stored once. With the scheme ``auto`` a matrix product becomes an integer product where the
cost table says that this is faster (activations in two eight-bit passes, see `forms.dynamic`), an embedding is decoded
after its lookup, and every other weight decodes itself when the model is loaded, at the original's speed.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import field
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic.dataclasses import dataclass

from onnxcompress.errors import ModelError, UsageError
from onnxcompress.forms import decode, static
from onnxcompress.forms.assemble import Assembled, assemble
from onnxcompress.forms.base import Writing, float_name, not_finite
from onnxcompress.forms.chains import units
from onnxcompress.forms.product import features, product
from onnxcompress.graph.layers import Weight, weights
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.payload import stored_bytes
from onnxcompress.graph.scopes import Scopes
from onnxcompress.passes.allotment import Rung, allotted, ladder, spare
from onnxcompress.passes.base import Context, Planned, Skip, register
from onnxcompress.passes.choosing import Chooser
from onnxcompress.passes.grouping import Draft, Grouping, fits_float16, magnitude, quantized_values
from onnxcompress.passes.survey import Chaining, Survey, survey, unfit
from onnxcompress.report import LayerRecord
from onnxcompress.solvers.groups import Grid, Groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np

    from onnxcompress.graph.edit import Namer
    from onnxcompress.stats.activations import Observed

Scheme = Literal["auto", "static", "dynamic", "weight-only", "float16", "bfloat16"]
Target = Literal["cpu", "cuda", "portable"]

_WORTH = 0.75  # a weight is left alone unless it shrinks below this part of its bytes
_MOST_ON_TRIAL = 1 << 28  # bytes of weights, which are all in memory then
_NODE_BYTES = 200  # of a decoded weight, roughly
_QUANTIZED_OPS = frozenset(
    {
        "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv",
        "QLinearMatMul", "MatMulNBits", "GatherBlockQuantized", "DynamicQuantizeMatMul", "MatMulIntegerToFloat",
        "QGemm", "QAttention", "DynamicQuantizeLSTM", "QEmbedLayerNormalization", "MatMulBnb4",
    }
)  # fmt: skip


@register
@dataclass(frozen=True, kw_only=True)
class Quantize:
    """Store weights as integers of few bits, in the form that runs fastest."""

    name: ClassVar[str] = "quantize"

    bits: Literal[8, 4, 2] = field(default=8, metadata={"help": "Bits of a weight."})
    scheme: Scheme = field(
        default="auto",
        metadata={"help": "What runs on integers: as is fastest, all (--data), products, nothing; or a shorter float."},
    )  # fmt: skip
    block_size: int | None = field(
        default=None,
        metadata={"help": "Weights that share a scale, 0: a channel; default: as needed at 8 bits, 32 at 4, 16 at 2."},
    )  # fmt: skip
    symmetric: bool = field(default=True, metadata={"help": "Zero points in the middle of the range (none stored)."})
    per_tensor: bool = field(default=False, metadata={"help": "One scale for a whole weight."})
    target: Target = field(
        default="cpu", metadata={"help": "Where the model will run; portable: standard ONNX operators only."}
    )
    activation_bits: Literal[16, 8] | None = field(
        default=None,
        metadata={"help": "Bits of dynamic activations: 16 in two passes, or 8; default: 8 where --data allow it."},
    )  # fmt: skip
    reduce_range: bool | None = field(
        default=None,
        metadata={"help": "7-bit weights on static integers; default: as the processor needs.",
                  "flag": "--reduce-range/--full-range"},
    )  # fmt: skip
    include: tuple[str, ...] = field(default=(), metadata={"help": "Only weights whose name, or a reader's, matches."})
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "No weights whose name, or a reader's, matches."})
    requantize: bool = field(default=False, metadata={"help": "Accept a model that is quantized already."})
    tune: bool = field(
        default=False, metadata={"help": "Measure the forms on this machine, for the layers of this model."}
    )

    def __post_init__(self) -> None:
        """Refuse combinations that mean nothing."""
        if self.block_size and not 8 <= self.block_size <= 65536:
            raise UsageError(
                f"a block size of {self.block_size} is out of range",
                "Give 8 to 65536, or 0 for whole channels.",
            )
        if self.block_size and self.per_tensor:
            raise UsageError("blocks and one scale per tensor exclude each other", "Give one of the two options.")
        if self.scheme in ("float16", "bfloat16"):
            if self.bits != 8 or self.block_size or self.per_tensor or not self.symmetric:
                raise UsageError(
                    f"{self.scheme} has no bits, blocks, scales or zero points to choose",
                    "Leave those options out, or use --scheme weight-only.",
                )
        elif self.scheme == "weight-only" and self.activation_bits is not None:
            raise UsageError("with --scheme weight-only activations are not quantized", "Leave --activation-bits out.")
        if self.scheme == "dynamic" and (self.bits != 8 or not self.symmetric or self.block_size):
            raise UsageError(
                "dynamic quantization needs symmetric weights of 8 bits with one scale per channel",
                "Leave --bits, --asymmetric and --block-size out, or use --scheme weight-only.",
            )

    @property
    def tag(self) -> str:
        """``int8``, ``int4``, ..., or the float type."""
        return self.scheme if self.scheme in ("float16", "bfloat16") else f"int{self.bits}"

    def wanted_opset(self, model: Model, *, real: bool) -> int:
        """That of scales by channel, where operators may run on static integers."""
        found = real and self._may_be_static and any(u.weight for u in units(model))
        return static.MIN_OPSET if found else 1

    @property
    def _chaining(self) -> Chaining:
        return Chaining(self._may_be_static, self.scheme == "static", self.reduce_range)

    @property
    def _may_be_static(self) -> bool:
        plain = self.bits == 8 and self.symmetric and not self.block_size and not self.per_tensor
        return self.scheme in ("auto", "static") and plain and self.target != "cuda"

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
        grouping = self._grouping(model, context)
        if self.scheme in ("float16", "bfloat16") or not grouping.open:
            return {}
        found = self._survey(model, context)
        grouping = dataclasses.replace(grouping, solve=found.solve)
        main = [w for w in found.rest if w.scope is found.scopes.main and w.constant is None]
        drafts = [grouping.draft(model, w, found.namer) for w in main]
        if sum(d.original_nbytes for d in drafts if d.stored_only) > _MOST_ON_TRIAL:
            return {}
        return {d.writing.weight.name: functools.partial(quantized_values, d) for d in drafts if d.stored_only}

    def plan(self, model: Model, context: Context) -> Iterator[Planned | Skip]:
        """One outcome for every stored float tensor, and one for every other operator that runs on integers."""
        self._refuse_quantized(model)
        if self.scheme == "static" and context.probe is None:
            raise UsageError("--scheme static has to see real inputs", "Give them with --data.")
        found = self._survey(model, context)
        for weight, reason in found.reasons:
            yield Skip(_skipped(model, weight, reason))
        if self.scheme in ("float16", "bfloat16"):
            kind = Tensor.FLOAT16 if self.scheme == "float16" else Tensor.BFLOAT16
            yield from (self._shorter_float(model, weight, found.namer, kind) for weight in found.fit)
        else:
            chained = list(found.edits())
            yield from chained
            yield from self._integers(model, found, context, chained)

    def _survey(self, model: Model, context: Context) -> Survey:
        known = context.notebook.get("survey")
        if known is None:
            known = survey(model, context, self.include, self.exclude, self._chaining)
            context.notebook["survey"] = known
        return cast("Survey", known)

    def _refuse_quantized(self, model: Model) -> None:
        if self.requantize:
            return
        ops = sorted({n.op_type for s in Scopes(model.proto).all for n in s.body.node} & _QUANTIZED_OPS)
        done = any(p.key == "onnxcompress.quantize" for p in model.proto.metadata_props)
        if ops or done:
            what = f"it holds {', '.join(ops)}" if ops else "this tool has done so"
            raise ModelError(
                f"the model is quantized already: {what}",
                "Start from the float model, or give --requantize to quantize what is still float.",
            )

    def _shorter_float(self, model: Model, weight: Weight, namer: Namer, kind: int) -> Planned | Skip:
        before, after = model.nbytes(weight.tensor), stored_bytes(kind, weight.dims)
        name = float_name(kind)
        if after >= before:
            stored = float_name(weight.tensor.data_type)
            return Skip(_skipped(model, weight, f"stored as {stored} already, {name} would be no smaller"))
        writing = Writing(model, weight, Grid(8), Groups(weight.dims, ()), namer)
        peak = magnitude(writing.values())
        if not math.isfinite(peak):
            raise not_finite(weight)
        if kind == Tensor.FLOAT16 and not fits_float16(peak):
            return Skip(_skipped(model, weight, "its values exceed the range of float16"))
        edit = decode.write_float(writing, kind)
        return Planned(LayerRecord(weight.label, weight.op, "done", None, name, 16, before, after), edit, lambda: None)

    def _integers(
        self, model: Model, found: Survey, context: Context, chained: Sequence[Planned]
    ) -> Iterator[Planned | Skip]:
        grouping = self._grouping(model, context)
        grouping = dataclasses.replace(grouping, solve=found.solve)
        drafts = [grouping.draft(model, weight, found.namer) for weight in found.rest]
        rungs: list[Rung] = [Rung(d, d.nbytes, 0.0) for d in drafts]
        if grouping.open:
            ladders = [ladder(grouping, d) for d in drafts]
            saved = sum(u.record.bytes_before - u.record.bytes_after for u in chained)
            rungs = allotted(drafts, ladders, context.damage, spare(model, drafts, saved))
        for draft, rung in zip(drafts, rungs, strict=True):
            weight = draft.writing.weight
            before = model.nbytes(weight.tensor)
            if rung.nbytes + _NODE_BYTES > before * _WORTH:
                reason = "too small: scales and decoding would eat up what its codes save"
                yield Skip(_skipped(model, weight, reason))
            elif rung.draft is None:
                yield self._shorter_float(model, weight, found.namer, Tensor.FLOAT16)
            else:
                yield self._coded(rung.draft, before)

    def _coded(self, draft: Draft, before: int) -> Planned:
        weight = draft.writing.weight
        made = assemble(draft.writing, draft.scale_dtype, draft.choice)
        form = "+".join(sorted(set(draft.choice.values())))
        record = LayerRecord(weight.label, weight.op, "done", None, form, self.bits, before, made.nbytes)
        return Planned(record, made.edit, _error_of(made))

    def _grouping(self, model: Model, context: Context) -> Grouping:
        found = self._survey(model, context)
        dynamic = self.scheme in ("auto", "dynamic") and self.bits == 8 and self.symmetric
        one_pass = found.one_pass(model, context) if dynamic and self.activation_bits is None else None
        chooser = Chooser(self.scheme, self.target, self.activation_bits, context, one_pass)
        return Grouping(Grid(self.bits, self.symmetric), self.block_size, self.per_tensor, chooser)


def _error_of(made: Assembled) -> Callable[[], float | None]:
    return lambda: made.codes.error


def _skipped(model: Model, weight: Weight, reason: str) -> LayerRecord:
    size = model.nbytes(weight.tensor)
    return LayerRecord(weight.label, weight.op, "skipped", reason, None, None, size, size)
