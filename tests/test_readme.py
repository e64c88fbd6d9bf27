"""Every command, program and example of the README, run as it is printed.

Commands run one after the other in a folder of their own with the files that they name; the time that is given to
latency is short. What an example fetches from elsewhere, with curl or pip, is there already.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from onnxcompress.benching import measuring
from onnxcompress.cli import app

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^ {4}((?:onnxcompress|curl) .*)$", README, re.MULTILINE)
MAKE = re.findall(r"^ {4}make (\S+)", README, re.MULTILINE)
MAY_REFUSE = {"factorize": 3}  # a model that no rank makes faster


def block(kind: str) -> str:
    """The first block of that kind."""
    return next(str(text) for name, text in BLOCKS if name == kind)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where an example runs: models, calls, the recipe of the README, and programs that stand in for the network."""
    samples = ROOT / "sample_models"
    calls, models, programs = tmp_path / "calls", tmp_path / "models", tmp_path / "bin"
    for made in (calls, models, programs):
        made.mkdir()
    with np.load(samples / "digits-cnn.calib.npz") as found:
        (name,) = found.files
        for i in range(12):
            np.savez(calls / f"{i}.npz", allow_pickle=False, **{name: found[name][i : i + 1]})
    for path in (
        tmp_path / "model.onnx",
        tmp_path / "a.onnx",
        tmp_path / "b.onnx",
        models / "c.onnx",
        models / "d.onnx",
        *(tmp_path / f"{name}.onnx" for name in ("big", "small", "pruned")),
    ):
        shutil.copy(samples / "digits-cnn.onnx", path)
    with np.load(samples / "digits-cnn.eval.npz") as found:
        np.savez(tmp_path / "train.npz", allow_pickle=False, **{k: found[k][:64] for k in found.files})
    (tmp_path / "mine.toml").write_text(block("toml").replace("*head*", "10.bias"))
    python = shlex.quote(sys.executable)
    script(programs / "onnxcompress", f'exec {python} -m onnxcompress "$@"')
    script(programs / "curl", "exec cat model.onnx")
    script(programs / "pip", "exit 0")
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.chdir(tmp_path)
    hurried(monkeypatch, importlib.import_module("onnxcompress.verify.verify"), "paired")
    hurried(monkeypatch, measuring, "interleaved")
    return tmp_path


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def hurried(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
    real: Callable[..., Any] = getattr(module, name)

    @functools.wraps(real)
    def short(rounds: Any, seconds: float = 0.0, *rest: Any, **more: Any) -> Any:
        return real(rounds, min(seconds, 0.05), *rest, **more)

    monkeypatch.setattr(module, name, short)


def test_the_readme_has_examples() -> None:
    assert len(COMMANDS) >= 20
    assert {kind for kind, _ in BLOCKS} == {"text", "python", "yaml", "make", "toml"}


@pytest.mark.parametrize("command", dict.fromkeys(COMMANDS))
def test_a_command_runs_as_it_is_printed(folder: Path, command: str) -> None:
    words = shlex.split(command, comments=True)
    if words[0] != "onnxcompress" or "|" in words:
        done = subprocess.run(["bash", "-eo", "pipefail", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (folder / "small.onnx").stat().st_size > 1000
        return
    if "model.int8.onnx" in words:
        data = ["--data", "calls"] if "--data" in words and words[1] == "reproduce" else []
        assert app.run(["quantize", "model.onnx", "--quiet", *data]) == 0
    if words[1:3] in (["recipe", "init"],):
        (folder / "mine.toml").unlink()
    assert app.run(words[1:]) in (0, MAY_REFUSE.get(words[1], 0))


def test_the_program_runs_as_it_is_printed(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", block("python")], capture_output=True, text=True, check=False, cwd=folder
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2].startswith("True ")
    assert done.stdout.splitlines()[-1].startswith("passed ")


def test_the_steps_of_a_job_run_as_they_are_printed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))
    for step in re.findall("^- run: (.*)$", block("yaml"), re.MULTILINE):
        done = subprocess.run(["bash", "-e", "-c", step], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "✅" in (folder / "summary.md").read_text(encoding="utf-8")
    assert (folder / "checks.xml").exists()


def test_the_rule_of_a_makefile_runs_as_it_is_printed(folder: Path) -> None:
    (folder / "Makefile").write_text(block("make"))
    for expected in ("PASSED", "up to date"):
        done = subprocess.run(["make", "model.int8.onnx"], capture_output=True, text=True, check=False, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


def test_the_targets_of_make_are_there() -> None:
    known = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in MAKE:
        assert re.search(rf"^{re.escape(target)}:", known, re.MULTILINE), target
