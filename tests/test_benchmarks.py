"""The benchmarks can be run, and their tables and verdicts say what was measured."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

from onnxcompress.graph.model import Model
from onnxcompress.runtime.session import Session
from tests.benchmarks import corpus_row, large, measure, overhead, start
from tests.benchmarks.__main__ import NAMES
from tests.benchmarks.corpus_row import Interval, Row
from tests.benchmarks.tables import number, table

if TYPE_CHECKING:
    from pathlib import Path


def row(name: str = "minilm-l3", **changes: object) -> Row:
    fast = (Interval(0.6, 0.5, 0.7), Interval(0.7, 0.6, 0.8))
    found = {
        "name": name, "float_share": 0.99, "bytes_ratio": 0.256, "sqnr_db": 35.0, "cosine": 0.9998,
        "metric": "accuracy", "before": 0.82, "after": 0.82, "items": 1000, "agreement": 0.99,
        "latency": fast, "seconds": 6.0, "copies": 40.0,
    }  # fmt: skip
    return Row(**(found | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_has_what_the_runner_needs(name: str) -> None:
    module = importlib.import_module(f"tests.benchmarks.{name}")
    assert module.TITLE
    assert module.TARGET
    assert callable(module.measure)


def test_columns_line_up() -> None:
    lines = table(["name", "value"], [["a", "1.25"], ["long name", "10"]]).splitlines()
    assert lines == ["name       value", "---------  -----", "a           1.25", "long name     10"]


@pytest.mark.parametrize(("value", "shown"), [(None, "-"), (0.123456, "0.123"), (12345.6, "12346"), (2.0, "2")])
def test_numbers_are_short(value: float | None, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, ()),
        ({"bytes_ratio": 0.28}, ("size",)),
        ({"bytes_ratio": 0.28, "float_share": 0.9}, ()),
        ({"latency": (Interval(1.0, 0.9, 1.1), Interval(1.1, 1.01, 1.2))}, ("latency",)),
        ({"latency": (Interval(1.05, 0.99, 1.1), Interval(1.0, 0.9, 1.1))}, ()),
        ({"sqnr_db": 30.0}, ("fidelity",)),
        ({"cosine": 0.999}, ("fidelity",)),
        ({"name": "efficientnet-lite0", "agreement": 0.964}, ("agreement",)),
        ({"name": "efficientnet-lite0", "agreement": 0.966}, ()),
        ({"name": "efficientnet-lite0", "agreement": None}, ()),
        ({"name": "mnist-cnn", "after": 0.815}, ("metric",)),
        ({"name": "mnist-cnn", "after": 0.815, "metric": "ppl"}, ()),
        ({"name": "a model without peers", "sqnr_db": 1.0, "after": 0.1}, ()),
    ],
)
def test_what_misses_the_bar(changes: dict[str, object], missed: tuple[str, ...]) -> None:
    assert row(**changes).misses == missed  # type: ignore[arg-type]


def test_peers_stand_below_the_row_that_they_are_compared_with() -> None:
    lines = corpus_row.report([row(), row("magika", bytes_ratio=0.5)]).splitlines()
    assert lines[2].startswith("minilm-l3")
    assert lines[2].endswith("PASS")
    assert "shrink-ray" in lines[3]
    assert next(line for line in lines if line.startswith("magika")).endswith("MISS: size")
    assert lines[-1] == "the bar is met on 1 of 2 models"


def test_the_large_model_is_judged_by_time_and_memory() -> None:
    fits = large.Row("fits", [3.0, 2.0], [1.0, 1.0], 1.0, 100 << 20)
    slow = large.Row("slow", [4.0, 3.0], [1.0, 1.0], 1.0, 100 << 20)
    fat = large.Row("fat", [1.0, 1.0], [1.0, 1.0], 1.0, 500 << 20)
    assert [r.met for r in (fits, slow, fat)] == [True, False, False]
    assert [line.split()[-1] for line in large.report([fits, slow, fat], 0).splitlines()[2:5]] == [
        "PASS",
        "MISS",
        "MISS",
    ]


@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_the_large_model_is_what_it_claims(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "large.onnx"
    large.write_large(path, 3 * 4 * 64**2 / 2**30, limit, width=64)
    model = Model.open(path)
    assert len(list(model.tensors())) == 3
    assert len(list(tmp_path.iterdir())) == (2 if limit == 0 else 1)
    assert Session(path).run({"x0": np.ones((2, 64), np.float32)})["x3"].shape == (2, 64)


@pytest.mark.slow
def test_every_verb_runs_on_the_large_model(tmp_path: Path) -> None:
    large.write_large(tmp_path / "large.onnx", 3 * 4 * 256**2 / 2**30, 0, width=256)
    runs = large.verb_runs(tmp_path / "large.onnx")
    lines = large.verb_table(runs).splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == list(runs)
    assert len(runs) == 5
    assert all(line.endswith(" MiB") for line in lines[2:])
    assert len(list(tmp_path.iterdir())) == 2  # nothing that was made is left


def test_start_up_is_judged_against_the_import() -> None:
    base, quick, slow = ([measure.Ran(s, 0, s, 0, "")] * 2 for s in (1.0, 1.4, 1.6))
    lines = start.report(base, {"--help": quick, "--version": slow}).splitlines()
    assert lines[2].endswith("PASS")
    assert lines[3].endswith("MISS")


def test_overhead_is_told_apart() -> None:
    line = overhead.report([overhead.Row("m", 5.0, 4.0, 0.6)]).splitlines()[2]
    assert line.split() == ["m", "1.25", "0.15", "0.1", "4.0", "s", "PASS"]


def test_a_clock_is_taken_off_again() -> None:
    before = Session.run
    with overhead.clocked("run"):
        assert Session.run is not before
    assert Session.run is before


def test_a_child_is_not_charged_for_its_parent() -> None:
    ballast = np.ones(200 << 20, np.uint8)
    ran = measure.run(measure.python("print('hello')"))
    assert ran.output == "hello"
    assert ran.peak_bytes < ballast.nbytes


def test_a_program_that_fails_is_no_measurement() -> None:
    with pytest.raises(measure.Failed, match="ended with 3"):
        measure.run(measure.python("raise SystemExit(3)"))


def test_copies_are_removed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 1000)
    assert measure.copy_seconds([source], tmp_path) > 0
    assert list(tmp_path.iterdir()) == [source]
