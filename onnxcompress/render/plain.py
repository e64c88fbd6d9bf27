"""Blocks as aligned text without colour, boxes or control characters: for files, pipes and logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.render.blocks import Block, Lines, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def text(blocks: Iterable[Block]) -> str:
    """All blocks, an empty line between any two."""
    return "\n\n".join("\n".join(_lines(block)) for block in blocks)


def _lines(block: Block) -> Iterator[str]:
    if block.title:
        yield block.title
    indent = "  " if block.title else ""
    if isinstance(block, Lines):
        yield from (indent + line.text for line in block.lines)
    else:
        yield from (indent + line for line in _aligned(block))


def _aligned(table: Table) -> Iterator[str]:
    rows = [table.header, *(tuple(cell.text for cell in row) for row in table.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.header))]
    for row in rows:
        cells = (
            cell.rjust(width) if i in table.numeric else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()
