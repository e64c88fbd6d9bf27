"""The weights of a model that may be compressed, each with what it would be once rounded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from onnx import helper

from onnxcompress.graph.edit import Namer
from onnxcompress.graph.layers import is_layer, weights
from onnxcompress.passes.base import Context
from onnxcompress.passes.choosing import Chooser
from onnxcompress.passes.grouping import Draft, Grouping, quantized_values
from onnxcompress.passes.selection import Selection
from onnxcompress.passes.survey import unfit
from onnxcompress.solvers.groups import Grid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxcompress.graph.layers import Weight
    from onnxcompress.graph.model import Model
    from onnxcompress.graph.scopes import Scopes

Array = np.ndarray
_THREE_BITS = 32  # weights in a block: what four bits have
_KEPT = 1 << 28  # bytes of rounded weights that are not computed twice


@dataclass(frozen=True, eq=False)
class Candidate:
    """One weight, and how it would be written with so few bits."""

    weight: Weight
    draft: Draft

    @property
    def name(self) -> str:
        """Name of the stored tensor."""
        return self.weight.name

    @property
    def nbytes(self) -> int:
        """Bytes of its values as they are."""
        return self.draft.original_nbytes


@dataclass(frozen=True)
class Found:
    """The weights that may change, and why other weights of layers may not."""

    fit: tuple[Candidate, ...]
    left: tuple[tuple[Weight, str], ...]


def found(model: Model, scopes: Scopes, bits: int, include: Sequence[str], exclude: Sequence[str]) -> Found:
    """All weights of layers.

    Args:
        model: the model as it is.
        scopes: its scopes.
        bits: of a code.
        include: patterns of names, none: all.
        exclude: patterns of names.

    Raises:
        UsageError: a pattern matches nothing.
    """
    known = list(weights(model, scopes))
    selection = Selection(include, exclude, known)
    namer = Namer(scopes.names())
    block = _THREE_BITS if bits == 3 else None
    grouping = Grouping(Grid(bits), block, False, Chooser("weight-only", "cpu", None, Context()))
    fit, left = [], []
    for weight in known:
        if not any(is_layer(leaf) for leaf in weight.leaves):
            continue
        reason = unfit(weight) or selection.reason(weight)
        if reason is None:
            fit.append(Candidate(weight, grouping.draft(model, weight, namer)))
        else:
            left.append((weight, reason))
    return Found(tuple(fit), tuple(left))


@dataclass
class Rounded:
    """Rounded weights in the shape and type in which they are stored; as many as fit in ``room`` bytes are kept."""

    room: int = _KEPT
    _kept: dict[str, Array] = field(default_factory=dict)

    def __call__(self, candidate: Candidate) -> Array:
        """The values of a weight as they would come out of its codes.

        Raises:
            ModelError: the weight is not finite.
        """
        known = self._kept.get(candidate.name)
        if known is None:
            stored = helper.tensor_dtype_to_np_dtype(candidate.weight.tensor.data_type)
            known = quantized_values(candidate.draft).astype(stored, copy=False)
            if known.nbytes <= self.room:
                self.room -= known.nbytes
                self._kept[candidate.name] = known
        return known
