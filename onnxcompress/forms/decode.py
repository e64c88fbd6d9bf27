"""The self-decoding form: stored as codes, decoded by constant nodes that a runtime folds once, when it loads.

    W = reshape(s · (cast(q) − z)),   divided by the migration of a weight that has one

Only Cast, Sub, Mul and Reshape are used (Floor and Concat besides where several codes share a byte), so any opset
and any runtime can read it. ONNX Runtime folds it to the float tensor that was there before: a smaller file, at
exactly the original's speed and memory. DequantizeLinear would not do: it is kept at load and run on every call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from onnxcompress.forms import residual, sparse
from onnxcompress.forms.base import Writing, edit_source
from onnxcompress.forms.decoding import Chain
from onnxcompress.graph.edit import Edit, NewTensor
from onnxcompress.graph.model import Tensor

if TYPE_CHECKING:
    from onnxcompress.forms.stored import Stored

NAME = "decode"


def decoding(writing: Writing, stored: Stored) -> tuple[list[onnx.NodeProto], list[NewTensor]]:
    """The nodes that turn stored codes into the weight under its old name, and the constants that they need."""
    chain = Chain(writing)
    if writing.sparse is not None and stored.places is not None:
        value = sparse.codes(chain, writing.sparse, stored.places.name, stored.codes.name)
    else:
        value = chain.unpacked(stored.codes.name, by_row=stored.by_row)
    value = chain.shifted(value, stored.zero_point.name if stored.zero_point else None)
    scale = stored.scale.name
    if stored.scale.data_type != Tensor.FLOAT:
        scale = chain.add("Cast", [scale], "f", to=Tensor.FLOAT)
    value = chain.add("Mul", [value, scale], "w")
    if writing.groups.shape != writing.dims:
        value = chain.shaped(value, writing.dims)
    if writing.migration is not None:
        below = chain.constant("m", reciprocals(writing.migration))
        value = chain.add("Mul", [value, chain.add("Cast", [below], "mf", to=Tensor.FLOAT)], "u")
    if writing.residual is not None:
        value = residual.added(chain, stored, value)
    finished(chain, value)
    return chain.nodes, chain.tensors


def reciprocals(migration: np.ndarray) -> np.ndarray:
    """What decoded weights are multiplied by, as float16, in which a migration has to be `exact`."""
    return (1 / migration).astype(np.float16)


def exact(migration: np.ndarray) -> np.ndarray:
    """The migration, float32, whose reciprocals are float16 exactly."""
    return (1 / reciprocals(np.clip(migration, 1e-3, 1e3)).astype(np.float32)).astype(np.float32)


def finished(chain: Chain, value: str) -> None:
    """The nodes that give values in the stored order the order, the type and the name of the weight."""
    writing = chain.writing
    weight = writing.weight
    if writing.flipped:
        value = chain.add("Transpose", [value], "t", perm=[1, 0])
    if weight.tensor.data_type != Tensor.FLOAT:
        chain.add("Cast", [value], "typed", to=weight.tensor.data_type)
    # the last node takes the name of the weight, so that no reader has to change
    chain.nodes[-1].output[0] = weight.name


def write_float(writing: Writing, data_type: int) -> Edit:
    """The edit that stores a weight in a shorter float type and casts it back when it is loaded."""
    weight = writing.weight
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(data_type))
    stored = NewTensor(
        writing.namer(f"{weight.name}.h"),
        data_type,
        weight.dims,
        lambda: writing.values().astype(np.float32).astype(dtype),
    )
    cast = helper.make_node("Cast", [stored.name], [weight.name], to=weight.tensor.data_type)
    return Edit(weight.scope, (stored,), (cast,), **edit_source(weight))  # type: ignore[arg-type]
