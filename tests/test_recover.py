"""`--recover`, `distill` and `finetune` as they are typed: what comes out, exit codes, and runs that are killed."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxcompress.cli import app
from onnxcompress.errors import UsageError
from onnxcompress.forms.unpacking import unpacked
from onnxcompress.graph.model import Model
from onnxcompress.passes.base import Context
from onnxcompress.passes.learning import with_recovery
from onnxcompress.passes.prune import Prune
from onnxcompress.passes.quantize import Quantize
from onnxcompress.passes.recover import Recover
from onnxcompress.recipe import Recipe
from tests.benchmarks.measure import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SAMPLES = ROOT / "sample_models"
DIGITS, CALIB, EVAL = (str(SAMPLES / f"digits-cnn.{end}") for end in ("onnx", "calib.npz", "eval.npz"))
SHORT = ("--recover", "--recover-epochs", "6", "--data", CALIB, "--quiet")


@pytest.fixture(autouse=True)
def onnx_ad() -> None:
    pytest.importorskip("onnx_ad", reason="onnx-ad is not installed (pip install 'onnxcompress[train]')")


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are not what is tested here."""
    module = importlib.import_module("onnxcompress.verify.verify")
    real: Callable[..., Any] = vars(module)["paired"]

    def short(rounds: Any, seconds: float = 0.0, *rest: Any, **more: Any) -> Any:
        return real(rounds, min(seconds, 0.05), *rest, **more)

    monkeypatch.setattr(module, "paired", short)


def run(folder: Path, *words: str) -> dict[str, Any]:
    """The report of a run that ended well."""
    assert app.run([*words, f"--json={folder / 'report.json'}"]) == 0
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def dense(path: Path) -> dict[str, np.ndarray]:
    """The weights of a model, unpacked."""
    model = Model.open(path)
    model = unpacked(model) or model
    return {t.name: model.array(t) for t in model.tensors() if t.name}


def test_pruned_weights_are_trained_and_stay_zero(tmp_path: Path) -> None:
    plain, made = tmp_path / "plain.onnx", tmp_path / "made.onnx"
    common = ("prune", DIGITS, "--sparsity", "0.9", "--eval-data", EVAL)
    before = run(tmp_path, *common, "--data", CALIB, "-o", str(plain), "--quiet")
    after = run(tmp_path, *common, *SHORT, "-o", str(made))
    assert after["metrics"]["accuracy"]["compressed"] > before["metrics"]["accuracy"]["compressed"] + 0.02
    old, new = dense(plain), dense(made)
    assert not np.array_equal(old["10.weight"], new["10.weight"])
    for name in ("10.weight", "4.weight"):
        assert np.array_equal(old[name] == 0, new[name] == 0)
    assert [step["pass"] for step in after["steps"]] == ["simplify", "prune", "recover"]
    assert after["compressed"]["parameters"] == before["compressed"]["parameters"]


