"""Rounding that knows what layers see: each weight is solved on the Gram matrix of its inputs.

    minimise  tr((W − Ŵ) H (W − Ŵ)ᵀ),   H = E[x xᵀ],   Ŵ on the grid

by error feedback, and for few bits or small kernels by coordinate descent from there. A weight that nothing was
measured for is rounded to nearest. Where the bias of the layer is written as well it takes over what codes lose of the
mean, b + (W − Ŵ) E[x], and the covariance stands in for H
(bias correction, Nagel et al. 2019, arXiv 1906.04721).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.forms.rows import rows_of
from onnxcompress.solvers.descent import descent
from onnxcompress.solvers.feedback import feedback
from onnxcompress.solvers.scales import weighted_scales

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from onnxcompress.forms.base import Writing
    from onnxcompress.forms.rows import Rows
    from onnxcompress.graph.layers import Leaf, Weight
    from onnxcompress.graph.scopes import Scope
    from onnxcompress.solvers.grid import Quantized
    from onnxcompress.stats.archive import Archive

Array = np.ndarray
_LAYERS = ("Conv", "MatMul", "Gemm")
_SMALL_KERNEL = 256  # inputs; descent takes a third of the error away there, and costs little


def layers(weights: Sequence[Weight], main: Scope) -> list[onnx.NodeProto]:
    """The layers of the main graph that read these weights and whose inputs can be watched."""
    nodes = [leaf.use.node for w in weights for leaf in w.leaves if leaf.use.scope is main and leaf.use.index == 1]
    found = {id(n): n for n in nodes if n is not None and n.op_type in _LAYERS}
    return list(found.values())


def centred(H: Array, mean: Array) -> Array:
    """E[x xᵀ] − E[x] E[x]ᵀ, for one group or several."""
    found: Array = H - mean[..., :, np.newaxis] * mean[..., np.newaxis, :]
    return found


@dataclass(frozen=True)
class Rounding:
    """Solves weights on what was measured."""

    archive: Archive

    def knows(self, weight: Weight) -> bool:
        """Whether anything was measured for one of its readers."""
        return any(self._name(leaf) in self.archive for leaf in weight.leaves)

    def solve(self, writing: Writing, values: Array, dtype: np.dtype | None) -> Quantized | None:
        """The codes of a weight; None where it has to be rounded to nearest.

        Raises:
            ValueError: a weight is not finite.
        """
        seen = self._seen(writing)
        if seen is None:
            return None
        rows, H, mean = seen
        if writing.shift is not None:
            H = centred(H, mean)
        W = rows.matrix(values)
        importance = np.maximum(np.diagonal(H, axis1=-2, axis2=-1), 0)
        if not importance.any():
            return None
        scale, zero = weighted_scales(W, importance, writing.grid, rows.groups, dtype)
        if writing.floor is not None:
            floor = writing.floor.reshape(-1) if rows.groups.scale_shape[0] > 1 else writing.floor.max()
            scale = np.maximum(scale, np.reshape(floor, (-1, *[1] * (scale.ndim - 1)))).astype(scale.dtype)
        found = feedback(W, H, writing.grid, rows.groups, dtype, scales=(scale, zero))
        if writing.grid.bits < 8 or rows.inputs <= _SMALL_KERNEL:
            found = descent(W, H, found, writing.grid, rows.groups)
        return rows.to_stored(found)

    def shift(self, writing: Writing, found: Quantized) -> Array:
        """(W − Ŵ) E[x], which the bias takes over, (outputs,); solved codes then lose nothing but variance."""
        seen = self._seen(writing)
        if seen is None:
            return np.zeros(1)
        rows, _, mean = seen
        lost = rows.matrix(writing.values()) - rows.matrix(found.dequantize())
        means = np.atleast_2d(mean)
        each = lost.reshape(len(means), -1, lost.shape[1]) @ means[:, :, np.newaxis]
        flat: Array = each.reshape(-1)
        return flat

    def _seen(self, writing: Writing) -> tuple[Rows, Array, Array] | None:
        total: Array | None = None
        mean: Array | None = None
        rows: Rows | None = None
        for leaf in writing.weight.leaves:
            if self._name(leaf) not in self.archive:
                continue
            own = rows_of(writing, leaf)
            gram = self.archive.gram(self._name(leaf))
            H = gram.matrix
            if own is None or own.inputs != H.shape[-1] or (rows is not None and own.order != rows.order):
                continue
            rows = rows or own
            total = H if total is None or total.shape != H.shape else total + H
            mean = gram.mean if mean is None else mean
        return None if rows is None or total is None or mean is None else (rows, total, mean)

    @staticmethod
    def _name(leaf: Leaf) -> str:
        return str(leaf.use.node.output[0]) if leaf.use.node is not None else ""
