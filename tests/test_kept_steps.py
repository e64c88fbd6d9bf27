"""Models between steps: kept, taken up by a later run with the same result, and held to budgets one by one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

import onnxcompress
from onnxcompress import pipeline
from onnxcompress.errors import UsageError
from onnxcompress.passes.factorize import Factorize
from onnxcompress.passes.prune import Prune
from onnxcompress.passes.quantize import Quantize
from onnxcompress.recipe import Recipe
from onnxcompress.verify.budgets import Budgets
from tests.small_models import normal, proto, write

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = "g (float[n, 64] x) => (float[n, 48] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"
STEPS = (Prune(sparsity=0.4, form="dense"), Factorize(params=0.6), Quantize(scheme="weight-only"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for i in range(4):
        np.savez(tmp_path / "data" / f"{i}.npz", allow_pickle=False, x=normal(128, 64, seed=i) @ normal(64, 64, seed=9))
    return write(proto(TEXT, {"w": normal(64, 96), "v": normal(96, 48, seed=1)}), tmp_path)


def run(
    path: Path, steps: tuple[Any, ...] = STEPS, budgets: Budgets | None = None, **options: Any
) -> onnxcompress.Result:
    folder = path.parent
    options = {"data": folder / "data", "threads": 1, "seconds": 0.02, "force": True, **options}
    return onnxcompress.compress(path, Recipe.of(steps, budgets), folder / "out.onnx", **options)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps that really run."""
    names: list[str] = []
    real: Callable[..., Any] = pipeline._run

    def told(model: Any, step: Any, *rest: Any) -> Any:
        names.append(step.name)
        return real(model, step, *rest)

    monkeypatch.setattr(pipeline, "_run", told)
    return names


def test_a_finished_step_is_not_repeated(model: Path, ran: list[str]) -> None:
    first = run(model, keep_steps=True, verify=False)
    assert ran == ["prune", "factorize", "refit", "quantize"]
    kept = [model.with_name(n) for n in ("out.1-prune.onnx", "out.2-factorize.onnx", "out.3-refit.onnx")]
    for path in kept:
        onnx.checker.check_model(onnx.load(path))
    assert sorted(p.name for p in model.parent.glob("*.onnx")) == [model.name, *(p.name for p in kept), "out.onnx"]
    made = (model.parent / "out.onnx").read_bytes()
    ran.clear()
    again = run(model, keep_steps=True, verify=False)
    assert ran == ["quantize"]
    assert (model.parent / "out.onnx").read_bytes() == made
    for one, two in zip(first.report.steps[:2], again.report.steps[:2], strict=True):
        assert (one.pass_name, one.options, one.layers) == (two.pass_name, two.options, two.layers)
        assert any("not repeated" in note for note in two.notes)
    assert first.report.compressed == again.report.compressed


@pytest.mark.parametrize("change", ["data", "step", "seed", "model", "damage"])
def test_what_depends_on_a_change_is_made_again(model: Path, ran: list[str], change: str) -> None:
    run(model, keep_steps=True, verify=False)
    ran.clear()
    steps, options = STEPS, dict[str, Any]()
    if change == "data":
        np.savez(model.parent / "data" / "3.npz", allow_pickle=False, x=normal(128, 64, seed=77))
    elif change == "step":
        steps = (STEPS[0], Factorize(params=0.5), STEPS[2])
    elif change == "seed":
        options["seed"] = 5
    elif change == "model":
        write(proto(TEXT, {"w": normal(64, 96, seed=5), "v": normal(96, 48, seed=1)}), model.parent)
    else:
        model.with_name("out.3-refit.onnx").write_bytes(b"no model")
    run(model, steps, keep_steps=True, verify=False, **options)
    left_out = {"step": 1, "damage": 1}.get(change, 0)
    assert ran == ["prune", "factorize", "refit", "quantize"][left_out:]


def test_nothing_else_is_overwritten(model: Path) -> None:
    other = model.with_name("out.1-prune.onnx")
    other.write_bytes(model.read_bytes())
    with pytest.raises(UsageError, match="exists"):
        run(model, keep_steps=True, force=False, verify=False)
    assert other.read_bytes() == model.read_bytes()
    assert not model.with_name("out.onnx").exists()


def test_without_asking_nothing_is_kept(model: Path) -> None:
    run(model, verify=False)
    assert sorted(p.name for p in model.parent.glob("*.onnx")) == [model.name, "out.onnx"]


def test_a_budget_that_breaks_ends_the_run(model: Path, ran: list[str]) -> None:
    held = run(model, budgets=Budgets(min_sqnr=-20), check_steps=True)
    assert held.passed
    ran.clear()
    broken = run(model, budgets=Budgets(min_sqnr=60), check_steps=True)
    assert not broken.passed
    assert ran == ["prune"]
    assert any("after step 1 (prune)" in note for note in broken.report.notes)
    assert broken.path is not None
    assert broken.path.name == "out.rejected.onnx"
    assert len(broken.report.steps) == 1


def test_checks_need_a_budget(model: Path) -> None:
    for options in ({}, {"budgets": Budgets(max_size=0.5)}, {"budgets": Budgets(min_sqnr=1), "verify": False}):
        with pytest.raises(UsageError):
            run(model, check_steps=True, **options)


def test_from_the_shell(model: Path) -> None:
    recipe = model.with_name("r.toml")
    recipe.write_text(
        '[[steps]]\npass = "simplify"\n[[steps]]\npass = "prune"\nsparsity = 0.5\n[[steps]]\npass = "quantize"\n'
    )
    command = [sys.executable, "-m", "onnxcompress", "compress", str(model), "--recipe", str(recipe), "--keep-steps"]
    done = subprocess.run([*command, "--check-steps", "--min-sqnr", "-20"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert {"model.r.1-simplify.onnx", "model.r.2-prune.onnx"} <= {p.name for p in model.parent.iterdir()}
    done = subprocess.run([*command, "--force"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "not repeated" in done.stdout
