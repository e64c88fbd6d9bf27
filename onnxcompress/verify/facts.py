"""Facts of one model file: size and hash with its external data, parameters, opset."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnxcompress.graph.model import Model
from onnxcompress.graph.payload import FileRange, element_count
from onnxcompress.report import ModelFacts

if TYPE_CHECKING:
    from pathlib import Path

_BLOCK = 1 << 20
_NO_WEIGHTS = {
    onnx.TensorProto.INT64,
    onnx.TensorProto.BOOL,
    onnx.TensorProto.STRING,
}  # shapes, indices, words


def model_facts(
    source: Path | Model, *, macs: int | None = None, nonzero: bool = False, parameters: int | None = None
) -> ModelFacts:
    """The facts of a model as it lies on disk.

    Args:
        source: the file, or a model opened from it.
        macs: multiply-adds per call, if they are known.
        nonzero: count the parameters that are not zero, which reads all of them.
        parameters: their number, where it is not that of the stored values (packed or encoded weights).

    Raises:
        ModelError: the file is no usable model.
    """
    model = source if isinstance(source, Model) else Model.open(source)
    files = model_files(model)
    return ModelFacts(
        path=str(files[0]),
        sha256=_sha256(files),
        size_bytes=sum(file.stat().st_size for file in files),
        parameters=count_parameters(model) if parameters is None else parameters,
        nonzero=_count_nonzero(model) if nonzero else None,
        macs=macs,
        opset=model.opset,
    )


def model_files(model: Model) -> list[Path]:
    """The file of a model, then those of its external data by name."""
    if model.path is None:
        return []
    payloads = (model.payload(t) for t in model.tensors())
    return [model.path, *sorted({p.path for p in payloads if isinstance(p, FileRange)} - {model.path})]


def size_bytes(model: Model) -> int:
    """Bytes on disk, external data included."""
    return sum(file.stat().st_size for file in model_files(model))


def count_parameters(model: Model) -> int:
    """Values stored in the model's tensors, without those that are shapes, indices or words."""
    return sum(element_count(list(t.dims)) for t in model.tensors() if t.data_type not in _NO_WEIGHTS)


def _count_nonzero(model: Model) -> int:
    return sum(int(np.count_nonzero(model.array(t))) for t in model.tensors() if t.data_type not in _NO_WEIGHTS)


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()
