"""Constants that ask for more values than any machine holds, where that alone stops whoever looks at the model.

Shape inference with values (``data_prop``) makes a list of all that a Range of constants counts, and runs without an
end where that is 2^50 of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import onnx

from onnxcompress.errors import ModelError
from onnxcompress.graph.scopes import subgraphs

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_COUNTED = 1 << 24
_WHOLE = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.INT16)


def refuse_absurd(proto: onnx.ModelProto) -> None:
    """Refuse a Range of whole numbers, all three of them constants, that counts more than a real model ever does.

    Raises:
        ModelError: there is one.
    """
    graphs = list(_graphs(proto.graph))
    ranges = [n for nodes in (*(g.node for g in graphs), *(f.node for f in proto.functions))
              for n in nodes if n.op_type == "Range" and len(n.input) == 3]  # fmt: skip
    if not ranges:
        return
    known = {t.name: t for g in graphs for t in g.initializer}
    known |= {n.output[0]: a.t for g in graphs for n in g.node if n.op_type == "Constant"
              for a in n.attribute if a.name == "value" and n.output}  # fmt: skip
    for node in ranges:
        numbers = [_number(known.get(name)) for name in node.input]
        start, limit, delta = numbers
        if start is None or limit is None or not delta:
            continue
        if math.ceil((limit - start) / delta) > _MOST_COUNTED:
            raise ModelError(
                f"the node {node.name or node.output[0]!r} (Range) counts from {start} to {limit} by {delta}",
                "No machine holds that; the file is damaged or was made by hand.",
            )


def _number(tensor: onnx.TensorProto | None) -> int | None:
    """The single whole number in a tensor that holds its data itself."""
    if tensor is None or tensor.data_type not in _WHOLE or len(tensor.external_data) or math.prod(tensor.dims) != 1:
        return None
    return int(onnx.numpy_helper.to_array(tensor).reshape(()))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _graphs(inner)