def test_codes_of_two_bits_are_trained_on_their_grid(tmp_path: Path) -> None:
    plain, made = tmp_path / "plain.onnx", tmp_path / "made.onnx"
    common = ("quantize", DIGITS, "--bits", "2", "--no-verify")
    run(tmp_path, *common, "--data", CALIB, "-o", str(plain), "--quiet")
    run(tmp_path, *common, *SHORT, "--recover-learning-rate", "0.001", "-o", str(made))
    old, new = (onnx.load(path).graph for path in (plain, made))
    assert [n.op_type for n in old.node] == [n.op_type for n in new.node]
    stored = {t.name: numpy_helper.to_array(t) for t in old.initializer}
    changed = [t.name for t in new.initializer if not np.array_equal(stored[t.name], numpy_helper.to_array(t))]
    assert "10.weight.q" in changed
    assert not [name for name in changed if name.endswith((".s", ".z"))]


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    words = [sys.executable, "-m", "onnxcompress", "prune", DIGITS, "--sparsity", "0.9", "--recover",
             "--recover-epochs", "24", "--limit", "32", "--no-verify", "--data", CALIB, "--quiet", "-o"]  # fmt: skip
    whole, again = tmp_path / "whole.onnx", tmp_path / "again.onnx"
    with subprocess.Popen([*words, str(again)], env=environment, stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 60
        while not (found := list((tmp_path / "cache").glob("onnxcompress/training/*/state.json"))):
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert json.loads(found[0].read_text())["said"]["done"] >= 1
    assert not again.exists()
    for path in (again, whole):
        subprocess.run([*words, str(path)], env=environment, check=True, stdout=subprocess.DEVNULL)
        assert not list((tmp_path / "cache").glob("onnxcompress/training/*/state.json"))
    assert again.read_bytes() == whole.read_bytes()


def test_a_student_is_distilled_and_compared_with_its_teacher(tmp_path: Path) -> None:
    student, made = tmp_path / "student.onnx", tmp_path / "made.onnx"
    proto = onnx.load(DIGITS)
    noise = np.random.default_rng(0)
    for tensor in proto.graph.initializer:
        if tensor.name.endswith("weight") and len(tensor.dims) > 1:
            value = numpy_helper.to_array(tensor)
            noisy = value + noise.standard_normal(value.shape) * value.std() * 0.5
            tensor.CopyFrom(numpy_helper.from_array(noisy.astype(np.float32), tensor.name))
    onnx.save(proto, student)
    words = (
        "distill",
        DIGITS,
        str(student),
        "--data",
        CALIB,
        "--eval-data",
        EVAL,
        "--epochs",
        "4",
        "--limit",
        "64",
        "--quiet",
    )
    report = run(tmp_path, *words, "-o", str(made))
    verified = run(tmp_path, "verify", DIGITS, str(student), "--data", EVAL, "--quiet")
    assert report["original"]["path"] == DIGITS
    assert report["metrics"]["accuracy"]["compressed"] > verified["metrics"]["accuracy"]["compressed"]
    transferred = run(tmp_path, *words, "--transfer", "--force", "-o", str(made))
    assert transferred["fidelity"]["cosine"] > report["fidelity"]["cosine"]


def test_labels_are_learned(tmp_path: Path) -> None:
    student, made = tmp_path / "student.onnx", tmp_path / "made.onnx"
    run(tmp_path, "prune", DIGITS, "--sparsity", "0.9", "--no-verify", "--quiet", "-o", str(student))
    report = run(tmp_path, "finetune", str(student), "--data", EVAL, "--epochs", "1", "-o", str(made), "--quiet")
    accuracy = report["metrics"]["accuracy"]
    assert accuracy["compressed"] > accuracy["original"] + 0.02
    assert np.array_equal(dense(student)["10.weight"] == 0, dense(made)["10.weight"] == 0)


REFUSED = {
    "no data": (("prune", DIGITS, "--recover"), 2, "see real inputs"),
    "an option without --recover": (("prune", DIGITS, "--recover-epochs", "2"), 2, "without --recover"),
    "integer layers": (("quantize", DIGITS, "--recover", "--data", CALIB), 2, "compute with integers"),
    "out of range": (("prune", DIGITS, *SHORT, "--recover-temperature", "0"), 2, "temperature"),
    "a pattern": (("prune", DIGITS, *SHORT, "--recover-layers", "none*", "--no-verify"), 2, "matches no weight"),
    "no labels": (("finetune", DIGITS, "--data", CALIB), 3, "no labels"),
    "a pair": (("distill", DIGITS, DIGITS, "--data", CALIB, "--match", "a"), 2, "no pair"),
    "a name": (("distill", DIGITS, DIGITS, "--data", CALIB, "--match", "a=b"), 2, "no float32 value"),
    "other outputs": (("distill", DIGITS, str(SAMPLES / "language-id.onnx"), "--data", CALIB), 2, "other inputs"),
    "no student": (("distill", DIGITS, "missing.onnx", "--data", CALIB), 2, "does not exist"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused(tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, code, said = REFUSED[case]
    assert app.run([*words, "-o", str(tmp_path / "made.onnx")]) == code
    error = capsys.readouterr().err
    assert said in error
    assert "hint: " in error
    assert "Traceback" not in error
    assert not (tmp_path / "made.onnx").exists()


@pytest.mark.usefixtures("without_onnx_ad")
def test_without_the_extra_it_is_said_what_to_install(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = str(tmp_path / "made.onnx")
    assert app.run(["prune", DIGITS, "--sparsity", "0.5", *SHORT, "--no-verify", "-o", made]) == 2
    assert "pip install 'onnxcompress[train]'" in capsys.readouterr().err


def test_recovery_stands_before_integers() -> None:
    recover, prune = Recover(), Prune()
    assert with_recovery((prune, Quantize()), recover) == (prune, recover, Quantize())
    few = Quantize(bits=4)
    assert with_recovery((prune, few), recover) == (prune, few, recover)
    assert with_recovery((Quantize(scheme="weight-only"),), recover)[-1] is recover
    with pytest.raises(UsageError, match="nothing to recover"):
        Recipe.from_text('[[steps]]\npass = "recover"\n', "r.toml")
    with pytest.raises(UsageError, match="line 4, step 2"):
        Recipe.from_text('[[steps]]\npass = "quantize"\n[[steps]]\npass = "recover"\n', "r.toml")


def test_a_dry_run_trains_nothing(tmp_path: Path) -> None:
    report = run(tmp_path, "prune", DIGITS, "--sparsity", "0.9", *SHORT, "--dry-run")
    assert report["steps"][-1]["notes"][0].startswith("would be trained: 20 weights")


def test_a_pass_without_data_says_so() -> None:
    with pytest.raises(UsageError, match="real inputs"):
        Recover().rewrite(Model(onnx.ModelProto()), Context())
