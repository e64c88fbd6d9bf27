"""The fuzzer itself: a fixed number of damaged models, and that it finds what breaks the tool."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from onnxcompress.graph.model import Model
from tests.fuzzing import worker
from tests.fuzzing.cases import Case, Source
from tests.fuzzing.networks import NETWORKS
from tests.fuzzing.seeds import Seeds
from tests.fuzzing.tally import Tally
from tests.fuzzing.verbs import VERBS, Outcome, outcome

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[1]
SEEDS = Seeds(NETWORKS, NETWORKS)


def test_damaged_models_are_read_or_refused(tmp_path: Path) -> None:
    options = ["--few", "--cases", "400", "--verbs", "0.05", "--folder", str(tmp_path)]
    command = [sys.executable, "-m", "tests.fuzzing", *options]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "400 cases" in ran.stdout
    assert not list(tmp_path.iterdir())


def test_a_case_follows_from_seed_and_number() -> None:
    cases = [Source(SEEDS, 1, 0.5).case(number) for number in range(20)]
    assert cases == [Source(SEEDS, 1, 0.5).case(number) for number in range(20)]
    assert cases != [Source(SEEDS, 2, 0.5).case(number) for number in range(20)]
    assert {case.verb for case in cases} > {"load"}


def test_every_verb_works_on_some_network(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for verb in VERBS:
        for network in NETWORKS:
            path.write_bytes(network)
            found = outcome(verb, path)
            if found.kind in ("written", "inspected"):
                break
        else:
            raise AssertionError(verb, found)


def test_what_breaks_the_tool_is_a_finding_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(NETWORKS[0])
    monkeypatch.setattr(Model, "open", lambda path: {}[path])
    found = outcome("load", path)
    assert found.kind == "unexpected"
    tally = Tally(tmp_path / "kept")
    tally.add("0-7", Case("load", b"abc", ("flip",)), found)
    tally.add("0-8", Case("load", b"abc", ()), Outcome("refused", "3"))
    assert tally.failed
    assert (tmp_path / "kept" / "load-0-7.onnx").read_bytes() == b"abc"
    assert "KeyError" in (tmp_path / "kept" / "load-0-7.txt").read_text()
    assert any("unexpected, 1 times: KeyError" in line for line in tally.lines(1.0))


def test_a_crash_and_a_hang_end_the_case_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(verb: str, _: Path) -> Outcome:
        if verb == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if verb == "hang":
            time.sleep(60)
        return Outcome("opened")

    monkeypatch.setattr(worker, "outcome", broken)
    monkeypatch.setattr(worker, "SECONDS", 0.5)
    verbs = ("load", "crash", "load", "hang", "load")
    found, number = {}, 0
    while number < len(verbs):
        cases = worker.Cases(lambda at: Case(verbs[at], b"", ()), number, len(verbs), time.monotonic() + 60)
        for at, outcome_ in worker.run(cases):
            found[at] = outcome_
            number = at + 1
    assert [found[at].kind for at in range(5)] == ["opened", "crash", "opened", "hang", "opened"]
    assert found[1].detail.startswith("SIGSEGV")
    assert "broken" in found[3].detail
