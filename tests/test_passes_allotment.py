"""Bytes are spent on what matters, within what there is, and not beyond what is enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxcompress.passes.allotment import Rung, allotted

_SIZES = st.lists(st.tuples(st.integers(1, 50), st.floats(1e-4, 1.0)), min_size=1, max_size=4)


def _ladder(steps: list[tuple[int, float]]) -> list[Rung]:
    """Rungs of more and more bytes and less and less error."""
    rungs, nbytes, error = [Rung(None, 100, 1.0)], 100, 1.0
    for more, part in steps:
        nbytes, error = nbytes + more, error * part
        rungs.append(Rung(None, nbytes, error))
    return rungs


@given(st.lists(_SIZES, min_size=1, max_size=6), st.integers(0, 200), st.floats(0, 3), st.data())
def test_no_more_is_spent_than_there_is_or_is_needed(
    steps: list[list[tuple[int, float]]], left: int, enough: float, data: st.DataObject
) -> None:
    ladders = [_ladder(one) for one in steps]
    weights = [data.draw(st.floats(0.01, 1)) for _ in ladders]
    found = allotted(ladders, weights, left, enough)
    free = allotted(ladders, weights, left)
    spent = sum(r.nbytes for r in found) - 100 * len(ladders)
    lost = sum(w * r.error for w, r in zip(weights, found, strict=True))
    assert 0 <= spent <= left
    assert spent <= sum(r.nbytes for r in free) - 100 * len(ladders)
    assert lost <= enough or [r.nbytes for r in found] == [r.nbytes for r in free]


def test_the_weight_that_matters_is_stored_more_finely() -> None:
    ladders = [_ladder([(10, 0.1)]), _ladder([(10, 0.1)])]
    assert [r.nbytes for r in allotted(ladders, [1.0, 2.0], 10)] == [100, 110]
    assert [r.nbytes for r in allotted(ladders, [1.0, 2.0], 20)] == [110, 110]


@pytest.mark.parametrize(("enough", "sizes"), [(3.1, [100, 100]), (1.3, [100, 110]), (0.0, [110, 110])])
def test_what_is_enough_is_left(enough: float, sizes: list[int]) -> None:
    ladders = [_ladder([(10, 0.1)]), _ladder([(10, 0.1)])]
    assert [r.nbytes for r in allotted(ladders, [1.0, 2.0], 20, enough)] == sizes
