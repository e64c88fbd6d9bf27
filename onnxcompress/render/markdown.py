"""A report as Markdown, for comments on pull requests and the summary of a CI job."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from onnxcompress.render import closing
from onnxcompress.render.blocks import Block, Cell, Lines, Table
from onnxcompress.render.summary import summary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onnxcompress.report import Report

_MARKS = re.compile(r"([\\`*_{}\[\]<>|~#!@])")  # @ would call people


def markdown(report: Report, path: Path | None, *, passed: bool) -> str:
    """The whole report: the verdict, and the tables of the closing page."""
    verdict = "✅" if passed else "❌"
    parts = [f"### {verdict} {_safe(closing.closing(report, path, passed=passed))}"]
    parts += ["\n".join(_block(block)) for block in summary(report)]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> Iterator[str]:
    if block.title:
        yield f"**{_safe(block.title)}**"
        yield ""
    if isinstance(block, Lines):
        yield from (f"- {_cell(line)}" for line in block.lines)
        return
    yield from _table(block)


def _table(block: Table) -> Iterator[str]:
    yield _row([_safe(title) for title in block.header])
    yield _row(["---:" if i in block.numeric else "---" for i in range(len(block.header))])
    for cells in block.rows:
        yield _row([_cell(cell) for cell in cells])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(cell: Cell) -> str:
    return f"**{_safe(cell.text)}**" if cell.tone == "bad" and cell.text else _safe(cell.text)


def _safe(text: str) -> str:
    """Text in which nothing is a mark; control characters were spelt out before."""
    return _MARKS.sub(r"\\\1", text)
