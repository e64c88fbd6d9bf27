"""Several models of one command: real processes, one table, the worst exit code."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import onnx
import pytest

from onnxcompress.cli import app, batch, command_line
from onnxcompress.cli.models import jobs_of, several
from onnxcompress.cli.options import ReportFlags
from onnxcompress.cli.verbs import pass_verbs
from onnxcompress.errors import UsageError
from tests.test_cli_subprocess import FAILED, PASSED, SCHEMA, Done, cli, files, last, perceptron, write

LANGUAGE = Path(__file__).parent.parent / "sample_models" / "language-id.onnx"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two models that can be used, and one that is empty."""
    for name in ("a", "b"):
        write(perceptron(f"weight of {name}"), tmp_path / f"{name}.onnx")
    (tmp_path / "c.onnx").touch()
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A folder after two of its three models were quantized, two at a time."""
    folder = tmp_path_factory.mktemp("many")
    for name in ("a", "b"):
        write(perceptron(f"weight of {name}"), folder / f"{name}.onnx")
    (folder / "c.onnx").touch()
    options = ["--jobs", "2", "-o", "out", "--report", "{stem}.md", "--junit", "{stem}.xml", "--json", "all.json"]
    return folder, cli("quantize", ".", *options, "--min-sqnr", "150", "--limit", "2", "--data", "d", cwd=_data(folder))


def _data(folder: Path) -> Path:
    import numpy as np

    (folder / "d").mkdir()
    for name in ("1", "2", "3"):
        np.savez(folder / "d" / f"{name}.npz", x=np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32))
    return folder


def test_every_model_is_tried_and_the_worst_exit_code_counts(finished: tuple[Path, Done]) -> None:
    folder, done = finished
    assert done.returncode == 3
    assert files(folder / "out") == {"a.int8.rejected.onnx", "b.int8.rejected.onnx"}
    assert done.stderr.splitlines() == ["error: c.onnx: c.onnx is empty", "hint: Copy or export the model again."]
    assert last(done.stdout) == f"{FAILED} 3 of 3 models: a.onnx, b.onnx, c.onnx"


def test_each_model_has_a_line_and_a_row(finished: tuple[Path, Done]) -> None:
    lines = finished[1].stdout.splitlines()
    assert sorted(line[:14] for line in lines[:3]) == ["1 of 3  FAILED", "2 of 3  FAILED", "3 of 3  FAILED"]
    rows = {line.split()[0]: line.split() for line in lines[4:] if line.startswith(("a.", "b.", "c."))}
    assert [rows[f"{name}.onnx"][1] for name in "abc"] == ["FAILED", "FAILED", "ERROR"]
    assert sum(line.startswith("onnxcompress: ") for line in lines) == 1
    assert any("2 models ran at once" in line for line in lines)


def test_reports_of_each_model(finished: tuple[Path, Done]) -> None:
    assert {"a.md", "b.md", "a.xml", "b.xml"} < files(finished[0])
    assert "c.md" not in files(finished[0])


def test_one_json_for_all(finished: tuple[Path, Done]) -> None:
    found: dict[str, Any] = json.loads((finished[0] / "all.json").read_text())
    assert found["summary"] == {"models": 3, "passed": 0, "failed": 3, "exit_code": 3}
    assert (found["schema_version"], found["tool"]["name"], found["jobs"]) == ("1.0", "onnxcompress", 2)
    a, _, c = found["models"]
    assert (a["model"], a["verdict"], a["exit_code"]) == ("a.onnx", "failed", 1)
    assert a["output"] == str(Path("out") / "a.int8.rejected.onnx")
    jsonschema.Draft202012Validator(SCHEMA).validate(a["report"])
    assert a["report"]["fidelity"]["samples"] == 2  # --data and --limit hold for all
    assert (c["verdict"], c["error"], c["report"]) == ("error", "c.onnx is empty", None)
    assert c["hint"]


def test_threads_are_divided(finished: tuple[Path, Done]) -> None:
    found = json.loads((finished[0] / "all.json").read_text())
    from onnxcompress.runtime.machine import usable_cores

    assert found["models"][0]["report"]["latency"]["threads"] == max(1, usable_cores() // 2)


def test_results_lie_beside_their_models_and_are_not_taken_for_models(folder: Path) -> None:
    (folder / "c.onnx").unlink()
    done = cli("quantize", folder, "--no-verify", "--verbose", "--jobs", "2")
    assert (done.returncode, done.stderr) == (0, "")
    made = {"a.onnx", "b.onnx", "a.int8.onnx", "b.int8.onnx"}
    assert files(folder) == made
    assert done.stdout.count("wrote ") == 2
    assert sum(line.startswith("onnxcompress: ") for line in done.stdout.splitlines()) == 1
    assert last(done.stdout).startswith(f"{PASSED} 2 of 2 models: ")


def test_a_folder_that_got_no_results_is_not_left_behind(tmp_path: Path) -> None:
    for name in ("results", "none"):
        with batch.folder_made(tmp_path / "deep" / name):
            if name == "results":
                (tmp_path / "deep" / name / "m.onnx").touch()
    assert files(tmp_path / "deep") == {"results"}


def test_options_reach_every_model_as_they_were_given(folder: Path) -> None:
    (folder / "r.toml").write_text('[[steps]]\npass = "prune"\n\n[[steps]]\npass = "quantize"\nbits = 4\n')
    shutil.copy(folder / "b.onnx", folder / "-d.onnx")
    options = ["--recipe", "r.toml", "--max-size", "99%", "--max-size=90%", "--report", "{stem}.json", "--seed", "3"]
    done = cli(
        "compress", *options, "-o", "new/out", "--json=-", "--jobs", "2", "--no-verify", "--", "b.onnx", "-d.onnx",
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for model in json.loads(done.stdout)["models"]:
        assert model["report"]["recipe"]["budgets"] == {"max_size": 0.9}
        assert [step["pass"] for step in model["report"]["recipe"]["steps"]] == ["prune", "quantize"]
        assert model["report"]["seed"] == 3
    assert last(done.stderr).startswith(f"{PASSED} 2 of 2 models: ")
    assert files(folder / "new" / "out") == {"b.r.onnx", "-d.r.onnx"}
    assert {"b.json", "-d.json"} < files(folder)


def test_words_are_read_as_the_values_that_they_were_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONNXCOMPRESS_TIMING_SECONDS")  # a word of its own on the command line of a child
    words = ["--bits=4", "--asymmetric", "--exclude=a*", "--exclude=-b=c", "--no-simplify", "--full-range"]
    (command,) = (verb.command() for verb in pass_verbs() if verb.name == "quantize")
    context = command.make_context("quantize", ["m", *words, "--jobs", "3"])
    assert sorted(command_line.again(context, ["jobs"])) == sorted(words)


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.onnx", "b.onnx", "-o", "a file"],
        ["a.onnx", "b.onnx", "-o", "new.onnx"],
        ["a.onnx", "b.onnx", "-o", "-"],
        ["a.onnx", "-"],
        ["a.onnx", "a.onnx"],
        ["a.onnx", "."],
        ["a.onnx", "sub/a.onnx", "-o", "out"],
        ["a.onnx", "sub/a.onnx", "--report", "{stem}.md"],
        ["a.onnx", "a.int8.onnx", "--force"],
        ["a.onnx", "b.onnx", "--report", "r.html"],
        ["a.onnx", "b.onnx", "--junit", "r.xml"],
        ["a.onnx", "b.onnx", "--json", "{stem}.json"],
        ["a.onnx", "b.onnx", "--json", "a.json", "--report", "{stem}.json"],
        ["a.onnx", "b.onnx", "--report", "nowhere/{stem}.md"],
        ["a.onnx", "b.onnx", "--limit", "1"],
        ["a.onnx", "b.onnx", "--max-memory", "x"],
        ["a.onnx", "b.onnx", "--jobs", "0"],
        ["none/"],
    ],
    ids=" ".join,
)
def test_what_is_refused_before_anything_runs(
    folder: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    (folder / "a file").touch()
    (folder / "sub").mkdir()
    (folder / "none").mkdir()
    for name in ("sub/a.onnx", "a.int8.onnx"):
        write(perceptron(), folder / name)
    before = set(folder.rglob("*"))
    assert app.run(["quantize", *arguments]) == 2
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in err.splitlines()][:2] == ["error", "hint"]
    assert last(err if arguments[-2:] == ["-o", "-"] else out).startswith(FAILED)
    assert set(folder.rglob("*")) == before


def test_which_files_of_a_folder_are_models(tmp_path: Path) -> None:
    for name in ("m.onnx", "m.v2.onnx", ".hidden.onnx", "m.rejected.onnx", "m.txt"):
        write(perceptron(), tmp_path / name)
    made = perceptron()
    onnx.helper.set_model_props(made, {"onnxcompress.version": "1"})
    write(made, tmp_path / "m.int8.onnx")
    (tmp_path / "sub.onnx").mkdir()
    assert [job.model.name for job in jobs_of([tmp_path], "t", None, ReportFlags())] == ["m.onnx", "m.v2.onnx"]
    (tmp_path / "m.onnx").unlink()
    (tmp_path / "m.v2.onnx").unlink()
    assert [job.model.name for job in jobs_of([tmp_path], "t", None, ReportFlags())] == ["m.int8.onnx"]
    (tmp_path / "m.int8.onnx").unlink()
    with pytest.raises(UsageError, match="has no models"):
        jobs_of([tmp_path], "t", None, ReportFlags())


def test_one_file_is_no_batch_and_a_folder_is(tmp_path: Path) -> None:
    assert not several([tmp_path / "m.onnx"])
    assert several([tmp_path])
    assert several([tmp_path / "m.onnx", tmp_path / "n.onnx"])


def heeding() -> None:
    """Let an interruption end the process, also where the tests run in the background, which ignores them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupted(folder: Path, arguments: list[str], ready: str, number: int = signal.SIGINT) -> tuple[int, str, str]:
    """Starts the tool, sends it a signal as soon as a file of that pattern is there, and waits for its end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "onnxcompress", *arguments],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=heeding,
    )  # fmt: skip
    try:
        until = time.monotonic() + 60
        while not list(folder.glob(ready)) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, err


def running(folder: Path) -> list[str]:
    """Command lines of processes that work in this folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink() == folder:
                found.append((entry / "cmdline").read_text())
        except OSError:  # it is another user's, or has ended
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, number: int) -> None:
    shutil.copy(LANGUAGE, tmp_path / "m.onnx")
    code, out, err = interrupted(tmp_path, ["quantize", "m.onnx"], ".m.*candidate.onnx", number)
    assert code == 130, err
    assert err.splitlines()[0] == "error: interrupted"
    assert last(out) == f"{FAILED} interrupted"
    assert files(tmp_path) == {"m.onnx"}


