"""Which activations one eight-bit pass is enough for, by what it does to the outputs.

Two passes keep whatever outliers an activation has, one pass takes half the time. So all products start with one pass,
and those whose activations lose most for the time that they save get the second one back, until the outputs, computed
with all the others rounded, keep the fidelity that is wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.errors import RuntimeFailure
from onnxcompress.forms.dynamic import MIN_OPSET

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnxcompress.graph.model import Model
    from onnxcompress.passes.base import Context

_FAITHFUL = 1e-4  # noise-to-signal ratio of an activation itself that is not worth a trial
_LARGEST = 1 << 30  # bytes of weights from which a model is too large for trials


def one_pass(model: Model, context: Context, work: Mapping[str, float], allowed: float) -> frozenset[str] | None:
    """The activations that one pass is enough for; None where that could not be measured.

    Args:
        model: the model as it is.
        context: what is known of it.
        work: multiply-adds that read each activation, which are the time that a second pass costs.
        allowed: noise-to-signal ratio that they may leave together at the worst output.
    """
    seen = {name: context.observed[name].noise for name in work if name in context.observed}
    clear = {name for name, noise in seen.items() if noise is not None and noise <= _FAITHFUL}
    doubtful = [name for name, noise in seen.items() if noise is not None and noise > _FAITHFUL]
    if context.probe is None or model.opset < MIN_OPSET or _size(model) > _LARGEST:
        return None
    if not doubtful:
        return frozenset(clear)
    try:
        session = context.probe.whatif(model, [], [], dynamic=doubtful)
    except RuntimeFailure:
        return None
    context.progress.start("measuring which activations need a second pass", len(doubtful))
    loss = {}
    for name in doubtful:
        context.progress.advance(name)
        loss[name] = session.noise({}, {}, dynamic=[name]) / max(work[name], 1.0)
    context.progress.finish()
    ranked = sorted(doubtful, key=lambda name: (loss[name], name))
    few, many = 0, len(ranked)  # the longest beginning that keeps within what is allowed
    while few < many:
        middle = (few + many + 1) // 2
        if session.noise({}, {}, dynamic=ranked[:middle]) <= allowed:
            few = middle
        else:
            many = middle - 1
    return frozenset(clear | set(ranked[:few]))


def _size(model: Model) -> int:
    return sum(model.nbytes(t) for t in model.tensors())
