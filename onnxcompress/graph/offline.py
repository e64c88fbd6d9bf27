"""ONNX Runtime's BASIC graph optimizations, written out as a model again.

BASIC keeps to what any runtime understands: it folds constant expressions, fuses chains of shape arithmetic,
merges common subexpressions. What it does to the rest of the model is undone (`restore`, `half_casts`), and
large tensors do not pass through it at all (`riders`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from onnxcompress.graph import writer
from onnxcompress.graph.expansions import collapse
from onnxcompress.graph.half_casts import remove_inserted_casts
from onnxcompress.graph.interface import interface
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.restore import restore
from onnxcompress.graph.riders import Riders, put_back, take_out
from onnxcompress.runtime.session import Session

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy as np
    import onnx

FOLDING = "ConstantFolding"
_ELSEWHERE = ("SliceConcatToSpaceToDepthFusion",)  # adds a table of channels, and the runtime does it at load anyway


class NotOptimized(Exception):
    """There is no optimized model; the message says why."""


def optimized(model: Model, *, through: int, disabled: Collection[str] = ()) -> Model:
    """The model as ONNX Runtime rewrites it, leaving out the optimizations named.

    Tensors of up to ``through`` bytes are known to it; larger ones ride along if it gains nothing from them.

    Raises:
        NotOptimized: its tensors cannot be kept out of memory, or the result has other inputs or outputs.
        RuntimeFailure: ONNX Runtime does not load the model.
    """
    if model.proto.graph.sparse_initializer:
        raise NotOptimized("it has sparse tensors, which ONNX Runtime would store densely")
    riders = take_out(model, through)
    if riders is None:
        raise NotOptimized("it has large tensors that cannot be kept out of the optimizer's memory")
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        source, target = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        writer.save(riders.model, source, durable=False)
        Session(source, threads=1, level="basic", optimized_path=target, disabled=(*disabled, *_ELSEWHERE))
        result = _adopted(riders, Model.open(target))
    if _names(result.proto) != _names(riders.model.proto):
        raise NotOptimized("ONNX Runtime changed its inputs or outputs")
    remove_inserted_casts(result.proto)
    if not collapse(result.proto, riders.model.proto):
        raise NotOptimized("ONNX Runtime wrote out operators that it has no kernel for")
    put_back(result.proto, riders)
    restore(result.proto, model.proto)
    return result


def _names(proto: onnx.ModelProto) -> tuple[tuple[str, ...], tuple[str, ...]]:
    ports = interface(proto)
    return tuple(i.name for i in ports.inputs), tuple(o.name for o in ports.outputs)


def _adopted(riders: Riders, written: Model) -> Model:
    """The written structure with values that outlive its file: the original's where they are the same."""
    result = riders.model.copy()
    known = {t.name: t for t in result.proto.graph.initializer}
    values = [(t, written.array(t)) for t in written.tensors() if not written.has_data(t)]
    result.adopt(written.proto)
    for tensor, array in values:
        same = known.get(tensor.name)
        if same is not None and not result.has_data(same) and _equal(result, same, tensor, array):
            result.share(tensor, same)
        else:
            result.set_array(tensor, array)
    return result


def _equal(model: Model, known: Tensor, tensor: Tensor, array: np.ndarray) -> bool:
    """True where the known tensor has the type, the shape and bit for bit the values."""
    if known.data_type != tensor.data_type or known.dims != tensor.dims:
        return False
    return bool(model.array(known).tobytes() == array.tobytes())
