"""What would quantization do to the outputs? One session answers for every choice of values and weights.

In a twin of the model each chosen value x passes through Where(switch, DQ(Q(x)), x), with the switch, the scale and the
zero point as inputs, and each chosen weight is an input too. So any combination of quantized values and weights is one
run of a session that is loaded once, and its noise at the outputs one number, see `output_noise`.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxcompress.graph import writer
from onnxcompress.runtime.session import Session
from onnxcompress.stats.output_noise import OutputNoise
from onnxcompress.stats.scores import producers

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Mapping, Sequence

    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.model import Model

Array = np.ndarray
Grid = tuple[float, int]  # scale, zero point
_PREFIX = "onnxcompress_whatif"
_BYTES = np.dtype(np.uint8)


@dataclass(frozen=True, eq=False)
class Treated:
    """What is done to a value before it is rounded, (features,) both.

    It is divided by ``factors``, or the features are left out that are zero in ``kept``.
    """

    factors: Array | None = None
    kept: Array | None = None


class WhatIf:
    """The model on some calls, with any of its values rounded to eight or sixteen bits and any of its weights replaced.

    Args:
        model: the model as it is, from opset 10; for sixteen bits from 21.
        values: float32 values of the main graph that may be rounded.
        weights: initializers of the main graph that may be replaced.
        calls: inputs, as many as are asked for are kept in memory.
        threads: threads of the runtime.
        dynamic: values that products may see rounded with the range of each call.
        distributions: whether scores of classes are also compared as distributions.
        bits: 8 or 16, of values that are rounded.

    Attributes:
        seconds: what one trial takes.

    Raises:
        RuntimeFailure: the model does not load or run so.
    """

    def __init__(
        self,
        model: Model,
        values: Sequence[str],
        weights: Sequence[str],
        calls: Sequence[Feeds],
        threads: int | None = None,
        dynamic: Mapping[str, Treated] | None = None,
        *,
        distributions: bool = True,
        bits: Literal[8, 16] = 8,
    ) -> None:
        self._kind = np.dtype(np.uint8 if bits == 8 else np.uint16)
        self._index = {name: i for i, name in enumerate(values)}
        twin = model.copy()
        graph = twin.proto.graph
        self._own = as_inputs(twin, set(weights))
        for name, i in self._index.items():
            _switched(graph, name, str(i), self._kind)
        self._dynamic = {name: f"dynamic_{i}" for i, name in enumerate(dynamic or {})}
        for name, place in self._dynamic.items():
            _switched(graph, name, place, dynamic=True)
            if dynamic is not None:
                _treated(graph, place, dynamic[name])
        with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
            path = Path(folder) / "whatif.onnx"
            writer.save(twin, path, durable=False)
            self._session = Session(path, threads=threads)
        self._run(calls[0], {}, {})  # the first call of a session takes longer
        started = time.perf_counter()
        self._calls: list[Feeds] = []
        expected: list[dict[str, Array]] = []
        for feeds in calls:
            self._calls.append(feeds)
            expected.append(self._run(feeds, {}, {}))
        self.seconds = time.perf_counter() - started
        self._noise = OutputNoise(self._calls, expected, producers(model.proto.graph) if distributions else None)

    def noise(self, values: Mapping[str, Grid], weights: Mapping[str, Array], dynamic: Collection[str] = ()) -> float:
        """Noise-to-signal ratio at the worst output, over all calls, when these are rounded and replaced."""
        return self._noise.ratio(self._run(feeds, values, weights, dynamic) for feeds in self._calls)

    def _run(
        self,
        feeds: Feeds,
        values: Mapping[str, Grid],
        weights: Mapping[str, Array],
        dynamic: Collection[str] = (),
    ) -> dict[str, Array]:
        given: dict[str, Array] = {**feeds, **self._own, **weights}
        for name, i in self._index.items():
            scale, zero = values.get(name, (1.0, 0))
            given[f"{_PREFIX}_on_{i}"] = np.array(name in values)
            given[f"{_PREFIX}_scale_{i}"] = np.array(scale, np.float32)
            given[f"{_PREFIX}_zero_{i}"] = np.array(zero, self._kind)
        given |= {f"{_PREFIX}_on_{place}": np.array(name in dynamic) for name, place in self._dynamic.items()}
        outputs = self._session.run(given)
        return {n: y for n, y in outputs.items() if isinstance(y, np.ndarray) and y.dtype.kind == "f"}


def as_inputs(twin: Model, names: Container[str]) -> dict[str, Array]:
    """Make inputs of initializers of the main graph, and return the values that they had."""
    graph = twin.proto.graph
    own: dict[str, Array] = {}
    for index in reversed(range(len(graph.initializer))):
        tensor = graph.initializer[index]
        if tensor.name in names:
            own[tensor.name] = twin.array(tensor)
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
            del graph.initializer[index]
    return own


def _switched(graph: onnx.GraphProto, name: str, index: str, kind: np.dtype = _BYTES, *, dynamic: bool = False) -> None:
    """Put a switch behind a value: its readers, or the products among them, see what comes out of it."""

    def value(word: str) -> str:
        return f"{_PREFIX}_{word}_{index}"

    inputs = {"on": onnx.TensorProto.BOOL}
    if not dynamic:
        inputs |= {"scale": onnx.TensorProto.FLOAT, "zero": helper.np_dtype_to_tensor_dtype(kind)}
    for word, element in inputs.items():
        graph.input.append(helper.make_tensor_value_info(value(word), element, []))
    seen, codes = value("seen"), [value(word) for word in ("codes", "scale", "zero")]
    nodes = [
        helper.make_node("DynamicQuantizeLinear", [name], codes)
        if dynamic
        else helper.make_node("QuantizeLinear", [name, *codes[1:]], codes[:1]),
        helper.make_node("DequantizeLinear", [value("codes"), value("scale"), value("zero")], [value("rounded")]),
        helper.make_node("Where", [value("on"), value("rounded"), name], [seen]),
    ]
    place = next((i + 1 for i, node in enumerate(graph.node) if name in node.output), 0)
    for node in graph.node:
        for i, read in enumerate(node.input):
            if read == name and (not dynamic or (node.op_type in ("MatMul", "Gemm") and i == 0)):
                node.input[i] = seen
    outputs = [o for o in graph.output if o.name == name and not dynamic]
    if outputs:  # an output keeps its name, so its producer has to give it up
        producer = next(n for n in graph.node if name in n.output)
        inner = value("inner")
        producer.output[list(producer.output).index(name)] = inner
        nodes[0].input[0] = inner
        nodes[2].input[2] = inner
        nodes.append(helper.make_node("Identity", [seen], [name]))
    for offset, node in enumerate(nodes):
        graph.node.insert(place + offset, node)


def _treated(graph: onnx.GraphProto, index: str, treated: Treated) -> None:
    """Have a switch round a value over factors, and multiply it by them again; or without features that are left."""
    if treated.factors is None and treated.kept is None:
        return

    def value(word: str) -> str:
        return f"{_PREFIX}_{word}_{index}"

    def constant(word: str, values: Array) -> str:
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), value(word)))
        return value(word)

    place, first = next((i, n) for i, n in enumerate(graph.node) if value("codes") in n.output)
    last = next(n for n in graph.node if value("rounded") in n.output)
    x, first.input[0], last.output[0] = first.input[0], value("before"), value("after")
    if treated.factors is not None:
        before = [helper.make_node("Mul", [x, constant("below", 1 / treated.factors)], [value("before")])]
        behind = [helper.make_node("Mul", [value("after"), constant("above", treated.factors)], [value("rounded")])]
    else:
        mask = np.ones(1) if treated.kept is None else treated.kept
        before = [
            helper.make_node("Mul", [x, constant("kept", mask)], [value("before")]),
            helper.make_node("Mul", [x, constant("left", 1 - mask)], [value("outliers")]),
        ]
        behind = [helper.make_node("Add", [value("after"), value("outliers")], [value("rounded")])]
    for node in behind:
        graph.node.insert(place + 2, node)
    for offset, node in enumerate(before):
        graph.node.insert(place + offset, node)
