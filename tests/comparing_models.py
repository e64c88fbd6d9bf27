"""Models to compare: sample models with one layer damaged, with names lost, and small ones built for one question."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from onnx import numpy_helper

from onnxcompress.graph.scopes import subgraphs
from tests.small_models import normal, proto

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

SAMPLES = Path(__file__).parent.parent / "sample_models"
DIGITS, LANGUAGE = SAMPLES / "digits-cnn.onnx", SAMPLES / "language-id.onnx"
DIGITS_DATA, LANGUAGE_DATA = SAMPLES / "digits-cnn.eval.npz", SAMPLES / "language-id.eval.npz"

CHAIN = """
agraph (float[n, 8] x) => (float[n, 4] y) {
    a = MatMul(x, first)
    b = Relu(a)
    c = MatMul(b, second)
    d = Relu(c)
    y = MatMul(d, third)
}
"""


def chain(**changed: np.ndarray) -> onnx.ModelProto:
    """Three products with a bound behind the first two; weights may be given."""
    weights = {"first": normal(8, 16, seed=1), "second": normal(16, 16, seed=2), "third": normal(16, 4, seed=3)}
    return proto(CHAIN, {**weights, **changed})


def stored(model: onnx.ModelProto, name: str) -> np.ndarray:
    """The values of an initializer."""
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def scaled(model: onnx.ModelProto, name: str, factor: float = 3.0) -> onnx.ModelProto:
    """A copy with one weight scaled."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensor = next(t for t in copy.graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((values * factor).astype(values.dtype), name))
    return copy


def renumbered(model: onnx.ModelProto, *, backwards: bool = False, seed: int | None = None) -> onnx.ModelProto:
    """A copy in which values and nodes have numbers for names, but for inputs and outputs of the model.

    ``backwards``: the last has the number 0; ``seed``: nodes are also put in another topological order.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    kept = {o.name for o in graph.output} | ({i.name for i in graph.input} - {t.name for t in graph.initializer})
    found = [t.name for t in graph.initializer] + [o for node in graph.node for o in node.output if o]
    names = [name for name in dict.fromkeys(found) if name not in kept]
    numbers = {name: str(i) for i, name in enumerate(reversed(names) if backwards else names)}
    for index, node in enumerate(graph.node):
        assert not any(subgraphs(node))
        node.name = f"node {index}"
        node.input[:] = [numbers.get(n, n) for n in node.input]
        node.output[:] = [numbers.get(n, n) for n in node.output]
    for tensor in graph.initializer:
        tensor.name = numbers.get(tensor.name, tensor.name)
    del graph.value_info[:]
    if seed is not None:
        _shuffle(graph, kept | {t.name for t in graph.initializer}, random.Random(seed))
    return copy


def _shuffle(graph: onnx.GraphProto, known: set[str], chance: random.Random) -> None:
    left, found = list(graph.node), []
    while left:
        node = chance.choice([n for n in left if all(not i or i in known for i in n.input)])
        left = [n for n in left if n is not node]
        known |= set(node.output)
        found.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(found)


def layers(model: onnx.ModelProto) -> Mapping[str, str]:
    """The weight of each Conv, MatMul and Gemm that alone reads it, by the name of what it makes."""
    weights = {t.name for t in model.graph.initializer}
    read = [n for node in model.graph.node for n in node.input]
    return {
        node.output[0]: node.input[1]
        for node in model.graph.node
        if node.op_type in ("Conv", "MatMul", "Gemm") and node.input[1] in weights and read.count(node.input[1]) == 1
    }
