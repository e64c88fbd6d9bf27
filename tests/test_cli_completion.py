"""What the shell offers behind Tab, asked as shells ask: in variables of the environment of a process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onnxcompress.cli import app, completion
from onnxcompress.cli.verbs import verbs
from onnxcompress.recipe import ready_names
from tests.test_cli_subprocess import cli, files

VARIABLE = "_ONNXCOMPRESS_COMPLETE"
Ask = Callable[..., list[str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models, recipes, other files and folders; the one worked in."""
    for name in (
        "a.onnx",
        "b.ONNX",
        "c.txt",
        ".hidden.onnx",
        "mine.toml",
        "deep/er/x.onnx",
        "more/y.onnx",
        "more/z.onnx",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ask(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """What bash gets for these words, of which the last is being typed."""
    assert folder.is_dir()

    def asked(*words: str) -> list[str]:
        monkeypatch.setenv(VARIABLE, "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "\n".join(("onnxcompress", *words)))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        monkeypatch.setenv("COLUMNS", "80")
        completion.prepare()
        with pytest.raises(SystemExit) as ended:
            app.run([])
        assert ended.value.code == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out.split()

    return asked


def test_verbs(ask: Ask) -> None:
    assert ask("") == [verb.name for verb in verbs()]
    assert ask("s") == ["simplify", "sensitivity"]
    assert ask("recipe", "sh") == ["show"]


MODELS = ["a.onnx", "b.ONNX", "deep/", "more/"]


@pytest.mark.parametrize(
    "words",
    [
        ["quantize"], ["prune", "a.onnx"], ["simplify", "--bits", "8"], ["factorize", "--"],
        ["compress", "--recipe", "tiny"],
        ["verify"], ["verify", "a.onnx"], ["bench", "a.onnx"], ["inspect"], ["sensitivity"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_models_and_folders(ask: Ask, words: list[str]) -> None:
    assert ask(*words, "") == MODELS


def test_a_way_without_a_fork_is_gone_at_once(ask: Ask) -> None:
    assert ask("quantize", "d") == ["deep/er/x.onnx"]
    assert ask("quantize", "m") == ["more/y.onnx", "more/z.onnx"]
    assert ask("quantize", "./a") == ["./a.onnx"]
    assert ask("quantize", "nowhere/") == []


def test_options_and_their_values(ask: Ask) -> None:
    assert ask("quantize", "--sch") == ["--scheme"]
    assert {"--bits", "--output", "--min-sqnr", "--jobs"} < set(ask("quantize", "a.onnx", "--"))
    assert ask("quantize", "--scheme", "s") == ["static"]
    assert ask("quantize", "--scheme", "=", "s") == ["static"]
    assert ask("quantize", "a.onnx", "--device", "=") == ["cpu", "cuda"]
    assert ask("inspect", "--sort", "") == ["bytes", "name", "macs", "zeros", "op"]
    assert ask("quantize", "a.onnx", "--data", "") == []  # any file: that is left to bash


def test_recipes(ask: Ask) -> None:
    names = list(ready_names())
    assert ask("compress", "--recipe", "") == [*names, "deep/", "mine.toml", "more/"]
    assert ask("recipe", "show", "") == ask("recipe", "init", "") == names
    assert ask("recipe", "check", "m") == ["mine.toml", "more/"]


def test_names_that_bash_would_split_are_left_to_it(ask: Ask, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "my model.onnx").touch()
    assert ask("inspect", "m") == []
    monkeypatch.setenv(VARIABLE, "complete_fish")
    assert completion.models("m") == ["more/", "my model.onnx"]


def test_a_pass_is_not_loaded_for_its_models(ask: Ask) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "onnxcompress"], capture_output=True, text=True, check=True,
        env=os.environ | {VARIABLE: "complete_bash", "COMP_WORDS": "onnxcompress\nquantize\na", "COMP_CWORD": "2"},
    )  # fmt: skip
    assert done.stdout == "a.onnx\n"
    assert "numpy" not in done.stderr
    assert ask("quantize", "a") == ["a.onnx"]


@pytest.mark.parametrize(
    ("shell", "start"), [("zsh", '_arguments \'*: :(("edge-cnn":"'), ("fish", "edge-cnn\tConvolutional")]
)
def test_other_shells_are_told_what_a_recipe_is_for_on_one_line(shell: str, start: str) -> None:
    asked: dict[str, Any] = {VARIABLE: f"complete_{shell}", "_TYPER_COMPLETE_ARGS": "onnxcompress recipe show edge"}
    done = cli(cwd=None, **asked, _TYPER_COMPLETE_FISH_ACTION="get-args")
    assert done.stdout.startswith(start)
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_real_bash(folder: Path) -> None:
    tool = folder / "bin" / "onnxcompress"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m onnxcompress "$@"\n')
    tool.chmod(0o755)
    script = """
        eval "$(onnxcompress --show-completion bash)"
        complete -p onnxcompress
        COMP_WORDS=(onnxcompress verify m); COMP_CWORD=2
        _onnxcompress_completion onnxcompress verify m
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    environment = os.environ | {"PATH": f"{tool.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "--noprofile", "-c", script], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stdout.splitlines() == [
        "complete -o default -F _onnxcompress_completion onnxcompress", "more/y.onnx", "more/z.onnx",
    ], done.stderr  # fmt: skip


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_it_is_installed_where_the_shell_reads_it(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert app.run(["--install-completion", shell]) == 0
    written = [path for path in tmp_path.rglob("*onnxcompress*") if path.is_file()]
    assert len(written) == 1
    assert f"complete_{shell}" in written[0].read_text()
    assert str(written[0]) in capsys.readouterr().out


def test_a_shell_that_is_not_known(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--show-completion", "tcsh"]) == 2
    assert "there is no completion for tcsh" in capsys.readouterr().err
    monkeypatch.setattr(completion, "_running_shell", lambda: None)
    assert app.run(["--install-completion"]) == 2
    assert "this shell cannot be told" in capsys.readouterr().err


def test_nothing_is_written_by_asking(ask: Ask, folder: Path) -> None:
    before = files(folder)
    ask("quantize", "")
    ask("quantize", "--o")
    assert files(folder) == before
