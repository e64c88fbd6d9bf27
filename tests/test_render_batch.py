"""Several models on one page: lines, rows, the last line, and the JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onnxcompress.cli import batch as running
from onnxcompress.cli.children import Ended
from onnxcompress.cli.models import Job
from onnxcompress.cli.options import ReportFlags
from onnxcompress.render import batch, plain
from onnxcompress.render.batch import Finished
from tests.sample_report import report

GOOD = Finished(Path("a.onnx"), 0, "a.int8.onnx: 23.0 MiB", Path("a.int8.onnx"), report=report())
SHORT = Finished(Path("b.onnx"), 1, "min_sqnr 20 (limit 30)", Path("b.int8.rejected.onnx"), report=report())
BAD = Finished(Path("c.onnx"), 3, "it is empty", hint="Export it again.")
JOB = Job(Path("m.onnx"), Path("m.int8.onnx"), ReportFlags())


def test_the_worst_exit_code_is_that_of_all() -> None:
    assert batch.worst([]) == 0
    for codes, worst in (((0, 0), 0), ((0, 1), 1), ((1, 2, 0), 2), ((3, 2), 3), ((3, 4, 1), 4)):
        assert batch.worst([replace(GOOD, code=code) for code in codes]) == worst


def test_lines_as_models_end() -> None:
    assert batch.line(GOOD, "1 of 3") == "1 of 3  PASSED a.onnx: a.int8.onnx: 23.0 MiB"
    assert batch.line(SHORT, "2 of 3") == "2 of 3  FAILED b.onnx: min_sqnr 20 (limit 30)"
    assert batch.line(BAD, "3 of 3") == "3 of 3  FAILED c.onnx: it is empty"


def test_last_lines() -> None:
    assert batch.last([GOOD, GOOD]).startswith("onnxcompress: PASSED 2 of 2 models: 173 MiB to 46.0 MiB, 3.77x smaller")
    assert batch.last([GOOD, SHORT, BAD]) == "onnxcompress: FAILED 2 of 3 models: b.onnx, c.onnx"
    assert batch.last([BAD]) == "onnxcompress: FAILED 1 of 1 model: c.onnx"
    assert batch.last([BAD] * 9).endswith("c.onnx, c.onnx, c.onnx and 6 more")


def test_rows() -> None:
    text = plain.text(batch.blocks([GOOD, SHORT, BAD], 1)).splitlines()
    assert [line.split()[:2] for line in text[1:]] == [["a.onnx", "passed"], ["b.onnx", "FAILED"], ["c.onnx", "ERROR"]]
    assert text[3].endswith("it is empty")
    assert "less sure" in plain.text(batch.blocks([GOOD, SHORT], 2))
    assert "less sure" not in plain.text(batch.blocks([BAD, BAD], 2))


def test_a_result_far_from_its_original_is_pointed_out() -> None:
    poor = replace(GOOD, report=report(notes=("LOW FIDELITY to the original: 3.0 dB",)))
    assert plain.text(batch.blocks([poor], 1)).endswith("LOW FIDELITY")


def test_names_are_never_shown_raw() -> None:
    evil = replace(BAD, model=Path("\x1b[2J\nonnxcompress: PASSED.onnx"), said="\x1b[2J")
    for text in (batch.line(evil, "1 of 1"), batch.last([evil]), plain.text(batch.blocks([evil], 1))):
        assert "\x1b" not in text
        assert len([line for line in text.splitlines() if line.startswith("onnxcompress: PASSED")]) == 0


@pytest.mark.parametrize("code", [-9, 77, 1, 0])
def test_a_process_that_died_is_a_failure_of_the_machine(tmp_path: Path, code: int) -> None:
    found = running._finished(JOB, Ended(0, code, "", "Killed"), tmp_path / "none.json")
    assert (found.code, found.verdict) == (4, "error")
    assert ("signal 9" in found.said) == (code == -9)
    assert found.hint


def test_what_a_process_said_last_is_what_came_of_its_model(tmp_path: Path) -> None:
    place = tmp_path / "0.json"
    place.write_text(json.dumps(report().to_json()))
    found = running._finished(JOB, Ended(0, 0, "a page\nonnxcompress: PASSED m.int8.onnx: 1 MiB\n", ""), place)
    assert (found.code, found.said, found.report) == (0, "m.int8.onnx: 1 MiB", report())
    error = "a warning: of a library\nerror: no: way\nhint: Go back.\n"
    found = running._finished(JOB, Ended(0, 3, "onnxcompress: FAILED no: way\n", error), tmp_path / "none.json")
    assert (found.code, found.said, found.hint) == (3, "no: way", "Go back.")


def test_values() -> None:
    assert report().compressed is not None
    found: dict[str, Any] = batch.to_json([GOOD, SHORT, BAD], report().tool, 2)
    json.dumps(found, allow_nan=False)
    assert found["summary"] == {"models": 3, "passed": 1, "failed": 2, "exit_code": 3}
    assert [m["verdict"] for m in found["models"]] == ["passed", "failed", "error"]
    assert [m["error"] for m in found["models"]] == [None, None, "it is empty"]
    assert found["models"][0]["report"] == report().to_json()
