"""Datasets are lazy, and their labels go where their calls go."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxcompress.data import DataOptions, Dataset
from onnxcompress.errors import UsageError


def counted(size: int, reads: list[int], **more: object) -> Dataset:
    def read(i: int) -> dict[str, np.ndarray]:
        reads.append(i)
        return {"x": np.array([i])}

    return Dataset("here", size, read, **more)  # type: ignore[arg-type]


def test_nothing_is_read_before_it_is_asked_for() -> None:
    reads: list[int] = []
    dataset = counted(100, reads)
    assert len(dataset) == 100
    part = dataset.take(3)
    assert reads == []
    assert [int(f["x"][0]) for f in part] == [0, 50, 99] == reads


@given(st.integers(1, 50), st.integers(1, 60))
def test_take_keeps_order_ends_and_count(size: int, n: int) -> None:
    chosen = [int(f["x"][0]) for f in counted(size, []).take(n)]
    assert len(chosen) == min(size, n)
    assert chosen == sorted(set(chosen))
    assert chosen[0] == 0
    assert n == 1 or chosen[-1] == size - 1


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(1, 12))
def test_labels_follow_their_calls(rows: list[int], n: int) -> None:
    labels = np.concatenate([np.full(count, call) for call, count in enumerate(rows)])
    part = counted(len(rows), [], labels=labels, rows=tuple(rows)).take(n)
    for place, feeds in enumerate(part):
        call = int(feeds["x"][0])
        mine = part.labels_of(place)
        assert mine is not None
        assert mine.tolist() == [call] * rows[call]
    assert part.labels is not None
    assert part.rows is not None
    assert len(part.labels) == sum(part.rows)


def test_one_label_per_call_by_default() -> None:
    part = counted(5, [], labels=np.arange(5)).take(2)
    assert part.labels is not None
    assert part.labels.tolist() == [0, 4]
    assert counted(5, []).labels_of(2) is None


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"layout": "nhcw"}, "layout"),
        ({"size": (0, 224)}, "size"),
        ({"limit": 0}, "calls"),
        ({"std": (0.0,)}, "std"),
        ({"mean": (float("nan"),)}, "finite"),
        ({"mean": (123.7, 116.3, 103.5)}, "255"),
        ({"std": (58.4,)}, "255"),
    ],
)
def test_impossible_options_fail_when_they_are_made(options: dict[str, object], part: str) -> None:
    with pytest.raises(UsageError, match=part) as caught:
        DataOptions(**options)  # type: ignore[arg-type]
    assert caught.value.hint


@given(st.integers(1, 40), st.integers(1, 8))
def test_calls_are_parted_into_those_to_learn_from_and_others(size: int, judged: int) -> None:
    learned, held = ([int(f["x"][0]) for f in part] for part in counted(size, []).parted(judged))
    if size == 1:
        assert learned == held == [0]
        return
    assert sorted(learned + held) == list(range(size))
    assert 1 <= len(held) <= min(judged, size // 2)
