"""The gradient of a loss with respect to a model's weights: one ONNX graph, run by ONNX Runtime.

Weights become inputs, the loss is appended, onnx-ad derives the adjoint graph (reverse mode, one seed of 1), and
what comes out is the loss and its gradient for every weight.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.errors import ModelError, UsageError
from onnxcompress.graph import writer
from onnxcompress.graph.dead import remove_dead
from onnxcompress.graph.opset import raised
from onnxcompress.runtime.session import Session
from onnxcompress.training.grouped import ungroup
from onnxcompress.training.losses import Loss, Writer, append_loss, target_type
from onnxcompress.training.transposed import untranspose

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from onnxcompress.graph.model import Model

Arrays = dict[str, np.ndarray]

OPSET = 18  # at least: the adjoints of poolings scatter with a reduction. The derived graph is never stored
_SEED, _LOSS, _TARGET = "onnxcompress.seed.", "onnxcompress.loss.total", "onnxcompress.target."
# Operands that steer an operator, or are statistics, rather than being learned: (operator, position).
_SETTINGS = {
    *(("Resize", i) for i in range(1, 4)), ("Upsample", 1), ("Clip", 1), ("Clip", 2), ("Pow", 1), ("Pad", 2),
    ("OneHot", 2), ("BatchNormalization", 3), ("BatchNormalization", 4),
    *(("QuantizeLinear", i) for i in (1, 2)), *(("DequantizeLinear", i) for i in (1, 2)),
}  # fmt: skip


@dataclass(frozen=True)
class Slope:
    """A loss and its gradient: by weight, in the weight's shape."""

    loss: float
    gradients: Arrays


