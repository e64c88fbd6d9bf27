"""Rounding that knows what layers see: each weight is solved on the Gram matrix of its inputs.

    minimise  tr((W − Ŵ) H (W − Ŵ)ᵀ),   H = E[x xᵀ],   Ŵ on the grid

by error feedback, and for few bits or small kernels by coordinate descent from there. A weight that nothing was
measured for is rounded to nearest. Where the bias of the layer is written as well it takes over what codes lose of the
mean, b + (W − Ŵ) E[x], and the covariance stands in for H
(bias correction, Nagel et al. 2019, arXiv 1906.04721).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.forms.rows import rows_of
from onnxcompress.solvers.activation_aware import activation_aware
from onnxcompress.solvers.descent import descent
from onnxcompress.solvers.feedback import feedback
from onnxcompress.solvers.learned import learned
from onnxcompress.solvers.scales import weighted_scales

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx

    from onnxcompress.forms.base import Writing
    from onnxcompress.forms.rows import Rows
    from onnxcompress.graph.layers import Leaf, Weight
    from onnxcompress.graph.scopes import Scope
    from onnxcompress.solvers.grid import Quantized
    from onnxcompress.solvers.groups import Grid, Groups
    from onnxcompress.stats.archive import Archive

Array = np.ndarray
_LAYERS = ("Conv", "MatMul", "Gemm")
_KEPT_MEAN = 0.1  # of the mean's part, since biases mend it for the inputs that were seen alone
_DAMPING = 0.01  # of the mean of diag(H)
_SMALL_KERNEL = 256  # inputs; descent takes a third of the error away there, and costs little


def layers(weights: Sequence[Weight], main: Scope) -> list[onnx.NodeProto]:
    """The layers of the main graph that read these weights and whose inputs can be watched."""
    nodes = [leaf.use.node for w in weights for leaf in w.leaves if leaf.use.scope is main and leaf.use.index == 1]
    found = {id(n): n for n in nodes if n is not None and n.op_type in _LAYERS}
    return list(found.values())


def centred(H: Array, mean: Array) -> Array:
    """E[x xᵀ] − E[x] E[x]ᵀ and a little of all directions, for one group or several.

    What is damped is measured by H itself: where inputs are nearly constant the covariance is next to nothing, and
    codes would drift along directions that only happen not to have been seen.
    """
    level = np.diagonal(H, axis1=-2, axis2=-1).mean(axis=-1)[..., np.newaxis, np.newaxis]
    moved = mean[..., :, np.newaxis] * mean[..., np.newaxis, :]
    found: Array = H - (1 - _KEPT_MEAN) * moved + _DAMPING * level * np.eye(H.shape[-1])
    return found


def shrunk(H: Array, positions: int) -> Array:
    """H with its off-diagonal times 2n / (2n + d): few positions n tell little of how d inputs go together.

    Without it, error feedback on a handful of sentences is worse than rounding to nearest (shrinkage of covariances:
    Ledoit and Wolf 2004).
    """
    part = 2 * positions / (2 * positions + H.shape[-1])
    made: Array = H * part
    for one, whole in zip(made.reshape(-1, *H.shape[-2:]), H.reshape(-1, *H.shape[-2:]), strict=True):
        np.fill_diagonal(one, np.diagonal(whole))
    return made


def round_rows(
    W: Array, H: Array, grid: Grid, groups: Groups, dtype: np.dtype | None, floor: Array | None = None,
    kept: Array | None = None,
) -> Quantized:  # fmt: skip
    """The codes of rows (out, in) in the metric of H; ``floor``: least scales, one for each row or for all.

    ``kept``: where weights may be other than zero.
    """
    scale, zero = weighted_scales(W, np.maximum(np.diagonal(H, axis1=-2, axis2=-1), 0), grid, groups, dtype)
    if floor is not None:
        least = floor.reshape(-1) if groups.scale_shape[0] > 1 else floor.max()
        scale = np.maximum(scale, np.reshape(least, (-1, *[1] * (scale.ndim - 1)))).astype(scale.dtype)
    found = feedback(W, H, grid, groups, dtype, scales=(scale, zero), kept=kept)
    if grid.bits < 8 or W.shape[1] <= _SMALL_KERNEL:
        found = descent(W, H, found, grid, groups, kept=kept)
    return found


@dataclass(frozen=True)
class Rounding:
    """Solves weights on what was measured.

    ``learn``: rounding is learned from there, which takes ten times as long; ``memory`` keeps factors that were found.
    """

    archive: Archive
    learn: bool = False
    memory: dict[object, Array | None] = field(default_factory=dict)

    def knows(self, weight: Weight) -> bool:
        """Whether anything was measured for one of its readers."""
        return any(self._name(leaf) in self.archive for leaf in weight.leaves)

    def solve(self, writing: Writing, values: Array, dtype: np.dtype | None) -> Quantized | None:
        """The codes of a weight; None where it has to be rounded to nearest.

        Raises:
            ValueError: a weight is not finite.
        """
        metric = self.metric(writing)
        if metric is None:
            return None
        rows, H = metric
        W = rows.matrix(values)
        kept = W != 0 if writing.keep_zeros else None
        found = round_rows(W, H, writing.grid, rows.groups, dtype, writing.floor, kept)
        if self.learn and kept is None:
            found = learned(W, H, found, writing.grid, rows.groups)
        return rows.to_stored(found)

    def shift(self, writing: Writing, found: Quantized) -> Array:
        """(W − Ŵ) E[x], which the bias takes over, (outputs,); solved codes then lose nothing but variance."""
        seen = self.seen(writing)
        if seen is None:
            return np.zeros(1)
        rows, _, mean, _ = seen
        lost = rows.matrix(writing.values()) - rows.matrix(found.dequantize())
        means = np.atleast_2d(mean)
        each = lost.reshape(len(means), -1, lost.shape[1]) @ means[:, :, np.newaxis]
        flat: Array = each.reshape(-1)
        return flat

    def favour(self, writing: Writing) -> Array | None:
        """Factors that make weights larger that read loud inputs, as for ``Writing.migration``; None: no gain."""
        known = (writing.weight.label, writing.grid, writing.groups)
        if known not in self.memory:
            self.memory[known] = self._favour(writing)
        return self.memory[known]

    def _favour(self, writing: Writing) -> Array | None:
        seen = self.seen(writing)
        if seen is None or seen[1].ndim > 2:
            return None
        rows, H, _, _ = seen
        if not np.isfinite(writing.values()).all():
            return None
        inner = rows.order[rows.own :]
        if list(inner) != sorted(inner):
            return None
        block = rows.inputs // rows.blocks if rows.blocks > 1 else 0
        square = np.maximum(np.diagonal(H), 0)
        s = activation_aware([rows.matrix(writing.values()).T], square, writing.grid, block)
        return None if s is None else s.reshape([n if a in inner else 1 for a, n in enumerate(rows.dims)])

    def metric(self, writing: Writing) -> tuple[Rows, Array] | None:
        """The rows of a weight and the metric in which it is solved, None where nothing was measured."""
        seen = self.seen(writing)
        if seen is None:
            return None
        rows, H, mean, positions = seen
        return rows, shrunk(H if writing.shift is None else centred(H, mean), positions)

    def seen(self, writing: Writing) -> tuple[Rows, Array, Array, int] | None:
        """The rows of a weight with E[x xᵀ], E[x] and number of their inputs, None where nothing was measured."""
        total: Array | None = None
        mean: Array | None = None
        rows: Rows | None = None
        positions = 0
        for leaf, own in self._known(writing):
            gram = self.archive.gram(self._name(leaf))
            H = gram.matrix
            if own.inputs != H.shape[-1] or (rows is not None and own.order != rows.order):
                continue
            rows = rows or own
            total = H if total is None or total.shape != H.shape else total + H
            mean = gram.mean if mean is None else mean
            positions = max(positions, gram.positions)
        if rows is None or total is None or mean is None or not np.diagonal(total, axis1=-2, axis2=-1).any():
            return None
        if writing.migration is not None:  # the codes are multiplied by x / s
            s = writing.migration.reshape(-1).astype(np.float64)
            total, mean = total / np.outer(s, s), mean / s
        return rows, total, mean, positions

    def _known(self, writing: Writing) -> Iterator[tuple[Leaf, Rows]]:
        for leaf in writing.weight.leaves:
            own = rows_of(writing, leaf) if self._name(leaf) in self.archive else None
            if own is not None:
                yield leaf, own

    @staticmethod
    def _name(leaf: Leaf) -> str:
        return str(leaf.use.node.output[0]) if leaf.use.node is not None else ""
