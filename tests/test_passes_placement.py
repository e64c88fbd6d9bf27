"""The placement is the fastest of all, and the fastest within the noise that is allowed as far as prices find it."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from onnxcompress.forms.chain_costs import ChainCosts
from onnxcompress.forms.chains import Unit
from onnxcompress.passes.placement import Layout, Placement, place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KINDS = tuple(f"Kind{i}" for i in range(8))  # a unit's operator is its place, so that each may have its own cost


@dataclass(frozen=True)
class Problem:
    """Units in order, as what they read; what each costs in float and on integers; borders; noise of each alone."""

    reads: tuple[tuple[int, ...], ...]  # -1 is the input of the model
    costs: tuple[tuple[int, int], ...]
    border: int
    noise: tuple[int, ...]
    float_readers: frozenset[int]

    @property
    def layout(self) -> Layout:
        units = [
            Unit(helper.make_node(KINDS[i], [f"v{r}" for r in reads], [f"v{i}"]), None,
                 tuple(f"v{r}" for r in reads), f"v{i}")
            for i, reads in enumerate(self.reads)
        ]  # fmt: skip
        shapes = {f"v{i}": (1000,) for i in range(-1, len(units))}
        return Layout(units, shapes, frozenset(f"v{i}" for i in self.float_readers))

    @property
    def table(self) -> ChainCosts:
        kinds = {k: (float(a), float(b)) for k, (a, b) in zip(KINDS, self.costs, strict=False)}
        return ChainCosts({}, {**kinds, "quantize": (self.border, 0.0), "dequantize": (0.0, self.border)}, 0.0)

    def saved(self, inside: frozenset[int]) -> int:
        """Microseconds that it saves to put these units on integers, counted by hand."""
        won = sum(self.costs[i][0] - self.costs[i][1] for i in inside)
        read_on_integers = {r for i in inside for r in self.reads[i]}
        read_in_float = {r for i, reads in enumerate(self.reads) if i not in inside for r in reads} | self.float_readers
        return won - self.border * (len(read_on_integers - inside) + len(inside & read_in_float))

    def placed(self, allowed: float = math.inf) -> tuple[frozenset[int], Placement]:
        def noise(units: Sequence[Unit]) -> float:
            return float(sum(self.noise[KINDS.index(u.op)] for u in units))

        def damage() -> Mapping[str, float]:
            return {f"v{i}": float(n) for i, n in enumerate(self.noise)}

        found = place(self.layout, self.table, damage, noise, allowed)
        return frozenset(KINDS.index(u.op) for u in found.units), found

    def subsets(self) -> list[frozenset[int]]:
        every = range(len(self.reads))
        return [frozenset(c) for size in range(len(every) + 1) for c in itertools.combinations(every, size)]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    count = draw(st.integers(1, 6))
    number = st.integers(0, 12)
    reads = [tuple(sorted(draw(st.sets(st.integers(-1, i - 1), min_size=1, max_size=2)))) for i in range(count)]
    floats = draw(st.sets(st.integers(0, count - 1)))
    costs = [(draw(number), draw(number)) for _ in range(count)]
    noise = [draw(st.integers(0, 9)) for _ in range(count)]
    return Problem(tuple(reads), tuple(costs), draw(st.integers(0, 5)), tuple(noise), frozenset(floats))


def chain(*costs: tuple[int, int], border: int = 1, noise: tuple[int, ...] | None = None) -> Problem:
    """Units that read each other in turn; the last one's result leaves the model."""
    count = len(costs)
    reads = tuple((i - 1,) for i in range(count))
    return Problem(reads, costs, border, noise or (1,) * count, frozenset({count - 1}))


@settings(max_examples=150, deadline=None)
@given(problems())
def test_no_other_placement_saves_more(problem: Problem) -> None:
    inside, found = problem.placed()
    assert problem.saved(inside) == max(map(problem.saved, problem.subsets()))
    assert found.saved_us == pytest.approx(problem.saved(inside), abs=1e-6)
    assert found.damage == {}  # nothing had to be measured


