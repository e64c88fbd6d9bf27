"""What products see when the model runs: shapes of their inputs, and what eight bits would lose of them.

The measures are computed inside the running model. Each chosen value gets a Shape node and, where asked for, nodes
that quantize it dynamically and compare: noise-to-signal ratio Σ(x − x̂)² / Σx². Only these leave the runtime, so
the cost is about one inference per call, and it is right where static shape inference gives up.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from onnxcompress.graph import writer
from onnxcompress.runtime.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.model import Model

Shape = tuple[int, ...]
_DYNAMIC_QUANTIZATION = 11  # opset of DynamicQuantizeLinear
_PREFIX = "onnxcompress_observed"


@dataclass(frozen=True)
class Observed:
    """One value over all calls: its distinct shapes, and the largest noise-to-signal ratio of eight bits."""

    shapes: tuple[Shape, ...]
    noise: float | None


def observe(
    model: Model, names: Sequence[str], calls: Iterable[Feeds], *, noise: bool, threads: int | None = None
) -> dict[str, Observed]:
    """Run the model and watch values of its main graph, which must be float32 where ``noise`` is asked for.

    Raises:
        RuntimeFailure: ONNX Runtime cannot load or run the model.
    """
    twin = model.copy()
    noise = noise and model.opset >= _DYNAMIC_QUANTIZATION
    for index, name in enumerate(names):
        _watch(twin.proto.graph, name, index, noise)
    shapes: dict[str, dict[Shape, None]] = {name: {} for name in names}
    worst = dict.fromkeys(names, 0.0)
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        path = Path(folder) / "observed.onnx"
        writer.save(twin, path, durable=False)
        session = Session(path, threads=threads, level="basic")
        for feeds in calls:
            outputs = session.run(feeds)
            for index, name in enumerate(names):
                shapes[name][tuple(int(n) for n in outputs[f"{_PREFIX}_shape_{index}"])] = None
                if noise:
                    worst[name] = max(worst[name], _ratio(outputs, index))
    return {name: Observed(tuple(shapes[name]), worst[name] if noise else None) for name in names}


def _ratio(outputs: dict[str, np.ndarray], index: int) -> float:
    noise = float(np.asarray(outputs[f"{_PREFIX}_noise_{index}"]).reshape(-1)[0])
    energy = float(np.asarray(outputs[f"{_PREFIX}_energy_{index}"]).reshape(-1)[0])
    ratio = noise / energy if energy > 0 else 0.0
    return ratio if np.isfinite(ratio) else np.inf


def _watch(graph: onnx.GraphProto, name: str, index: int, noise: bool) -> None:
    def value(word: str) -> str:
        return f"{_PREFIX}_{word}_{index}"

    def add(op: str, inputs: list[str], outputs: list[str]) -> None:
        graph.node.append(helper.make_node(op, inputs, outputs, name=f"{outputs[0]}_node"))

    def output(word: str, kind: int) -> None:
        graph.output.append(helper.make_tensor_value_info(value(word), kind, None))

    add("Shape", [name], [value("shape")])
    output("shape", onnx.TensorProto.INT64)
    if noise:
        quantized = [value("codes"), value("scale"), value("zero")]
        add("DynamicQuantizeLinear", [name], quantized)
        add("DequantizeLinear", quantized, [value("rounded")])
        add("Sub", [name, value("rounded")], [value("rest")])
        add("ReduceSumSquare", [value("rest")], [value("noise")])
        add("ReduceSumSquare", [name], [value("energy")])
        output("noise", onnx.TensorProto.FLOAT)
        output("energy", onnx.TensorProto.FLOAT)
