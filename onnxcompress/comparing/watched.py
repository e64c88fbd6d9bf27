"""A model that gives some of its inner values as outputs, besides its own.

It is optimized as for use, but ONNX Runtime fuses nothing across a value that is watched: a product and the activation
behind it, say, or an operator on static integers. So only a few values are watched at a time, and those far apart.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx import helper

from onnxcompress.graph import writer
from onnxcompress.runtime.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxcompress.comparing.matching import Pair
    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.model import Model
    from onnxcompress.runtime.session import Device

_PREFIX = "onnxcompress_watched_"


class Watched:
    """A session that gives values by their names.

    Raises:
        RuntimeFailure: the model does not load with these values as outputs.
    """

    def __init__(self, model: Model, names: Sequence[str], device: Device, threads: int | None) -> None:
        twin = model.copy()
        given = {output.name for output in twin.proto.graph.output}
        twin.proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in dict.fromkeys(names) if n not in given)
        self._session = session_of(twin, device, threads)

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """The watched values and the outputs of one call."""
        return self._session.run(feeds)


def session_of(model: Model, device: Device, threads: int | None) -> Session:
    """A model in memory, loaded."""
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        path = Path(folder) / "watched.onnx"
        writer.save(model, path, durable=False)
        return Session(path, device, threads)


def with_codes(model: Model, pairs: Sequence[Pair]) -> tuple[Model, dict[str, str]]:
    """The second model with values beside the integers of pairs, and the name to watch for each pair by its first."""
    twin, names = model.copy(), {}
    for pair in pairs:
        names[pair.a] = pair.b
        if pair.codes is not None:
            names[pair.a] = _PREFIX + pair.b
            twin.proto.graph.node.append(helper.make_node("DequantizeLinear", [pair.b, *pair.codes], [names[pair.a]]))
    return twin, names
