"""The same computation with fewer nodes and bytes.

ONNX Runtime's BASIC optimizations are written out, BatchNormalization goes into the layer before it, padding into the
one behind it, matrices that follow one another into their product; idle nodes, equal tensors and dead code go away. A
result is kept only if it has no more nodes and bytes than before and gives the same outputs; otherwise a more careful
variant is tried: without folding of constants, then without ONNX Runtime.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pydantic.dataclasses import dataclass

from onnxcompress.errors import RuntimeFailure
from onnxcompress.graph import writer
from onnxcompress.graph.batchnorm import fold_batchnorm
from onnxcompress.graph.bypass import bypass
from onnxcompress.graph.constants import declare_initializers, lift_constants
from onnxcompress.graph.dead import remove_dead
from onnxcompress.graph.duplicates import merge_duplicates
from onnxcompress.graph.offline import FOLDING, NotOptimized, optimized
from onnxcompress.graph.padding import fold_padding
from onnxcompress.graph.products import merge_products
from onnxcompress.graph.riders import MODEST
from onnxcompress.graph.scopes import subgraphs
from onnxcompress.passes.base import Context, Rewritten, register
from onnxcompress.stats.equivalence import compare

if TYPE_CHECKING:
    import onnx

    from onnxcompress.graph.model import Model


class _Unchanged(Exception):
    """Nothing became smaller."""


class _Variant(NamedTuple):
    """How far ONNX Runtime may go: it knows tensors of up to ``through`` bytes; None leaves it out."""

    through: int | None
    disabled: tuple[str, ...] = ()


_LARGE = 1 << 16
_VARIANTS = (_Variant(MODEST), _Variant(_LARGE), _Variant(_LARGE, (FOLDING,)), _Variant(None))


@register
@dataclass(frozen=True, kw_only=True)
class Simplify:
    """Fold constants and normalizations; remove idle nodes, duplicates and dead code."""

    name: ClassVar[str] = "simplify"

    check: bool = field(default=True, metadata={"help": "Compare the outputs before and after on one synthetic input."})

    @property
    def tag(self) -> str:
        """``simplified``."""
        return "simplified"

    def rewrite(self, model: Model, context: Context) -> Rewritten:
        """Return a simpler copy of the model, or the model itself where there is none."""
        notes: list[str] = []
        failure = None
        for variant in _VARIANTS:
            if variant.through is None and failure is not None:
                return Rewritten(model, (f"not simplified: {failure.message}",))
            try:
                candidate = _candidate(model, variant, notes)
                if candidate is None or not self._holds(model, candidate, context, notes):
                    continue
            except RuntimeFailure as error:
                failure = error
                continue
            except _Unchanged:
                return Rewritten(model, (*dict.fromkeys(notes), "there was nothing to simplify"))
            return Rewritten(candidate, (*dict.fromkeys(notes), _summary(model, candidate)))
        return Rewritten(model, (*dict.fromkeys(notes), "not simplified: whatever was tried is no smaller"))

    def _holds(self, model: Model, candidate: Model, context: Context, notes: list[str]) -> bool:
        if not self.check:
            return True
        outcome = compare(model, candidate, seed=context.seed)
        if outcome.skipped:
            notes.append(f"outputs not compared: {outcome.skipped}")
        if outcome.difference:
            notes.append(f"a simplification was discarded: {outcome.difference}")
        return outcome.difference is None


def _candidate(model: Model, variant: _Variant, notes: list[str]) -> Model | None:
    """A simplified copy, or None where it became larger."""
    result = model.copy()
    lift_constants(result)
    _clean(result, notes)
    if variant.through is not None:
        try:
            result = optimized(result, through=variant.through, disabled=variant.disabled)
        except NotOptimized as reason:
            if variant is not _VARIANTS[0]:
                notes.append(f"the optimizations of ONNX Runtime were left out: {reason}")
            return None
        lift_constants(result)
        _clean(result, notes)
    merge_duplicates(result)
    remove_dead(result.proto)
    declare_initializers(result.proto)
    nodes = node_count(result.proto) - node_count(model.proto)
    size = writer.serialized_size(result) - writer.serialized_size(model)
    if nodes > 0 or size > 0:
        return None
    if nodes == 0 and size == 0:
        raise _Unchanged
    return result


def _clean(model: Model, notes: list[str]) -> None:
    remove_dead(model.proto)
    bypass(model)
    fold_batchnorm(model)
    merge_products(model, notes)
    fold_padding(model)
    remove_dead(model.proto)


def stored_bytes(model: Model) -> int:
    """Bytes of all stored tensors."""
    return sum(model.nbytes(t) for t in model.tensors())


def node_count(proto: onnx.ModelProto) -> int:
    """Nodes at every depth, those of a local function once for each call; Constants do not count."""
    bodies = {(f.domain, f.name): f for f in proto.functions}
    counts: dict[tuple[str, str], int] = {}

    def cost(node: onnx.NodeProto) -> int:
        key = (node.domain, node.op_type)
        if key in bodies:
            if key not in counts:
                counts[key] = 0  # functions cannot call themselves
                counts[key] = sum(cost(n) for n in bodies[key].node)
            return counts[key]
        inner = sum(cost(n) for graph in subgraphs(node) for n in graph.node)
        return inner + (node.op_type != "Constant")

    return sum(cost(node) for node in proto.graph.node)


def _summary(before: Model, after: Model) -> str:
    return (
        f"{node_count(before.proto)} nodes became {node_count(after.proto)}, and {stored_bytes(before)} bytes"
        f" of stored tensors {stored_bytes(after)}"
    )
