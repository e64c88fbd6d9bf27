"""Where the time of a call goes in both models, layer by layer, by the profiler of the runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.report import LayerTime
from onnxcompress.runtime.layer_times import by_layer
from onnxcompress.runtime.profiling import profiled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnx

    from onnxcompress.runtime.session import Device, Feeds

_SECONDS = 0.5  # for each model
_MOST = 400  # layers that are told


def layer_times(
    paths: Sequence[Path], graphs: Sequence[onnx.GraphProto], feeds: Sequence[Feeds], device: Device, threads: int
) -> tuple[LayerTime, ...]:
    """The layers of an original and of a compressed model, the slowest first.

    The profiler takes time at every node itself, so shares say more than totals. Layers are matched by name.

    Raises:
        RuntimeFailure: a model does not run.
    """
    both = [
        {share.name: share for share in by_layer(profiled(path, feeds, device, threads, _SECONDS).nodes, graph)}
        for path, graph in zip(paths, graphs, strict=True)
    ]
    found = []
    for name in dict.fromkeys([*both[0], *both[1]]):
        one, two = both[0].get(name), both[1].get(name)
        ops = tuple(dict.fromkeys([*(one.ops if one else ()), *(two.ops if two else ())]))
        times = (None if share is None else round(share.ms, 6) for share in (one, two))
        found.append(LayerTime(name, ops, *times))
    found.sort(key=lambda t: -max(t.original_ms or 0, t.compressed_ms or 0))
    return tuple(found[:_MOST])
