"""The cheapest labelling is found: against all labellings of small problems."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxcompress.solvers.cut import Network

_COSTS = st.integers(0, 9)
_PROBLEMS = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.tuples(_COSTS, _COSTS), min_size=n, max_size=n),
        st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1), _COSTS), max_size=10),
    )
)


def _cost(second: set[int], own: list[tuple[int, int]], joint: list[tuple[int, int, int]]) -> int:
    single = sum(b if i in second else a for i, (a, b) in enumerate(own))
    return single + sum(c for t, h, c in joint if t not in second and h in second)


@given(_PROBLEMS)
def test_no_labelling_is_cheaper(problem: tuple[list[tuple[int, int]], list[tuple[int, int, int]]]) -> None:
    own, joint = problem
    network = Network()
    for i, (first, second) in enumerate(own):
        network.own(i, first, second)
    for tail, head, cost in joint:
        network.joint(tail, head, cost)
    best = min(
        _cost(set(chosen), own, joint)
        for size in range(len(own) + 1)
        for chosen in itertools.combinations(range(len(own)), size)
    )
    found = {item for item in network.second() if isinstance(item, int)}
    assert _cost(found, own, joint) == best


def test_a_forbidden_pair_is_never_chosen() -> None:
    network = Network()
    network.own("a", 0, 5)
    network.own("b", 100, 0)
    network.joint("a", "b", math.inf)
    assert network.second() == {"a", "b"}


def test_costs_that_forbid_everything_are_told() -> None:
    network = Network()
    network.own("a", math.inf, math.inf)
    with pytest.raises(ValueError, match="every labelling"):
        network.second()


def test_a_negative_cost_is_refused() -> None:
    with pytest.raises(ValueError, match="not one"):
        Network().own("a", -1, 0)
