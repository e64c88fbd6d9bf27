"""``-``: a model from standard input, a result to standard output, and all that is said elsewhere then."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxcompress.cli import app, streams
from onnxcompress.errors import ModelError
from onnxcompress.graph import piped
from tests.test_cli_subprocess import FAILED, PASSED, files, last, perceptron, write

Run = Callable[..., tuple[int, bytes, str]]
MODEL = perceptron().SerializeToString()


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., tuple[int, bytes, str]]:
    """Runs the command line in an empty folder with these bytes on standard input."""
    (tmp_path / "here").mkdir()
    (tmp_path / "scratch").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))

    def prepared(content: bytes, *arguments: str) -> tuple[int, bytes, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        code = app.run(arguments)
        out, err = capsysbinary.readouterr()
        assert not [name for name in files(tmp_path / "scratch") if name.startswith("onnxcompress-")]
        return code, out, err.decode()

    return prepared


@pytest.mark.parametrize(
    ("arguments", "taken"),
    [
        (["quantize", "m", "--json", "-"], True),
        (["quantize", "m", "--json=-"], True),
        (["bench", "m", "--csv", "-"], True),
        (["bench", "m", "--csv=-"], True),
        (["quantize", "m", "-o", "-"], True),
        (["quantize", "m", "-o-"], True),
        (["quantize", "m", "-qo", "-"], True),
        (["quantize", "m", "-qo-"], True),
        (["quantize", "m", "--output", "-"], True),
        (["quantize", "m", "--output=-"], True),
        (["quantize", "-"], False),
        (["inspect", "-"], False),
        (["quantize", "-", "--json", "a.json", "-o", "b"], False),
        (["quantize", "-o", "b", "--", "--json", "-"], False),
        (["quantize", "m", "--report=-"], False),
    ],
)
def test_who_takes_standard_output(arguments: list[str], taken: bool) -> None:
    assert streams.stdout_taken(arguments) is taken


@pytest.mark.parametrize("option", [["--csv=-"], ["--csv", "-"]])
def test_an_error_leaves_standard_output_to_the_table(run: Run, option: list[str]) -> None:
    code, out, err = run(b"", "bench", "nowhere.onnx", *option)
    assert (code, out) == (2, b"")
    assert last(err).startswith(FAILED)


def test_through_a_pipe(run: Run) -> None:
    code, out, err = run(MODEL, "quantize", "-", "-o", "-", "--no-verify")
    assert code == 0, err
    made = onnx.ModelProto.FromString(out)
    assert len(out) < 0.4 * len(MODEL)
    assert [i.name for i in made.graph.input] == ["x"]
    assert last(err).startswith(f"{PASSED} -: ")
    assert files(Path()) == set()


def test_a_result_through_a_pipe_is_the_same_as_in_a_file(run: Run) -> None:
    write(perceptron(), Path("m.onnx"))
    assert run(MODEL, "quantize", "-", "--output", "s.onnx", "--no-verify", "--report", "{stem}.json")[0] == 0
    assert run(b"", "quantize", "m.onnx", "--no-verify")[0] == 0
    _, out, _ = run(b"", "quantize", "m.onnx", "--no-verify", "-qo-")
    assert out == Path("s.onnx").read_bytes() == Path("m.int8.onnx").read_bytes()
    report = json.loads(Path("stdin.json").read_text())
    assert (report["original"]["path"], report["compressed"]["path"]) == ("-", "s.onnx")


def test_a_result_that_did_not_pass_is_not_written(run: Run) -> None:
    code, out, err = run(MODEL, "quantize", "-", "-o", "-", "--no-verify", "--max-size", "1%")
    assert (code, out) == (1, b"")
    assert last(err).startswith(f"{FAILED} max_size")
    assert "/" not in last(err)  # no path to a file that is gone


def test_the_plan_of_a_model_from_a_pipe(run: Run) -> None:
    code, out, err = run(MODEL, "quantize", "-", "--dry-run")
    assert (code, err) == (0, "")
    assert last(out.decode()).startswith(f"{PASSED} dry run")


def test_inspect_reads_a_pipe(run: Run) -> None:
    code, out, _ = run(MODEL, "inspect", "-", "--no-run", "--json", "-")
    assert code == 0
    assert json.loads(out)["model"]["path"] == "-"
    assert last(run(MODEL, "inspect", "-", "--no-run")[1].decode()).startswith(f"{PASSED} -: ")


@pytest.mark.parametrize(
    ("content", "arguments", "code", "said"),
    [
        (MODEL, ["quantize", "-"], 2, "no folder"),
        (MODEL, ["quantize", "-", "-o", "-", "--json", "-"], 2, "cannot both"),
        (MODEL, ["compress", "-", "-o", "-", "--recipe", "tiny", "--keep-steps"], 2, "--keep-steps"),
        (b"", ["quantize", "-", "-o", "-"], 3, "is empty"),
        (b"", ["inspect", "-"], 3, "is empty"),
        (MODEL[:2000], ["quantize", "-", "-o", "-"], 3, "complete"),
        (b"no model\n" * 99, ["inspect", "-"], 3, "ONNX"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_refused(run: Run, content: bytes, arguments: list[str], code: int, said: str) -> None:
    found, out, err = run(content, *arguments)
    assert found == code, err
    assert said in err.splitlines()[0]
    assert "scratch" not in err
    assert err.splitlines()[1].startswith("hint: ")
    if "-o" in arguments:
        assert out == b""
    assert files(Path()) == set()


def test_external_data_do_not_come_through_a_pipe(run: Run, tmp_path: Path) -> None:
    onnx.save_model(perceptron(), str(tmp_path / "m.onnx"), save_as_external_data=True, size_threshold=0)
    code, _, err = run((tmp_path / "m.onnx").read_bytes(), "quantize", "-", "-o", "-")
    assert code == 3
    assert "external data, which do not come with it" in err


def test_what_comes_through_a_pipe_is_bounded(tmp_path: Path) -> None:
    stream = io.BytesIO(bytes(5 << 20))
    with pytest.raises(ModelError, match="more than 1000000 bytes"):
        piped.spool(stream, tmp_path / "m.onnx", 1_000_000)
    assert stream.tell() <= 2 << 20


def test_a_result_of_two_files_is_not_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxcompress.graph import writer

    defaults = {**(writer.save.__kwdefaults__ or {}), "single_file_limit": 1000}
    monkeypatch.setattr(writer.save, "__kwdefaults__", defaults)
    code, out, err = run(MODEL, "quantize", "-", "-o", "-", "--no-verify")
    assert (code, out) == (3, b"")
    assert "cannot carry its external data" in err


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no pseudo terminals here")
def test_a_terminal_is_neither_read_nor_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    master, slave = os.openpty()
    with os.fdopen(master, "rb"), os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        assert app.run(["inspect", "-"]) == 2
        assert "standard input is no model but a terminal" in capsys.readouterr().err
        monkeypatch.setattr(sys, "stdout", terminal)
        assert app.run(["quantize", "-", "-o", "-"]) == 2
        assert "not written to a terminal" in capsys.readouterr().err


def test_a_reader_that_went_away_did_not_get_its_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = perceptron()
    model.metadata_props.add(key="filler", value=rng.bytes(200_000).hex())  # more than a pipe holds
    with subprocess.Popen(
        [sys.executable, "-m", "onnxcompress", "quantize", "-", "-o", "-", "--no-verify", "--quiet"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(model.SerializeToString())
        process.stdin.close()
        err = process.stderr.read().decode()
    assert process.returncode == 4
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "hint", "onnxcompress"], err
    assert not [name for name in files(tmp_path) if name.startswith("onnxcompress")]
