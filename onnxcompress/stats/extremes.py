"""How values are distributed: exact extremes and an even sample of each, taken while the model runs.

Only two scalars and a few thousand values of each tensor leave the runtime, so watching costs little more than running.
The sample is taken with one stride within each row of the first axis, so that it does not depend on the batch size.
Positions that a padding mask hides do not count (see `masks`).
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxcompress.graph import writer
from onnxcompress.runtime.session import Session
from onnxcompress.stats.masks import masked

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.model import Model

Array = np.ndarray
_PREFIX = "onnxcompress_extremes"
_FIGURES = ("low", "high", "nan")  # of a tensor in one call; least and greatest leave NaN out
_SAMPLE = 2048  # values of a tensor in each call
_MASKED_RANK = 3  # (batch, sequence, features): of fewer axes values are masks and positions themselves
_KEPT = 1 << 16  # values of a tensor in all


@dataclass(frozen=True)
class Extremes:
    """One value over all calls: least and greatest, and a sample of what is finite of it as a flat float32 array.

    The ends are infinite where the value is, and both of them where it is NaN: masks may be.
    """

    low: float
    high: float
    sample: Array


def extremes(
    model: Model,
    shapes: Mapping[str, tuple[int, ...]],
    calls: Iterable[Feeds],
    count: int,
    *,
    threads: int | None = None,
    mask: str | None = None,
) -> dict[str, Extremes]:
    """Run the model and watch float values of its main graph.

    Args:
        model: the model, from opset 12.
        shapes: the values to watch, each with a shape that it had.
        calls: inputs, read one at a time.
        count: how many there are; the more, the fewer values are kept of each.
        threads: threads of the runtime.
        mask: the input from `masks.padding_mask`, None where all positions count.

    Raises:
        RuntimeFailure: ONNX Runtime cannot load or run the model.
    """
    twin = model.copy()
    names = list(shapes)
    for index, name in enumerate(names):
        counted = _counted(twin.proto.graph, name, index, len(shapes[name]), mask)
        _watch(twin.proto.graph, counted, index, shapes[name], max(1, min(_SAMPLE, _KEPT // max(count, 1))))
    low, high = dict.fromkeys(names, math.inf), dict.fromkeys(names, -math.inf)
    samples: dict[str, list[Array]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        path = Path(folder) / "extremes.onnx"
        writer.save(twin, path, durable=False)
        session = Session(path, threads=threads)
        for feeds in calls:
            outputs = session.run(feeds)
            for index, name in enumerate(names):
                least, most, nan = (float(np.asarray(outputs[f"{_PREFIX}_{w}_{index}"])) for w in _FIGURES)
                if nan:
                    least, most = -math.inf, math.inf
                elif least > most:  # nothing in it
                    continue
                low[name], high[name] = min(low[name], least), max(high[name], most)
                samples[name].append(np.asarray(outputs[f"{_PREFIX}_sample_{index}"]).reshape(-1))
    return {name: _extremes(low[name], high[name], samples[name]) for name in names}


def _extremes(low: float, high: float, parts: Sequence[Array]) -> Extremes:
    return Extremes(low, high, _thinned(parts)) if low <= high else Extremes(0.0, 0.0, np.zeros(0, np.float32))


def _thinned(parts: Sequence[Array]) -> Array:
    """All parts as one, what is finite of them, with every n-th value where they are many."""
    whole = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    whole = whole[np.isfinite(whole)]
    return whole[:: max(1, whole.size // _KEPT)].astype(np.float32)


def _counted(graph: onnx.GraphProto, name: str, index: int, rank: int, mask: str | None) -> dict[str, str]:
    """The names of copies of a value to watch, by figure: what is hidden by the mask makes no difference to it."""
    if mask is None or rank < _MASKED_RANK:
        return dict.fromkeys((*_FIGURES, "sample"), name)
    copy = masked(name, rank, mask, f"{_PREFIX}_mask_{index}")
    graph.node.extend(copy.nodes)
    graph.initializer.extend(copy.constants)
    counted = {"nan": copy.value}
    for word, filling in (("low", math.inf), ("high", -math.inf), ("sample", math.nan)):
        constant, counted[word] = f"{_PREFIX}_{word}_filling_{index}", f"{_PREFIX}_{word}_seen_{index}"
        graph.initializer.append(numpy_helper.from_array(np.array(filling, np.float32), constant))
        graph.node.append(helper.make_node("Where", [copy.kept, name, constant], [counted[word]]))
    return counted


def _watch(graph: onnx.GraphProto, counted: Mapping[str, str], index: int, shape: tuple[int, ...], kept: int) -> None:
    def value(word: str) -> str:
        return f"{_PREFIX}_{word}_{index}"

    def output(word: str, kind: int = onnx.TensorProto.FLOAT) -> None:
        graph.output.append(helper.make_tensor_value_info(value(word), kind, None))

    graph.node.append(helper.make_node("IsNaN", [counted["nan"]], [value("is")]))
    graph.node.append(helper.make_node("Cast", [value("is")], [value("are")], to=onnx.TensorProto.UINT8))
    for op, source, word in (
        ("ReduceMin", counted["low"], "low"),
        ("ReduceMax", counted["high"], "high"),
        ("ReduceMax", value("are"), "nan"),
    ):
        graph.node.append(helper.make_node(op, [source], [value(word)], keepdims=0))
        output(word, onnx.TensorProto.UINT8 if word == "nan" else onnx.TensorProto.FLOAT)
    rest = math.prod(shape[1:])
    step = max(1, rest * shape[0] // kept) if shape else 1
    step += step % 2 == 0 and step > 1  # odd, so that it does not fall in step with sizes that are powers of two
    flat = value("flat")
    graph.node.append(helper.make_node("Flatten", [counted["sample"]], [flat], axis=1 if len(shape) > 1 else 0))
    bounds = {"starts": [0], "ends": [2**31 - 1], "axes": [1], "steps": [step]}
    for word, numbers in bounds.items():
        graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), value(word)))
    graph.node.append(helper.make_node("Slice", [flat, *(value(w) for w in bounds)], [value("sample")]))
    output("sample")
