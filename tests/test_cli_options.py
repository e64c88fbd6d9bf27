"""What the shared options mean, and which of them do not go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onnxcompress.cli.options import BudgetFlags, DataFlags, ReportFlags
from onnxcompress.data.options import DataOptions
from onnxcompress.errors import UsageError
from onnxcompress.verify.budgets import Budgets


@pytest.mark.parametrize(
    ("flags", "budgets"),
    [
        ({}, {}),
        ({"max_drop": "0.5%"}, {"max_drop": 0.005}),
        ({"max_size": "30%"}, {"max_size": 0.3}),
        ({"max_size": "2MiB", "min_sqnr": 30.0}, {"max_size": 2 * 2**20, "min_sqnr": 30}),
        ({"min_speedup": "1.5x", "min_cosine": 0.99}, {"min_speedup": 1.5, "min_cosine": 0.99}),
        ({"min_agreement": "99%"}, {"min_agreement": 0.99}),
    ],
)
def test_budgets(flags: dict[str, Any], budgets: dict[str, float]) -> None:
    assert BudgetFlags(**flags).budgets() == Budgets(**budgets)


def test_budgets_of_a_recipe_hold_where_no_flag_is_given() -> None:
    base = Budgets(min_sqnr=20, min_speedup=2)
    assert BudgetFlags(min_speedup="3").budgets(base) == Budgets(min_sqnr=20, min_speedup=3)


@pytest.mark.parametrize(
    "flags", [{"max_drop": "7"}, {"max_size": "3parsec"}, {"min_cosine": 3.0}, {"min_speedup": "fast"}]
)
def test_budgets_out_of_range(flags: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        BudgetFlags(**flags).budgets()


def test_data_options() -> None:
    flags = DataFlags(data=Path("d"), mean="0.5", std="0.2,0.3,0.4", layout="nhwc", size="8x9", limit=5)
    assert flags.options() == DataOptions(mean=(0.5,), std=(0.2, 0.3, 0.4), layout="nhwc", size=(8, 9), limit=5)


@pytest.mark.parametrize("flags", [{"labels": Path("l.npy")}, {"metric": "accuracy"}, {"size": "8"}, {"limit": 1}])
def test_options_of_data_need_data(flags: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"--{next(iter(flags))} has no meaning without --data"):
        DataFlags(**flags).options()


def test_data_to_judge_on_have_labels_and_no_limit() -> None:
    assert DataFlags(labels=Path("l.npy"), metric="accuracy").options(Path("eval.npz")).labels == Path("l.npy")
    with pytest.raises(UsageError, match="--limit has no meaning without --data"):
        DataFlags(limit=3).options(Path("eval.npz"))


@pytest.mark.parametrize(
    "flags",
    [
        {"report": [Path("r.txt")]},
        {"report": [Path("r")]},
        {"junit": Path("r.json")},
        {"report": [Path("r.md"), Path("./r.md")]},
        {"json": ""},
        {"quiet": True, "verbose": True},
    ],
)
def test_report_options_that_cannot_be(flags: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ReportFlags(**flags)


def test_a_report_never_overwrites_what_the_verb_works_on(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    link = tmp_path / "link.json"
    link.symlink_to(model)
    for path in (model, tmp_path / "x" / ".." / "m.onnx", link):
        with pytest.raises(UsageError, match="would overwrite"):
            ReportFlags(json=str(path)).check(model, None)


def test_a_report_needs_a_folder_that_exists(tmp_path: Path) -> None:
    ReportFlags(json="-", report=[tmp_path / "r.json"]).check(tmp_path / "m.onnx")
    for path in (tmp_path / "nowhere" / "r.json", tmp_path):
        with pytest.raises(UsageError, match="cannot be written"):
            ReportFlags(json=str(path)).check(tmp_path / "m.onnx")


def test_files_of_a_report() -> None:
    assert ReportFlags(json="-").files() == ()
    assert ReportFlags(json="a.json", report=[Path("b.json")]).files() == (Path("a.json"), Path("b.json"))
