"""What becomes of one weight, with its record."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnxcompress.forms import decode, sparse
from onnxcompress.forms.assemble import assemble
from onnxcompress.forms.base import Writing, float_name, not_finite
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.payload import stored_bytes
from onnxcompress.passes.base import Planned, Skip
from onnxcompress.passes.grouping import Draft, fits_float16, magnitude, support_of
from onnxcompress.report import LayerRecord
from onnxcompress.solvers.groups import Grid, Groups

if TYPE_CHECKING:
    from onnxcompress.graph.edit import Namer
    from onnxcompress.graph.layers import Weight


_SPARSE = 0.85  # of its bytes, that a weight with zeros has to take less than to be stored without them


def shorter_float(model: Model, weight: Weight, namer: Namer, kind: int) -> Planned | Skip:
    """A weight in a shorter float type."""
    before, after = model.nbytes(weight.tensor), stored_bytes(kind, weight.dims)
    name = float_name(kind)
    if after >= before:
        stored = float_name(weight.tensor.data_type)
        return Skip(skipped(model, weight, f"stored as {stored} already, {name} would be no smaller"))
    writing = Writing(model, weight, Grid(8), Groups(weight.dims, ()), namer)
    peak = magnitude(writing.values())
    if not math.isfinite(peak):
        raise not_finite(weight)
    if kind == Tensor.FLOAT16 and not fits_float16(peak):
        return Skip(skipped(model, weight, "its values exceed the range of float16"))
    support = support_of(model, weight, 16)
    if support.nbytes(16) < _SPARSE * after and kind == Tensor.FLOAT16:
        edit, after, _ = sparse.write(writing, support, kind, lambda: sparse.Kept(writing.values()))
        record = LayerRecord(weight.label, weight.op, "done", None, f"{name}+{sparse.NAME}", 16, before, after)
        return Planned(record, edit, lambda: None)
    edit = decode.write_float(writing, kind)
    return Planned(LayerRecord(weight.label, weight.op, "done", None, name, 16, before, after), edit, lambda: None)


def coded(draft: Draft, before: int) -> Planned:
    """A weight in codes."""
    weight = draft.writing.weight
    made = assemble(draft.writing, draft.scale_dtype, draft.choice)
    form = "+".join(sorted(set(draft.choice.values())))
    if draft.writing.sparse is not None:
        form = f"{form}+{sparse.NAME}"
    record = LayerRecord(weight.label, weight.op, "done", None, form, draft.bits, before, made.nbytes)
    return Planned(record, made.edit, lambda: made.codes.error, lambda: made.codes.histogram)


def skipped(model: Model, weight: Weight, reason: str) -> LayerRecord:
    """The record of a weight that stays as it is."""
    size = model.nbytes(weight.tensor)
    return LayerRecord(weight.label, weight.op, "skipped", reason, None, None, size, size)
