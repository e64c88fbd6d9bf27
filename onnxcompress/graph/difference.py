"""The first thing in which two models differ, in words: structure first, then values."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np
import onnx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxcompress.graph.model import Model, Tensor


def first_difference(then: Model, now: Model) -> str | None:
    """A sentence's part such as "the tensor 'w' has other values"; None where nothing but their encoding differs.

    Args:
        then: the one.
        now: the other, whose tensors are read one at a time.
    """
    return next(_differences(then, now), None)


def _differences(then: Model, now: Model) -> Iterator[str]:
    opsets = [sorted((o.domain, o.version) for o in m.proto.opset_import) for m in (then, now)]
    if opsets[0] != opsets[1]:
        yield f"the operator sets are {opsets[0]} in the one and {opsets[1]} in the other"
    counts = [len(m.proto.graph.node) for m in (then, now)]
    for number, (one, other) in enumerate(zip_longest(then.proto.graph.node, now.proto.graph.node)):
        if one is None or other is None:
            yield f"there are {counts[0]} nodes in the one and {counts[1]} in the other"
        elif _bare(one) != _bare(other):
            yield f"node {number} is {_named(one)} in the one and {_named(other)} in the other"
    yield from _tensors(then, now)
    for p, q in zip_longest(then.proto.metadata_props, now.proto.metadata_props):
        if p is None or q is None or (p.key, p.value) != (q.key, q.value):
            yield f"the metadata differ at {(p or q).key!r}"


def _tensors(then: Model, now: Model) -> Iterator[str]:
    for one, other in zip_longest(then.tensors(), now.tensors()):
        if one is None or other is None:
            yield f"only one of them has the tensor {(one or other).name!r}"
            return
        facts = [(t.name, t.data_type, tuple(t.dims)) for t in (one, other)]
        if facts[0] != facts[1]:
            yield f"a tensor is {_told(one)} in the one and {_told(other)} in the other"
            return
        a, b = then.array(one), now.array(other)
        if a.tobytes() != b.tobytes():
            yield f"the tensor {one.name!r} {_values(a, b)}"


def _values(a: np.ndarray, b: np.ndarray) -> str:
    count = int((a != b).sum())
    said = f"has {count} other values of {a.size}" if count else "has other bits"
    if a.dtype.kind not in "fiu" or not count:
        return said
    most = float(np.nanmax(np.abs(a.astype(np.float64) - b.astype(np.float64))))
    return f"{said}, by at most {most:.3g}"


def _told(tensor: Tensor) -> str:
    return f"{tensor.name!r} ({onnx.TensorProto.DataType.Name(tensor.data_type)} {list(tensor.dims)})"


def _named(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name or (node.output[0] if node.output else '')!r}"


def _bare(node: onnx.NodeProto) -> bytes:
    """A node without the data of its tensors, which are compared by themselves."""
    bare = onnx.NodeProto()
    bare.CopyFrom(node)
    _emptied(bare)
    said: bytes = bare.SerializeToString(deterministic=True)
    return said


def _emptied(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        own = (attribute.sparse_tensor, *attribute.sparse_tensors) if attribute.HasField("sparse_tensor") else ()
        for tensor in (attribute.t, *attribute.tensors, *(t for s in own for t in (s.values, s.indices))):
            for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(name)
            del tensor.external_data[:]
        for graph in (attribute.g, *attribute.graphs):
            del graph.initializer[:]
            for inner in graph.node:
                _emptied(inner)
