"""What layers see of the values that they read: rows of a product, or the windows of a convolution.

Layers that read the same value in the same way share one view (queries, keys and values of an attention, say), and what
is measured of it is measured once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxcompress.errors import DataError
from onnxcompress.graph.bodies import integer, is_standard
from onnxcompress.graph.constants import overridable
from onnxcompress.graph.scopes import subgraphs
from onnxcompress.stats.activations import observe
from onnxcompress.stats.unrolled import Window, window

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import onnx

    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.model import Model

Shape = tuple[int, ...]


@dataclass(frozen=True)
class View:
    """A way to see a value: as rows, or through a window.

    ``positions`` and ``rank`` are those of the first call; ``layers`` the outputs of the layers that see it so.
    """

    value: str
    window: Window | None
    inputs: int
    positions: int
    rank: int
    layers: tuple[str, ...]

    @property
    def groups(self) -> int:
        """Groups of channels, each with a matrix of its own."""
        return 1 if self.window is None else self.window.groups

    @property
    def wide(self) -> bool:
        """True where the columns of a call take less room than their product."""
        return 2 * self.positions < self.inputs

    @property
    def nbytes(self) -> int:
        """Memory that its matrix takes: the sum in float64, and the one of a call in float32 twice."""
        return 16 * self.groups * self.inputs**2

    @property
    def scratch(self) -> int:
        """Memory for its columns while the model runs: unrolled, turned, and put together."""
        copies = 1 if self.window is None else 4
        return 4 * copies * self.groups * self.inputs * self.positions


def views(
    model: Model, nodes: Sequence[onnx.NodeProto], calls: Iterable[Feeds], threads: int | None
) -> tuple[list[View], dict[str, str]]:
    """The views of layers in the order of the nodes, and why others are left out, by the output of the layer.

    Raises:
        DataError: there are no calls.
        ValueError: the calls can be read only once.
        RuntimeFailure: ONNX Runtime cannot load or run the model.
    """
    if isinstance(calls, Iterator):
        raise ValueError("the calls are read several times: give a list or a Dataset, not an iterator")
    first = next(iter(calls), None)
    if first is None:
        raise DataError("there are no calls to measure the model with", "Give calibration data with --data.")
    left_out, seen = {}, []
    known = _Known(model)
    for node in nodes:
        reason = known.reason(node)
        if reason is None:
            seen.append(node)
        else:
            left_out[node.output[0]] = reason
    names = dict.fromkeys(n for node in seen for n in (*node.input[:2], node.output[0]))
    found = observe(model, list(names), [first], noise=False, threads=threads) if names else {}
    shapes = {name: value.shapes[0] for name, value in found.items()}
    merged: dict[tuple[str, Window | None], View] = {}
    for node in seen:
        if node.op_type == "MatMul" and len(shapes[node.input[1]]) > 2:
            left_out[node.output[0]] = "its weight has more than two axes"
            continue
        view = _view(node, shapes, model.opset)
        key = (view.value, view.window)
        layers = merged[key].layers if key in merged else ()
        merged[key] = View(*key, view.inputs, view.positions, view.rank, (*layers, *view.layers))
    return list(merged.values()), left_out


def _view(node: onnx.NodeProto, shapes: Mapping[str, Shape], opset: int) -> View:
    value, layers = node.input[0], (node.output[0],)
    seen, weight, given = (shapes[n] for n in (value, node.input[1], node.output[0]))
    if node.op_type != "Conv":
        return View(value, None, seen[-1], math.prod(seen[:-1]), len(seen), layers)
    part = window(node, seen, weight, given, opset)
    positions = given[0] * math.prod(-(-n // s) for n, s in zip(given[2:], part.steps, strict=True))
    return View(value, part, part.inputs, positions, len(seen), layers)


class _Known:
    """The nodes of the main graph, and which of its values are the same in every call."""

    def __init__(self, model: Model) -> None:
        graph = model.proto.graph
        self._nodes = {node.output[0]: node for node in graph.node if node.output}
        self._constant = {t.name for t in graph.initializer} - overridable(model.proto)
        self._constant |= {s.values.name for s in graph.sparse_initializer}
        for node in graph.node:
            inputs = [n for n in node.input if n]
            fixed = bool(inputs) and all(n in self._constant for n in inputs) and not any(subgraphs(node))
            if fixed or node.op_type == "Constant":
                self._constant.update(node.output)

    def reason(self, node: onnx.NodeProto) -> str | None:
        """Why the input of a node cannot be measured, or None."""
        if not is_standard(node, "MatMul", "Gemm", "Conv"):
            return f"what {node.op_type} sees is not measured"
        own = self._nodes.get(node.output[0])
        if own is None or own.op_type != node.op_type or list(own.input) != list(node.input):
            return "in a subgraph"
        if node.input[1] not in self._constant:
            return "its weight is not constant"
        if node.op_type == "Gemm" and integer(node, "transA", 0):
            return "its input is transposed"
        return None
