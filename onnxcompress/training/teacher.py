"""The model that is learned from: what it gives, asked once for each call where memory allows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from onnxcompress.errors import RuntimeFailure
from onnxcompress.graph import writer
from onnxcompress.graph.dead import remove_dead
from onnxcompress.runtime.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.model import Model
    from onnxcompress.training.batches import Part

Arrays = dict[str, np.ndarray]
MEMORY = 1 << 28  # bytes of answers that are kept
_ALIKE = 1e-3  # of the largest value: what sums in another order may be off


class Teacher:
    """A model that answers.

    Args:
        model: not changed.
        values: names of float32 values that are asked for besides the float outputs.
        threads: within an operator.

    Raises:
        RuntimeFailure: the model does not load.
    """

    def __init__(self, model: Model, values: Sequence[str] = (), threads: int | None = None) -> None:
        self.model = model
        self._threads = threads
        floats = [o.name for o in model.proto.graph.output if o.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
        self._names = list(dict.fromkeys([*floats, *values]))
        self._session = session_of(model, self._names, threads)
        self._known: dict[tuple[int, int], Arrays] = {}
        self._bytes = 0

    def run(self, feeds: Feeds) -> Arrays:
        """Its answer to one call."""
        return {name: np.asarray(value) for name, value in self._session.run(feeds).items()}

    def shown(self, calls: Iterable[Feeds], names: Sequence[str]) -> Arrays:
        """Other values, of the first call."""
        return dict(session_of(self.model, names, self._threads).run(next(iter(calls))))

    def answers(self, part: Part, kind: int, *, stacked: bool) -> Arrays:
        """Its answer to the calls of a part, kept for the next time they come; ``kind`` tells datasets apart."""
        keys = [(kind, call) for call in part.calls]
        if all(key in self._known for key in keys):
            kept = [self._known[key] for key in keys]
            return kept[0] if len(kept) == 1 else {name: np.concatenate([k[name] for k in kept]) for name in kept[0]}
        given = self.run(part.feeds)
        if self._bytes <= MEMORY and (stacked or len(keys) == 1):
            for place, key in enumerate(keys):
                cut = {n: np.split(v, len(keys))[place].copy() for n, v in given.items()} if len(keys) > 1 else given
                if key not in self._known:
                    self._known[key] = cut
                    self._bytes += sum(v.nbytes for v in cut.values())
        return given


def session_of(model: Model, names: Sequence[str], threads: int | None = None) -> Session:
    """A session that gives these float32 values.

    Raises:
        RuntimeFailure: the model does not load so.
    """
    twin = model.copy()
    known = {o.name: onnx.ValueInfoProto.FromString(o.SerializeToString()) for o in twin.proto.graph.output}
    del twin.proto.graph.output[:]
    for name in dict.fromkeys(names):
        free = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        twin.proto.graph.output.append(known.get(name, free))
    remove_dead(twin.proto)
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        path = Path(folder) / "model.onnx"
        writer.save(twin, path, durable=False)
        return Session(path, threads=threads)


def stackable(model: Model, calls: Sequence[Feeds], threads: int | None = None) -> bool:
    """Whether calls may be joined on the first axis of all inputs: the outputs are then those of each, joined.

    That is tried on two calls of equal shapes, or on one twice.
    """
    inputs = [i for i in model.proto.graph.input if i.name in calls[0]]
    for value in inputs:
        dims = value.type.tensor_type.shape.dim
        if not dims or dims[0].HasField("dim_value"):
            return False
    floats = [o.name for o in model.proto.graph.output if o.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    session = session_of(model, floats, threads)
    first = calls[0]
    other = next((c for c in calls[1:] if all(c[n].shape == first[n].shape for n in first)), first)
    try:
        joined = session.run({name: np.concatenate([first[name], other[name]]) for name in first})
    except RuntimeFailure:
        return False
    apart = [session.run(first), session.run(other)]
    for name, value in joined.items():
        parts = [np.asarray(a[name]) for a in apart]
        if parts[0].ndim == 0 or value.shape != (2 * len(parts[0]), *parts[0].shape[1:]):
            return False
        expected = np.concatenate(parts)
        if np.abs(value - expected).max(initial=0) > _ALIKE * max(float(np.abs(expected).max(initial=0)), 1e-6):
            return False
    return True
