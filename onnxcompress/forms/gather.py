"""The embedding form: rows are decoded after they have been looked up, not before.

    Gather(W, i) = s[i] · (cast(Gather(q, i)) − z[i])

The table stays in codes in memory as well, and a call decodes only the rows that it reads. A table that is tied to
an output layer is stored once: the other readers get it decoded whole, folded when the model is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.forms.base import Reading, Writing
from onnxcompress.forms.decoding import Chain
from onnxcompress.graph.edit import Replacement
from onnxcompress.graph.model import Tensor
from onnxcompress.graph.scopes import attribute_value

if TYPE_CHECKING:
    from onnxcompress.forms.stored import Stored
    from onnxcompress.graph.layers import Leaf

NAME = "gather"


def fits(writing: Writing, leaf: Leaf) -> bool:
    """True for a lookup of rows straight from the table."""
    node = leaf.use.node
    if writing.residual is not None or writing.codebook is not None:
        return False
    if node is None or node.op_type != "Gather" or leaf.use.index != 0 or leaf.chain:
        return False
    whole_bytes = writing.groups.shape[-1] % (8 // writing.grid.stored_bits) == 0
    rows_apart = len(writing.groups.shape) > 1 and 0 not in writing.groups.shared
    return attribute_value(node, "axis", 0) == 0 and whole_bytes and rows_apart


def lookup(writing: Writing, stored: Stored, leaf: Leaf) -> Reading:
    """The nodes in place of one Gather."""
    gather = leaf.use.node
    if gather is None:
        raise ValueError(f"{writing.weight.name} is not looked up here")
    index = gather.input[1]
    chain = Chain(writing)
    rows = chain.add("Gather", [stored.codes.name, index], "rows", axis=0)
    value = chain.unpacked(rows, by_row=stored.by_row)
    zero = None
    if stored.zero_point is not None:
        zero = chain.add("Gather", [stored.zero_point.name, index], "zero_rows", axis=0)
    value = chain.shifted(value, zero)
    scale = chain.add("Gather", [stored.scale.name, index], "scale_rows", axis=0)
    if stored.scale.data_type != Tensor.FLOAT:
        scale = chain.add("Cast", [scale], "scale_cast", to=Tensor.FLOAT)
    value = chain.add("Mul", [value, scale], "scaled")
    dims = writing.weight.dims
    if writing.groups.shape != dims:
        leading = chain.add("Shape", [index], "index_shape")
        shape = chain.add(
            "Concat", [leading, chain.constant("row_shape", np.array(dims[1:], np.int64))], "shape", axis=0
        )
        value = chain.add("Reshape", [value, shape], "shaped")
    if writing.weight.tensor.data_type != Tensor.FLOAT:
        chain.add("Cast", [value], "typed", to=writing.weight.tensor.data_type)
    chain.nodes[-1].output[0] = gather.output[0]
    if gather.name:
        chain.nodes[-1].name = gather.name
    return Reading(tuple(chain.tensors), replaced=(Replacement(leaf.use.scope, gather, tuple(chain.nodes)),))
