"""Both models run on the same calls with a few values watched at a time.

Groups are filled in turns, the first value to the first group, the second to the second and so on, so that values
watched together lie apart and most of what the runtime fuses stays fused. A group is bounded by bytes and by number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onnxcompress.comparing.meter import Meter
from onnxcompress.comparing.watched import Watched, with_codes
from onnxcompress.errors import RuntimeFailure
from onnxcompress.graph.shapes import float_values
from onnxcompress.runtime.failures import LimitReached
from onnxcompress.stats.activations import observe
from onnxcompress.stats.masks import kept_positions
from onnxcompress.verify.sums import Sums

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onnxcompress.comparing.facts import Options
    from onnxcompress.comparing.matching import Pair
    from onnxcompress.data.dataset import Dataset, Feeds
    from onnxcompress.graph.model import Model

GROUP_BYTES = 256 << 20  # of the values that one run of both models gives
_GROUP_VALUES = 512
_FEWEST_GROUPS = 2
VALUE_BYTES = 4  # of an element; integers of 8 are few

Shape = tuple[int, ...]


@dataclass
class Walk:
    """The sums of every pair, by its name in the first model; ``disturbed``: worst SQNR of outputs when watched."""

    meters: dict[str, Meter] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    disturbed: float = math.inf


def sizes(model: Model, names: Sequence[str], feeds: Feeds, threads: int | None) -> dict[str, Shape]:
    """The shapes of values in one call; without those of which the runtime cannot tell any."""
    try:
        seen = observe(model, names, [feeds], noise=False, threads=threads)
    except LimitReached:
        raise
    except RuntimeFailure:
        certain = float_values(model)
        try:
            seen = observe(model, [n for n in names if n in certain], [feeds], noise=False, threads=threads)
        except LimitReached:
            raise
        except RuntimeFailure:
            return {}
    return {name: value.shapes[0] for name, value in seen.items()}


def grouped(pairs: Sequence[Pair], shapes: Mapping[str, Shape]) -> list[list[Pair]]:
    """Pairs in groups that one run of both models may watch."""
    if not pairs:
        return []
    nbytes = [2 * VALUE_BYTES * math.prod(shapes.get(pair.a, (1 << 20,))) for pair in pairs]
    count = max(_FEWEST_GROUPS, math.ceil(len(pairs) / _GROUP_VALUES), math.ceil(sum(nbytes) / GROUP_BYTES))
    groups = []
    for first in range(min(count, len(pairs))):
        groups += list(_bounded(list(pairs[first::count]), nbytes[first::count]))
    return groups


def _bounded(pairs: list[Pair], nbytes: Sequence[int]) -> Iterator[list[Pair]]:
    """The pairs in order, parted where they would take too many bytes."""
    group: list[Pair] = []
    held = 0
    for pair, size in zip(pairs, nbytes, strict=True):
        if group and held + size > GROUP_BYTES:
            yield group
            group, held = [], 0
        group.append(pair)
        held += size
    yield group


def walk(
    models: tuple[Model, Model],
    groups: Sequence[Sequence[Pair]],
    data: Dataset,
    plain: Mapping[str, Any],
    options: Options,
) -> Walk:
    """Run both models once for each group and call.

    Args:
        models: the two.
        groups: pairs to watch together.
        data: the calls.
        plain: outputs of the second model in the first call, unwatched.
        options: device, threads, progress.

    Raises:
        RuntimeFailure: memory runs out.
    """
    found = Walk()
    options.progress.start("watching values", len(groups))
    for group in groups:
        _watch(models, group, data, plain, options, found)
        options.progress.advance(group[0].a)
    options.progress.finish()
    return found


def _watch(
    models: tuple[Model, Model],
    group: Sequence[Pair],
    data: Dataset,
    plain: Mapping[str, Any],
    options: Options,
    found: Walk,
) -> None:
    """One group; in halves where it does not run, down to the value that is to blame."""
    try:
        meters, outputs = _run(models, group, data, options)
    except LimitReached:
        raise
    except RuntimeFailure as failure:
        if len(group) == 1:
            found.failed[group[0].a] = f"it cannot be watched: {failure.message}"
            return
        half = len(group) // 2
        for part in (group[:half], group[half:]):
            _watch(models, part, data, plain, options, found)
        return
    found.meters |= meters
    found.disturbed = min(found.disturbed, _difference(plain, outputs))


def _run(
    models: tuple[Model, Model], group: Sequence[Pair], data: Dataset, options: Options
) -> tuple[dict[str, Meter], dict[str, Any]]:
    twin, names = with_codes(models[1], group)
    first = Watched(models[0], [pair.a for pair in group], options.device, options.threads)
    second = Watched(twin, list(names.values()), options.device, options.threads)
    meters = {pair.a: Meter() for pair in group}
    outputs: dict[str, Any] = {}
    for feeds in data:
        one, other = first.run(feeds), second.run(feeds)
        keep = kept_positions(feeds)
        outputs = outputs or other
        for name, meter in meters.items():
            meter.add(one[name], other[names[name]], keep)
    return meters, outputs


def _difference(plain: Mapping[str, Any], watched: Mapping[str, Any]) -> float:
    """The SQNR of watched outputs against those of the model as it is, of the worst float output."""
    worst = math.inf
    for name, x in plain.items():
        y = watched.get(name)
        if y is not None and _floats(x) and _floats(y) and x.shape == y.shape and x.size:
            sums = Sums()
            sums.add(x.reshape(1, 1, -1), y.reshape(1, 1, -1))
            figure = sums.figures()[0]
            worst = worst if math.isnan(figure) else min(worst, figure)
    return worst


def _floats(x: Any) -> bool:
    return getattr(getattr(x, "dtype", None), "kind", "") == "f"
