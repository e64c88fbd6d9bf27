"""What a model takes and gives: names, types and shapes of its inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from onnxcompress.errors import ModelError

Dim = int | str | None  # a fixed size, a named dynamic size, or unknown


@dataclass(frozen=True)
class ValueSpec:
    """One input or output. ``dtype`` is null for values that are no tensors; ``shape`` is null when unranked."""

    name: str
    dtype: np.dtype | None
    elem_type: int
    shape: tuple[Dim, ...] | None


@dataclass(frozen=True)
class Interface:
    """Inputs that a caller has to give (initializers left out) and outputs, in order."""

    inputs: tuple[ValueSpec, ...]
    outputs: tuple[ValueSpec, ...]


def unknown_type(name: str, number: int) -> ModelError:
    """The error for a type of elements that the installed onnx does not know."""
    return ModelError(
        f"{name!r} has elements of the unknown type {number}", "Install the newest onnx, or export again."
    )


def value_spec(info: onnx.ValueInfoProto) -> ValueSpec:
    """The type and shape of one graph input or output.

    Raises:
        ModelError: the type is unknown.
    """
    if not info.type.HasField("tensor_type"):
        return ValueSpec(info.name, None, 0, None)
    tensor = info.type.tensor_type
    if tensor.elem_type not in onnx.TensorProto.DataType.values():
        raise unknown_type(info.name, tensor.elem_type)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)) if tensor.elem_type else None
    shape: tuple[Dim, ...] | None = None
    if tensor.HasField("shape"):
        shape = tuple(_dim(d) for d in tensor.shape.dim)
    return ValueSpec(info.name, dtype, tensor.elem_type, shape)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) if dim.dim_param else None


def interface(model: onnx.ModelProto) -> Interface:
    """Inputs (without initializers, which are weights that a caller may override) and outputs of a model."""
    stored = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
    inputs = tuple(value_spec(i) for i in model.graph.input if i.name not in stored)
    return Interface(inputs, tuple(value_spec(o) for o in model.graph.output))
