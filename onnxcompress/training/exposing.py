"""Values of a graph as outputs that losses read, and what such values are like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxcompress.graph.scopes import subgraphs
from onnxcompress.training.losses import Writer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Arrays = dict[str, np.ndarray]
TINY = 1e-7  # below which a probability is none
FLAT, _ENDLESS = 1e-12, 1e30  # variances below and above which a value says nothing
_PREFIX = "onnxcompress.match."


class Exposing:
    """Adds what losses read to a graph. ``reached``: the values that depend on what a gradient is asked for."""

    def __init__(self, graph: onnx.GraphProto, reached: set[str]) -> None:
        self._graph, self._writer, self.reached = graph, Writer(graph, _PREFIX), reached

    def exposed(self, value: str, rank: int) -> str:
        """A value as an output of its own."""
        return self.added(self._writer.node("Identity", value), rank)

    def logs(self, value: str, rank: int) -> str:
        """The logarithm of a value as an output."""
        safe = self._writer.node("Add", value, self._writer.constant(TINY, np.float32))
        return self.added(self._writer.node("Log", safe), rank)

    def added(self, name: str, rank: int) -> str:
        """A value that is an output from now on."""
        self._graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank))
        return name


def values_behind(graph: onnx.GraphProto, names: set[str]) -> set[str]:
    """The values that depend on these."""
    found = set(names)
    for node in graph.node:
        if _read(node) & found:
            found |= set(node.output)
    return found


def values_before(graph: onnx.GraphProto, names: set[str]) -> set[str]:
    """The values that these depend on."""
    found = set(names)
    for node in reversed(graph.node):
        if found & set(node.output):
            found |= _read(node)
    return found


def _read(node: onnx.NodeProto) -> set[str]:
    return {*node.input, *(n for body in subgraphs(node) for n in _inner(body))}


def _inner(body: onnx.GraphProto) -> set[str]:
    return {name for node in body.node for name in node.input} | {
        name for node in body.node for inner in subgraphs(node) for name in _inner(inner)
    }


def variance(value: np.ndarray) -> float:
    """The variance, 0 where it is not finite."""
    with np.errstate(all="ignore"):
        found = float(np.var(value, dtype=np.float64))
    return found if np.isfinite(found) and found < _ENDLESS else 0.0


def joined(calls: Sequence[Mapping[str, np.ndarray]]) -> Arrays:
    """Values of several calls on the first axis, or of the first call alone where shapes differ."""
    found: Arrays = {}
    for name, first in calls[0].items():
        values = [np.asarray(c[name]) for c in calls]
        alike = np.ndim(first) > 0 and len({v.shape[1:] for v in values}) == 1
        found[name] = np.concatenate(values) if alike else values[0]
    return found
