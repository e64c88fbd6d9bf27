"""A result that is slower than the original, or misses a budget, is made once more with weights decoded at load."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import onnx
import pytest

import onnxcompress
from onnxcompress.report import BudgetResult
from onnxcompress.verify.verify import Verification
from tests.small_models import normal, operators, outputs, proto, sqnr, write

if TYPE_CHECKING:
    from pathlib import Path

TEXT = "g (float[n, 64] x) => (float[n, 32] y) { h = MatMul(x, first) r = Relu(h) y = MatMul(r, second) }"
Judge = Callable[[bool, Verification], Verification]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(proto(TEXT, {"first": normal(64, 48, seed=1), "second": normal(48, 32, seed=2)}), tmp_path)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Callable[[Judge], list[bool]]:
    """Lets a test say what verification finds, knowing whether the model multiplies integers; returns the attempts."""

    def install(judge: Judge) -> list[bool]:
        module = import_module("onnxcompress.compress")
        real, attempts = module.verify, []

        def verify(original: Path, compressed: Path, *rest: Any) -> Verification:
            integers = operators(onnx.load(compressed))["MatMulInteger"] > 0
            attempts.append(integers)
            return judge(integers, real(original, compressed, *rest))

        monkeypatch.setattr(module, "verify", verify)
        return attempts

    return install


def timed(found: Verification, speedup: float) -> Verification:
    assert found.latency is not None
    latency = dataclasses.replace(
        found.latency, speedup=speedup, speedup_low=speedup * 0.98, speedup_high=speedup * 1.02
    )
    return dataclasses.replace(found, latency=latency)


def failed(found: Verification) -> Verification:
    return dataclasses.replace(
        found, passed=False, checks=(*found.checks, BudgetResult("min_sqnr", 50.0, 40.0, ok=False))
    )


def run(model: Path, **options: Any) -> tuple[onnxcompress.Result, set[str | None]]:
    result = onnxcompress.quantize(model, scheme="dynamic", simplify=False, seconds=0.02, **options)
    assert result.path is not None
    feeds = {"x": normal(3, 64)}
    assert sqnr(outputs(model, feeds)["y"], outputs(result.path, feeds)["y"]) > 36
    return result, {r.form for r in result.report.steps[-1].layers}


def test_a_fast_result_is_kept(model: Path, judged: Callable[[Judge], list[bool]]) -> None:
    attempts = judged(lambda _, found: timed(found, 1.6))
    result, forms = run(model)
    assert attempts == [True]
    assert forms == {"dynamic16"}
    assert result.passed
    assert not any("slower" in note for note in result.report.notes)


def test_noise_is_not_slower(model: Path, judged: Callable[[Judge], list[bool]]) -> None:
    attempts = judged(lambda _, found: timed(found, 0.99))
    assert run(model)[1] == {"dynamic16"}
    assert attempts == [True]


def test_a_slower_result_is_taken_back_and_this_is_said(model: Path, judged: Callable[[Judge], list[bool]]) -> None:
    attempts = judged(lambda integers, found: timed(found, 0.5 if integers else 1.0))
    result, forms = run(model)
    assert attempts == [True, False]
    assert forms == {"decode"}
    assert result.passed
    assert result.path is not None
    assert operators(onnx.load(result.path))["MatMulInteger"] == 0
    assert any("slower" in note and "0.50x" in note for note in result.report.notes)
    assert {p.name for p in model.parent.iterdir()} == {"model.onnx", "model.int8.onnx"}


def test_a_result_that_misses_a_budget_is_tried_again(model: Path, judged: Callable[[Judge], list[bool]]) -> None:
    attempts = judged(lambda integers, found: failed(timed(found, 2)) if integers else timed(found, 1))
    result, forms = run(model, min_sqnr=30)
    assert attempts == [True, False]
    assert (result.passed, forms) == (True, {"decode"})
    assert any("checks and budgets" in note for note in result.report.notes)


def test_where_neither_holds_the_result_is_rejected(model: Path, judged: Callable[[Judge], list[bool]]) -> None:
    judged(lambda _, found: failed(timed(found, 1)))
    result, _ = run(model)
    assert not result.passed
    assert {p.name for p in model.parent.iterdir()} == {"model.onnx", "model.int8.rejected.onnx"}


def test_a_slower_result_is_better_than_one_that_fails(model: Path, judged: Callable[[Judge], list[bool]]) -> None:
    judged(lambda integers, found: timed(found, 0.5) if integers else failed(timed(found, 1)))
    result, forms = run(model)
    assert result.passed
    assert forms == {"dynamic16"}
    assert any("no better" in note for note in result.report.notes)


def test_decoded_weights_are_not_tried_twice(model: Path, judged: Callable[[Judge], list[bool]]) -> None:
    attempts = judged(lambda _, found: timed(found, 0.5))
    result = onnxcompress.quantize(model, scheme="weight-only", target="portable", simplify=False, seconds=0.02)
    assert attempts == [False]
    assert result.passed  # slower is no failure by itself
    with_both = judged(lambda _, found: failed(found))
    assert not onnxcompress.quantize(model, scheme="float16", seconds=0.02).passed
    assert len(with_both) == 1
