"""How long a call of a model should take by what it computes: the same on every machine, however busy it is.

It decides on how many calls something is measured. What decides that may not be measured itself, or two runs would
give two results. Products and convolutions of the main graph are counted, by the shapes of one call; seconds are those
of a typical processor, and little depends on how well that is met.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from onnxcompress.stats.activations import observe

if TYPE_CHECKING:
    import onnx

    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.model import Model

PER_SECOND = 2.5e10  # multiply-adds, about what two cores of a server do in the models that this was measured on
_RECURRENT = ("LSTM", "GRU", "RNN")
_PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm", *_RECURRENT)
Shapes = Mapping[str, tuple[int, ...]]


def call_seconds(model: Model, feeds: Feeds, threads: int | None = None) -> float:
    """Seconds that a call should take.

    Raises:
        RuntimeFailure: the model does not load or run.
    """
    graph = model.proto.graph
    nodes = [n for n in graph.node if n.op_type in _PRODUCTS and n.domain in ("", "ai.onnx")]
    names = dict.fromkeys(name for n in nodes for name in (*n.input[:3], *n.output[:1]) if name)
    seen = observe(model, list(names), [feeds], noise=False, threads=threads) if names else {}
    shapes = {name: found.shapes[0] for name, found in seen.items()}
    return sum(multiply_adds(n, shapes) for n in nodes) / PER_SECOND


def multiply_adds(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Multiply-adds of a node, none of one that is no product; ``shapes`` of its first three inputs and its output."""
    if node.op_type not in _PRODUCTS:
        return 0
    x, w = (shapes[name] for name in node.input[:2])
    if node.op_type in _RECURRENT:
        return math.prod(x[:2]) * (math.prod(w) + math.prod(shapes[node.input[2]]))
    if node.op_type == "ConvTranspose":
        return math.prod(x) * math.prod(w[1:])
    made = math.prod(shapes[node.output[0]])
    if node.op_type == "Conv":
        return made * math.prod(w[1:])
    if node.op_type == "Gemm":
        turned = any(a.name == "transA" and a.i for a in node.attribute)
        return made * x[0 if turned else -1]
    return made * (x[-1] if x else 1)