class GradientGraph:
    """The graph of loss and gradients, loaded.

    Args:
        model: simplified best; it is not changed.
        losses: their weighted sum is differentiated.
        names: float32 initializers of the main graph to differentiate for; by default all `trainable` ones.
        threads: threads within an operator.
        shapes: of the inputs, to which the graph is then bound. Convolutions and average pooling have no gradient
            where the shape of what they read is open.

    Raises:
        UsageError: onnx-ad is not installed, or an output or weight of that name does not exist.
        ModelError: an operator has no derivative, or the opset cannot be raised to the one needed.
        RuntimeFailure: the derived graph does not load.
    """

    def __init__(
        self,
        model: Model,
        losses: Sequence[Loss],
        names: Collection[str] | None = None,
        threads: int | None = None,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        ad = _onnx_ad()
        model = raised(model, OPSET) if model.opset < OPSET else model
        proto = onnx.ModelProto.FromString(writer.to_bytes(model))
        _keep_outputs(proto, losses)
        known = trainable(proto)
        wanted = list(known if names is None else names)
        if missing := sorted(set(wanted) - set(known)):
            raise UsageError(f"{missing[0]!r} is no weight that can be trained", f"There are: {', '.join(known[:5])}.")
        _bind(proto, shapes or {})
        self.weights = _promote(proto, wanted)
        ungroup(proto, self.weights)
        untranspose(proto, self.weights)
        _append(proto, losses)
        try:
            derived = ad.reverse(proto, inputs=wanted, outputs=[_LOSS], prefix=_SEED, layout="onnx")
        except ad.UnsupportedOperator as error:
            raise ModelError(
                f"the model has no gradient: {error}", "Simplify the model, or leave it as it is."
            ) from error
        _only(derived.graph, [_LOSS, *(_SEED + name for name in wanted)])
        remove_dead(derived)
        self._session = Session(derived.SerializeToString(), threads=threads)
        self._asked = {port.name for port in self._session.inputs}

    def run(self, weights: Mapping[str, np.ndarray], feeds: Mapping[str, np.ndarray], targets: Arrays) -> Slope:
        """The loss and its gradients on one call.

        Args:
            weights: values by name, for all of ``self.weights``.
            feeds: the model's inputs.
            targets: by output name, of the output's shape, or labels without its last axis.

        Raises:
            RuntimeFailure: the graph does not run on these values.
        """
        seed = {_SEED + _LOSS: np.ones(1, np.float32)}
        given = {**feeds, **weights, **{_TARGET + k: v for k, v in targets.items()}, **seed}
        found = self._session.run({k: v for k, v in given.items() if k in self._asked})
        gradients = {k: found[_SEED + k].reshape(v.shape) for k, v in self.weights.items()}
        return Slope(float(found[_LOSS]), gradients)


def trainable(proto: onnx.ModelProto) -> list[str]:
    """Float32 initializers of the main graph with more than one element that no operator takes as a setting."""
    settings = {
        name for node in proto.graph.node for i, name in enumerate(node.input) if (node.op_type, i) in _SETTINGS
    }
    return [
        t.name
        for t in proto.graph.initializer
        if t.data_type == TensorProto.FLOAT and int(np.prod(t.dims)) > 1 and t.name not in settings
    ]


def required() -> None:
    """Refuse early where gradients cannot be had.

    Raises:
        UsageError: onnx-ad is not installed.
    """
    _onnx_ad()


def blamed(message: str) -> str:
    """The operator that has no gradient in its weight; nothing where it has none at all.

    >>> blamed("the model has no gradient: ConvTranspose is not differentiated with respect to its weight")
    'ConvTranspose'
    """
    found = re.search(r"(\w+) is not differentiated with respect to its weight", message)
    return found[1] if found else ""


def _onnx_ad() -> Any:
    try:
        import onnx_ad
    except ImportError as error:
        raise UsageError("gradients need onnx-ad", "Run: pip install 'onnxcompress[train]'") from error
    return onnx_ad


def _keep_outputs(proto: onnx.ModelProto, losses: Sequence[Loss]) -> None:
    """Leave only what the losses read."""
    there = {o.name: o.type.tensor_type.elem_type for o in proto.graph.output}
    if not losses:
        raise UsageError("there is no loss", "Give at least one output to compare.")
    for loss in losses:
        if there.get(loss.output) != TensorProto.FLOAT:
            raise UsageError(f"the model has no float32 output {loss.output!r}", f"It has: {', '.join(there)}.")
    _only(proto.graph, [o for o in there if o in {loss.output for loss in losses}])
    remove_dead(proto)


def _only(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    kept = {o.name: o for o in graph.output}
    chosen = [kept[name] for name in names]
    del graph.output[:]
    graph.output.extend(chosen)


def _bind(proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Declare the shapes of inputs, and forget what was inferred from open ones."""
    if not shapes:
        return
    for value in proto.graph.input:
        if value.name in shapes:
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(helper.make_tensor_value_info(value.name, kind, shapes[value.name]))
    del proto.graph.value_info[:]


def _promote(proto: onnx.ModelProto, names: Sequence[str]) -> Arrays:
    """Turn initializers into inputs; their values."""
    graph, wanted = proto.graph, set(names)
    tensors = {t.name: t for t in graph.initializer if t.name in wanted}
    values = {name: numpy_helper.to_array(tensors[name]) for name in names}
    kept = [t for t in graph.initializer if t.name not in wanted]
    inputs = [i for i in graph.input if i.name not in wanted]  # old models list initializers there as well
    del graph.initializer[:], graph.input[:]
    graph.initializer.extend(kept)
    graph.input.extend(inputs)
    graph.input.extend(helper.make_tensor_value_info(k, TensorProto.FLOAT, v.shape) for k, v in values.items())
    return values


def _append(proto: onnx.ModelProto, losses: Sequence[Loss]) -> None:
    """Append the sum of the losses as an output, and their targets as inputs."""
    graph = proto.graph
    outputs = {o.name: o for o in graph.output}
    write = Writer(graph, "onnxcompress.loss.")
    parts = []
    for loss in losses:
        target, kind = _TARGET + loss.output, target_type(loss)
        dims = list(outputs[loss.output].type.tensor_type.shape.dim)
        if kind == TensorProto.INT64:
            dims = dims[:-1]
        if target not in {i.name for i in graph.input}:
            shape = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims]
            graph.input.append(helper.make_tensor_value_info(target, kind, shape))
        parts.append(append_loss(write, loss, target))
    graph.node.append(helper.make_node("Sum", parts, [_LOSS]))
    graph.output.append(helper.make_tensor_value_info(_LOSS, TensorProto.FLOAT, []))
