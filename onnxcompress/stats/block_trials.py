"""What the outputs lose without residual blocks, and what should stand in for them.

In a twin of the model each sum y = x + f(x) that may go becomes Where(switch, a x + c, y), with the switch, a and c as
inputs. So any set of blocks is one run of a session that is loaded once.

What stands in is the best of its kind, channel by channel, by least squares against the y of the whole model, on the x
that is left once the blocks before it are gone:

    a = cov(x', y) / var(x'),   c = E[y] − a E[x'].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from onnxcompress.graph.residual_blocks import Bridge
from onnxcompress.stats.masks import kept_positions
from onnxcompress.stats.output_noise import OutputNoise
from onnxcompress.stats.removal_check import loaded
from onnxcompress.stats.scores import producers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.model import Model
    from onnxcompress.graph.residual_blocks import Block

Array = np.ndarray
_PREFIX = "onnxcompress_block"
_LEAST_GAIN = 1e-3  # of the variance, below which a scale of one is as good


@dataclass
class _Sums:
    """Per channel: Σx, Σy, Σx², Σxy, and how many positions."""

    x: Array
    y: Array
    xx: Array
    xy: Array
    count: int = 0


class BlockTrials:
    """The model with any of its residual blocks switched off.

    Args:
        model: the model, from opset 9.
        blocks: those that may go.
        calls: inputs, all of them in memory; on the first ones of them outputs are compared.
        compared: on how many.
        threads: threads of the runtime.

    Raises:
        RuntimeFailure: the model does not load or run so.
    """

    def __init__(
        self, model: Model, blocks: Sequence[Block], calls: Sequence[Feeds], compared: int, threads: int | None
    ) -> None:
        self._blocks = list(blocks)
        self._channels: dict[str, int] = {}
        twin = model.copy()
        self._outputs = [o.name for o in twin.proto.graph.output]
        for index, block in enumerate(self._blocks):
            _switched(twin.proto.graph, block, index)
        self._session = loaded(twin, threads)
        self._calls = list(calls)
        self._compared = self._calls[:compared]
        first = [self._run(feeds, {}) for feeds in self._compared]
        for index, block in enumerate(self._blocks):
            self._channels[block.output] = first[0][f"{_PREFIX}_x_{index}"].shape[block.axis]
        expected = [self._floats(outputs) for outputs in first]
        self._noise = OutputNoise(self._compared, expected, producers(model.proto.graph))

    def noise(self, bridges: Mapping[Block, Bridge]) -> float:
        """Noise-to-signal ratio at the worst output without these blocks."""
        return self._noise.ratio(self._floats(self._run(feeds, bridges)) for feeds in self._compared)

    def outputs(self, feeds: Feeds, bridges: Mapping[Block, Bridge]) -> dict[str, Array]:
        """The outputs of the model without these blocks."""
        made = self._run(feeds, bridges)
        return {name: made[name] for name in self._outputs if name in made}

    def alone(self) -> dict[Block, Bridge]:
        """What should stand in for each block if it was the only one to go, from one pass over the calls."""
        totals: dict[Block, _Sums] = {}
        for feeds in self._calls:
            whole = self._run(feeds, {})
            for index, block in enumerate(self._blocks):
                x, y = (whole[f"{_PREFIX}_{word}_{index}"] for word in ("x", "y"))
                totals[block] = _added(totals.get(block), x, y, block.axis, kept_positions(feeds))
        return {block: _solved(total) if total.count else Bridge() for block, total in totals.items()}

    def bridged(self, gone: Iterable[Block]) -> dict[Block, Bridge]:
        """What should stand in for each of these blocks, found one after the other in the order of the model."""
        wanted = set(gone)
        found: dict[Block, Bridge] = {}
        for block in self._blocks:
            if block in wanted:
                found[block] = self._bridge(block, found)
        return found

    def _bridge(self, block: Block, before: Mapping[Block, Bridge]) -> Bridge:
        index = self._blocks.index(block)
        total: _Sums | None = None
        for feeds in self._calls:
            whole = self._run(feeds, {})
            x = (whole if not before else self._run(feeds, before))[f"{_PREFIX}_x_{index}"]
            total = _added(total, x, whole[f"{_PREFIX}_y_{index}"], block.axis, kept_positions(feeds))
        return Bridge() if total is None or not total.count else _solved(total)

    def _run(self, feeds: Feeds, bridges: Mapping[Block, Bridge]) -> dict[str, Array]:
        given: dict[str, Array] = dict(feeds)
        for index, block in enumerate(self._blocks):
            bridge = bridges.get(block, Bridge())
            shape = (-1, *[1] * (-1 - block.axis))
            channels = self._channels.get(block.output, 1)
            given[f"{_PREFIX}_on_{index}"] = np.array(block in bridges)
            for word, values, missing in (("a", bridge.scale, 1), ("c", bridge.shift, 0)):
                full = np.full(channels, missing, np.float32) if values is None else values
                given[f"{_PREFIX}_{word}_{index}"] = full.reshape(shape)
        return {name: y for name, y in self._session.run(given).items() if isinstance(y, np.ndarray)}

    def _floats(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        return {name: outputs[name] for name in self._outputs if name in outputs and outputs[name].dtype.kind == "f"}


def _switched(graph: onnx.GraphProto, block: Block, index: int) -> None:
    def value(word: str) -> str:
        return f"{_PREFIX}_{word}_{index}"

    shape = [None] + [1] * (-1 - block.axis)
    graph.input.append(helper.make_tensor_value_info(value("on"), onnx.TensorProto.BOOL, []))
    for word in ("a", "c"):
        graph.input.append(helper.make_tensor_value_info(value(word), onnx.TensorProto.FLOAT, shape))
    place, node = next((i, n) for i, n in enumerate(graph.node) if n.output[:1] == [block.output])
    node.output[0] = value("y")
    nodes = [
        helper.make_node("Identity", [block.shortcut], [value("x")]),
        helper.make_node("Mul", [value("x"), value("a")], [value("scaled")]),
        helper.make_node("Add", [value("scaled"), value("c")], [value("bridge")]),
        helper.make_node("Where", [value("on"), value("bridge"), value("y")], [block.output]),
    ]
    for offset, one in enumerate(nodes):
        graph.node.insert(place + 1 + offset, one)
    for word in ("x", "y"):
        graph.output.append(helper.make_tensor_value_info(value(word), onnx.TensorProto.FLOAT, None))


def _added(total: _Sums | None, x: Array, y: Array, axis: int, keep: Array | None) -> _Sums:
    if keep is not None and x.shape[:2] == keep.shape and axis == -1:
        x, y = x[keep], y[keep]
    rows = [np.moveaxis(v, axis, -1).reshape(-1, v.shape[axis]).astype(np.float64) for v in (x, y)]
    one, two = rows
    sums = [one.sum(0), two.sum(0), np.square(one).sum(0), (one * two).sum(0)]
    if total is None:
        return _Sums(one.sum(0), two.sum(0), sums[2], sums[3], len(one))
    for name, more in zip(("x", "y", "xx", "xy"), sums, strict=True):
        setattr(total, name, getattr(total, name) + more)
    total.count += len(one)
    return total


def _solved(total: _Sums) -> Bridge:
    n = total.count
    mean_x, mean_y = total.x / n, total.y / n
    variance = np.maximum(total.xx / n - np.square(mean_x), 0)
    covariance = total.xy / n - mean_x * mean_y
    steady = variance <= 1e-12 * (np.square(mean_x) + 1e-30)
    a = np.where(steady, 1.0, covariance / np.where(steady, 1.0, variance))
    gain = float((np.square(a - 1) * variance).sum())
    if gain <= _LEAST_GAIN * float(variance.sum()):
        a = np.ones_like(a)
    c = mean_y - a * mean_x
    scale = a.astype(np.float32) if (a != 1).any() else None
    shift = c.astype(np.float32)
    if not all(np.isfinite(v).all() for v in (shift, a)):
        return Bridge()
    return Bridge(scale, shift if shift.any() else None)
