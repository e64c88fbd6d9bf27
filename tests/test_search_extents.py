"""How far to go: the place where budgets change from holding to not is found, in few attempts, and the result kept."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxcompress
from onnxcompress.errors import UsageError
from onnxcompress.passes.base import Extents
from onnxcompress.passes.factorize import Factorize
from onnxcompress.passes.prune import Prune
from onnxcompress.passes.quantize import Quantize
from onnxcompress.passes.simplify import Simplify
from onnxcompress.recipe import Recipe
from onnxcompress.report import BudgetResult
from onnxcompress.search.extents import open_extents, searched, settled_at
from onnxcompress.verify.budgets import Budgets

if TYPE_CHECKING:
    from onnxcompress.verify.verify import Verification

SAMPLES = Path(__file__).parent.parent / "sample_models"
DIGITS = SAMPLES / "digits-cnn.onnx"
CALIBRATION = SAMPLES / "digits-cnn.calib.npz"


@given(st.integers(1, 40), st.data())
def test_the_place_is_found_in_few_attempts(count: int, data: st.DataObject) -> None:
    first, turn = data.draw(st.integers(0, count - 1)), data.draw(st.integers(0, count))
    most = data.draw(st.booleans())
    values = tuple(float(10 * i) for i in range(count))
    tried: list[float] = []

    def attempt(value: float) -> float:
        tried.append(value)
        return value

    extent, made = searched(
        Extents(values, first, (), most), attempt, lambda value: (value < 10 * turn) if most else (value >= 10 * turn)
    )
    expected = max(turn - 1, 0) if most else min(turn, count - 1)
    assert extent == made == values[expected]
    assert len(tried) == len(set(tried)) <= 2 * math.ceil(math.log2(count + 1)) + 2


def test_what_is_open_depends_on_what_is_asked() -> None:
    fast, true = Budgets(min_speedup=1.5), Budgets(min_sqnr=20.0)
    assert open_extents(Recipe.of((Prune(structure="all", ratio=0.2),), fast)) is None
    free = open_extents(Recipe.of((Prune(structure="all"),), true))
    assert free is not None
    assert free.most
    assert open_extents(Recipe.of((Prune(structure="all"),))) is None
    assert open_extents(Recipe.of((Prune(),), true)) is None
    found = open_extents(Recipe.of((Prune(structure="all"),), fast))
    assert found is not None
    assert found.values[found.first] == pytest.approx(0.35)
    rounds = Recipe.of((Prune(sparsity=0.8, schedule="linear"),), true)
    found = open_extents(rounds)
    assert found is not None
    assert found.values == pytest.approx((0.2, 0.4, 0.6, 0.8))
    assert settled_at(rounds, found.values[1]).steps == (Prune(sparsity=found.values[1], schedule="linear", rounds=2),)
    assert settled_at(rounds, found.values[0]).steps == (Prune(sparsity=found.values[0]),)
    with pytest.raises(UsageError, match="more than one step"):
        open_extents(Recipe.of((Prune(structure="all"), Prune(structure="heads")), fast))


def test_a_step_may_be_left_out_where_others_work() -> None:
    both = Recipe.of((Simplify(), Factorize(), Quantize()), Budgets(min_sqnr=20.0))
    found = open_extents(both)
    assert found is not None
    assert found.values[0] == 0
    assert found.values[found.first] == pytest.approx(0.25)
    assert settled_at(both, 0.0).steps == (Simplify(), Quantize())
    assert settled_at(both, 0.25).steps == (Simplify(), Factorize(work=0.75), Quantize())
    alone = open_extents(Recipe.of((Simplify(), Factorize()), Budgets(min_sqnr=20.0)))
    assert alone is not None
    assert alone.values[0] == pytest.approx(0.05)
    fast = open_extents(Recipe.of((Factorize(), Quantize()), Budgets(min_speedup=1.5)))
    assert fast is not None
    assert fast.values[0] == pytest.approx(0.05)


def test_a_recipe_does_without_what_a_budget_does_not_bear(tmp_path: Path) -> None:
    steps = (Factorize(), Quantize(scheme="weight-only"))
    result = run(Recipe.of(steps, Budgets(min_sqnr=38.0)), tmp_path / "true.onnx")
    assert result.passed
    assert [s["pass"] for s in result.report.recipe["steps"]] == ["quantize"]
    assert any("left out" in note and "factorize" in note for note in result.report.notes)


@pytest.mark.parametrize(
    "options",
    [
        {"rounds": 3}, {"schedule": "cubic", "rounds": 1}, {"schedule": "cubic", "rounds": 99},
        {"schedule": "cubic", "threshold": 0.1}, {"schedule": "cubic", "pattern": "2:4"},
    ],
    ids=str,
)  # fmt: skip
def test_schedules_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Prune(**options)


def run(recipe: Recipe, target: Path) -> onnxcompress.Result:
    return onnxcompress.compress(DIGITS, recipe, target, data=CALIBRATION, limit=24, seconds=0.02, threads=1)


def zeros(path: Path) -> float:
    """Share of zeros among the weights that can be pruned, as they are stored."""
    stored = [onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]
    large = [a for a in stored if a.dtype == np.float32 and a.size >= 1024]
    return 1 - sum(np.count_nonzero(a) for a in large) / sum(a.size for a in large)


def test_rounds_end_where_the_outputs_would_lose_too_much(tmp_path: Path) -> None:
    asked = Prune(sparsity=0.9, schedule="linear", rounds=3, form="dense")
    free = run(Recipe.of((asked,)), tmp_path / "free.onnx")
    assert free.path is not None
    assert free.report.fidelity is not None
    assert zeros(free.path) == pytest.approx(0.9, abs=0.02)
    assert len(free.report.steps) == 3
    bound = Budgets(min_sqnr=free.report.fidelity.sqnr_db + 4)
    held = run(Recipe.of((asked,), bound), tmp_path / "held.onnx")
    assert held.passed
    assert held.path is not None
    assert zeros(held.path) == pytest.approx(0.6, abs=0.02)
    (step,) = held.report.recipe["steps"]
    assert (step["sparsity"], step["rounds"]) == (pytest.approx(0.6), 2)


def test_no_more_is_cut_out_than_a_speed_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed is counted in bytes here, so that the test does not depend on the machine."""
    story = importlib.import_module("onnxcompress.compress")
    real = story.verify

    def counted(original: Path, candidate: Path, *rest: Any) -> Verification:
        found: Verification = real(original, candidate, *rest)
        speed = original.stat().st_size / candidate.stat().st_size
        checks = [c for c in found.checks if c.name != "min_speedup"]
        checks.append(BudgetResult("min_speedup", 1.5, speed, speed >= 1.5))
        return replace(found, checks=tuple(checks), passed=all(c.ok for c in checks))

    monkeypatch.setattr(story, "verify", counted)
    result = run(Recipe.of((Prune(structure="all"),), Budgets(min_speedup=1.5)), tmp_path / "fast.onnx")
    assert result.passed
    assert result.path is not None
    (step,) = result.report.recipe["steps"]
    ratio = step["ratio"]
    assert 0.05 < ratio < 0.9
    assert DIGITS.stat().st_size / result.path.stat().st_size >= 1.5
    less = run(Recipe.of((Prune(structure="all", ratio=ratio - 0.05),)), tmp_path / "less.onnx")
    assert less.path is not None
    assert DIGITS.stat().st_size / less.path.stat().st_size < 1.5
