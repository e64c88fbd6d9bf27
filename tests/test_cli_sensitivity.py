"""`onnxcompress sensitivity` as a person or a script meets it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from tests.test_cli_subprocess import EVIL, FAILED, PASSED, SAMPLE, Done, cli, files, last, perceptron, refused, write

DATA = SAMPLE.with_name("digits-cnn.calib.npz")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(perceptron(), tmp_path / "model.onnx")


@pytest.fixture(scope="module")
def low(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The outcome with so few bits that layers have to be left out, and the folder of its JSON."""
    folder = tmp_path_factory.mktemp("low")
    arguments = ("--data", DATA, "--bits", "2", "--min-sqnr", "12", "--seconds", "5", "--top", "3")
    return folder, cli("sensitivity", SAMPLE, *arguments, "--json", "found.json", cwd=folder)


def test_the_page(low: tuple[Path, Done]) -> None:
    folder, done = low
    assert (done.returncode, done.stderr) == (0, "")
    assert files(folder) == {"found.json"}
    assert "\x1b" not in done.stdout
    for word in ("layer", "operator", "shape", "bits", "parameters", "estimated", "measured", "and 4 more layers"):
        assert word in done.stdout
    assert last(done.stdout).startswith(f"{PASSED} ")
    assert "7 layers ranked, 7 measured, exclude " in last(done.stdout)


def test_the_lines_to_paste_are_those_of_the_json_and_quantize_takes_them(low: tuple[Path, Done]) -> None:
    folder, done = low
    data = json.loads((folder / "found.json").read_text())
    (line,) = [text for text in done.stdout.splitlines() if text.startswith("--exclude ")]
    words = shlex.split(line)
    assert words[1::2] == data["exclude"]
    assert any(text.startswith('exclude = ["') for text in done.stdout.splitlines())
    made = cli("quantize", SAMPLE, *words, "--bits", "2", "--no-verify", "--dry-run")
    assert made.returncode == 0, made.stdout + made.stderr


def test_nothing_to_exclude_without_data(model: Path) -> None:
    done = cli("sensitivity", model, "--json", "-")
    data = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert (data["schema_version"], data["data"], data["exclude"]) == ("1.0", "synthetic", [])
    assert len(data["model"]["sha256"]) == 64
    assert "synthetic inputs, as no data was given" in done.stderr
    assert "nothing needs to be excluded" in done.stderr
    assert last(done.stderr).startswith(PASSED)
    assert files(model.parent) == {"model.onnx"}


def test_quiet(model: Path) -> None:
    done = cli("sensitivity", model, "--quiet", "--no-activations")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


def test_names_with_escapes_are_never_printed_raw(tmp_path: Path) -> None:
    path = write(perceptron(EVIL), tmp_path / "model.onnx")
    done = cli("sensitivity", path, "--min-sqnr", "100", "--verbose", "--no-activations")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert sum(line.startswith("onnxcompress: ") for line in done.stdout.splitlines()) == 1
    (line,) = [text for text in done.stdout.splitlines() if text.startswith("--exclude ")]
    made = cli("quantize", path, *shlex.split(line)[:2], "--no-verify", "--dry-run")
    assert made.returncode == 0, made.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nowhere.onnx"], 2),
        (["model.onnx", "--include", "nothing*"], 2),
        (["model.onnx", "--exclude", "nothing*"], 2),
        (["model.onnx", "--bits", "5"], 2),
        (["model.onnx", "--bits", "4", "--activations"], 2),
        (["model.onnx", "--seconds", "-1"], 2),
        (["model.onnx", "--min-sqnr", "nan"], 2),
        (["model.onnx", "--top", "0"], 2),
        (["model.onnx", "--json", "model.onnx"], 2),
        (["model.onnx", "--data", "nowhere"], 2),
        (["model.onnx", "--data", "names.npz"], 3),
        (["model.onnx", "--data", "nan.npz"], 3),
        (["empty.onnx"], 3),
        (["nan.onnx"], 3),
        (["model.onnx", "--device", "cuda"], 4),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_wrong_usage_and_what_cannot_be_used(model: Path, arguments: list[str], code: int) -> None:
    folder = model.parent
    (folder / "empty.onnx").write_bytes(b"")
    write(perceptron(value=np.nan), folder / "nan.onnx")
    np.savez(folder / "names.npz", wrong=np.zeros((2, 64), np.float32))
    np.savez(folder / "nan.npz", x=np.full((2, 64), np.nan, np.float32))
    before = files(folder)
    done = cli("sensitivity", *arguments, cwd=folder)
    refused(done, code)
    assert last(done.stdout).startswith(FAILED)
    assert files(folder) == before
