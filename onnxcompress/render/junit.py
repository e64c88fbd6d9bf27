"""Checks and budgets as a JUnit file: one case for each, as CI services show tests."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from onnxcompress.render import words
from onnxcompress.render.summary import asked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxcompress.report import BudgetResult, Report


def junit(report: Report) -> str:
    """The XML text."""
    failed = sum(not b.ok for b in report.budgets)
    facts = {
        "tests": str(len(report.budgets)), "failures": str(failed), "errors": "0", "skipped": "0",
        "time": f"{sum(step.seconds for step in report.steps):.3f}",
    }  # fmt: skip
    suites = ElementTree.Element("testsuites", {"name": "onnxcompress", **facts})
    name = re.split(r"[\\/]", report.original.path)[-1]
    suite = ElementTree.SubElement(suites, "testsuite", {"name": f"onnxcompress {words.safe(name)}", **facts})
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in _facts(report):
        ElementTree.SubElement(properties, "property", name=key, value=words.safe(value))
    for budget in report.budgets:
        _case(suite, budget)
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _facts(report: Report) -> Iterator[tuple[str, object]]:
    yield from {
        "version": report.tool.version,
        "onnx": report.tool.onnx,
        "onnxruntime": report.tool.onnxruntime,
    }.items()
    yield from {"verdict": report.verdict, "seed": report.seed}.items()
    if "cpu" in report.machine:
        yield "cpu", report.machine["cpu"]
    yield from {"original": report.original.path, "sha256": report.original.sha256}.items()
    if report.compressed is not None:
        yield from {"compressed": report.compressed.path, "compressed_sha256": report.compressed.sha256}.items()


def _case(suite: ElementTree.Element, budget: BudgetResult) -> None:
    kind = "budget" if asked(budget) else "check"
    name = words.safe(budget.name)
    case = ElementTree.SubElement(suite, "testcase", classname=f"onnxcompress.{kind}", name=name, time="0")
    if budget.ok:
        ElementTree.SubElement(case, "system-out").text = _message(budget)
    else:
        ElementTree.SubElement(case, "failure", type=kind, message=_message(budget)).text = _message(budget)


def _message(budget: BudgetResult) -> str:
    value, limit = (words.measured(budget.name, v) for v in (budget.value, budget.limit))
    return words.safe(f"{budget.name}: {value}, limit {limit}")
