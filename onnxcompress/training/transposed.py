"""Transposed convolutions in operators that have gradients: onnx-ad has none for the weight of a ConvTranspose.

Where the kernel is as large as the stride, windows do not overlap, and it is a convolution with a kernel of one to
kernel² times the channels, which then move to their places:  y[m, s i + a, s j + b] = Σ_c x[c, i, j] W[c, m, a, b].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnxcompress.graph.scopes import attribute_value
from onnxcompress.training.losses import Writer

if TYPE_CHECKING:
    from collections.abc import Mapping


def untranspose(proto: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> None:
    """Rewrite, in the main graph, such transposed convolutions whose weight is one of these."""
    graph = proto.graph
    nodes = list(graph.node)
    del graph.node[:]
    writer = Writer(graph, "onnxcompress.transposed.")
    for node in nodes:
        weight = weights.get(node.input[1]) if node.op_type == "ConvTranspose" and not node.domain else None
        if weight is not None and _apart(node, weight.shape):
            _write(writer, node, weight.shape)
        else:
            graph.node.append(node)


def _apart(node: onnx.NodeProto, shape: tuple[int, ...]) -> bool:
    """Whether windows neither overlap nor are cut off, in two dimensions of the same stride."""
    plain = {"kernel_shape", "strides", "group", "dilations", "pads", "output_padding", "auto_pad"}
    ints = {a.name: list(a.ints) for a in node.attribute}
    side = shape[2] if len(shape) == 4 else 0
    return (
        side > 0
        and {a.name for a in node.attribute} <= plain
        and shape[2:] == (side, side)
        and ints.get("strides", [1, 1]) == [side, side]
        and attribute_value(node, "group", 1) == 1
        and attribute_value(node, "auto_pad", b"NOTSET") in (b"NOTSET", "NOTSET", b"VALID", "VALID")
        and set(ints.get("dilations", [1])) == {1}
        and not any(ints.get("pads", [])) and not any(ints.get("output_padding", []))
    )  # fmt: skip


def _write(w: Writer, node: onnx.NodeProto, shape: tuple[int, ...]) -> None:
    """Write one as a convolution. Weight (in, out, side, side)."""
    channels, out, side = shape[:3]
    columns = w.node("Transpose", node.input[1], perm=[2, 3, 1, 0])
    thin = w.node("Reshape", columns, w.constant([side * side * out, channels, 1, 1], np.int64))
    total = w.node("DepthToSpace", w.node("Conv", node.input[0], thin), blocksize=side, mode="DCR")
    if len(node.input) > 2 and node.input[2]:
        total = w.node("Add", total, w.node("Reshape", node.input[2], w.constant([1, -1, 1, 1], np.int64)))
    w.graph.node.append(onnx.helper.make_node("Identity", [total], [node.output[0]]))
