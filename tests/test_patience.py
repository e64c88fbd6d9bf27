"""Models that do not end, or that take all memory, end the run with a sentence; so does Ctrl-C within a call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from onnxcompress.errors import ModelError, UsageError
from onnxcompress.runtime import patience
from onnxcompress.runtime.failures import TooLong
from onnxcompress.runtime.session import Session
from tests.small_models import check_words, normal, opened, proto, write

HEAD = "g (float[n, 8] x) => (float[n, 8] y) { h = MatMul(x, w) "
BODY = "b (int64 i, bool c, float[n, 8] a) => (bool d, float[n, 8] o) { d = Identity(c) o = Relu(a) }"
LOOP = HEAD + f"y = Loop(trip, yes, h) <body = {BODY}> }}"
WEIGHTS = {"w": normal(8, 8), "yes": np.array(True)}
FEEDS = {"x": np.ones((2, 8), np.float32)}


def loop(folder: Path, trip: int = 2**62) -> Path:
    return write(proto(LOOP, {**WEIGHTS, "trip": np.array(trip)}), folder)


def tool(*arguments: str | Path, seconds: str = "") -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), patience.SWITCH: seconds}
    command = [sys.executable, "-m", "onnxcompress", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_loop_without_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "call_seconds", lambda: 0.3)
    session = Session(loop(tmp_path))
    started = time.perf_counter()
    with pytest.raises(TooLong, match=r"ended after 0\.3 seconds") as caught:
        session.run(FEEDS)
    assert 0.3 <= time.perf_counter() - started < 5
    check_words(caught.value)
    assert Session(loop(tmp_path, 3)).run(FEEDS)["y"].shape == (2, 8)


def test_a_failure_of_another_kind_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "call_seconds", lambda: 0.0)

    class Ending:
        terminate = False

    with pytest.raises(ZeroDivisionError), patience.patient(Ending()):
        raise ZeroDivisionError


@pytest.mark.parametrize(("text", "seconds"), [("", 600), ("2.5", 2.5), ("0", np.inf)])
def test_the_limit_is_read_from_the_environment(text: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(patience.SWITCH, text)
    assert patience.call_seconds.__wrapped__() == seconds


@pytest.mark.parametrize("text", ["-1", "nan", "soon"])
def test_a_limit_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(patience.SWITCH, text)
    with pytest.raises(UsageError, match=patience.SWITCH) as caught:
        patience.call_seconds.__wrapped__()
    check_words(caught.value)


def test_quantize_gives_up_with_exit_code_4_and_writes_nothing(tmp_path: Path) -> None:
    with tool("quantize", loop(tmp_path), seconds="1") as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 4, errors
    assert errors.startswith("error: a call of the model was ended after 1 seconds\nhint: "), errors
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_a_call_in_progress(number: signal.Signals, tmp_path: Path) -> None:
    with tool("quantize", loop(tmp_path)) as process:
        time.sleep(4)  # the loop runs since the third second or so
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert errors.startswith("error: interrupted\n"), errors
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is set on Linux alone")
def test_a_model_that_takes_more_than_the_machine_has_is_exit_code_4(tmp_path: Path) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    text = HEAD + "c = ConstantOfShape(shape) r = ReduceSum(c) y = Add(h, r) }"  # of floats: twice what there is
    path = write(proto(text, {"w": WEIGHTS["w"], "shape": np.array([memory // 2])}), tmp_path)
    with tool("quantize", path) as process:
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, "out of memory" in errors) == (4, True), errors


def test_counting_to_where_no_machine_gets_is_refused(tmp_path: Path) -> None:
    text = HEAD + "c = Range(start, limit, step) f = Cast<to = 1>(c) r = ReduceSum(f) y = Add(h, r) }"
    numbers = {"w": WEIGHTS["w"], "start": np.array(0), "step": np.array(1)}
    with pytest.raises(ModelError, match="counts from 0 to 1125899906842624 by 1") as caught:
        opened(proto(text, {**numbers, "limit": np.array(2**50)}), tmp_path)
    check_words(caught.value)
    opened(proto(text, {**numbers, "limit": np.array(2**20)}), tmp_path)
