"""A report as Markdown, for comments on pull requests and the summary of a CI job."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from onnxcompress.render import closing, layers, summary, words
from onnxcompress.render.blocks import Block, Cell, Lines, Table
from onnxcompress.render.plan import plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from onnxcompress.report import Report

_MARKS = re.compile(r"([\\`*_{}\[\]<>|~!$])")
_LINK = re.compile(r"(?i):(?=//)|(?<=www)\.")
_LIST = re.compile(r"^(\d*)([-+.)])(?=\s|$)")  # what would begin a list within a list
_LONGEST = 400  # characters of a cell or a line
_MOST = 60  # rows or lines of a block: a comment on GitHub holds 65,536 characters


def markdown(report: Report, path: Path | None, *, passed: bool, dry_run: bool = False) -> str:
    """The whole report: the verdict, and the tables of the closing page."""
    said = closing.closing(report, path, passed=passed, dry_run=dry_run)
    return document(said, plan(report) if dry_run else _blocks(report), passed=passed)


def document(said: str, blocks: Iterable[Block], *, passed: bool) -> str:
    """A verdict with the blocks below it."""
    verdict = "✅" if passed else "❌"
    parts = [f"### {verdict} {_safe(said)}"]
    parts += ["\n".join(_block(block)) for block in blocks]
    return "\n\n".join(parts) + "\n"


def _blocks(report: Report) -> Iterator[Block]:
    yield summary.before_and_after(report)
    yield from summary.budgets(report.budgets)
    if report.fidelity is not None:
        yield summary.fidelity(report.fidelity, verbose=True)
    yield from layers.forms(report.steps)
    yield from layers.untouched(report.steps, most=None)
    yield from summary.notes(report)


def _block(block: Block) -> Iterator[str]:
    if block.title:
        yield f"**{_safe(block.title)}**"
        yield ""
    if isinstance(block, Lines):
        yield from (f"- {_cell(line)}" for line in block.lines[:_MOST])
        if len(block.lines) > _MOST:
            yield f"- {words.plural(len(block.lines) - _MOST, 'more line')} in the other reports"
        return
    yield from _table(block)


def _table(block: Table) -> Iterator[str]:
    yield _row([_safe(title) for title in block.header])
    yield _row(["---:" if i in block.numeric else "---" for i in range(len(block.header))])
    for cells in block.rows[:_MOST]:
        yield _row([_cell(cell) for cell in cells])
    if len(block.rows) > _MOST:
        more = f"{words.plural(len(block.rows) - _MOST, 'more row')} in the other reports"
        yield _row([more, *[""] * (len(block.header) - 1)])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(cell: Cell) -> str:
    shown = _safe(words.safe(cell.text, _LONGEST))
    return f"**{shown}**" if cell.tone == "bad" and cell.text else shown


def _safe(text: str) -> str:
    """Text in which nothing is a mark, a link or a call; control characters were spelt out before.

    GitHub looks for people and issues in what the Markdown comes to, where a backslash is gone: a space of no width
    stands behind those signs.
    """
    spelt = _MARKS.sub(r"\\\1", text.strip().replace("&", "&amp;"))
    spelt = _LINK.sub(r"\\\g<0>", spelt).replace("#", "\\#&#8203;").replace("@", "@&#8203;")
    return _LIST.sub(r"\1\\\2", spelt)
