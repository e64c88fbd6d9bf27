"""What layers of a changed model get, and what they lack of the outputs of the original, call by call.

Both models run on the same calls with the values in question as outputs; sums alone are kept. Every fourth call is
held back, so that what is fitted on the others can be judged.
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
from onnxcompress.graph.dead import remove_dead
from onnxcompress.runtime.session import Session
from onnxcompress.solvers.refitting import Sums
from onnxcompress.stats.masks import kept_positions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.model import Model

Array = np.ndarray
_HELD = 4  # each so many-th call is held back


@dataclass(frozen=True)
class Watched:
    """A linear layer: the value that it ``reads``, the one that it ``gives``, and the ``axis`` of features of both.

    With a ``bias`` a column of ones stands beside what it reads.
    """

    reads: str
    gives: str
    axis: int
    bias: bool


def paired(
    original: Model, changed: Model, layers: Sequence[Watched], calls: Iterable[Feeds], *, threads: int | None = None
) -> dict[str, tuple[Sums, Sums]]:
    """Sums over calls to learn from and over those held back, by what the layer gives; layers of other shapes are out.

    Raises:
        RuntimeFailure: a model does not load or run so.
    """
    expected, got = (_session(m, names, threads) for m, names in (
        (original, [layer.gives for layer in layers]),
        (changed, [name for layer in layers for name in (layer.reads, layer.gives)]),
    ))  # fmt: skip
    found: dict[str, tuple[Sums, Sums]] = {}
    for number, feeds in enumerate(calls):
        wanted, made, keep = expected.run(feeds), got.run(feeds), kept_positions(feeds)
        for layer in layers:
            if wanted[layer.gives].shape != made[layer.gives].shape:
                continue
            z = _rows(made[layer.reads], layer.axis, keep)
            r = _rows(wanted[layer.gives], layer.axis, keep) - _rows(made[layer.gives], layer.axis, keep)
            if layer.bias:
                z = np.hstack([z, np.ones((len(z), 1), z.dtype)])
            if layer.gives not in found:
                found[layer.gives] = (Sums.none(z.shape[1], r.shape[1]), Sums.none(z.shape[1], r.shape[1]))
            found[layer.gives][number % _HELD == _HELD - 1].add(z, r)
    return found


def _rows(value: Array, axis: int, keep: Array | None) -> Array:
    """Positions (n, features); those that a mask hides are left out."""
    if keep is not None and axis == -1 and value.shape[:2] == keep.shape:
        rows: Array = value[keep].reshape(-1, value.shape[-1])
        return rows.astype(np.float64)
    return np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis]).astype(np.float64)


def _session(model: Model, names: Sequence[str], threads: int | None) -> Session:
    twin = model.copy()
    del twin.proto.graph.output[:]
    for name in dict.fromkeys(names):
        twin.proto.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    remove_dead(twin.proto)
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        path = Path(folder) / "model.onnx"
        writer.save(twin, path, durable=False)
        return Session(path, threads=threads)
