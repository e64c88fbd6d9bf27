"""The page on a terminal, with colour and rules, or as plain text where there is no terminal.

Everything shown goes to standard output; with ``--json -`` standard output belongs to the JSON alone, and the
page goes to standard error. Text never passes through rich's markup: names come from the model.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, TextIO

from onnxcompress.progress import Progress, Silent
from onnxcompress.render import ci, closing, plain, words
from onnxcompress.render.blocks import Block, Cell, Lines, Table
from onnxcompress.render.line_progress import LineProgress
from onnxcompress.render.plan import plan
from onnxcompress.render.summary import summary

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import RenderableType
    from rich.text import Text

    from onnxcompress.render.console_progress import LateProgress
    from onnxcompress.report import Report

_STYLES = {"plain": "", "good": "green", "bad": "bold red", "faint": "dim"}


def on_terminal(stream: TextIO) -> bool:
    """Whether somebody watches: a terminal that can move its cursor, outside continuous integration."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and not _in_ci()


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


class Page:
    """Where a verb shows its work: progress while it goes on, and the page that closes it."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False, stdout_taken: bool = False) -> None:
        self._quiet, self._verbose = quiet, verbose
        self._out = sys.stderr if stdout_taken else sys.stdout
        self._bar = None if quiet else _bar()
        self.progress: Progress = self._bar or Silent()

    def close(self) -> None:
        """Take the progress bar away, or say no more of progress: before the page is shown, and whatever happened."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def report(self, report: Report, path: Path | None, *, passed: bool, dry_run: bool = False) -> None:
        """Show the closing page and the last line."""
        self.close()
        if not self._quiet:
            blocks = plan(report) if dry_run else summary(report, verbose=self._verbose)
            self._blocks([*blocks, *_written(report, path, passed=passed)])
            self.line("")
        self.line(for_people(closing.closing(report, path, passed=passed, dry_run=dry_run)))

    def line(self, text: str) -> None:
        """Show one line. A reader that went away (``| head``) does not change what the run came to."""
        with contextlib.suppress(BrokenPipeError):
            self._out.write(text + "\n")
            self._out.flush()

    def _blocks(self, blocks: Sequence[Block]) -> None:
        if on_terminal(self._out) and not os.environ.get("NO_COLOR"):
            _show(blocks, self._out)
        else:
            self.line(for_people(plain.text(blocks)))


def for_people(text: str) -> str:
    """Text that is for people, so that nothing in it is taken for a command to the job."""
    return ci.harmless(text) if ci.in_actions() else text


def _bar() -> LateProgress | LineProgress | None:
    """A bar where somebody watches; lines where a job is watched that says nothing for long; else nothing."""
    if on_terminal(sys.stderr):
        from onnxcompress.render.console_progress import LateProgress

        return LateProgress()
    return LineProgress(sys.stderr) if _in_ci() else None


def _written(report: Report, path: Path | None, *, passed: bool) -> Sequence[Block]:
    if path is None or not report.steps:  # a verification writes nothing
        return ()
    word = "wrote" if passed else "did not pass, kept for inspection at"
    return (Lines("", (Cell(f"{word} {words.safe(path)}", "good" if passed else "bad"),)),)


def _show(blocks: Sequence[Block], stream: TextIO) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, markup=False, highlight=False, emoji=False)
    for index, block in enumerate(blocks):
        if index:
            console.print()
        if block.title:
            console.print(Text(block.title, "bold"))
        if isinstance(block, Lines):
            console.print(Text("\n").join(_styled(line) for line in block.lines))
        else:
            console.print(_table(block))


def _styled(cell: Cell) -> Text:
    from rich.text import Text

    return Text(cell.text, _STYLES[cell.tone])


def _table(block: Table) -> RenderableType:
    from rich import box, table

    shown = table.Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")
    for index, title in enumerate(block.header):
        shown.add_column(_styled(Cell(title)), justify="right" if index in block.numeric else "left", overflow="fold")
    for cells in block.rows:
        shown.add_row(*map(_styled, cells))
    return shown
