"""How often each row of a table is looked up: what an embedding sees.

The Gram matrix of one-hot inputs is diagonal and holds nothing but these counts. Rows that were never looked up on a
few calls will be on others, so one is added to each count (Laplace's rule of succession). Padded positions are left
out.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from onnxcompress.graph import writer
from onnxcompress.graph.dead import remove_dead
from onnxcompress.runtime.session import Session
from onnxcompress.stats.masks import kept_positions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.model import Model

Array = np.ndarray
_PREFIX = "onnxcompress_lookup"


def lookups(
    model: Model, indices: Mapping[str, int], calls: Iterable[Feeds], *, threads: int | None = None
) -> dict[str, Array]:
    """Run the model and count what is looked up.

    Args:
        model: the model as it is.
        indices: integer values of the main graph, inputs among them, with the number of rows that they choose from.
        calls: inputs, read one at a time.
        threads: threads of the runtime.

    Returns:
        For each of them counts (rows,), float64, at least one.

    Raises:
        RuntimeFailure: ONNX Runtime cannot load or run the model.
    """
    if not indices:
        return {}
    twin = model.copy()
    del twin.proto.graph.output[:]
    names = {name: f"{_PREFIX}_{i}" for i, name in enumerate(indices)}
    for name, output in names.items():
        twin.proto.graph.node.append(helper.make_node("Cast", [name], [output], to=onnx.TensorProto.INT64))
        twin.proto.graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.INT64, None))
    remove_dead(twin.proto)
    counts = {name: np.ones(rows) for name, rows in indices.items()}
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        path = Path(folder) / "lookups.onnx"
        writer.save(twin, path, durable=False)
        session = Session(path, threads=threads)
        for feeds in calls:
            outputs = session.run(feeds)
            keep = kept_positions(feeds)
            for name, rows in indices.items():
                seen = np.asarray(outputs[names[name]])
                seen = seen[keep] if keep is not None and seen.shape == keep.shape else seen.ravel()
                counts[name] += np.bincount(np.where(seen < 0, seen + rows, seen).ravel(), minlength=rows)[:rows]
    return counts
