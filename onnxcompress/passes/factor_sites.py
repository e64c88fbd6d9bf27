"""The weights that may be factored, each with its readers, what it sees, and the bias that can take over a mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.forms import factored
from onnxcompress.forms.base import Writing, not_finite
from onnxcompress.forms.product import Product, product
from onnxcompress.forms.rows import Rows, rows_of
from onnxcompress.graph.layers import Leaf, Weight, output_axes
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.scopes import Scopes, attribute_value
from onnxcompress.passes.rounding import Rounding, centred, shrunk
from onnxcompress.solvers.groups import Grid, per_channel

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

    from onnxcompress.graph.edit import Namer
    from onnxcompress.stats.activations import Observed

Array = np.ndarray
_LEAST = 16  # rows and inputs, below which there is nothing to gain
_CONV_RANK = (3, 4)


@dataclass(frozen=True, eq=False)
class Bias:
    """A constant that is added to the outputs of a layer. ``node`` reads it; None where there is none yet."""

    name: str | None
    node: onnx.NodeProto | None


@dataclass(frozen=True, eq=False)
class Site:
    """One weight that may be factored.

    ``products``: for each reader the matrix product that it is, None for lookups and convolutions. ``kernel``: the
    shape (O, I, kh, kw) of a convolution's weight, else None. ``positions``: how often inputs, and outputs, are
    met in a call, ``middle`` the rows of outputs by the columns of inputs; zero where that was not seen.
    """

    weight: Weight
    writing: Writing
    rows: Rows
    products: tuple[Product | None, ...]
    kernel: tuple[int, int, int, int] | None
    positions: tuple[float, float]
    middle: float
    bias: Bias | None

    @property
    def work(self) -> float:
        """Multiply-adds of a call; a lookup has none."""
        return (self.positions[1] or 1.0) * self.weight.elements if self.multiplies else 0.0

    @property
    def multiplies(self) -> bool:
        """False for tables that are looked up only."""
        return self.kernel is not None or any(p is not None for p in self.products)

    def matrix(self) -> Array:
        """The weight as rows (out, in).

        Raises:
            ModelError: a value is not finite.
        """
        values = np.asarray(self.writing.values(), np.float32)
        if not np.isfinite(values).all():
            raise not_finite(self.weight)
        return self.rows.matrix(values)

    def seen(self, rounding: Rounding | None) -> tuple[Array | None, Array | None]:
        """The metric of the rows, and the mean of the inputs where the bias takes it over."""
        known = None if rounding is None else rounding.seen(self.writing)
        if known is None or known[1].ndim > 2:
            return None, None
        _, H, mean, positions = known
        if self.bias is None:
            return shrunk(H, positions), None
        return shrunk(centred(H, mean), positions), mean


@dataclass(frozen=True, eq=False)
class Finder:
    """Looks at weights one by one."""

    model: Model
    scopes: Scopes
    namer: Namer
    observed: Mapping[str, Observed]

    def site(self, weight: Weight) -> Site | str:
        """The site of a weight, or why it has none."""
        if weight.tensor.data_type != Tensor.FLOAT:
            return "it is no float32"
        for leaf in weight.leaves:
            if not leaf.plain or any(node.op_type != "Transpose" for node in leaf.chain):
                return f"{leaf.op} reads it through other operators"
        first = weight.leaves[0]
        own = output_axes(first)
        if own is None:
            return f"it is read by {weight.op}"
        writing = Writing(self.model, weight, Grid(8), per_channel(weight.dims, own), self.namer)
        rows = rows_of(writing, first)
        if rows is None:
            return f"it is read by {weight.op}"
        if min(rows.out, rows.inputs) < _LEAST:
            return f"of {rows.out} times {rows.inputs} values nothing can be saved"
        return self._convolution(weight, writing, rows) if first.op == "Conv" else self._matrix(weight, writing, rows)

    def _matrix(self, weight: Weight, writing: Writing, rows: Rows) -> Site | str:
        products: list[Product | None] = []
        for leaf in weight.leaves:
            found = product(leaf, weight.dims, weight.tensor.data_type)
            node = leaf.use.node
            table = leaf.op == "Gather" and node is not None and attribute_value(node, "axis", 0) == 0
            if found is None and not (table and not leaf.chain and leaf.use.index == 0 and len(weight.dims) == 2):
                return f"it is read by {weight.op}, which is not factored"
            other = rows_of(writing, leaf)
            if other is None or other.order != rows.order:
                return "its readers see it turned"
            products.append(found)
        reading = [p for p in products if p is not None]
        positions = float(sum(self._rows_of(p.x) for p in reading))
        bias = self._bias(weight.leaves[0], rows.out) if len(weight.leaves) == 1 and reading else None
        return Site(weight, writing, rows, tuple(products), None, (positions, positions), positions, bias)

    def _convolution(self, weight: Weight, writing: Writing, rows: Rows) -> Site | str:
        if len(weight.leaves) > 1 or weight.leaves[0].chain or len(weight.dims) not in _CONV_RANK:
            return "a convolution of this kind is not factored"
        node = weight.leaves[0].use.node
        if node is None or attribute_value(node, "group", 1) != 1:
            return "its convolution has groups"
        axes = len(weight.dims) - 2
        if factored.spatial_attributes(node, axes) is None:
            return "its convolution pads by itself (auto_pad)"
        kernel = (*weight.dims, *[1] * (2 - axes))
        before, after = self._shape(node.input[0]), self._shape(node.output[0])
        seen = bool(before and after)
        inside = math.prod(before[:1] + before[2:]) if seen else 0
        outside = math.prod(after[:1] + after[2:]) if seen else 0
        middle = outside * before[-1] / max(after[-1], 1) if seen and axes > 1 else outside
        bias = self._bias(weight.leaves[0], rows.out)
        positions = (float(inside), float(outside))
        return Site(weight, writing, rows, (None,), kernel, positions, float(middle), bias)  # type: ignore[arg-type]

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.observed[name].shapes[0] if name in self.observed and self.observed[name].shapes else ()

    def _rows_of(self, name: str) -> int:
        shape = self._shape(name)
        return math.prod(shape[:-1]) if shape else 0

    # ------------------------------------------------------------------------- biases

    def _bias(self, leaf: Leaf, out: int) -> Bias | None:
        """The constant behind a layer that can take over a mean; None where there is none and none can be put there."""
        node, main = leaf.use.node, self.scopes.main
        if node is None or leaf.use.scope is not main:
            return None
        if node.op_type in ("Conv", "Gemm"):
            if len(node.input) < 3 or not node.input[2]:
                return Bias(None, node)
            return Bias(node.input[2], node) if self._own(node.input[2], out) else None
        uses = self.scopes.uses(main, node.output[0])
        reader = uses[0].node if len(uses) == 1 else None
        if reader is None or reader.op_type != "Add" or uses[0].scope is not main:
            return None
        other = reader.input[1 - uses[0].index]
        return Bias(other, reader) if self._own(other, out) else None

    def _own(self, name: str, out: int) -> bool:
        """Whether a stored tensor (out,) is read once and can be changed."""
        tensor = self.scopes.main.initializers.get(name)
        if tensor is None or tensor.data_type != Tensor.FLOAT or tuple(tensor.dims) != (out,):
            return False
        inputs = {i.name for i in self.model.proto.graph.input}
        return name not in inputs and len(self.scopes.uses(self.scopes.main, name)) == 1
