from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onnxcompress.runtime import crowding
from onnxcompress.runtime.crowding import Usage, Watch, taken_by_others, usage, work_ticks

STAT = """cpu  900 0 100 9000 50 0 0 0 0 0
cpu0 400 10 60 4000 20 1 2 3 0 0
cpu1 500 0 40 5000 30 0 0 0 7 7
intr 12345
"""


def test_work_is_all_but_idling_and_waiting_on_the_processors_that_are_allowed() -> None:
    assert work_ticks(STAT, {0}) == 400 + 10 + 60 + 1 + 2 + 3
    assert work_ticks(STAT, {0, 1}) == 476 + 540
    assert work_ticks(STAT, {5}) == 0


def test_own_work_is_not_that_of_others() -> None:
    assert taken_by_others(Usage(10, 100, 50), Usage(12, 104, 51)) == pytest.approx(1.5)
    assert taken_by_others(Usage(10, 100, 50), Usage(12, 102, 53)) == 0
    assert taken_by_others(None, Usage(12, 102, 53)) is None


@pytest.mark.parametrize(
    ("others", "cpus", "threads", "expected"),
    [
        (0.05, 2, 2, False),
        (0.6, 2, 2, True),
        (0.6, 2, 1, False),
        (3.0, 8, 4, False),
        (5.0, 8, 4, True),
        (None, 2, 2, False),
    ],
)
def test_threads_that_do_not_all_get_a_core_are_crowded(
    monkeypatch: pytest.MonkeyPatch, others: float | None, cpus: int, threads: int, expected: bool
) -> None:
    monkeypatch.setattr(Watch, "taken", lambda *_, **__: others)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)), raising=False)
    assert crowding.crowded(threads) is expected


@pytest.mark.skipif(usage() is None, reason="the system does not tell what its processors do")
def test_a_busy_process_is_seen() -> None:
    watch = Watch()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            time.sleep(0.6)
            found = watch.taken(wait=True)
        finally:
            process.kill()
    assert found is not None
    assert found > 0.2
    assert watch.taken(wait=False) == found


def test_a_system_that_does_not_tell_is_not_crowded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(crowding, "_STAT", tmp_path / "none")
    assert usage() is None
    assert Watch().taken(wait=True) is None
