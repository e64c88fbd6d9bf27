"""One model whose weights are a linear combination of those of several: W = Σ cᵢ Wᵢ.

Models that were fine-tuned from one start, differently, often lie in one basin of the loss, and their mean is better
than each and as fast as one (Wortsman et al., Model soups, ICML 2022, https://arxiv.org/abs/2203.05482). Models that
were trained from different starts do not, and their mean is worth nothing.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.errors import ModelError
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.merging.agreement import pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

_FLOATS = frozenset({Tensor.FLOAT, Tensor.DOUBLE, Tensor.FLOAT16, Tensor.BFLOAT16})
_SMALL = 1 << 12  # bytes up to which values are computed at once


class Mixture:
    """Models whose graphs agree.

    Raises:
        ModelError: they do not, or they differ in what cannot be mixed, such as integers.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        self.models = tuple(models)
        found = [pairs(models[0], other) for other in models]
        self._tensors = [[row[0][0], *(pair[1] for pair in row[1:])] for row in zip(*found, strict=True)]
        for tensors in self._tensors:
            self._require_mixable(tensors)

    def _require_mixable(self, tensors: Sequence[Tensor]) -> None:
        if tensors[0].data_type in _FLOATS:
            return
        values = [np.asarray(m.array(t)) for m, t in zip(self.models, tensors, strict=True)]
        if any(not np.array_equal(values[0], other) for other in values[1:]):
            raise ModelError(
                f"{tensors[0].name!r} holds integers that differ, which cannot be mixed",
                "Merge models before they are compressed, or average their outputs with --ensemble.",
            )

    def mixed(self, coefficients: Sequence[float]) -> Model:
        """The model with these shares of each; large weights are computed when they are written."""
        result = self.models[0].copy()
        for (own, _), tensors in zip(pairs(result, self.models[0]), self._tensors, strict=True):
            if own.data_type not in _FLOATS:
                continue
            compute = functools.partial(self._values, tensors, tuple(coefficients))
            if result.nbytes(own) <= _SMALL:
                result.set_array(own, compute())
            else:
                result.set_lazy(own, own.data_type, tuple(own.dims), compute)
        return result

    def _values(self, tensors: Sequence[Tensor], coefficients: Sequence[float]) -> np.ndarray:
        arrays = (m.array(t) for m, t in zip(self.models, tensors, strict=True))
        total: np.ndarray | None = None
        dtype: np.dtype | None = None
        for array, share in zip(arrays, coefficients, strict=True):
            dtype = array.dtype
            part = share * array.astype(np.float64)
            total = part if total is None else total + part
        return np.asarray(total).astype(dtype)
