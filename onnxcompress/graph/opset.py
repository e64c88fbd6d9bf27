"""Raising a model to a newer operator set, by onnx's own version converter.

The converter works on the structure; large tensors go through as references to their payloads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import helper, shape_inference, version_converter

from onnxcompress.errors import ModelError
from onnxcompress.graph.edit import keep_initializers_constant

if TYPE_CHECKING:
    from onnxcompress.graph.model import Model

_FAILURES = (RuntimeError, ValueError, LookupError, version_converter.ConvertError, shape_inference.InferenceError)


def raised(model: Model, opset: int) -> Model:
    """A copy of the model at a newer version of the default operator set.

    Raises:
        ModelError: the converter cannot do it, or leaves the model inconsistent.
    """
    if model.proto.functions:
        raise ModelError("onnx cannot raise the opset of a model with local functions", "Inline them first.")
    try:
        proto = version_converter.convert_version(model.proto, opset)
    except _FAILURES as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"the model cannot be raised to opset {opset}: {first}", "Export the model at a newer opset."
        ) from error
    old_ir = proto.ir_version = model.proto.ir_version
    del proto.metadata_props[:]
    proto.metadata_props.extend(model.proto.metadata_props)
    proto.graph.name = proto.graph.name or model.proto.graph.name
    for values, declared in (
        (proto.graph.input, model.proto.graph.input),
        (proto.graph.output, model.proto.graph.output),
    ):
        del values[:]  # the converter adds shapes that it inferred
        values.extend(declared)
    keep_initializers_constant(proto)
    proto.ir_version = max(old_ir, proto.ir_version, _ir_version(opset))
    twin = model.copy()
    twin.adopt(proto)
    return twin


def _ir_version(opset: int) -> int:
    """The IR version that came with an operator set; at least 4, from which initializers need be no inputs."""
    return max(4, min(int(helper.find_min_ir_version_for([helper.make_opsetid("", opset)])), 10))
