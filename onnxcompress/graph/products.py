"""Linear layers that follow one another multiplied together, where that is less work.

    (x A + a) B + b = x (A B) + (a B + b)

for MatMul and Gemm by stored matrices, when nothing else reads the value between them and A·B is no larger than A and B
together. The reverse of a factorization: what is of low rank stays in two parts. Arithmetic is in float64. Matrices
that are large stay apart, and so does what would be more in memory than a few such products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.graph.bodies import graphs, integer, is_standard, number
from onnxcompress.graph.constants import overridable
from onnxcompress.graph.edit import Namer
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.payload import stored_bytes
from onnxcompress.graph.scopes import Scope, Scopes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

_TYPES = (Tensor.FLOAT, Tensor.DOUBLE)  # half precision could overflow
# bytes: both factors and the product are in memory in float64, and 2048 rows and columns take a second to multiply
_LARGEST = 1 << 24
_MOST = 1 << 27  # bytes of products, which stay in memory until the model is written


@dataclass(frozen=True, eq=False)
class _Linear:
    """A node that multiplies by a stored matrix. ``bias``: (out,) values or None."""

    node: onnx.NodeProto
    weight: Tensor
    transposed: bool
    bias: Tensor | None

    @property
    def dims(self) -> tuple[int, int]:
        """Inputs and outputs."""
        rows, columns = (int(n) for n in self.weight.dims)
        return (columns, rows) if self.transposed else (rows, columns)


_Pair = tuple["onnx.GraphProto", _Linear, _Linear]


def merge_products(model: Model, notes: list[str] | None = None) -> int:
    """Multiply pairs together until there are none; returns how many were.

    ``notes`` gets a line where pairs stay apart because of their size.
    """
    merged, room = 0, _MOST
    while True:
        scopes = Scopes(model.proto)
        apart = 0
        pair = None
        for found in (p for scope, graph in graphs(scopes) for p in _pairs(model, scopes, scope, graph)):
            if _bytes(found) > min(_LARGEST, room):
                apart += 1
            elif _finite(model, *found[1:]):
                pair = found
                break
        if pair is None:
            break
        room -= _merge(model, scopes, *pair)
        merged += 1
    if apart and notes is not None:
        notes.append(f"products that follow one another were not merged, as they are large: {apart}")
    return merged


def _bytes(pair: _Pair) -> int:
    """Of the largest of both factors and their product."""
    _, first, second = pair
    (inputs, inner), (_, out) = first.dims, second.dims
    return stored_bytes(first.weight.data_type, (max(inputs * inner, inner * out, inputs * out),))


def _pairs(model: Model, scopes: Scopes, scope: Scope, graph: onnx.GraphProto) -> Iterator[_Pair]:
    """Pairs that could be one, whatever is in them."""
    outputs = {o.name for o in graph.output}
    for node in graph.node:
        second = _linear(model, scope, node)
        producer = scope.producers.get(node.input[0]) if second is not None else None
        first = _linear(model, scope, producer) if producer is not None else None
        if first is None or second is None or len(scopes.uses(scope, node.input[0])) != 1 or node.input[0] in outputs:
            continue
        (inputs, inner), (_, out) = first.dims, second.dims
        fits = first.weight.data_type == second.weight.data_type and second.dims[0] == inner
        room = first.bias is None or second.node.op_type == "Gemm"  # a MatMul has no place for a bias
        pays = inputs * out <= inner * (inputs + out)
        if fits and room and pays:
            yield graph, first, second


def _linear(model: Model, scope: Scope, node: onnx.NodeProto) -> _Linear | None:
    """The node as a product with a stored matrix of its own graph, None where it is something else."""
    if not is_standard(node, "MatMul", "Gemm") or len(node.input) < 2:
        return None
    weight = _stored(model, scope, node.input[1])
    if weight is None or len(weight.dims) != 2 or weight.data_type not in _TYPES:
        return None
    if node.op_type == "MatMul":
        return _Linear(node, weight, False, None)
    factors = (number(node, "alpha", 1.0), number(node, "beta", 1.0))
    if factors != (1.0, 1.0) or integer(node, "transA", 0):
        return None
    turned = bool(integer(node, "transB", 0))
    bias = None
    if len(node.input) > 2 and node.input[2]:
        bias = _stored(model, scope, node.input[2])
        if bias is None or tuple(bias.dims) != (weight.dims[0 if turned else 1],):
            return None
    return _Linear(node, weight, turned, bias)


def _stored(model: Model, scope: Scope, name: str) -> Tensor | None:
    if scope.parent is None and name in overridable(model.proto):
        return None
    return scope.initializers.get(name)


def _finite(model: Model, *layers: _Linear) -> bool:
    return all(np.isfinite(model.view(layer.weight)).all() for layer in layers)


def _merge(model: Model, scopes: Scopes, graph: onnx.GraphProto, first: _Linear, second: _Linear) -> int:
    """Put a pair into one node; returns the bytes of the product."""
    namer = Namer(scopes.names())
    A, B = (np.asarray(model.array(s.weight), np.float64) for s in (first, second))
    A, B = (m.T if s.transposed else m for m, s in ((A, first), (B, second)))
    dtype = model.view(second.weight).dtype
    product = np.ascontiguousarray((A @ B).astype(dtype))
    weight = graph.initializer.add(name=namer(f"{second.weight.name}_product"))
    model.set_array(weight, product)
    node = second.node
    inputs = [first.node.input[0], weight.name]
    if first.bias is not None or second.bias is not None:
        bias = np.zeros(B.shape[1])
        if first.bias is not None:
            bias = bias + np.asarray(model.array(first.bias), np.float64) @ B
        if second.bias is not None:
            bias = bias + np.asarray(model.array(second.bias), np.float64)
        stored = graph.initializer.add(name=namer(f"{second.weight.name}_bias"))
        model.set_array(stored, bias.astype(dtype))
        inputs.append(stored.name)
    node.input[:] = inputs
    for index in reversed([i for i, a in enumerate(node.attribute) if a.name == "transB"]):
        del node.attribute[index]
    graph.node.remove(first.node)
    return product.nbytes
