"""The block form: MatMulNBits of the com.microsoft domain, which multiplies by codes as they are stored.

The operator takes codes as (out, blocks, bytes of a block), unsigned with the middle of their range as zero, and
scales as (out, blocks); two four-bit codes share a byte, the even one in the low half
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md). Constant nodes bring the stored codes
there, and repeat a per-channel scale for each block; they are folded when the model is loaded. ``accuracy_level`` 4
lets the runtime quantize activations, block by block, and multiply integers. Few rows are bound by reading the weights,
which are a quarter of the bytes or less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.forms.base import MICROSOFT, Reading, Writing, node
from onnxcompress.forms.decode import Chain
from onnxcompress.forms.product import Product, features
from onnxcompress.graph.edit import Replacement
from onnxcompress.graph.model import Tensor

if TYPE_CHECKING:
    from onnxcompress.forms.stored import Stored

NAME = "blockwise"
_BLOCKS = (16, 32, 64, 128, 256)
_CHANNEL_BLOCK = 32  # block of the operator where the scale is that of a whole channel
_INTEGER_ACCURACY = 4


def block_size(writing: Writing, found: Product) -> int | None:
    """The block of inputs that the operator would work on, or None where the weight does not fit it.

    It fits when it is symmetric, of 4 or 8 bits, with a scale for each channel or block of inputs, and when the
    inputs divide into blocks of a size that the operator has.
    """
    groups, grid = writing.groups, writing.grid
    if grid.bits not in (4, 8) or not grid.symmetric:
        return None
    axis = len(groups.shape) - 1 if found.transposed else len(groups.shape) - 2
    if groups.shared != (axis,):
        return None
    if len(groups.shape) == 3:
        return groups.shape[axis] if groups.shape[axis] in _BLOCKS else None
    return _CHANNEL_BLOCK if groups.shape[axis] % _CHANNEL_BLOCK == 0 else None


def product_form(writing: Writing, stored: Stored, found: Product) -> Reading:
    """The nodes in place of one product."""
    block = block_size(writing, found)
    if block is None:
        raise ValueError(f"{writing.weight.name} does not fit the operator")
    chain = Chain(writing)
    inputs, outputs = features(writing.dims, found)
    shape = (outputs, inputs // block, block)
    bytes_, scale = (
        _bytes(chain, writing, stored, found, shape),
        _scales(chain, writing, stored, found, shape),
    )
    stem = found.node.output[0]
    product = node(
        "MatMulNBits", [found.x, bytes_, scale], writing.namer(f"{stem}_product"), MICROSOFT,
        K=inputs, N=outputs, bits=writing.grid.bits, block_size=block, accuracy_level=_INTEGER_ACCURACY,
    )  # fmt: skip
    nodes = [product]
    if found.bias is not None:
        nodes.append(node("Add", [product.output[0], found.bias], writing.namer(f"{stem}_biased")))
    nodes[-1].output[0] = stem
    if found.node.name:
        nodes[-1].name = found.node.name
    replacement = Replacement(found.leaf.use.scope, found.node, tuple(nodes))
    return Reading(tuple(chain.tensors), tuple(chain.nodes), (replacement,), domains=((MICROSOFT, 1),))


def _scales(chain: Chain, writing: Writing, stored: Stored, found: Product, shape: tuple[int, int, int]) -> str:
    """The scales as the operator wants them, float32, (out * blocks,)."""
    value = stored.scale.name
    if stored.scale.data_type != Tensor.FLOAT:
        value = chain.add("Cast", [value], "scale_cast", to=Tensor.FLOAT)
    out, blocks, _ = shape
    if len(writing.groups.shape) == 3:
        if not found.transposed:
            value = chain.add("Transpose", [value], "scale_transposed", perm=[2, 0, 1])
    else:
        value = chain.shaped(value, (out, 1))
        value = chain.add(
            "Expand", [value, chain.constant("scale_dims", np.array([out, blocks], np.int64))], "scale_blocks"
        )
    return chain.shaped(value, (-1,))


def _bytes(chain: Chain, writing: Writing, stored: Stored, found: Product, shape: tuple[int, int, int]) -> str:
    """The codes as the operator wants them, uint8 of (out, blocks, bytes of a block)."""
    grid, (out, blocks, block) = writing.grid, shape
    value = chain.add("Cast", [stored.codes.name], "cast", to=Tensor.FLOAT)
    value = chain.unpacked(value, stored)
    if grid.bits == 8:  # signed as stored
        value = chain.add("Add", [value, chain.constant("middle", np.array(128, np.float32))], "unsigned")
    if not found.transposed:
        value = chain.shaped(value, (blocks, block, out))
        value = chain.add("Transpose", [value], "transposed", perm=[2, 0, 1])
    elif len(writing.groups.shape) == 2:
        value = chain.shaped(value, shape)
    if grid.bits == 4:
        value = chain.shaped(value, (out, blocks, block // 2, 2))
        weights = chain.constant("nibbles", np.array([[1], [16]], np.float32))
        value = chain.add("MatMul", [value, weights], "bytes")
        value = chain.shaped(value, (out, blocks, block // 2))
    return chain.add("Cast", [value], "unsigned_bytes", to=Tensor.UINT8)
