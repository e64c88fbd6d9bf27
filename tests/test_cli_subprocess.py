"""The command line as a person or a script meets it: real processes, real models, real files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.cli import app

SAMPLE = Path(__file__).parent.parent / "sample_models" / "digits-cnn.onnx"
SCHEMA = json.loads(resources.files("onnxcompress").joinpath("report.schema.json").read_text(encoding="utf-8"))
PASSED, FAILED = "onnxcompress: PASSED", "onnxcompress: FAILED"

Done = subprocess.CompletedProcess[str]


def cli(*arguments: object, cwd: Path | None = None, **environment: str) -> Done:
    return subprocess.run(
        [sys.executable, "-m", "onnxcompress", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, **environment},
    )


def perceptron(first: str = "first", second: str = "second", value: float = 1.0) -> onnx.ModelProto:
    """Two matrix products with a ReLU between them, 40 KiB of weights."""
    rng = np.random.default_rng(0)
    weights = {first: rng.normal(size=(64, 128)), second: rng.normal(size=(128, 16))}
    weights[first][0, 0] *= value
    stored = [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()]
    nodes = [
        helper.make_node("MatMul", ["x", first], ["a"], f"node of {first}"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", second], ["y"], f"node of {second}"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16])
    graph = helper.make_graph(nodes, "perceptron", [x], [y], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(perceptron(), tmp_path / "model.onnx")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The folder and the outcome of quantizing the sample model, verified, with a report."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copy(SAMPLE, folder / "digits.onnx")
    return folder, cli("quantize", "digits.onnx", "--report", "report.json", cwd=folder)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def last(text: str) -> str:
    return text.splitlines()[-1]


def test_quantize_without_any_option(finished: tuple[Path, Done]) -> None:
    folder, done = finished
    assert (done.returncode, done.stderr) == (0, "")
    assert files(folder) == {"digits.onnx", "digits.int8.onnx", "report.json"}
    assert (folder / "digits.onnx").read_bytes() == SAMPLE.read_bytes()
    assert (folder / "digits.int8.onnx").stat().st_size < 0.3 * SAMPLE.stat().st_size
    assert last(done.stdout).startswith(f"{PASSED} digits.int8.onnx: ")


def test_the_page_of_a_pipe_is_plain(finished: tuple[Path, Done]) -> None:
    _, done = finished
    assert "\x1b" not in done.stdout
    assert "with synthetic inputs, as no data was given" in done.stdout
    for word in ("original", "compressed", "size", "latency p50", "SQNR", "forms"):
        assert word in done.stdout


def test_the_report_fits_its_schema(finished: tuple[Path, Done]) -> None:
    data = json.loads((finished[0] / "report.json").read_text())
    jsonschema.Draft202012Validator(SCHEMA).validate(data)
    assert data["verdict"] == "passed"
    assert data["fidelity"]["data"] == "synthetic"


def test_verify_agrees_with_the_verification_of_quantize(finished: tuple[Path, Done]) -> None:
    folder, _ = finished
    done = cli("verify", "digits.onnx", "digits.int8.onnx", "--min-sqnr", "10", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert last(done.stdout).startswith(f"{PASSED} ")
    assert "wrote" not in done.stdout


def test_json_alone_on_standard_output(model: Path) -> None:
    done = cli("quantize", model, "--no-verify", "--json", "-")
    data = json.loads(done.stdout)
    jsonschema.Draft202012Validator(SCHEMA).validate(data)
    assert done.returncode == 0
    assert last(done.stderr).startswith(PASSED)


def test_a_failed_budget_is_exit_code_one_and_leaves_the_target_alone(model: Path) -> None:
    done = cli("quantize", model, "--min-sqnr", "150")
    assert done.returncode == 1
    assert files(model.parent) == {"model.onnx", "model.int8.rejected.onnx"}
    assert last(done.stdout).startswith(f"{FAILED} min_sqnr")


def test_a_dry_run_writes_nothing(model: Path) -> None:
    done = cli("quantize", model, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert files(model.parent) == {"model.onnx"}
    assert "predicted" in done.stdout
    assert last(done.stdout).startswith(f"{PASSED} dry run")


def test_quiet(model: Path) -> None:
    done = cli("quantize", model, "--no-verify", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


def test_simplify(tmp_path: Path) -> None:
    done = cli("simplify", SAMPLE, "-o", tmp_path / "out.onnx")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out.onnx").stat().st_size <= SAMPLE.stat().st_size


def test_a_reader_that_went_away_changes_nothing(model: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "onnxcompress", "quantize", model, "--no-verify"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert "model.int8.onnx" in files(model.parent)


EVIL = "w\x1b[2J\x1b]0;t\x07\nonnxcompress: PASSED [red]"


@pytest.mark.parametrize("mode", [["--no-verify", "--verbose"], ["--dry-run"], ["--bits", "4", "--no-verify"]])
def test_names_with_escapes_are_never_printed_raw(tmp_path: Path, mode: list[str]) -> None:
    done = cli("quantize", write(perceptron(EVIL), tmp_path / "model.onnx"), *mode)
    assert done.returncode == 0, done.stderr
    for text in (done.stdout, done.stderr):
        assert "\x1b" not in text
        assert "\x07" not in text
    assert sum(line.startswith("onnxcompress: ") for line in done.stdout.splitlines()) == 1


def test_a_glob_with_escapes_is_not_printed_raw(model: Path) -> None:
    done = cli("quantize", model, "--include", "\x1b[2Jnothing")
    assert done.returncode == 2
    assert "\x1b" not in done.stdout + done.stderr


def quantized(folder: Path) -> None:
    assert cli("quantize", "model.onnx", "--no-verify", "-o", "model.int8.onnx", cwd=folder).returncode == 0
    (folder / "model.int8.onnx").replace(folder / "model.onnx")


def spoil(folder: Path, how: str) -> None:
    """Make the model in the folder into something that cannot be used."""
    path = folder / "model.onnx"
    raw = path.read_bytes()
    match how:
        case "missing":
            path.unlink()
        case "folder":
            path.unlink()
            path.mkdir()
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(raw[: len(raw) // 2])
        case "not ONNX":
            path.write_text("This is no model.\n" * 50)
        case "NaN":
            write(perceptron(value=np.nan), path)
        case "no weights":
            proto = perceptron()
            del proto.graph.initializer[:]
            del proto.graph.node[:]
            proto.graph.node.append(helper.make_node("Identity", ["x"], ["y"]))
            write(proto, path)
        case "quantized":
            quantized(folder)


@pytest.mark.parametrize(
    ("how", "code"),
    [("missing", 2), ("folder", 2), ("empty", 3), ("truncated", 3), ("not ONNX", 3), ("NaN", 3),
     ("no weights", 3), ("quantized", 3)],
)  # fmt: skip
def test_models_that_cannot_be_used(model: Path, how: str, code: int) -> None:
    spoil(model.parent, how)
    before = files(model.parent)
    refused(cli("quantize", "model.onnx", "-o", "out.onnx", cwd=model.parent), code)
    assert files(model.parent) == before


def refused(done: Done, code: int) -> None:
    """Two lines on standard error, and FAILED as the last line of standard output."""
    assert done.returncode == code, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "hint"], done.stderr
    assert last(done.stdout).startswith(FAILED)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["quantize", "model.onnx", "-o", "taken.onnx"], 2),
        (["quantize", "model.onnx", "-o", "model.onnx"], 2),
        (["quantize", "model.onnx", "-o", "model.onnx", "--force"], 2),
        (["quantize", "model.onnx", "-o", "nowhere/out.onnx"], 2),
        (["quantize", "model.onnx", "--include", "nothing*"], 2),
        (["quantize", "model.onnx", "--exclude", "nothing*"], 2),
        (["quantize", "model.onnx", "--json", "model.onnx"], 2),
        (["quantize", "model.onnx", "--data", "nowhere"], 2),
        (["quantize", "model.onnx", "--data", "names.npz"], 3),
        (["quantize", "model.onnx", "--data", "shapes.npz"], 3),
        (["quantize", "model.onnx", "--data", "nan.npz"], 3),
        (["quantize", "model.onnx", "--device", "cuda"], 4),
        (["verify", "model.onnx", "nowhere.onnx"], 2),
        (["compress", "model.onnx", "--recipe", "nowhere.toml"], 2),
        (["compress", "model.onnx", "--recipe", "no such recipe"], 2),
        (["compress", "model.onnx", "--recipe", "bad.toml"], 2),
        (["recipe", "check", "bad.toml"], 2),
        (["recipe", "init", "no such recipe"], 2),
    ],
    ids=lambda value: " ".join(value[2:]) if isinstance(value, list) else str(value),
)
def test_wrong_usage_and_data_that_does_not_fit(model: Path, arguments: list[str], code: int) -> None:
    folder = model.parent
    (folder / "taken.onnx").write_text("precious")
    (folder / "bad.toml").write_text('[[steps]]\npass = "quantize"\nbits = 5\n')
    np.savez(folder / "names.npz", wrong=np.zeros((2, 64), np.float32))
    np.savez(folder / "shapes.npz", x=np.zeros((2, 65), np.float32))
    np.savez(folder / "nan.npz", x=np.full((2, 64), np.nan, np.float32))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    refused(cli(*arguments, cwd=folder), code)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_force_overwrites_the_output(model: Path) -> None:
    output = model.parent / "taken.onnx"
    output.write_text("precious")
    assert cli("quantize", model, "-o", output, "--force", "--no-verify").returncode == 0
    assert onnx.ModelProto.FromString(output.read_bytes()).graph.name == "perceptron"


def test_recipes(model: Path) -> None:
    folder = model.parent
    schema: dict[str, Any] = json.loads(cli("recipe", "schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    names = cli("recipe", "init").stdout.split()
    assert names
    for name in names:
        path = folder / f"{name}.toml"
        assert app.run(["recipe", "init", name, "-o", str(path)]) == 0
        assert app.run(["recipe", "check", str(path)]) == 0
    assert cli("recipe", "init", names[0], "-o", f"{names[0]}.toml", cwd=folder).returncode == 2  # it is there
    assert last(cli("recipe", "check", f"{names[0]}.toml", cwd=folder).stdout).startswith(PASSED)


def test_a_recipe_is_run_from_its_file(model: Path) -> None:
    (model.parent / "four.toml").write_text('[[steps]]\npass = "quantize"\nbits = 4\n')
    done = cli("compress", model, "--recipe", "four.toml", "--no-verify", "--json", "-", cwd=model.parent)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert [step["pass"] for step in data["steps"]] == ["quantize"]
    assert {layer["bits"] for layer in data["steps"][0]["layers"]} == {4}
