"""Which outputs are scores of classes, so that it means something whether the best class is the same.

The last axis counts as classes where
  * the output comes from a Softmax, or its rows are probabilities: not negative, with the sum 1; or
  * its name says so (logits, probabilities, scores, classes), or
  * it is a plain ``(batch, classes)`` output of unspecific name and of a width that is no multiple of 64,
and where neither the name (embedding, hidden state, box, attention, ...), nor the operator it comes from (a
normalization, Tanh), nor rows of length one speak for a vector of features.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

_MOST_CLASSES = 300_000
_SAMPLE_ROWS = 256
_SCORES = re.compile(r"logit|prob|softmax|score|class|cls|label|pred|vocab", re.IGNORECASE)
_FEATURES = re.compile(
    r"emb|hidden|feat|pool|state|past|present|attn|attention|mask|box|coord|offset|landmark|depth|pose|vector|audio",
    re.IGNORECASE,
)
_FEATURE_OPS = {
    "Tanh", "LayerNormalization", "SkipLayerNormalization", "LpNormalization", "RMSNormalization",
    "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization", "InstanceNormalization",
    "GroupNormalization",
}  # fmt: skip
_SAME_VALUES = {"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Dropout"}


def producers(graph: onnx.GraphProto) -> dict[str, str]:
    """For each output of the graph, the operator its values come from; unknown ones are left out."""
    made = {name: node for node in graph.node for name in node.output if name}
    found = {}
    for output in graph.output:
        node = made.get(output.name)
        while node is not None and node.op_type in _SAME_VALUES and node.input:
            node = made.get(node.input[0])
        if node is not None:
            found[output.name] = node.op_type
    return found


def class_like(name: str, x: np.ndarray, producer: str | None = None) -> bool:
    """Whether the last axis of this output of the original are scores of classes."""
    if x.dtype.kind != "f" or not 1 <= x.ndim <= 3 or not x.size or not 2 <= x.shape[-1] <= _MOST_CLASSES:
        return False
    rows = x.reshape(-1, x.shape[-1])[:_SAMPLE_ROWS].astype(np.float64)
    if not np.any(np.ptp(np.where(np.isfinite(rows), rows, 0), axis=-1) > 0):
        return False
    if producer in {"Softmax", "LogSoftmax"}:
        return not re.search(r"attn|attention", name, re.IGNORECASE)
    if _FEATURES.search(name) or producer in _FEATURE_OPS or x.ndim == 1:
        return False
    if _SCORES.search(name) or probabilities(rows):
        return True
    return x.ndim == 2 and x.shape[-1] % 64 != 0 and not _unit_length(rows)


def best_classes(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best classes of both (rows,), of the rows in which the original has a best one."""
    x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    best = x.argmax(axis=-1)
    varied = x.min(axis=-1) < np.take_along_axis(x, best[:, None], axis=-1)[:, 0]
    return best[varied], y.argmax(axis=-1)[varied]


def probabilities(rows: np.ndarray) -> bool:
    """Whether rows (rows, classes) are probabilities of classes that exclude each other."""
    return bool(np.all(rows >= -1e-6) and np.all(np.abs(rows.sum(axis=-1) - 1) < 1e-2))


def _unit_length(rows: np.ndarray) -> bool:
    return bool(np.all(np.abs(np.linalg.norm(rows, axis=-1) - 1) < 1e-3))
