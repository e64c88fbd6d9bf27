"""Terminals, pipes and progress: who gets colour, who gets plain text, and when a bar is shown."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from onnxcompress.progress import Silent
from onnxcompress.render import console
from onnxcompress.render.closing import broken, closing
from onnxcompress.render.console_progress import LateProgress
from onnxcompress.render.line_progress import LineProgress
from onnxcompress.report import BudgetResult
from tests.sample_report import layer, report, step

OUTPUT = Path("model.int8.onnx")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard output as a terminal of 200 columns, outside CI."""
    for name in ("CI", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    return Terminal()


def show(terminal: Terminal, *, verbose: bool = False, **changes: Any) -> str:
    with contextlib.redirect_stdout(terminal):
        console.Page(verbose=verbose).report(report(**changes), OUTPUT, passed=True)
    return terminal.getvalue()


def test_a_terminal_gets_colour(terminal: Terminal) -> None:
    text = show(terminal)
    assert "\x1b[32m" in text
    assert text.splitlines()[-1].startswith("onnxcompress: PASSED model.int8.onnx: 23.0 MiB")


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("CI", "true"), ("TERM", "dumb")])
def test_who_wants_no_colour_gets_plain_text(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert not re.search(r"[\x1b\u2500-\u257f]", show(terminal))


def test_markup_in_names_is_text(terminal: Terminal) -> None:
    name = "[bold red]w[/] :smile: [link=http://x]y"
    assert name in show(terminal, verbose=True, steps=(step(layer(name)),))


def test_a_pipe_gets_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    console.Page().report(report(), OUTPUT, passed=True)
    out, err = capsys.readouterr()
    assert err == ""
    assert "wrote model.int8.onnx" in out
    assert not re.search(r"[\x1b\u2500-\u257f]", out)


def test_quiet_prints_the_last_line_alone(capsys: pytest.CaptureFixture[str]) -> None:
    console.Page(quiet=True).report(report(), OUTPUT, passed=True)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_standard_output_that_is_taken_stays_empty(capsys: pytest.CaptureFixture[str]) -> None:
    console.Page(stdout_taken=True).report(report(), OUTPUT, passed=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("onnxcompress: PASSED")


def test_a_dry_run_shows_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    console.Page().report(report(compressed=None), None, passed=True, dry_run=True)
    out = capsys.readouterr().out
    assert "predicted" in out
    assert out.splitlines()[-1].startswith("onnxcompress: PASSED dry run, nothing written: 86.6 MiB to about")


def test_a_reader_that_went_away_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    console.Page().report(report(), OUTPUT, passed=True)


@pytest.mark.parametrize("passed", [True, False])
def test_the_closing_line_is_one_line(passed: bool) -> None:
    path = Path("a\nb.onnx")
    budgets = (BudgetResult("min\nsqnr", 30.0, "not\nmeasured", ok=False),)
    assert len(closing(report(budgets=budgets), path, passed=passed).splitlines()) == 1
    assert len(broken("a\nb").splitlines()) == 1


def test_the_closing_line_names_what_failed() -> None:
    budgets = (BudgetResult("min_sqnr", 30.0, 25.1, ok=False), BudgetResult("loads", None, None, ok=True))
    line = closing(report(budgets=budgets), Path("m.rejected.onnx"), passed=False)
    assert line == "onnxcompress: FAILED min_sqnr 25.1 (limit 30): see m.rejected.onnx"


def test_no_terminal_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    assert isinstance(console.Page().progress, Silent)


def test_a_job_gets_lines_and_no_bar(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    assert isinstance(console.Page().progress, LateProgress)
    monkeypatch.setenv("CI", "true")
    page = console.Page()
    assert isinstance(page.progress, LineProgress)
    page.close()
    assert isinstance(console.Page(quiet=True).progress, Silent)


def test_long_work_is_a_plain_line_now_and_then() -> None:
    stream = Terminal()
    progress = LineProgress(stream, every_seconds=0.01)
    progress.start("quantize", 3)
    progress.advance("encoder\x1b[2J\n::error::/0")
    deadline = time.monotonic() + 20
    while not stream.getvalue().endswith("\n") and time.monotonic() < deadline:
        time.sleep(0.02)
    progress.close()
    said = stream.getvalue()
    assert {line.rpartition(" (")[0] for line in said.splitlines()} <= {
        "quantize: 0 %", "quantize: 33 %, encoder\\x1b[2J\\n::error::/0",
    }  # fmt: skip
    progress.advance("late")
    assert stream.getvalue() == said


def test_short_work_says_nothing_in_a_job() -> None:
    stream = Terminal()
    progress = LineProgress(stream, every_seconds=30)
    progress.start("quantize", 2)
    progress.advance("a")
    progress.start("verify")
    progress.close()
    progress.close()
    LineProgress(stream).close()
    assert stream.getvalue() == ""


def bar(patience: float) -> tuple[LateProgress, Terminal]:
    stream = Terminal()
    shown = Console(file=stream, force_terminal=True, width=200, markup=False, legacy_windows=False)
    return LateProgress(patience, shown), stream


def test_short_work_shows_no_bar() -> None:
    progress, stream = bar(patience=30)
    progress.start("quantize", 2)
    progress.advance("a")
    progress.finish()
    progress.start("verify")
    progress.close()
    assert stream.getvalue() == ""


def test_long_work_shows_names_and_goes_away() -> None:
    progress, stream = bar(patience=0.01)
    progress.start("quantize", 3)
    progress.advance("[red]encoder\x1b/0")
    deadline = time.monotonic() + 20
    while "encoder" not in stream.getvalue() and time.monotonic() < deadline:
        time.sleep(0.02)
    progress.close()
    assert "[red]encoder\\x1b/0" in stream.getvalue()
    assert "33%" in stream.getvalue()
    after = stream.getvalue()
    progress.advance("late")
    assert stream.getvalue() == after


def test_closing_before_any_task_and_twice_is_fine() -> None:
    progress, stream = bar(patience=0.01)
    progress.close()
    progress.close()
    assert stream.getvalue() in ("", "\x1b[?25h")
