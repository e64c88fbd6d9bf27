"""Mini-batches of the calls of a dataset, in a seeded order that is another one in every epoch.

Calls of equal shapes share a batch. Where the first axis of the inputs is that of the samples, the calls of a batch are
stacked and run as one; elsewhere they run one after the other, and their gradients are added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onnxcompress.data.dataset import Dataset, Feeds

Batch = tuple[int, ...]  # numbers of calls
Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Part:
    """What runs at once of a batch: the calls, their inputs stacked, and their labels."""

    calls: Batch
    feeds: Feeds
    labels: np.ndarray | None


class Batches:
    """The batches of a dataset.

    Args:
        data: the calls; each is read whenever it is needed.
        size: samples in a batch. A call with more of them is a batch by itself.
        stacked: whether calls may be stacked on the first axis of all inputs.
        seed: of the order.
    """

    def __init__(self, data: Dataset, size: int, *, stacked: bool, seed: int) -> None:
        self.data, self._size, self._stacked, self._seed = data, size, stacked, seed
        self._alike: dict[Shapes, list[int]] = {}
        for number, feeds in enumerate(data):
            self._alike.setdefault(shapes_of(feeds), []).append(number)

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return sum(max(1, len(calls) // self._each(shapes)) for shapes, calls in self._alike.items())

    def epoch(self, number: int) -> list[Batch]:
        """The batches of that epoch; calls that fill none are left for another one."""
        order = np.random.default_rng((self._seed, number))
        found: list[Batch] = []
        for shapes, calls in self._alike.items():
            each = min(self._each(shapes), len(calls))
            mixed = order.permutation(calls).tolist()
            found += [tuple(mixed[i : i + each]) for i in range(0, len(mixed) - each + 1, each)]
        return [found[i] for i in order.permutation(len(found))]

    def whole(self) -> list[Batch]:
        """All calls once, in their order."""
        return [
            tuple(calls[i : i + self._each(shapes)])
            for shapes, calls in self._alike.items()
            for i in range(0, len(calls), self._each(shapes))
        ]

    def parts(self, batch: Batch) -> Iterator[Part]:
        """What runs at once of a batch."""
        for calls in [batch] if self._stacked else [(call,) for call in batch]:
            labels = [self.data.labels_of(call) for call in calls]
            known = [part for part in labels if part is not None]
            yield Part(calls, stack([self.data.read(c) for c in calls]), np.concatenate(known) if known else None)

    def _each(self, shapes: Shapes) -> int:
        """Calls in a batch."""
        rows = next((shape[0] for _, shape in shapes if shape), 1) if self._stacked else 1
        return max(1, self._size // max(rows, 1))


def shapes_of(feeds: Mapping[str, np.ndarray]) -> Shapes:
    """The shape of each input, by name."""
    return tuple((name, feeds[name].shape) for name in sorted(feeds))


def stack(calls: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Calls of equal shapes on one first axis."""
    if len(calls) == 1:
        return dict(calls[0])
    return {name: np.concatenate([c[name] for c in calls]) for name in calls[0]}
