from __future__ import annotations

import math

import numpy as np
import pytest

from onnxcompress.errors import DataError, UsageError
from onnxcompress.report import Metric
from onnxcompress.verify.budgets import Budgets, judge, parse_factor, parse_fraction, parse_size
from onnxcompress.verify.metrics import MetricMeter, relative_drop


@pytest.mark.parametrize(
    ("text", "value"), [("0.5%", 0.005), ("0.005", 0.005), ("1", 1.0), (" 2 % ", 0.02), (".5", 0.5)]
)
def test_fractions(text: str, value: float) -> None:
    assert parse_fraction(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12MB", 12e6),
        ("11.5MiB", 11.5 * 2**20),
        ("1kB", 1000),
        ("1GB", 1e9),
        ("27%", 0.27),
        ("0.27", 0.27),
        ("5000", 5000),
    ],
)
def test_sizes(text: str, value: float) -> None:
    assert parse_size(text) == pytest.approx(value)


def test_one_byte_is_no_fraction() -> None:
    assert Budgets(max_size=parse_size("1B")).counted_size(500, 1000) == 500
    assert Budgets(max_size=parse_size("1")).counted_size(500, 1000) == pytest.approx(0.5)


@pytest.mark.parametrize(("text", "value"), [("1.5", 1.5), ("2x", 2.0), ("1.2×", 1.2)])
def test_factors(text: str, value: float) -> None:
    assert parse_factor(text) == value


@pytest.mark.parametrize("text", ["", "x", "5", "101%", "-1%", "1.5.2", "nan", "inf"])
def test_what_is_no_fraction(text: str) -> None:
    with pytest.raises(UsageError, match="the drop"):
        parse_fraction(text, "the drop")


@pytest.mark.parametrize("text", ["", "MB", "0", "-5MB", "12 apples", "120%"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "fast", "-1", "1.5y"])
def test_what_is_no_factor(text: str) -> None:
    with pytest.raises(UsageError):
        parse_factor(text)


@pytest.mark.parametrize("limit", [{"max_drop": -0.1}, {"max_drop": 2}, {"min_cosine": 1.1}, {"min_sqnr": math.nan}])
def test_limits_out_of_range(limit: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(limit))):
        Budgets(**limit)


def test_limits_are_judged_in_their_direction() -> None:
    budgets = Budgets(max_drop=0.01, min_sqnr=30, min_speedup=1.5)
    found = judge(budgets, {"max_drop": 0.01, "min_sqnr": 29.9, "min_speedup": 2.0})
    assert [(r.name, r.ok) for r in found] == [("max_drop", True), ("min_sqnr", False), ("min_speedup", True)]
    assert judge(Budgets(), {"max_drop": 1.0}) == ()


@pytest.mark.parametrize("value", [None, math.nan])
def test_what_was_not_measured_does_not_hold(value: float | None) -> None:
    (found,) = judge(Budgets(min_sqnr=30), {"min_sqnr": value}, "no data")
    assert not found.ok
    assert found.value == "not measured: no data"


def one_hot(best: list[int], classes: int = 6) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[best]


def measured(labels: np.ndarray, x: np.ndarray, y: np.ndarray, metric: str | None = None, calls: int = 1) -> Metric:
    meter = MetricMeter(labels, metric)
    for a, b in zip(np.split(x, calls), np.split(y, calls), strict=True):
        meter.add({"y": a}, {"y": b})
    ((_, found),) = meter.result().items()
    return found


def test_accuracy_over_calls() -> None:
    labels = np.array([0, 1, 2, 3])
    found = measured(labels, one_hot([0, 1, 2, 3]), one_hot([0, 1, 2, 0]), calls=2)
    assert found == Metric(1.0, 0.75)


def test_top5() -> None:
    x = np.tile(np.arange(10, dtype=np.float32), (4, 1))
    assert measured(np.array([9, 5, 4, 0]), x, -x, "top5") == Metric(0.5, 0.5)


def test_accuracy_per_position_ignores_negative_labels() -> None:
    x = one_hot([0, 1, 2, 3]).reshape(1, 4, 6)
    assert measured(np.array([[0, 1, -100, 0]]), x, x).original == pytest.approx(2 / 3)


def test_accuracy_of_class_numbers_and_binary_outputs() -> None:
    labels = np.array([0, 1, 1])
    assert measured(labels, np.array([0, 1, 0]), labels) == Metric(2 / 3, 1.0)
    probability = np.array([[0.1], [0.9], [0.4]], np.float32)
    assert measured(labels, probability, probability).original == pytest.approx(2 / 3)
    logit = np.array([-1.0, 2.0, 0.3], np.float32)
    assert measured(labels, logit, logit).original == 1


@pytest.mark.parametrize(("metric", "value"), [("mse", 4.0), ("rmse", 2.0), ("mae", 2.0), (None, 2.0)])
def test_errors_of_regression(metric: str | None, value: float) -> None:
    x = np.array([[1.0], [2.0]], np.float32)
    assert measured(np.array([1.0, 2.0]), x, x + 2, metric) == Metric(0.0, value)


def test_the_output_of_scores_is_preferred() -> None:
    meter = MetricMeter(np.array([1]))
    outputs = {"features": one_hot([0]), "logits": one_hot([1])}
    meter.add(outputs, outputs, {"logits"})
    assert meter.result()["accuracy"].original == 1


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 1, 2, 3, 4]])
def test_labels_that_do_not_match_the_samples(labels: list[int]) -> None:
    x = one_hot([0, 1, 2, 3])
    with pytest.raises(DataError, match="labels"):
        measured(np.array(labels), x, x)


def test_labels_that_fit_no_output() -> None:
    with pytest.raises(DataError, match="no output"):
        measured(np.array([0, 7]), one_hot([0, 1]), one_hot([0, 1]))


def test_metrics_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="no metric 'f1'"):
        MetricMeter(np.array([1]), "f1")
    with pytest.raises(UsageError, match="whole-number"):
        MetricMeter(np.array([1.5]), "accuracy")


@pytest.mark.parametrize(
    ("name", "metric", "drop"),
    [
        ("accuracy", Metric(0.8, 0.76), 0.05),
        ("accuracy", Metric(0.8, 0.84), -0.05),
        ("rmse", Metric(2.0, 2.1), 0.05),
        ("mse", Metric(0.0, 0.0), 0.0),
        ("mse", Metric(0.0, 0.1), math.inf),
    ],
)
def test_relative_drop(name: str, metric: Metric, drop: float) -> None:
    assert relative_drop(name, metric) == pytest.approx(drop)
