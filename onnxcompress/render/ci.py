"""What a GitHub Actions job is told by itself: a summary, and an error for each budget that does not hold.

https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from onnxcompress.render import words
from onnxcompress.render.markdown import markdown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxcompress.report import Report

_COMMAND = re.compile(r"^(\s*)::", re.MULTILINE)


def in_actions() -> bool:
    """Whether this is a step of a GitHub Actions job."""
    return os.environ.get("GITHUB_ACTIONS", "").lower() == "true"


def write_summary(report: Report, path: Path | None, *, passed: bool) -> None:
    """Add the report to the summary of the job, if it has one that can be written to."""
    place = os.environ.get("GITHUB_STEP_SUMMARY")
    if not place:
        return
    try:
        with Path(place).open("a", encoding="utf-8") as file:
            file.write(markdown(report, path, passed=passed) + "\n")
    except OSError:  # the job's business, and no reason for the run to fail
        return


def errors(report: Report) -> Iterator[str]:
    """A workflow command for each budget or check that does not hold."""
    for budget in report.budgets:
        if not budget.ok:
            value, limit = (words.measured(budget.name, v) for v in (budget.value, budget.limit))
            said = f"{words.safe(report.original.path)}: {budget.name} is {value}, the limit is {limit}"
            yield "::error title=onnxcompress::" + _escaped(said)


def harmless(text: str) -> str:
    r"""Text of which no line is a workflow command, such as a table that begins with the name of a layer.

    >>> harmless("::add-mask::encoder")
    '\\x3a:add-mask::encoder'
    """
    return _COMMAND.sub(r"\g<1>\\x3a:", text).replace("##[", "\\x23#[")


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
