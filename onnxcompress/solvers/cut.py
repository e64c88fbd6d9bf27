"""Minimum cut: two labels for many items, the sum of own and of joint costs as small as it can be.

The costs of an item are arcs to the two ends of a network, a joint cost is an arc between items that is paid where its
tail has the first label and its head the second; the cheapest labelling is the minimum cut, found as the maximum flow
(Ford and Fulkerson, 1956; with the level graphs of Dinic, 1970).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

_SOURCE, _SINK = 0, 1


@dataclass
class Network:
    """Items with costs. An item is any hashable value and exists from its first mention."""

    _numbers: dict[Hashable, int] = field(default_factory=dict)
    _heads: list[int] = field(default_factory=list)
    _rest: list[float] = field(default_factory=list)
    _arcs: list[list[int]] = field(default_factory=lambda: [[], []])

    def own(self, item: Hashable, first: float, second: float) -> None:
        """What it costs to give an item the first label, or the second."""
        number = self._number(item)
        self._add(number, _SINK, first)
        self._add(_SOURCE, number, second)

    def joint(self, tail: Hashable, head: Hashable, cost: float) -> None:
        """What it costs when ``tail`` has the first label and ``head`` the second; infinite costs forbid it."""
        self._add(self._number(tail), self._number(head), cost)

    def second(self) -> set[Hashable]:
        """The items with the second label in the cheapest labelling; of several, the one with most of them."""
        while (levels := self._levels())[_SINK] >= 0:
            at = [0] * len(self._arcs)
            while self._push(levels, at) > 0:
                pass
        reached = self._reached_from_source()
        return {item for item, number in self._numbers.items() if not reached[number]}

    def _number(self, item: Hashable) -> int:
        if item not in self._numbers:
            self._numbers[item] = len(self._arcs)
            self._arcs.append([])
        return self._numbers[item]

    def _add(self, tail: int, head: int, capacity: float) -> None:
        if capacity < 0 or math.isnan(capacity):
            raise ValueError(f"a cost of {capacity} is not one")
        for start, end, rest in ((tail, head, capacity), (head, tail, 0.0)):
            self._arcs[start].append(len(self._heads))
            self._heads.append(end)
            self._rest.append(rest)

    def _levels(self) -> list[int]:
        levels = [-1] * len(self._arcs)
        levels[_SOURCE] = 0
        waiting = deque([_SOURCE])
        while waiting:
            here = waiting.popleft()
            for arc in self._arcs[here]:
                if self._rest[arc] > 0 and levels[self._heads[arc]] < 0:
                    levels[self._heads[arc]] = levels[here] + 1
                    waiting.append(self._heads[arc])
        return levels

    def _push(self, levels: list[int], at: list[int]) -> float:
        """Send flow along one path of the level graph; zero where there is none left."""
        path: list[int] = []
        here = _SOURCE
        while here != _SINK:
            arc = self._next_arc(here, levels, at)
            if arc is not None:
                path.append(arc)
                here = self._heads[arc]
            elif not path:
                return 0.0
            else:
                here = self._heads[path.pop() ^ 1]
                at[here] += 1
        flow = min(self._rest[arc] for arc in path)
        if math.isinf(flow):
            raise ValueError("the costs forbid every labelling")
        for arc in path:
            self._rest[arc] -= flow
            self._rest[arc ^ 1] += flow
        return flow

    def _next_arc(self, here: int, levels: list[int], at: list[int]) -> int | None:
        arcs = self._arcs[here]
        while at[here] < len(arcs):
            arc = arcs[at[here]]
            if self._rest[arc] > 0 and levels[self._heads[arc]] == levels[here] + 1:
                return arc
            at[here] += 1
        return None

    def _reached_from_source(self) -> list[bool]:
        return [level >= 0 for level in self._levels()]
