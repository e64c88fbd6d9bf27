"""Checks and budgets as a JUnit file: one case for each, as CI services show tests."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

from onnxcompress.render import words

if TYPE_CHECKING:
    from onnxcompress.report import BudgetResult, Report


def junit(report: Report) -> str:
    """The XML text."""
    failed = sum(not b.ok for b in report.budgets)
    suite = ElementTree.Element(
        "testsuite", name="onnxcompress", tests=str(len(report.budgets)), failures=str(failed), errors="0", skipped="0",
        time=f"{sum(step.seconds for step in report.steps):.3f}",
    )  # fmt: skip
    properties = ElementTree.SubElement(suite, "properties")
    facts = {
        "version": report.tool.version, "onnx": report.tool.onnx, "onnxruntime": report.tool.onnxruntime,
        "original": report.original.path, "sha256": report.original.sha256, "verdict": report.verdict,
    }  # fmt: skip
    for name, value in facts.items():
        ElementTree.SubElement(properties, "property", name=name, value=words.safe(value))
    for budget in report.budgets:
        case = ElementTree.SubElement(suite, "testcase", classname="onnxcompress", name=words.safe(budget.name))
        if not budget.ok:
            failure = ElementTree.SubElement(case, "failure", type="budget", message=_message(budget))
            failure.text = _message(budget)
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _message(budget: BudgetResult) -> str:
    value, limit = (words.measured(budget.name, v) for v in (budget.value, budget.limit))
    return words.safe(f"{budget.name}: {value}, limit {limit}")
