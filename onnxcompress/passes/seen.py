"""What the layers that read channels see: one call to try things on, Gram matrices, and mean squares of features."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from onnxcompress.errors import DataError, RuntimeFailure
from onnxcompress.graph import multiply_adds
from onnxcompress.passes.consumers import watchable
from onnxcompress.passes.watching import counted
from onnxcompress.stats.activations import observe
from onnxcompress.stats.removal_check import made_up

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.channel_world import World
    from onnxcompress.graph.model import Model
    from onnxcompress.passes.base import Context
    from onnxcompress.passes.consumers import Consumer
    from onnxcompress.stats.archive import Archive


def threads_of(context: Context) -> int | None:
    """Threads of the runtime."""
    return None if context.probe is None else context.probe.threads


def one_call(model: Model, context: Context) -> Feeds | None:
    """The first call of the data, or one that is made up; None where the model runs on nothing."""
    if context.probe is not None:
        return context.probe.data.first()
    try:
        return made_up(model, context.seed)
    except (DataError, RuntimeFailure) as error:
        context.notes.append(f"channels were chosen without running the model: {error.message}")
        return None


def shapes(world: World, feeds: Feeds | None, context: Context) -> dict[str, tuple[int, ...]]:
    """Shapes of what layers work on in a call; nothing where the model does not run."""
    if feeds is None:
        return {}
    try:
        names = multiply_adds.watched(world)
        seen = observe(world.model, names, [feeds], noise=False, threads=threads_of(context))
    except RuntimeFailure as error:
        context.notes.append(f"weights were counted in place of multiply-adds: {error.message}")
        return {}
    return {name: value.shapes[0] for name, value in seen.items()}


def archive_of(model: Model, own: Sequence[Consumer], context: Context) -> Archive | None:
    """Gram matrices of what consumers see, where there are data and the model runs on them.

    Raises:
        DataError: a value is not finite on the data.
    """
    nodes = {node.output[0]: node for consumer in own if watchable(consumer) for node in consumer.nodes}
    if context.probe is None:
        context.notes.append("no data: channels went by the weights that read them, and nothing took over; give --data")
    if context.probe is None or not nodes:
        return None
    try:
        found = context.probe.archive(model, list(nodes.values()))
    except RuntimeFailure as error:
        context.notes.append(f"channels were removed without data, as layers could not be watched: {error.message}")
        return None
    for reason in dict.fromkeys(found.left_out.values()):
        names = [name for name, why in found.left_out.items() if why == reason]
        context.notes.append(f"{counted(names)} could not take over what was removed, such as {names[0]}: {reason}")
    return found


def with_powers(own: Sequence[Consumer], archive: Archive | None, context: Context) -> list[Consumer]:
    """The consumers, those without Gram matrices with the mean squares of what they read, where there are data."""
    lacking: dict[str, tuple[int, int]] = {}
    for consumer in own:
        node = consumer.nodes[0]
        known = archive is not None and all(n.output[0] in archive for n in consumer.nodes)
        value = node.input[1 - list(node.input).index(consumer.tensor)]
        shape = consumer.world.shape(value)
        if not known and len(consumer.nodes) == 1 and shape is not None:
            lacking[value] = len(shape), _feature_axis(consumer, len(shape))
    if context.probe is None or not lacking:
        return list(own)
    try:
        found = context.probe.features(own[0].world.model, lacking)
    except (DataError, RuntimeFailure) as error:
        context.notes.append(f"features of {counted(list(lacking))} were not watched: {error.message}")
        return list(own)
    return [_with(consumer, {name: f.square for name, f in found.items()}) for consumer in own]


def _feature_axis(consumer: Consumer, rank: int) -> int:
    node = consumer.nodes[0]
    if node.op_type.startswith("Conv"):
        return 1
    left = node.input[0] == consumer.tensor
    transposed = node.op_type == "Gemm" and any(
        a.name == ("transB" if left else "transA") and a.i for a in node.attribute
    )
    return rank - 2 if left != transposed else rank - 1


def _with(consumer: Consumer, squares: Mapping[str, np.ndarray]) -> Consumer:
    node = consumer.nodes[0]
    value = node.input[1 - list(node.input).index(consumer.tensor)]
    return replace(consumer, powers=squares[value]) if value in squares and len(consumer.nodes) == 1 else consumer
