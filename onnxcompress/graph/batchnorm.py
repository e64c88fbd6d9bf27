"""BatchNormalization folded into the layer before it.

    y = scale · (x·W + b − mean) / √(var + ε) + shift = x·(W·s) + (b·s + t)
    s = scale / √(var + ε),  t = shift − mean·s

with one s and t for each output channel of the layer. The weight keeps its name; its new values are computed
when they are written. Arithmetic is in float64, so the only rounding is the last one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnxcompress.graph.bodies import graphs, integer, is_standard, number
from onnxcompress.graph.constants import overridable
from onnxcompress.graph.edit import Namer
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.scopes import Scope, Scopes
from onnxcompress.graph.shapes import ranks

if TYPE_CHECKING:
    from collections.abc import Iterator

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_FOLDED_TYPES = (Tensor.FLOAT, Tensor.DOUBLE)  # half precision could overflow
_INFERENCE_BY_DEFAULT = 7  # before this opset an attribute said so, and defaulted to training


@dataclass(frozen=True, eq=False)
class Fold:
    """A layer with the normalization that goes into it: s·y + t on each output channel."""

    scope: Scope
    graph: onnx.GraphProto
    layer: onnx.NodeProto
    norm: onnx.NodeProto
    weight: Tensor
    bias: Tensor | None
    s: np.ndarray
    t: np.ndarray


def fold_batchnorm(model: Model) -> int:
    """Fold every BatchNormalization that safely can be; returns how many."""
    if model.opset < _INFERENCE_BY_DEFAULT:
        return 0
    scopes = Scopes(model.proto)
    folds = list(_folds(model, scopes))
    namer = Namer(scopes.names())
    for fold in folds:
        _carry_out(model, scopes, fold, namer)
    return len(folds)


# ------------------------------------------------------------------------- looks for, and safe because


def _folds(model: Model, scopes: Scopes) -> Iterator[Fold]:
    known: dict[str, int] | None = None
    for scope, graph in graphs(scopes):
        for norm in graph.node:
            if not is_standard(norm, "BatchNormalization") or len(norm.input) != 5:
                continue
            layer = scope.producers.get(norm.input[0])
            if layer is None or not is_standard(layer, *_LAYERS):
                continue
            if layer.op_type == "MatMul":
                known = ranks(model) if known is None else known
                # only with two axes is the one that is normalized the one along which W has its outputs
                if scope.parent is not None or known.get(norm.input[0]) != 2:
                    continue
            fold = _fold(model, scopes, scope, graph, (layer, norm))
            if fold is not None:
                yield fold


def _fold(
    model: Model,
    scopes: Scopes,
    scope: Scope,
    graph: onnx.GraphProto,
    pair: tuple[onnx.NodeProto, onnx.NodeProto],
) -> Fold | None:
    layer, norm = pair
    if len(scopes.uses(scope, norm.input[0])) != 1 or not _at_inference(scopes, scope, norm):
        return None
    weight = _constant(model, scope, layer.input[1])
    if weight is None or scope.initializers.get(weight.name) is not weight:
        return None
    alone = len(scopes.uses(scope, weight.name)) == 1
    if not alone or weight.data_type not in _FOLDED_TYPES or len(weight.dims) < 2:
        return None
    channels = _channels(layer, weight)
    bias = None
    if len(layer.input) > 2 and layer.input[2]:
        bias = _constant(model, scope, layer.input[2])
        if bias is None or tuple(bias.dims) not in ((), (1,), (1, 1), (channels,), (1, channels)):
            return None
    factors = _factors(model, scope, norm, channels)
    return None if factors is None else Fold(scope, graph, layer, norm, weight, bias, *factors)


def _factors(model: Model, scope: Scope, norm: onnx.NodeProto, channels: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The s and t of a normalization whose parameters are all stored and finite."""
    stored = [_constant(model, scope, name) for name in norm.input[1:]]
    found = [np.asarray(model.array(p), np.float64) for p in stored if p is not None]
    if len(found) != 4 or any(a.shape != (channels,) or not np.isfinite(a).all() for a in found):
        return None
    scale, shift, mean, var = found
    spread = var + number(norm, "epsilon", 1e-5)
    if not (spread > 0).all():
        return None
    s = scale / np.sqrt(spread)
    return s, shift - mean * s


