"""What each feature of a value does: least, greatest, mean and mean square, taken while the model runs.

    low = min x,   high = max x,   mean = E[x],   square = E[x²],   over all axes but that of the features

Only vectors (features,) leave the runtime, so memory does not grow with the number of calls; sums are float64 from the
first addition on. Where a padding mask is given, hidden positions do not count.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxcompress.errors import DataError
from onnxcompress.graph import writer
from onnxcompress.graph.dead import remove_dead
from onnxcompress.runtime.session import Session
from onnxcompress.stats.masks import masked

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.model import Model

Array = np.ndarray
_PREFIX = "onnxcompress_features"
_AXES_INPUT = {"ReduceSum": 13}  # opset in which axes became an input; of the others below
_AXES_INPUT_ELSE = 18
_MASKED_RANK = 3  # (batch, sequence, features)
_WORDS = ("low", "high", "total", "square", "shape", "mask_count")


@dataclass(frozen=True)
class Features:
    """Each feature over all calls, (features,) float64 each; ``count``: positions that were seen."""

    low: Array
    high: Array
    mean: Array
    square: Array
    count: int


def features(
    model: Model,
    values: Mapping[str, tuple[int, int]],
    calls: Iterable[Feeds],
    *,
    threads: int | None = None,
    mask: str | None = None,
) -> dict[str, Features]:
    """Run the model and watch the features of float values of its main graph.

    Args:
        model: the model, from opset 7.
        values: the values to watch, each with its number of axes and the axis of its features, which may be negative.
        calls: inputs, read one at a time.
        threads: threads of the runtime.
        mask: the input from `masks.padding_mask`; hidden positions of values (batch, sequence, features) are left
            out. What quantizes a whole tensor on each call sees them all the same.

    Raises:
        DataError: a value is NaN or infinite, or no position was seen.
        RuntimeFailure: ONNX Runtime cannot load or run the model.
    """
    if not values:
        return {}
    twin = model.copy()
    del twin.proto.graph.output[:]
    for index, (name, (rank, axis)) in enumerate(values.items()):
        _Watch(twin, f"{_PREFIX}_{index}").add(name, rank, axis % rank, mask)
    remove_dead(twin.proto)
    tallies = {name: _Tally(name) for name in values}
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        path = Path(folder) / "features.onnx"
        writer.save(twin, path, durable=False)
        session = Session(path, threads=threads)
        for number, feeds in enumerate(calls):
            outputs = session.run(feeds)
            for index, (name, (rank, axis)) in enumerate(values.items()):
                found = {word: outputs.get(f"{_PREFIX}_{index}_{word}") for word in _WORDS}
                tallies[name].add(found, axis % rank, number)
    return {name: tally.features() for name, tally in tallies.items()}


class _Tally:
    """Sums of one value."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._count = 0
        self._sums: dict[str, Array] = {}

    def add(self, found: Mapping[str, Any], axis: int, call: int) -> None:
        """Add what came of one call."""
        shape = found["shape"]
        counted = int(np.prod(np.delete(shape, axis))) if found["mask_count"] is None else int(found["mask_count"])
        if not counted:
            return
        parts = {word: np.asarray(found[word], np.float64) for word in ("low", "high", "total", "square")}
        if not all(np.isfinite(part).all() for part in parts.values()):
            raise DataError(
                f"the value {self._name!r} is NaN or infinite in sample {call}",
                "Leave that sample out, or mend the model.",
            )
        self._count += counted
        for word, part in parts.items():
            join = {"low": np.minimum, "high": np.maximum}.get(word, np.add)
            self._sums[word] = join(self._sums[word], part) if word in self._sums else part

    def features(self) -> Features:
        """What all calls give together."""
        if not self._count:
            raise DataError(f"the value {self._name!r} was not seen in any sample", "Give data that reach it.")
        sums, count = self._sums, self._count
        return Features(sums["low"], sums["high"], sums["total"] / count, sums["square"] / count, count)


class _Watch:
    """Nodes that watch one value."""

    def __init__(self, twin: Model, prefix: str) -> None:
        self._graph, self._opset, self._prefix = twin.proto.graph, twin.opset, prefix

    def add(self, value: str, rank: int, axis: int, mask: str | None) -> None:
        """Add them: `_WORDS` become outputs of the graph."""
        seen = self._node("Cast", [value], "float", to=onnx.TensorProto.FLOAT)
        self._output(self._node("Shape", [seen], "shape"), onnx.TensorProto.INT64)
        ends = {"low": seen, "high": seen}
        if mask is not None and rank == _MASKED_RANK and axis == rank - 1:
            copy = masked(seen, rank, mask, f"{self._prefix}_mask")
            self._graph.node.extend(copy.nodes)
            self._graph.initializer.extend(copy.constants)
            self._output(copy.count, onnx.TensorProto.INT64)
            ends = {w: self._filled(copy.kept, seen, w, f) for w, f in (("low", np.inf), ("high", -np.inf))}
            seen = copy.value
        others = [i for i in range(rank) if i != axis]
        exact = self._node("Cast", [seen], "exact", to=onnx.TensorProto.DOUBLE)
        self._reduce("ReduceMin", ends["low"], "low", others)
        self._reduce("ReduceMax", ends["high"], "high", others)
        self._reduce("ReduceSum", exact, "total", others)
        self._reduce("ReduceSumSquare", exact, "square", others)

    def _filled(self, kept: str, value: str, word: str, filling: float) -> str:
        """The value with a number that does not count where it is hidden."""
        constant = f"{self._prefix}_{word}_filling"
        self._graph.initializer.append(numpy_helper.from_array(np.array(filling, np.float32), constant))
        return self._node("Where", [kept, value, constant], f"{word}_seen")

    def _reduce(self, op: str, value: str, word: str, axes: list[int]) -> None:
        exact = word in ("total", "square")
        kind = onnx.TensorProto.DOUBLE if exact else onnx.TensorProto.FLOAT
        if not axes:
            self._output(self._node("Mul", [value, value], word) if word == "square" else
                         self._node("Identity", [value], word), kind)  # fmt: skip
        elif self._opset < _AXES_INPUT.get(op, _AXES_INPUT_ELSE):
            self._output(self._node(op, [value], word, axes=axes, keepdims=0), kind)
        else:
            constant = f"{self._prefix}_{word}_axes"
            self._graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), constant))
            self._output(self._node(op, [value, constant], word, keepdims=0), kind)

    def _node(self, op: str, inputs: list[str], word: str, **attributes: Any) -> str:
        name = f"{self._prefix}_{word}"
        self._graph.node.append(helper.make_node(op, inputs, [name], name=f"{name}_node", **attributes))
        return name

    def _output(self, name: str, kind: int) -> None:
        self._graph.output.append(helper.make_tensor_value_info(name, kind, None))
