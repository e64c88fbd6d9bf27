"""Types and shapes of the values of the main graph, as far as onnx can infer them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from onnxcompress.graph.model import Model

NOT_INFERRED = (
    onnx.shape_inference.InferenceError,
    onnx.checker.ValidationError,
    ValueError,
    RuntimeError,
)  # what onnx raises where it finds a contradiction, or a model that it does not take


def skeleton(model: Model) -> onnx.ModelProto:
    """A copy in which the large initializers of the main graph are inputs: same types, no data."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    declared = {i.name for i in proto.graph.input}
    large = [i for i, t in enumerate(proto.graph.initializer) if not model.has_data(t)]
    for index in large:
        tensor = proto.graph.initializer[index]
        if tensor.name not in declared:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            proto.graph.input.append(info)
    for index in reversed(large):
        del proto.graph.initializer[index]
    return proto


def ranks(model: Model) -> dict[str, int]:
    """Number of axes of each value of the main graph for which it can be inferred."""
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton(model)).graph
    except NOT_INFERRED:
        return {}
    found = {}
    for info in (*inferred.input, *inferred.value_info, *inferred.output):
        if info.type.HasField("tensor_type") and info.type.tensor_type.HasField("shape"):
            found[info.name] = len(info.type.tensor_type.shape.dim)
    return found


def float_values(model: Model) -> set[str]:
    """Values of the main graph that can be inferred to be float32 tensors."""
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton(model)).graph
    except NOT_INFERRED:
        return set()
    return {
        info.name
        for info in (*inferred.input, *inferred.value_info, *inferred.output)
        if info.type.HasField("tensor_type") and info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