@settings(max_examples=100, deadline=None)
@given(problems(), st.integers(1, 20))
def test_the_noise_that_is_allowed_is_kept_and_nothing_is_lost_to_it(problem: Problem, allowed: int) -> None:
    inside, found = problem.placed(allowed)
    assert found.noise == sum(problem.noise[i] for i in inside) <= allowed
    assert found.saved_us == pytest.approx(problem.saved(inside), abs=1e-6)
    assert problem.saved(inside) >= 0
    within = [s for s in problem.subsets() if sum(problem.noise[i] for i in s) <= allowed]
    assert problem.saved(inside) <= max(map(problem.saved, within))


@settings(max_examples=60, deadline=None)
@given(problems())
def test_without_noise_to_give_only_what_makes_none_is_placed(problem: Problem) -> None:
    inside, _ = problem.placed(1e-9)
    assert all(problem.noise[i] == 0 for i in inside)


def test_a_chain_is_entered_and_left_once() -> None:
    """Each unit alone would lose to its borders; together they win."""
    inside, found = chain((3, 1), (3, 1), (3, 1), border=2).placed()
    assert inside == {0, 1, 2}
    assert found.saved_us == pytest.approx(3 * 2 - 2 * 2)
    assert chain((3, 1), border=2).placed()[0] == set()


def test_a_slow_unit_in_between_is_carried_along_or_left() -> None:
    assert chain((9, 1), (1, 2), (9, 1), border=3).placed()[0] == {0, 1, 2}
    assert chain((9, 1), (1, 9), (9, 1), border=3).placed()[0] == {0, 2}


@pytest.mark.parametrize(("readers", "inside"), [(1, set()), (2, {0, 1})])
def test_a_value_is_quantized_once_for_all_that_read_it(readers: int, inside: set[int]) -> None:
    problem = Problem(((-1,),) * readers, ((4, 1),) * readers, 5, (1,) * readers, frozenset())
    assert problem.placed()[0] == inside


def test_a_value_is_decoded_once_for_all_that_read_it_in_float() -> None:
    problem = Problem(((-1,), (0,), (0,)), ((9, 1), (1, 50), (1, 50)), 3, (1,) * 3, frozenset({0, 1, 2}))
    inside, found = problem.placed()
    assert inside == {0}
    assert found.saved_us == pytest.approx(9 - 1 - 3 - 3)


def test_a_reader_in_float_costs_what_a_border_costs() -> None:
    one = Problem(((-1,), (0,)), ((6, 1), (6, 1)), 3, (1, 1), frozenset({1}))
    other = Problem(one.reads, one.costs, one.border, one.noise, frozenset({0, 1}))
    assert one.placed()[1].saved_us - other.placed()[1].saved_us == pytest.approx(3)


@pytest.mark.parametrize(("allowed", "inside"), [(100, {0, 1, 2}), (5, {0, 2}), (1, {2}), (0.5, set())])
def test_what_does_most_damage_for_the_time_it_wins_goes_first(allowed: float, inside: set[int]) -> None:
    problem = Problem(((-1,),) * 3, ((21, 1), (21, 1), (21, 1)), 0, (3, 30, 1), frozenset())
    assert problem.placed(allowed)[0] == inside


def test_an_operator_that_ruins_the_outputs_is_priced_out() -> None:
    problem = chain((20, 1), (20, 1), (20, 1), noise=(1, 10**12, 1))
    assert problem.placed(3)[0] == {0, 2}


def test_damage_without_bound_is_never_placed() -> None:
    problem = chain((20, 1), (20, 1), (20, 1))
    layout = problem.layout
    alone = dict(zip(("v0", "v1", "v2"), (1e-4, math.inf, 1e-4), strict=True))
    found = place(layout, problem.table, lambda: alone, lambda units: sum(alone[u.key] for u in units), 1e-3)
    assert {u.key for u in found.units} == {"v0", "v2"}
    assert found.damage == alone


def test_another_cost_in_float_is_heard() -> None:
    """A unit that has a fast form in float has less to win on integers."""
    problem = chain((20, 5), border=2)
    layout = problem.layout
    assert place(layout, problem.table, dict, lambda _: 0.0, 1.0).units
    faster = Layout(layout.units, layout.shapes, layout.float_readers, lambda _, us: us / 4)
    assert not place(faster, problem.table, dict, lambda _: 0.0, 1.0).units


def test_the_values_of_units_are_what_they_read_and_give() -> None:
    layout = chain((9, 1), (9, 1), (9, 1)).layout
    assert layout.values(layout.units[1:2]) == {"v0", "v1"}
    assert layout.values([]) == set()
