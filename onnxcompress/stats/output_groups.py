"""Groups of channels of the outputs of a model, judged over all calls together.

With one sample in a call, one of many channels is often near zero by chance. It would be a group of its own, whose
noise is large beside nothing. So magnitudes of channels are taken over all calls, and channels of which only a few
values were seen are not told apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.stats.magnitudes import channel_axis, magnitude_groups

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Array = np.ndarray
Groups = tuple[int, list[list[int]]] | None
_FEWEST = 4  # values of a channel


def groups_of(calls: Sequence[Mapping[str, Array]]) -> list[dict[str, Groups]]:
    """For the outputs of each call the axis and the groups of its channels that have figures of their own."""
    shared = {name: groups([outputs[name] for outputs in calls]) for name in (calls[0] if calls else {})}
    return [_where_it_fits(shared, outputs) for outputs in calls]


def groups(found: Sequence[Array]) -> Groups:
    """The axis and the groups of channels of one output, from all its values; None where all count together."""
    axis = channel_axis(found[0], None)
    if axis is None:
        return None
    size = found[0].shape[axis]
    squares, count = np.zeros(size), 0
    for y in found:
        if y.ndim > axis and y.shape[axis] == size:
            others = tuple(i for i in range(y.ndim) if i != axis)
            squares += np.square(np.where(np.isfinite(y), y, 0), dtype=np.float64).sum(axis=others)
            count += y.size // size
    parts = magnitude_groups(np.sqrt(squares)) if count >= _FEWEST else []
    return (axis, parts) if len(parts) > 1 else None


def _where_it_fits(shared: Mapping[str, Groups], outputs: Mapping[str, Array]) -> dict[str, Groups]:
    """The same for each output of a call that has as many channels."""
    fitting: dict[str, Groups] = {}
    for name, y in outputs.items():
        known = shared[name]
        last = -1 if known is None else max(c for part in known[1] for c in part)
        fitting[name] = known if known is not None and y.ndim > known[0] and y.shape[known[0]] > last else None
    return fitting
