"""Matrix products as the forms see them: MatMul and Gemm with a constant right-hand side.

Both are Y = X·W + C with W seen as (in_features, out_features); the stored tensor is W or its transpose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.forms.decoding import Chain
from onnxcompress.graph.layers import Leaf, output_axes
from onnxcompress.graph.model import Tensor
from onnxcompress.graph.scopes import attribute_value

if TYPE_CHECKING:
    import onnx

    from onnxcompress.forms.base import Writing
    from onnxcompress.forms.stored import Stored


@dataclass(frozen=True)
class Product:
    """A reader that multiplies by a weight. ``transposed``: the stored tensor is (out_features, in_features)."""

    leaf: Leaf
    node: onnx.NodeProto
    transposed: bool
    bias: str | None

    @property
    def x(self) -> str:
        """Name of the left-hand side."""
        return str(self.node.input[0])


def product(leaf: Leaf, dims: tuple[int, ...], data_type: int, flipped: bool = False) -> Product | None:
    """The matrix product that a reader is, or None where it is another operator or a variant of it.

    Left out are: weights of other than two axes or another type than float32, weights on the left, a Gemm with
    transA, or with factors alpha and beta other than one. ``flipped``: the tensor is stored as its transpose.
    """
    reader = leaf.use.node
    if reader is None or len(dims) != 2 or data_type != Tensor.FLOAT or not leaf.plain or leaf.use.index != 1:
        return None
    if reader.op_type not in ("MatMul", "Gemm") or reader.domain not in ("", "ai.onnx"):
        return None
    if reader.op_type == "Gemm":
        factors = (attribute_value(reader, "alpha", 1.0), attribute_value(reader, "beta", 1.0))
        if attribute_value(reader, "transA", 0) or factors != (1.0, 1.0):
            return None
    bias = reader.input[2] if reader.op_type == "Gemm" and len(reader.input) > 2 and reader.input[2] else None
    return Product(leaf, reader, (output_axes(leaf) == (0,)) != flipped, bias)


def product_of(writing: Writing, leaf: Leaf) -> Product | None:
    """The matrix product that a reader of a writing's weight is, if any."""
    return product(leaf, writing.weight.dims, writing.weight.tensor.data_type, writing.flipped)


def features(dims: tuple[int, ...], found: Product) -> tuple[int, int]:
    """(in_features, out_features) of a product."""
    return (dims[1], dims[0]) if found.transposed else (dims[0], dims[1])


def right_hand_side(writing: Writing, stored: Stored, found: Product) -> tuple[Chain, str, str]:
    """Constant nodes that bring eight-bit codes into the shape (in, out) and per-channel scales into (out,).

    Returns:
        The nodes, the name of the codes and the name of the scales.
    """
    chain = Chain(writing)
    codes = stored.codes.name
    if found.transposed:
        codes = chain.add("Transpose", [codes], "transposed", perm=[1, 0])
    scale = stored.scale.name
    if stored.scale.data_type != Tensor.FLOAT:
        scale = chain.add("Cast", [scale], "scale_cast", to=Tensor.FLOAT)
    if stored.scale.dims:
        scale = chain.add("Reshape", [scale, chain.constant("scale_shape", np.array([-1], np.int64))], "scales")
    return chain, codes, scale
