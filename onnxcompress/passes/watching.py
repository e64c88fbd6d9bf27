"""What layers see, measured for the weights that a pass is about, with what there is to say of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.errors import RuntimeFailure
from onnxcompress.graph.layers import Weight, is_layer
from onnxcompress.passes.rounding import Rounding, layers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onnxcompress.graph.model import Model
    from onnxcompress.graph.scopes import Scope
    from onnxcompress.passes.base import Context
    from onnxcompress.stats.archive import Archive


def watched(model: Model, context: Context, found: Sequence[Weight], main: Scope, *, learn: bool) -> Rounding | None:
    """What the layers see that read these weights, where the model can be run on real data; None where it cannot.

    Args:
        model: the model as it is.
        context: what is known of it; it gets notes.
        found: the weights.
        main: the main graph.
        learn: whether rounding is to be learned.

    Raises:
        DataError: a value is not finite on the data.
    """
    nodes = layers([w for w in found if is_layer_of(w)], main) if context.probe is not None else []
    if context.probe is None or not nodes:
        return None
    try:
        archive = context.probe.archive(model, nodes)
    except RuntimeFailure as error:
        context.notes.append(f"weights were compressed without data, as layers could not be watched: {error.message}")
        return None
    context.notes.extend(_told(archive))
    return Rounding(archive, learn)


def is_layer_of(weight: Weight) -> bool:
    """True for a weight of a layer that callers cannot replace."""
    return not weight.overridable and any(is_layer(leaf) for leaf in weight.leaves)


def _told(archive: Archive) -> Iterator[str]:
    """What there is to say about what layers see."""
    if archive.passes > 1:
        yield f"what layers see was measured in {archive.passes} passes over the data, to stay within --max-memory"
    if archive.dead:
        shown = ", ".join(archive.dead[:3]) + (", ..." if len(archive.dead) > 3 else "")
        yield f"the data never exercise {counted(archive.dead)}, whose weights are compressed without: {shown}"
    for reason, names in _by_reason(archive.left_out).items():
        yield f"weights of {counted(names)} are compressed without data, such as {names[0]}: {reason}"


def counted(names: Sequence[str]) -> str:
    """So many layers, in words."""
    return "1 layer" if len(names) == 1 else f"{len(names)} layers"


def _by_reason(left_out: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        found.setdefault(reason, []).append(name)
    return found
