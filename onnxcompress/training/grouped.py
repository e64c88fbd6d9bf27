"""Grouped convolutions in operators that have gradients: onnx-ad has none for the weight of a grouped Conv.

Depthwise (one channel a group): the sum over the taps of the kernel of a shifted, strided part of the padded input
times that tap's column of the weight. Otherwise: a convolution for each group, concatenated.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnxcompress.graph.scopes import attribute_value
from onnxcompress.training.losses import Writer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_END = np.iinfo(np.int64).max
_GROUPS = 64  # more convolutions than that are left as one, and so without a gradient


def ungroup(proto: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> None:
    """Rewrite, in the main graph, the grouped convolutions whose weight is one of these."""
    graph = proto.graph
    nodes = list(graph.node)
    del graph.node[:]
    writer = Writer(graph, "onnxcompress.grouped.")
    for node in nodes:
        groups = _int(node, "group", 1)
        explicit = attribute_value(node, "auto_pad", b"NOTSET") in (b"NOTSET", "NOTSET")
        weight = weights.get(node.input[1]) if node.op_type == "Conv" and not node.domain else None
        if weight is None or groups == 1 or not explicit:
            graph.node.append(node)
        elif weight.shape[0] == groups and weight.shape[1] == 1:
            _taps(writer, node, groups, weight.shape[2:])
        elif groups <= _GROUPS:
            _each(writer, node, groups)
        else:
            graph.node.append(node)


def _taps(w: Writer, node: onnx.NodeProto, channels: int, kernel: Sequence[int]) -> None:
    """Write a depthwise convolution as a sum over its taps. Weight (channels, 1, *kernel)."""
    rank = len(kernel)
    strides, dilations = _ints(node, "strides", [1] * rank), _ints(node, "dilations", [1] * rank)
    pads = _ints(node, "pads", [0] * 2 * rank)
    axes = w.constant(range(2, 2 + rank), np.int64)
    padded = node.input[0]
    if any(pads):
        around = [0, 0, *pads[:rank], 0, 0, *pads[rank:]]
        padded = w.node("Pad", padded, w.constant(around, np.int64), mode="constant")
    columns = w.node("Transpose", node.input[1], perm=[1, 0, *range(2, 2 + rank)])
    thin = w.constant(np.ones((channels, 1, *[1] * rank)), np.float32)
    parts = []
    for tap in itertools.product(*(range(k) for k in kernel)):
        starts = [t * d for t, d in zip(tap, dilations, strict=True)]
        ends = [(t - k + 1) * d or _END for t, k, d in zip(tap, kernel, dilations, strict=True)]
        seen = w.node("Slice", padded, w.constant(starts, np.int64), w.constant(ends, np.int64), axes)
        if max(strides) > 1:  # by a convolution, as a Slice with steps has no gradient
            seen = w.node("Conv", seen, thin, group=channels, strides=strides)
        here, after = w.constant(tap, np.int64), w.constant([t + 1 for t in tap], np.int64)
        parts.append(w.node("Mul", seen, w.node("Slice", columns, here, after, axes)))
    if len(node.input) > 2 and node.input[2]:
        parts.append(w.node("Reshape", node.input[2], w.constant([1, -1, *[1] * rank], np.int64)))
    total = parts[0]
    for part in parts[1:]:
        total = w.node("Add", total, part)
    w.graph.node.append(onnx.helper.make_node("Identity", [total], [node.output[0]]))


def _each(w: Writer, node: onnx.NodeProto, groups: int) -> None:
    """Write a convolution for each group."""
    given = [name for name in node.input if name]
    parts = [_split(w, name, axis, groups) for name, axis in zip(given, (1, 0, 0), strict=False)]
    results = []
    for inputs in zip(*parts, strict=True):
        one = onnx.NodeProto()
        one.CopyFrom(node)
        one.name = ""
        one.input[:], one.output[:] = list(inputs), [w.fresh()]
        next(a for a in one.attribute if a.name == "group").i = 1
        w.graph.node.append(one)
        results.append(one.output[0])
    w.graph.node.append(onnx.helper.make_node("Concat", results, [node.output[0]], axis=1))


def _split(w: Writer, name: str, axis: int, groups: int) -> list[str]:
    names = [w.fresh() for _ in range(groups)]
    w.graph.node.append(onnx.helper.make_node("Split", [name], names, axis=axis, num_outputs=groups))
    return names


def _int(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _ints(node: onnx.NodeProto, name: str, default: list[int]) -> list[int]:
    return next((list(a.ints) for a in node.attribute if a.name == name), default)
