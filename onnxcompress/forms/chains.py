"""Operators that ONNX Runtime can run on integers from end to end, and how they hang together.

A *unit* is an operator with an integer kernel, together with the Relu or Clip behind it, which costs nothing there:
the range of a quantized output ends where the activation would cut it off. Units that follow one another pass codes on,
so that no float value exists between them. What a kernel needs, as ONNX Runtime fuses it
(onnxruntime/core/optimizer/qdq_transformer): layers, Add, Mul, Sigmoid, LeakyRelu, pooling and Concat want quantized
inputs and a quantized output; operators that only move values keep the scale that they are given. Padding is not fused,
so it is written on the codes themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import numpy_helper

from onnxcompress.graph.layers import Leaf, Weight, weights
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.scopes import Scope, Scopes, attribute_value

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

_BINARY = ("Add", "Mul")
_ALONE = ("Sigmoid", "LeakyRelu", "AveragePool", "GlobalAveragePool")
_MOVING = ("MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Resize")
_OPTIONAL_IR = 4  # from this IR on an initializer that is an input as well may be replaced
_LAYERS = ("Conv", "MatMul", "Gemm")


@dataclass(frozen=True, eq=False)
class Unit:
    """One operator that may run on integers.

    Attributes:
        node: the operator.
        cut: the Relu or Clip behind it, if any.
        inputs: names of the float values that it would read as codes.
        output: name of its result, behind the Relu or Clip.
        weight: its constant weight, for layers.
        bias: name of its constant bias, if any.
        moves: true where input and output have to share one scale.
        limits: between which values the Relu or Clip keeps the result.
    """

    node: onnx.NodeProto
    cut: onnx.NodeProto | None
    inputs: tuple[str, ...]
    output: str
    weight: Weight | None = None
    bias: str | None = None
    moves: bool = False
    limits: tuple[float, float] = (-math.inf, math.inf)

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return str(self.node.output[0])

    @property
    def name(self) -> str:
        """Name of the operator, or of its output where it has none."""
        return str(self.node.name or self.node.output[0])

    @property
    def op(self) -> str:
        """Type of the operator."""
        return str(self.node.op_type)

    @property
    def own_axis(self) -> int:
        """The axis of the weight along which its output channels lie."""
        if self.op == "Conv" or (self.op == "Gemm" and attribute_value(self.node, "transB", 0)):
            return 0
        return 1


def units(model: Model, scopes: Scopes | None = None) -> list[Unit]:
    """The units of the main graph, in its order. Only float32 values take part."""
    scopes = scopes or Scopes(model.proto)
    return list(_Finder(model, scopes).found())


class _Finder:
    def __init__(self, model: Model, scopes: Scopes) -> None:
        self.model = model
        self.scopes = scopes
        self.main: Scope = scopes.main
        self.constants = set(self.main.initializers) | set(self.main.constants)
        replaceable = model.proto.ir_version >= _OPTIONAL_IR
        self.overridable = {i.name for i in model.proto.graph.input} if replaceable else set()
        self.outputs = {o.name for o in model.proto.graph.output}
        self.layers: dict[int, tuple[Weight, Leaf]] = {}
        for weight in weights(model, scopes):
            for leaf in weight.leaves:
                here = leaf.use.scope is self.main and weight.scope is self.main and leaf.use.index == 1
                if leaf.use.node is not None and here:
                    self.layers[id(leaf.use.node)] = (weight, leaf)

    def found(self) -> Iterator[Unit]:
        for node in self.model.proto.graph.node:
            if node.domain not in ("", "ai.onnx"):
                continue
            unit = self._unit(node)
            if unit is not None:
                yield unit

    def _unit(self, node: onnx.NodeProto) -> Unit | None:
        op = node.op_type
        if op in _LAYERS:
            return self._layer(node)
        values = [name for name in node.input if name]
        if op in _BINARY and len(values) == 2 and not self.constants & set(values):
            cut, output, limits = self._behind(node)
            return Unit(node, cut, tuple(dict.fromkeys(values)), output, limits=limits)
        if op == "Concat" and not self.constants & set(values):
            return Unit(node, None, tuple(dict.fromkeys(values)), node.output[0])
        if op in _ALONE:
            return Unit(node, None, (values[0],), node.output[0])
        if op == "Pad" and values[0] not in self.constants and self._pads_with_zero(node):
            return Unit(node, None, (values[0],), node.output[0], moves=True)
        if op in _MOVING and len([o for o in node.output if o]) == 1 and values[0] not in self.constants:
            plain = op != "Resize" or attribute_value(node, "mode", b"nearest") == b"nearest"
            return Unit(node, None, (values[0],), node.output[0], moves=True) if plain else None
        return None

    def _layer(self, node: onnx.NodeProto) -> Unit | None:
        weight, leaf = self.layers.get(id(node), (None, None))
        if weight is None or leaf is None or weight.tensor.data_type != Tensor.FLOAT or weight.overridable:
            return None
        if leaf.chain or node.input[0] in self.constants:
            return None
        bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
        if bias is not None and self.constant(bias) is None:
            return None
        if node.op_type != "Conv" and len(weight.dims) != 2:
            return None
        if node.op_type == "Gemm" and not _plain(node):
            return None
        cut, output, limits = self._behind(node)
        return Unit(node, cut, (node.input[0],), output, weight, bias, limits=limits)

    def _pads_with_zero(self, node: onnx.NodeProto) -> bool:
        """True for constant padding by zero, pads being an input (opset 11)."""
        if len(node.input) < 2 or attribute_value(node, "mode", b"constant") != b"constant" or len(node.input) > 3:
            return False
        if len(node.input) == 2 or not node.input[2]:
            return True
        value = self.constant(node.input[2])
        return value is not None and not value.any()

    def constant(self, name: str) -> np.ndarray | None:
        """The value of a constant of the main graph that callers cannot replace."""
        if name in self.overridable:
            return None
        tensor = self.main.initializers.get(name)
        if tensor is not None:
            return self.model.array(tensor)
        node = self.main.constants.get(name)
        if node is None:
            return None
        return next((np.asarray(numpy_helper.to_array(a.t)) for a in node.attribute if a.name == "value"), None)

    def _behind(self, node: onnx.NodeProto) -> tuple[onnx.NodeProto | None, str, tuple[float, float]]:
        """The only reader of a value, where that is a Relu or a Clip, the value behind it, and its limits."""
        output, free = node.output[0], (-math.inf, math.inf)
        uses = self.scopes.uses(self.main, output)
        if len(uses) != 1 or output in self.outputs:
            return None, output, free
        reader = uses[0].node
        if reader is None or uses[0].scope is not self.main or uses[0].index or reader.domain not in ("", "ai.onnx"):
            return None, output, free
        limits = self._limits(reader)
        return (None, output, free) if limits is None else (reader, reader.output[0], limits)

    def _limits(self, node: onnx.NodeProto) -> tuple[float, float] | None:
        """What a Relu or Clip keeps values between; None for all else, and where a grid would not end there."""
        if node.op_type == "Relu":
            return 0.0, math.inf
        if node.op_type != "Clip" or any(a.name in ("min", "max") for a in node.attribute):
            return None
        limits = [-math.inf, math.inf]
        for index, name in enumerate(node.input[1:3]):
            if name:
                bound = self.constant(name)
                if bound is None or bound.size != 1:
                    return None
                limits[index] = float(bound.reshape(-1)[0])
        return (limits[0], limits[1]) if limits[0] <= 0 <= limits[1] else None


def _plain(gemm: onnx.NodeProto) -> bool:
    """True for x·W + b, with W as it is or transposed."""
    factors = [attribute_value(gemm, name, 1.0) for name in ("alpha", "beta")]
    return factors == [1.0, 1.0] and not attribute_value(gemm, "transA", 0)