def test_an_interruption_ends_all_models(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        shutil.copy(LANGUAGE, tmp_path / f"{name}.onnx")
    code, out, err = interrupted(tmp_path, ["quantize", ".", "--jobs", "2", "-o", "out"], "out/.*candidate.onnx")
    assert code == 130, err
    assert err.splitlines()[0] == "error: interrupted"
    assert last(out) == f"{FAILED} interrupted"
    assert files(tmp_path) <= {"a.onnx", "b.onnx", "c.onnx", "out"}
    assert (
        not [name for name in files(tmp_path / "out") if name.startswith(".")] if (tmp_path / "out").exists() else True
    )
    assert running(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no pseudo terminals here")
def test_a_job_on_a_terminal_gets_no_control_codes(tmp_path: Path) -> None:
    write(perceptron(), tmp_path / "m.onnx")
    master, slave = os.openpty()
    with os.fdopen(master, "rb", buffering=0) as screen, os.fdopen(slave, "wb") as terminal:
        done = subprocess.run(
            [sys.executable, "-m", "onnxcompress", "quantize", "m.onnx", "--no-verify"],
            cwd=tmp_path, stdout=terminal, stderr=terminal, check=False,
            env=os.environ | {"CI": "true", "TERM": "xterm"},
        )  # fmt: skip
        assert done.returncode == 0
        shown = screen.read(65536)
    assert b"onnxcompress: PASSED" in shown
    assert b"\x1b" not in shown
