"""Losses, written in ONNX at the end of a graph: a scalar from an output and what it should have been.

With y an output, t its target (of a teacher), T a temperature, and the mean over all but the last axis:

    mse            mean over all elements of (y − t)²
    kl             T² · mean of Σ softmax(t/T) · (log softmax(t/T) − log softmax(y/T))   (Hinton et al. 2015)
    cosine         1 − mean of y·t / (‖y‖ ‖t‖)
    cross_entropy  − mean of log softmax(y)[label]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.errors import UsageError

Kind = Literal["mse", "kl", "cosine", "cross_entropy"]
_TINY = 1e-12


@dataclass(frozen=True)
class Loss:
    """A loss on one output.

    Args:
        kind: which one.
        output: the name of a float32 output (or, with classes on its last axis, of logits).
        temperature: of ``kl``.
        weight: its factor in the sum of all losses.

    Raises:
        UsageError: the temperature is not positive.
    """

    kind: Kind
    output: str
    temperature: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UsageError(f"the temperature {self.temperature:g} is not positive", "Give a number above 0.")


class Writer:
    """Appends nodes to a graph under names that nothing else has."""

    def __init__(self, graph: onnx.GraphProto, prefix: str) -> None:
        self.graph = graph
        self.prefix = prefix
        self._count = 0

    def fresh(self) -> str:
        """A new name."""
        self._count += 1
        return f"{self.prefix}{self._count}"

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output, whose name is returned."""
        name = self.fresh()
        self.graph.node.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def constant(self, value: object, dtype: type) -> str:
        """An initializer, whose name is returned."""
        name = self.fresh()
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name


def append_loss(writer: Writer, loss: Loss, target: str) -> str:
    """Append one loss, weighted; its scalar's name. ``target`` names float32 targets, or int64 labels."""
    last = writer.constant([-1], np.int64)
    value = _APPEND[loss.kind](writer, loss, target, last)
    return writer.node("Mul", value, writer.constant(loss.weight, np.float32))


def target_type(loss: Loss) -> int:
    """The ONNX element type of what the loss is given."""
    return int(TensorProto.INT64 if loss.kind == "cross_entropy" else TensorProto.FLOAT)


def _mse(w: Writer, loss: Loss, target: str, _: str) -> str:
    gap = w.node("Sub", loss.output, target)
    return _mean(w, w.node("Mul", gap, gap))


def _kl(w: Writer, loss: Loss, target: str, last: str) -> str:
    inverse = w.constant(1 / loss.temperature, np.float32)
    soft = w.node("Mul", target, inverse)
    given = w.node("LogSoftmax", w.node("Mul", loss.output, inverse), axis=-1)
    gap = w.node("Sub", w.node("LogSoftmax", soft, axis=-1), given)
    rows = w.node("ReduceSum", w.node("Mul", w.node("Softmax", soft, axis=-1), gap), last, keepdims=0)
    return w.node("Mul", _mean(w, rows), w.constant(loss.temperature**2, np.float32))


def _cosine(w: Writer, loss: Loss, target: str, last: str) -> str:
    tiny = w.constant(_TINY, np.float32)

    def product(one: str, two: str) -> str:
        return w.node("ReduceSum", w.node("Mul", one, two), last, keepdims=0)

    def norm(value: str) -> str:
        return w.node("Sqrt", w.node("Add", product(value, value), tiny))

    norms = w.node("Mul", norm(loss.output), norm(target))
    similarity = _mean(w, w.node("Div", product(loss.output, target), norms))
    return w.node("Sub", w.constant(1, np.float32), similarity)


def _cross_entropy(w: Writer, loss: Loss, target: str, last: str) -> str:
    likely = w.node("LogSoftmax", loss.output, axis=-1)
    return w.node("Neg", _mean(w, w.node("GatherElements", likely, w.node("Unsqueeze", target, last), axis=-1)))


def _mean(w: Writer, value: str) -> str:
    return w.node("ReduceMean", value, keepdims=0)


_APPEND = {"mse": _mse, "kl": _kl, "cosine": _cosine, "cross_entropy": _cross_entropy}
