"""The schema that ships with the package accepts what reports say, and notices what is missing or wrong."""

from __future__ import annotations

import dataclasses
import json
import math
from importlib import resources
from typing import Any

import jsonschema
import pytest

from onnxcompress.report import ModelFacts, Report
from tests.sample_report import fidelity, report, skipped, step

SCHEMA: dict[str, Any] = json.loads(
    resources.files("onnxcompress").joinpath("report.schema.json").read_text(encoding="utf-8")
)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

# The names that DESIGN fixes for whoever reads reports.
FIXED = {
    "": "schema_version tool machine recipe seed original compressed fidelity latency metrics steps budgets verdict",
    "tool": "name version onnx onnxruntime",
    "original": "path sha256 size_bytes parameters nonzero macs opset",
    "fidelity": "data samples sqnr_db cosine max_abs_error agreement outputs",
    "latency": "device threads batch original_ms compressed_ms speedup speedup_low speedup_high",
    "latency.original_ms": "p50 p95",
    "metrics.accuracy": "original compressed",
    "steps.0": "pass options seconds peak_memory_bytes layers",
    "steps.0.layers.0": "name op status reason form bits bytes_before bytes_after error",
    "budgets.0": "name limit value ok",
}


def at(data: Any, path: str) -> Any:
    for part in filter(None, path.split(".")):
        data = data[int(part)] if part.isdigit() else data[part]
    return data


def test_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    "made",
    [
        report(),
        report(compressed=None, fidelity=None, latency=None, metrics={}, steps=(), budgets=(), notes=()),
        report(fidelity=dataclasses.replace(fidelity("a", "b"), sqnr_db=math.inf, cosine=math.nan)),
        report(original=ModelFacts("m.onnx", "f" * 64, 10, 2, None, None, 7), verdict="failed"),
    ],
    ids=["all", "dry run", "equal outputs", "unknown"],
)
def test_reports_are_valid(made: Report) -> None:
    text = json.dumps(made.to_json(), allow_nan=False)
    VALIDATOR.validate(json.loads(text))


@pytest.mark.parametrize(("path", "name"), [(p, n) for p, names in FIXED.items() for n in names.split()])
def test_no_fixed_name_can_go_missing(path: str, name: str) -> None:
    data = report().to_json()
    del at(data, path)[name]
    assert not VALIDATOR.is_valid(data)


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("", "verdict", "maybe"),
        ("", "schema_version", "2.0"),
        ("original", "sha256", "abc"),
        ("original", "size_bytes", -1),
        ("fidelity", "agreement", 1.5),
        ("steps.0.layers.0", "status", "lost"),
        ("budgets.0", "ok", "yes"),
    ],
)
def test_wrong_values_are_noticed(path: str, name: str, value: object) -> None:
    data = report().to_json()
    at(data, path)[name] = value
    assert not VALIDATOR.is_valid(data)


def test_what_is_skipped_has_a_reason() -> None:
    silent = skipped(reason="")
    assert not VALIDATOR.is_valid(report(steps=(step(silent),)).to_json())


def test_more_names_may_be_added() -> None:
    data = report().to_json()
    data["later"] = at(data, "steps.0.layers.0")["later"] = 1
    VALIDATOR.validate(data)


def test_report_survives_the_way_to_json_and_back() -> None:
    assert Report.from_json(json.loads(json.dumps(report().to_json()))) == report()
