"""Every way that a run can end, as an exit code, a sentence or two, and a last line."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Annotated

import pytest
import typer

from onnxcompress.cli import app
from onnxcompress.cli.verbs import Verb
from onnxcompress.errors import DataError, ModelError, OnnxCompressError, RuntimeFailure, UsageError

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException | None], Run]:
    """Runs a verb that ends with this exception."""

    def prepare(problem: BaseException | None) -> Run:
        def work(
            level: Annotated[int, typer.Option(min=0)] = 0, debug: Annotated[bool, typer.Option()] = False
        ) -> None:
            assert (level, debug) >= (0, False)
            if problem is not None:
                raise problem

        def load() -> typer.Typer:
            verb = typer.Typer(rich_markup_mode=None)
            verb.command()(work)
            return verb

        monkeypatch.setattr(app, "verbs", lambda: [Verb("work", "Work.", load)])
        return lambda *arguments: app.run(["work", *arguments])

    return prepare


@pytest.mark.parametrize(
    ("problem", "code", "said"),
    [
        (
            UsageError("the output exists", "Use --force."),
            2,
            "error: the output exists\nhint: Use --force.\n",
        ),
        (ModelError("it is empty", "Give another."), 3, "error: it is empty\nhint: Give another.\n"),
        (DataError("no array 'x'", "Rename it."), 3, "error: no array 'x'\nhint: Rename it.\n"),
        (RuntimeFailure("no CUDA", "Use the CPU."), 4, "error: no CUDA\nhint: Use the CPU.\n"),
        (OnnxCompressError("it is odd"), 1, "error: it is odd\n"),
        (MemoryError(), 4, "error: the machine is out of memory\nhint: "),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 4, "error: the disk is full\nhint: "),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "error: /x: Permission denied\nhint: "),
        (KeyboardInterrupt(), 130, "error: interrupted\nhint: "),
        (ValueError("a\nb"), 4, "error: internal error: ValueError: a\\nb\nhint: Run it again with --debug"),
        (ModelError("evil\x1b[2J\nname", ""), 3, "error: evil\\x1b[2J\\nname\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_ends(
    run: Callable[[BaseException], Run],
    capsys: pytest.CaptureFixture[str],
    problem: BaseException,
    code: int,
    said: str,
) -> None:
    assert run(problem)() == code
    out, err = capsys.readouterr()
    assert err.startswith(said)
    assert len(err.splitlines()) <= 2
    assert out.splitlines() == ["onnxcompress: FAILED " + err.splitlines()[0].removeprefix("error: ")]


def test_debug_shows_the_traceback(run: Callable[[BaseException], Run], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ModelError("it is empty", ""))("--debug") == 3
    assert "Traceback" in capsys.readouterr().err


def test_success_says_nothing(run: Callable[[None], Run], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(None)() == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--level", "x"], "error: invalid value for '--level': "),
        (["--level", "-1"], "error: invalid value for '--level': "),
        (["--nope"], "error: no such option: --nope"),
        (["extra"], "error: got unexpected extra argument"),
    ],
)
def test_wrong_usage(
    run: Callable[[None], Run], capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert run(None)(*arguments) == 2
    out, err = capsys.readouterr()
    assert err.startswith(said)
    assert "hint: Run 'onnxcompress work --help'" in err
    assert out.startswith("onnxcompress: FAILED ")


def test_a_verb_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["verifi"]) == 2
    assert "Did you mean 'verify'?" in capsys.readouterr().err


def test_no_arguments_show_the_help_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Commands:" in err
