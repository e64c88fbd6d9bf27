"""Weights that came packed for their zeros, and that no step has stored in another way, are packed again."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.forms import sparse
from onnxcompress.forms.base import Writing
from onnxcompress.graph import edit
from onnxcompress.graph.edit import Namer
from onnxcompress.graph.layers import weights
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.scopes import Scopes
from onnxcompress.passes.grouping import support_of
from onnxcompress.solvers.groups import Grid, Groups

if TYPE_CHECKING:
    from onnxcompress.graph.layers import Weight

WORTH = 0.97  # of its bytes, that a weight has to shrink below to be packed
PACKED = (Tensor.FLOAT, Tensor.FLOAT16, Tensor.DOUBLE)
_LEAST = 1024  # values


def repacked(model: Model) -> Model:
    """A copy in which weights of layers with enough zeros are packed."""
    result = model.copy()
    scopes = Scopes(result.proto)
    namer, edits = Namer(scopes.names()), []
    for weight in weights(result, scopes):
        if weight.scope.is_function or weight.overridable or weight.elements < _LEAST:
            continue
        if weight.tensor.data_type not in PACKED:
            continue
        bits = 8 * result.nbytes(weight.tensor) / weight.elements
        support = support_of(result, weight, int(bits))
        if support.nbytes(bits) < WORTH * result.nbytes(weight.tensor):
            writing = Writing(result, weight, Grid(8), Groups(weight.dims, ()), namer)
            solve = functools.partial(_as_it_is, result, weight)
            edits.append(sparse.write(writing, support, weight.tensor.data_type, solve)[0])
    edit.apply(result, edits)
    return result


def _as_it_is(model: Model, weight: Weight) -> sparse.Kept:
    return sparse.Kept(np.array(model.array(weight.tensor)))