def _at_inference(scopes: Scopes, scope: Scope, norm: onnx.NodeProto) -> bool:
    """True where the stored mean and variance are used, one of each for a channel, with one output."""
    trains = integer(norm, "training_mode", 0) or not integer(norm, "spatial", 1)
    return not trains and not any(scopes.uses(scope, name) for name in norm.output[1:] if name)


def _constant(model: Model, scope: Scope, name: str) -> Tensor | None:
    """The stored tensor of that name, unless a caller may override it."""
    owner = scope.resolve(name)
    if owner is None or (owner.parent is None and name in overridable(model.proto)):
        return None
    return owner.initializers.get(name)


def _channels(layer: onnx.NodeProto, weight: Tensor) -> int:
    """Number of output channels of a layer."""
    if layer.op_type == "ConvTranspose":
        return int(weight.dims[1]) * integer(layer, "group", 1)
    return int(weight.dims[0 if _outputs_first(layer) else -1])


def _outputs_first(layer: onnx.NodeProto) -> bool:
    return layer.op_type == "Conv" or (layer.op_type == "Gemm" and integer(layer, "transB", 0) != 0)


# ------------------------------------------------------------------------- puts there


def _carry_out(model: Model, scopes: Scopes, fold: Fold, namer: Namer) -> None:
    layer, weight, bias = fold.layer, fold.weight, fold.bias
    values = _new_bias(model, fold)
    own = bias is not None and fold.scope.initializers.get(bias.name) is bias
    if bias is not None and own and len(scopes.uses(fold.scope, bias.name)) == 1:
        model.set_array(bias, values)
    else:
        added = fold.graph.initializer.add(name=namer(f"{layer.input[1]}_bias"))
        model.set_array(added, values)
        layer.input[2:] = [added.name]
    before = Tensor()
    before.CopyFrom(weight)  # keeps the reference to the old values
    factors = _along_outputs(fold)
    model.set_lazy(weight, weight.data_type, tuple(weight.dims), lambda: _scaled(model.array(before), factors))
    if layer.op_type == "MatMul":
        layer.op_type = "Gemm"
    for attribute in layer.attribute:
        if attribute.name == "beta":
            attribute.f = 1.0
    layer.output[0] = fold.norm.output[0]
    fold.graph.node.remove(fold.norm)


def _new_bias(model: Model, fold: Fold) -> np.ndarray:
    old = np.zeros(1)
    if fold.bias is not None:
        beta = number(fold.layer, "beta", 1.0) if fold.layer.op_type == "Gemm" else 1.0
        old = np.asarray(model.array(fold.bias), np.float64).reshape(-1) * beta
    dtype = onnx.helper.tensor_dtype_to_np_dtype(fold.weight.data_type)
    return np.asarray(old * fold.s + fold.t, dtype)


def _along_outputs(fold: Fold) -> np.ndarray:
    """The factors in a shape that multiplies the weight."""
    dims = fold.weight.dims
    if _outputs_first(fold.layer):
        return fold.s.reshape(-1, *[1] * (len(dims) - 1))
    if fold.layer.op_type == "ConvTranspose":  # (inputs, outputs of a group, ...): a group's inputs lie together
        group = integer(fold.layer, "group", 1)
        rows = np.repeat(fold.s.reshape(group, -1), dims[0] // group, axis=0)
        return rows.reshape(*rows.shape, *[1] * (len(dims) - 2))
    return fold.s


def _scaled(weight: np.ndarray, factors: np.ndarray) -> np.ndarray:
    # in float64, but without a whole copy in it
    scaled = np.empty_like(weight)
    np.multiply(weight, factors, out=scaled, casting="same_kind")
    return scaled
