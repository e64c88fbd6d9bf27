"""The block form: MatMulNBits of the com.microsoft domain, which multiplies by codes as they are stored.

The operator takes codes as (out, blocks, bytes of a block), unsigned with the middle of their range as zero, and
scales as (out, blocks); two four-bit codes share a byte, the even one in the low half
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md). Constant nodes bring the stored codes
there, and repeat a per-channel scale for each block; they are folded when the model is loaded. ``accuracy_level`` 4
lets the runtime quantize activations, block by block, and multiply integers. Few rows are bound by reading the weights,
which are a quarter of the bytes or less.

Zero points are packed as codes are, (out, blocks), each channel in whole bytes; they cost no time. Two bits take a
newer runtime (1.32 has them), and are slower than four where rows are many; in blocks of 16 or 256 they are multiplied
in float, far slower. Such grids have the form under a name of its own, since their costs are their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.forms import residual
from onnxcompress.forms.base import MICROSOFT, Reading, Writing, node
from onnxcompress.forms.decoding import Chain
from onnxcompress.forms.product import Product, features
from onnxcompress.graph.edit import Replacement
from onnxcompress.graph.model import Tensor

if TYPE_CHECKING:
    from onnxcompress.forms.stored import Stored
    from onnxcompress.solvers.groups import Grid

NAME = "blockwise"
OTHER_GRIDS = "blockwise_other"  # any but symmetric ones of 4 or 8 bits
TWO_BITS_SINCE = (1, 32)  # version of ONNX Runtime in which two bits were measured
_BLOCKS = (16, 32, 64, 128, 256)
_CHANNEL_BLOCK = 32  # block of the operator where the scale is that of a whole channel
_INTEGER_ACCURACY = 4


def block_size(writing: Writing, found: Product) -> int | None:
    """The block of inputs that the operator would work on, or None where the weight does not fit it.

    It fits when it is stored in 2, 4 or 8 bits, with a scale for each channel or block of inputs, and when the inputs
    divide into blocks of a size that the operator has.
    """
    groups, grid = writing.groups, writing.grid
    if grid.stored_bits not in (2, 4, 8):
        return None
    axis = len(groups.shape) - 1 if found.transposed else len(groups.shape) - 2
    if groups.shared != (axis,):
        return None
    if len(groups.shape) == 3:
        return groups.shape[axis] if groups.shape[axis] in _BLOCKS else None
    return _CHANNEL_BLOCK if groups.shape[axis] % _CHANNEL_BLOCK == 0 else None


def name_for(grid: Grid) -> str:
    """The name under which the form is offered for a grid."""
    return NAME if grid.symmetric and grid.bits in (4, 8) else OTHER_GRIDS


def product_form(writing: Writing, stored: Stored, found: Product) -> Reading:
    """The nodes in place of one product."""
    block = block_size(writing, found)
    if block is None:
        raise ValueError(f"{writing.weight.name} does not fit the operator")
    chain = Chain(writing)
    inputs, outputs = features(writing.dims, found)
    shape = (outputs, inputs // block, block)
    constants = [_bytes(chain, writing, stored, found, shape), _scales(chain, writing, stored, found, shape)]
    if stored.zero_point is not None:
        constants.append(_zeros(chain, writing, stored.zero_point.name, found, shape))
    stem = found.node.output[0]
    product = node(
        "MatMulNBits", [found.x, *constants], writing.namer(f"{stem}_product"), MICROSOFT,
        K=inputs, N=outputs, bits=writing.grid.stored_bits, block_size=block, accuracy_level=_INTEGER_ACCURACY,
    )  # fmt: skip
    nodes = [product]
    if found.bias is not None:
        nodes.append(node("Add", [product.output[0], found.bias], writing.namer(f"{stem}_biased")))
    if writing.residual is not None:
        nodes += residual.thin_products(chain, stored, found.x, nodes[-1].output[0], stem)
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
    return chain.shaped(_for_blocks(chain, writing, value, found, shape, "scale"), (-1,))


def _zeros(chain: Chain, writing: Writing, zero_point: str, found: Product, shape: tuple[int, int, int]) -> str:
    """The zero points as the operator wants them, uint8 of (out * bytes of the zero points of a channel,)."""
    out, blocks, _ = shape
    value = chain.add("Cast", [zero_point], "zero_cast", to=Tensor.FLOAT)
    value = _for_blocks(chain, writing, value, found, shape, "zero")
    each = 8 // writing.grid.stored_bits
    missing = -blocks % each
    if missing:
        value = chain.shaped(value, (out, blocks))
        wanted = chain.constant("zero_fill_dims", np.array([out, missing], np.int64))
        fill = chain.add("Expand", [chain.constant("zero_none", np.zeros(1, np.float32)), wanted], "zero_fill")
        value = chain.add("Concat", [value, fill], "zero_filled", axis=1)
    value = _in_bytes(chain, value, writing.grid.stored_bits, (out, (blocks + missing) // each))
    return chain.add("Cast", [chain.shaped(value, (-1,))], "zero_bytes", to=Tensor.UINT8)


def _for_blocks(
    chain: Chain, writing: Writing, value: str, found: Product, shape: tuple[int, int, int], word: str
) -> str:
    """Scales or zero points, one for each block of each output; those of whole channels are repeated."""
    out, blocks, _ = shape
    if len(writing.groups.shape) == 3:
        if found.transposed:
            return value
        return chain.add("Transpose", [value], f"{word}_transposed", perm=[2, 0, 1])
    value = chain.shaped(value, (out, 1))
    wanted = chain.constant(f"{word}_dims", np.array([out, blocks], np.int64))
    return chain.add("Expand", [value, wanted], f"{word}_blocks")


def _in_bytes(chain: Chain, value: str, bits: int, shape: tuple[int, ...]) -> str:
    """Codes of few bits, the first in the lowest bits of a byte: Σ qᵢ 2^(bits · i), of the given shape in bytes."""
    each = 8 // bits
    if each == 1:
        return value
    value = chain.shaped(value, (*shape, each))
    powers = np.array([[1 << (bits * i)] for i in range(each)], np.float32)
    value = chain.add("MatMul", [value, chain.constant("nibbles", powers)], "bytes")
    return chain.shaped(value, shape)


def _bytes(chain: Chain, writing: Writing, stored: Stored, found: Product, shape: tuple[int, int, int]) -> str:
    """The codes as the operator wants them, uint8 of (out, blocks, bytes of a block)."""
    grid, (out, blocks, block) = writing.grid, shape
    value = chain.unpacked(stored.codes.name, by_row=stored.by_row)
    if grid.bits == 8 and grid.symmetric:  # signed as stored
        value = chain.add("Add", [value, chain.constant("middle", np.array(128, np.float32))], "unsigned")
    if not found.transposed:
        value = chain.shaped(value, (blocks, block, out))
        value = chain.add("Transpose", [value], "transposed", perm=[2, 0, 1])
    elif len(writing.groups.shape) == 2:
        value = chain.shaped(value, shape)
    value = _in_bytes(chain, value, grid.stored_bits, (out, blocks, block * grid.stored_bits // 8))
    return chain.add("Cast", [value], "unsigned_bytes", to=Tensor.UINT8)
