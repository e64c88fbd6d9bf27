"""Times of nodes put together by operator, and by layer of the model as it is stored.

The runtime fuses nodes and names what comes out after one of them, or after the value that it makes:
``/conv/Relu_output_0_nchwc``, ``fused /fc/Gemm``, ``/proj/Conv_token_12``. `layer_of` finds the node of the file again,
so that one layer has one name in a model and in what was made from it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import onnx

    from onnxcompress.runtime.profiling import NodeTime

Producers = dict[str, "onnx.NodeProto"]

_PREFIX = re.compile(r"^(?:fused )+")
_BLOCKED = re.compile(r"_nchwc$")  # named after the value that it makes
_FUSION = re.compile(r"/\w+Fusion/?$|_token_\d+$|_MatMulNBits$|_nhwc$")
_MADE = re.compile(r"(?<=.)_output_\d+(?:_.*|\..*)?$|\.[qf]$|_quant$")
_FUSED_INTO = 3  # nodes that one convolution may take in: its sum, its activation, its padding
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True)
class Share:
    """What nodes of one operator, or of one layer, take in a run. ``ops``: the operators, the slowest first."""

    name: str
    ops: tuple[str, ...]
    nodes: int
    ms: float


def producers(graph: onnx.GraphProto) -> Producers:
    """The node that makes each value of the outermost graph."""
    return {name: node for node in graph.node for name in node.output}


def layer_of(name: str, op: str, made_by: Mapping[str, onnx.NodeProto]) -> str:
    """The layer that a node of the optimized graph belongs to; the name itself where that is not known."""
    plain = _PREFIX.sub("", name)
    if _BLOCKED.search(plain):
        plain = _BLOCKED.sub("", plain)
        node = made_by.get(plain)
        for _ in range(_FUSED_INTO if op in _PRODUCTS else 0):
            if node is None or node.op_type in _PRODUCTS or not node.input or node.input[0] not in made_by:
                break
            node = made_by[node.input[0]]
        if node is not None and node.op_type == op and node.name:
            plain = node.name
    return _MADE.sub("", _FUSION.sub("", plain)) or name


def by_operator(nodes: Iterable[NodeTime]) -> tuple[Share, ...]:
    """Times by the kind of operator."""
    return _shares(nodes, lambda node: node.op)


def by_layer(nodes: Iterable[NodeTime], graph: onnx.GraphProto) -> tuple[Share, ...]:
    """Times by the layer of the model."""
    made_by = producers(graph)
    return _shares(nodes, lambda node: layer_of(node.name, node.op, made_by) or f"({node.op})")


def _shares(nodes: Iterable[NodeTime], key: Callable[[NodeTime], str]) -> tuple[Share, ...]:
    groups: dict[str, list[NodeTime]] = defaultdict(list)
    for node in nodes:
        groups[key(node)].append(node)
    made = [
        Share(name, tuple(dict.fromkeys(n.op for n in own)), len(own), sum(n.ms for n in own))
        for name, own in groups.items()
    ]
    return tuple(sorted(made, key=lambda share: -share.ms))
