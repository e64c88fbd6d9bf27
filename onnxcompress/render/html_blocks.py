"""Blocks as HTML. Everything that is shown passes through `text`, which leaves nothing of it to be read as a mark."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from onnxcompress.render.blocks import Block, Cell, Lines, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_CLASSES = {"plain": "", "good": "good", "bad": "bad", "faint": "faint"}


def text(words: str) -> str:
    """The words as text of an element or of a quoted attribute."""
    return html.escape(words, quote=True)


def sections(blocks: Iterable[Block]) -> Iterator[str]:
    """Each block as a section with its title."""
    for block in blocks:
        yield from section(block.title, lines(block) if isinstance(block, Lines) else table(block))


def section(title: str, parts: Iterable[str]) -> Iterator[str]:
    """Parts below a heading."""
    yield "<section>"
    if title:
        yield f"<h2>{text(title)}</h2>"
    yield from parts
    yield "</section>"


def lines(block: Lines) -> Iterator[str]:
    """A list."""
    yield "<ul>" + "".join(f"<li{_classes(_CLASSES[x.tone])}>{text(x.text)}</li>" for x in block.lines) + "</ul>"


def table(block: Table) -> Iterator[str]:
    """A table of which the first cell of each row names the row; a corner without a word is no heading."""
    heads = "".join(_head(title, i in block.numeric) for i, title in enumerate(block.header))
    yield f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>'
    for first, *rest in block.rows:
        shown = "".join(f"<td{_cell(c, i in block.numeric)}>{text(c.text)}</td>" for i, c in enumerate(rest, 1))
        yield f'<tr><th scope="row"{_cell(first, False)}>{text(first.text)}</th>{shown}</tr>'
    yield "</tbody></table></div>"


def _head(title: str, numeric: bool) -> str:
    return f'<th scope="col"{_classes("number" if numeric else "")}>{text(title)}</th>' if title else "<td></td>"


def _cell(cell: Cell, numeric: bool) -> str:
    return _classes("number" if numeric else "", _CLASSES[cell.tone])


def _classes(*names: str) -> str:
    given = " ".join(name for name in names if name)
    return f' class="{given}"' if given else ""
