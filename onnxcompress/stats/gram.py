"""What layers see, summed up: the Gram matrix of their inputs, taken while the model runs.

    H = E[x xᵀ],   mean = E[x],   over all positions: rows of a product, windows of a convolution

Products are computed by nodes that are added to the model. Of each call there leaves the runtime whichever is smaller,
Σ x xᵀ or the columns x themselves; sums are float64. Layers whose matrices do not fit in memory together are visited in
several passes over the data. Padding does not count where the model takes a mask.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxcompress.errors import DataError
from onnxcompress.graph import writer
from onnxcompress.graph.dead import remove_dead
from onnxcompress.progress import Progress, Silent
from onnxcompress.runtime.session import Session
from onnxcompress.stats import unrolled
from onnxcompress.stats.masks import masked, padding_mask
from onnxcompress.stats.tally import Gram, Tally
from onnxcompress.stats.views import View, views

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.model import Model

Array = np.ndarray
_PREFIX = "onnxcompress_gram"
_AXES_INPUT = 13  # opset in which ReduceSum takes its axes as an input
_SILENT = Silent()


@dataclass(frozen=True)
class Grams:
    """Gram matrices by the first output of the layer's node; layers with one view share theirs.

    ``left_out`` says why for other layers; ``passes`` is how often the data were read.
    """

    layers: Mapping[str, Gram]
    left_out: Mapping[str, str]
    passes: int

    @property
    def dead(self) -> tuple[str, ...]:
        """Layers that saw nothing but zeros."""
        return tuple(name for name, gram in self.layers.items() if not gram.matrix.any())


def grams(
    model: Model,
    nodes: Sequence[onnx.NodeProto],
    calls: Iterable[Feeds],
    *,
    threads: int | None = None,
    max_memory: int = 1 << 30,
    progress: Progress = _SILENT,
) -> Grams:
    """Run the model and sum up what layers see.

    Args:
        model: the model, from opset 7.
        nodes: layers of its main graph: MatMul and Gemm with a constant right-hand side, and Conv.
        calls: inputs, read one at a time and several times.
        threads: threads of the runtime.
        max_memory: bytes that the matrices of a pass may take; the result itself is 8 · groups · in² for each view.
        progress: told of each call.

    Raises:
        DataError: there are no calls, or a layer sees NaN, infinity, or values whose squares are.
        RuntimeFailure: ONNX Runtime cannot load or run the model.
    """
    seen, left_out = views(model, nodes, calls, threads)
    large = [view for view in seen if view.nbytes > max_memory]
    for view in large:
        reason = f"its Gram matrix takes {view.nbytes / 1e6:.0f} MB of memory, {max_memory / 1e6:.0f} are allowed"
        left_out |= dict.fromkeys(view.layers, reason)
    plan = passes([view for view in seen if view not in large], max_memory)
    length = len(calls) * len(plan) if isinstance(calls, Sized) else None
    layers: dict[str, Gram] = {}
    if plan:
        progress.start("measuring what layers see", length)
        for part in plan:
            for view, tally in zip(part, _visit(model, part, calls, threads, progress), strict=True):
                layers |= dict.fromkeys(view.layers, _moderate(view, tally.gram()))
        progress.finish()
    order = [name for node in nodes if (name := node.output[0]) in layers]
    return Grams({name: layers[name] for name in order}, left_out, len(plan))


def passes(seen: Sequence[View], max_memory: int) -> list[list[View]]:
    """Views in groups that fit in memory together, in their order."""
    plan: list[list[View]] = []
    for view in seen:
        part = [*plan[-1], view] if plan else [view]
        if plan and sum(v.nbytes for v in part) + max(v.scratch for v in part) <= max_memory:
            plan[-1] = part
        else:
            plan.append([view])
    return plan


def _visit(
    model: Model, part: Sequence[View], calls: Iterable[Feeds], threads: int | None, progress: Progress
) -> list[Tally]:
    twin = model.copy()
    graph = _Watched(twin, padding_mask(model))
    for index, view in enumerate(part):
        graph.watch(view, f"{_PREFIX}_{index}")
    remove_dead(twin.proto)
    tallies = [Tally(view.groups, view.inputs) for view in part]
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        path = Path(folder) / "gram.onnx"
        writer.save(twin, path, durable=False)
        session = Session(path, threads=threads)
        for number, feeds in enumerate(calls):
            outputs = session.run(feeds)
            for index, (view, tally) in enumerate(zip(part, tallies, strict=True)):
                _count(view, tally, {w: outputs.get(f"{_PREFIX}_{index}_{w}") for w in _WORDS}, number)
            progress.advance("")
    return tallies


# ------------------------------------------------------------------------- sums of a call

_WORDS = ("seen", "product", "total", "shape", "mask_count")


def _count(view: View, tally: Tally, found: Mapping[str, Array | None], number: int) -> None:
    """Add what came of one call."""
    seen, product, total, shape, counted = (found[word] for word in _WORDS)
    if seen is not None:
        columns = seen.T[np.newaxis] if view.window is None else seen
        with np.errstate(invalid="ignore"):  # infinities of both signs
            total = columns.sum(axis=2, dtype=np.float64)
        positions = columns.shape[2]
        _require_finite(view, total, number)
        tally.add_columns(columns, total, positions if counted is None else int(counted))
    if product is not None and total is not None and shape is not None:
        positions = int(shape[0 if view.window is None else 2])
        _require_finite(view, total, number)
        tally.add_product(product, total, positions if counted is None else int(counted))


def _require_finite(view: View, numbers: Array, call: int) -> None:
    if not np.isfinite(numbers).all():
        raise DataError(
            f"the value {view.value!r} that the layer {view.layers[0]!r} reads is NaN or infinite in sample {call}",
            "Leave that sample out, or mend the model.",
        )


def _moderate(view: View, gram: Gram) -> Gram:
    """The same, if squares did not overflow."""
    if not np.isfinite(np.diagonal(gram.matrix, axis1=-2, axis2=-1)).all():
        raise DataError(
            f"the value {view.value!r} that the layer {view.layers[0]!r} reads is too large to be squared",
            "Mend the model, or leave that layer out.",
        )
    return gram


# ------------------------------------------------------------------------- nodes


class _Watched:
    """A model whose outputs are what is measured, and nothing else."""

    def __init__(self, twin: Model, mask: str | None) -> None:
        self._graph = twin.proto.graph
        self._opset = twin.opset
        self._mask = mask
        del self._graph.output[:]

    def watch(self, view: View, prefix: str) -> None:
        """Add the nodes of one view."""
        self._add("Cast", [view.value], f"{prefix}_float", to=onnx.TensorProto.FLOAT)
        seen = self._rows(view, prefix) if view.window is None else self._columns(view.window, prefix)
        self._add("Identity", [seen], f"{prefix}_seen")
        if view.wide:
            self._output(f"{prefix}_seen", onnx.TensorProto.FLOAT)
            return
        rows = view.window is None
        self._add("Transpose", [f"{prefix}_seen"], f"{prefix}_turned_over", perm=[1, 0] if rows else [0, 2, 1])
        pair = [f"{prefix}_seen", f"{prefix}_turned_over"]
        self._add("MatMul", pair[::-1] if rows else pair, f"{prefix}_product")
        self._sum(f"{prefix}_seen", 0 if rows else 2, f"{prefix}_total")
        self._add("Shape", [f"{prefix}_seen"], f"{prefix}_shape")
        self._output(f"{prefix}_product", onnx.TensorProto.FLOAT)
        self._output(f"{prefix}_total", onnx.TensorProto.FLOAT)
        self._output(f"{prefix}_shape", onnx.TensorProto.INT64)

    def _rows(self, view: View, prefix: str) -> str:
        """(positions, in), those that are padding zero."""
        value = f"{prefix}_float"
        if self._mask is not None and view.rank == 3:
            copy = masked(value, view.rank, self._mask, f"{prefix}_mask")
            self._graph.node.extend(copy.nodes)
            self._graph.initializer.extend(copy.constants)
            self._output(copy.count, onnx.TensorProto.INT64)
            value = copy.value
        self._add("Flatten", [value], f"{prefix}_rows", axis=view.rank - 1)
        return f"{prefix}_rows"

    def _columns(self, window: unrolled.Window, prefix: str) -> str:
        """(groups, in, positions)."""
        nodes, constants, last = unrolled.nodes(f"{prefix}_float", window, f"{prefix}_window")
        self._graph.node.extend(nodes)
        self._graph.initializer.extend(constants)
        return last

    def _sum(self, value: str, axis: int, output: str) -> None:
        if self._opset < _AXES_INPUT:
            self._add("ReduceSum", [value], output, axes=[axis], keepdims=0)
            return
        axes = numpy_helper.from_array(np.array([axis], np.int64), f"{output}_axes")
        self._graph.initializer.append(axes)
        self._add("ReduceSum", [value, axes.name], output, keepdims=0)

    def _add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._graph.node.append(helper.make_node(op, inputs, [output], name=f"{output}_node", **attributes))

    def _output(self, name: str, kind: int) -> None:
        self._graph.output.append(helper.make_tensor_value_info(name, kind, None))
