"""Weights that were packed for their zeros, stored as they are again, so that steps can work on them.

What `forms.sparse.write` wrote in the weight's own type is known by the names of its tensors, by the operators between
them and the weight, and by nothing else being in between. Values of few bits stay packed: they are quantized.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from onnxcompress.errors import ModelError, RuntimeFailure
from onnxcompress.forms.sparse import PLACES, VALUES
from onnxcompress.graph import edit
from onnxcompress.graph.bodies import graphs
from onnxcompress.graph.edit import Edit, NewTensor
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.scopes import Scopes
from onnxcompress.runtime.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxcompress.graph.scopes import Scope

_OPERATORS = frozenset({
    "Add", "BitShift", "BitwiseAnd", "Cast", "Concat", "ConstantOfShape", "CumSum", "Div", "Floor", "Gather",
    "GatherElements", "Mod", "Mul", "Reshape", "ScatterElements", "Slice", "Sub", "Transpose",
})  # fmt: skip
_MOST_NODES = 64


def unpacked(model: Model) -> Model | None:
    """A copy that stores such weights as they are; None where there are none.

    Raises:
        ModelError: a weight that looks like one does not come out whole.
    """
    result = model.copy()
    edits = [found for scope, _ in graphs(Scopes(result.proto)) for found in _edits(result, scope)]
    edit.apply(result, edits)
    return result if edits else None


def _edits(model: Model, scope: Scope) -> Iterator[Edit]:
    for values in list(scope.initializers):
        name = values.removesuffix(VALUES)
        if name + VALUES != values or name + PLACES not in scope.initializers or name not in scope.producers:
            continue
        kind = scope.initializers[values].data_type
        if kind not in (Tensor.FLOAT, Tensor.FLOAT16, Tensor.DOUBLE):
            continue
        found = _chain(scope, name)
        if found is None or found[0][-1].op_type == "Cast":
            continue
        nodes, stored = found
        compute = functools.partial(_computed, model, nodes, [scope.initializers[n] for n in stored], name, kind)
        dims = compute().shape
        tensor = NewTensor(name, kind, dims, compute)
        yield Edit(scope, (tensor,), removed=tuple(nodes), dropped=tuple(stored))


def _chain(scope: Scope, name: str) -> tuple[list[onnx.NodeProto], list[str]] | None:
    """The nodes that a weight is made by, in order, and the stored tensors that they read."""
    needed, reached, stored = [name], {name}, []
    while needed:
        value = needed.pop()
        if value in scope.initializers:
            stored.append(value)
            continue
        node = scope.producers.get(value)
        if node is None or node.op_type not in _OPERATORS or node.domain not in ("", "ai.onnx"):
            return None
        fresh = [i for i in node.input if i and i not in reached]
        reached.update(fresh)
        needed += fresh
    nodes = [n for n in scope.body.node if len(n.output) == 1 and n.output[0] in reached]
    return (nodes, sorted(stored)) if name + VALUES in stored and len(nodes) <= _MOST_NODES else None


def _computed(
    model: Model, nodes: list[onnx.NodeProto], stored: list[Tensor], name: str, kind: int
) -> np.ndarray:  # fmt: skip
    """The weight, put together by ONNX Runtime.

    Raises:
        ModelError: it cannot be.
    """
    tensors = [onnx.numpy_helper.from_array(model.array(t), t.name) for t in stored]
    graph = helper.make_graph(nodes, "weight", [], [helper.make_tensor_value_info(name, kind, None)], tensors)
    imports = [o for o in model.proto.opset_import if o.domain in ("", "ai.onnx")]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=max(model.proto.ir_version, 4))
    try:
        found = Session(proto.SerializeToString(), threads=1, level="none").run({})[name]
    except RuntimeFailure as error:
        raise ModelError(f"the packed weight {name!r} cannot be read: {error.message}", "Compress it anew.") from error
    return np.asarray(found)
