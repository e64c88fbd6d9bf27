"""Gram matrices of a whole model, in a folder of their own as float32: no more than one need be in memory.

They are measured in portions that fit, stored, and read one at a time when a layer is solved. Where all of them are few
enough they are remembered on disk as well, under the hash of model, data and options.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.graph.scopes import attribute_value
from onnxcompress.graph.scratch import ScratchFolder
from onnxcompress.progress import Progress, Silent
from onnxcompress.stats import cache
from onnxcompress.stats.gram import grams
from onnxcompress.stats.tally import Gram

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

    from onnxcompress.data.dataset import Dataset
    from onnxcompress.graph.model import Model

_REMEMBERED = 1 << 28  # bytes of matrices that are kept for the next run


@dataclass(eq=False)
class Archive:
    """What layers see, by the name of their output. ``left_out``: why the others have nothing."""

    left_out: dict[str, str] = field(default_factory=dict)
    passes: int = 0
    _views: dict[str, tuple[int, np.ndarray, int]] = field(default_factory=dict)
    _shapes: list[tuple[int, ...]] = field(default_factory=list)
    _folder: ScratchFolder = field(default_factory=ScratchFolder)

    def __contains__(self, layer: str) -> bool:
        return layer in self._views

    def gram(self, layer: str) -> Gram:
        """What a layer sees, read from disk."""
        number, mean, positions = self._views[layer]
        matrix = np.fromfile(self._path(number), np.float32).reshape(self._shapes[number])
        return Gram(matrix.astype(np.float64), mean, positions)

    def add(self, found: Mapping[str, Gram]) -> None:
        """Store matrices; layers that share one keep sharing it."""
        numbers: dict[int, int] = {}
        for layer, gram in found.items():
            if id(gram) not in numbers:
                numbers[id(gram)] = len(self._shapes)
                gram.matrix.astype(np.float32).tofile(self._path(len(self._shapes)))
                self._shapes.append(gram.matrix.shape)
            self._views[layer] = (numbers[id(gram)], gram.mean, gram.positions)

    @property
    def dead(self) -> tuple[str, ...]:
        """Layers whose inputs were zero throughout."""
        return tuple(layer for layer in self._views if not np.any(self.gram(layer).matrix))

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything as arrays, to be remembered."""
        kept = {f"matrix {i}": np.fromfile(self._path(i), np.float32).reshape(s) for i, s in enumerate(self._shapes)}
        layers = list(self._views)
        return kept | {f"mean {i}": self._views[layer][1] for i, layer in enumerate(layers)} | {
            "layers": np.array(layers, np.str_),
            "views": np.array([self._views[n][0] for n in layers], np.int64),
            "positions": np.array([self._views[n][2] for n in layers], np.int64),
            "left_out": np.array(list(self.left_out), np.str_),
            "reasons": np.array(list(self.left_out.values()), np.str_),
            "passes": np.array(self.passes, np.int64),
        }  # fmt: skip

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Archive:
        """The inverse of `arrays`."""
        made = cls(
            dict(zip(arrays["left_out"].tolist(), arrays["reasons"].tolist(), strict=True)), int(arrays["passes"])
        )
        for i in range(1 + int(arrays["views"].max(initial=-1))):
            matrix = arrays[f"matrix {i}"]
            matrix.astype(np.float32).tofile(made._path(i))
            made._shapes.append(matrix.shape)
        rows = zip(arrays["layers"].tolist(), arrays["views"].tolist(), arrays["positions"].tolist(), strict=True)
        for i, (layer, number, positions) in enumerate(rows):
            made._views[layer] = (number, arrays[f"mean {i}"], positions)
        return made

    @property
    def nbytes(self) -> int:
        """Bytes of all matrices."""
        return sum(4 * math.prod(shape) for shape in self._shapes)

    def _path(self, number: int) -> Path:
        return self._folder.path / f"{number}.f32"


def collected(
    model: Model, nodes: Sequence[onnx.NodeProto], data: Dataset, identity: str | None, *,
    threads: int | None = None, max_memory: int = 1 << 30, progress: Progress | None = None,
) -> Archive:  # fmt: skip
    """What layers see, measured or remembered.

    Args:
        model: the model as it is.
        nodes: its layers.
        data: the calls to run it on.
        identity: what tells this model from all others; None where nothing is to be remembered.
        threads: threads of the runtime.
        max_memory: bytes for matrices at any time.
        progress: told of each call.

    Raises:
        DataError: a value is not finite.
        RuntimeFailure: the model does not run so.
    """
    names = "\n".join(node.output[0] for node in nodes)
    key = None if identity is None else cache.key_of(identity, data, kind="gram", layers=names, memory=max_memory)
    known = None if key is None else cache.load(key)
    if known is not None:
        return Archive.of(known)
    made = Archive()
    for part in _portions(model, nodes, max_memory // 2):
        found = grams(model, part, data, threads=threads, max_memory=max_memory // 2, progress=progress or Silent())
        made.add(found.layers)
        made.left_out.update(found.left_out)
        made.passes += found.passes
    if key is not None and made.nbytes <= _REMEMBERED:
        cache.store(key, made.arrays())
    return made


def _portions(model: Model, nodes: Sequence[onnx.NodeProto], limit: int) -> list[list[onnx.NodeProto]]:
    """Layers in portions whose matrices, float64, take no more than so many bytes, or one layer."""
    dims = {t.name: tuple(t.dims) for t in model.proto.graph.initializer}
    sizes: dict[str, int] = {}
    portions: list[list[onnx.NodeProto]] = []
    for node in nodes:
        sizes[node.input[0]] = _matrix_bytes(node, dims.get(node.input[1], ()))
        if not portions or sum(sizes.values()) > limit:
            portions.append([])
            sizes = {node.input[0]: sizes[node.input[0]]}
        portions[-1].append(node)
    return portions


def _matrix_bytes(node: onnx.NodeProto, dims: tuple[int, ...]) -> int:
    if node.op_type == "Conv":
        groups: int = attribute_value(node, "group", 1)  # type: ignore[assignment]
        inputs = math.prod(dims[1:])
        return 8 * groups * inputs * inputs
    inputs = int(max(dims[-2:], default=0))
    return 8 * inputs * inputs
