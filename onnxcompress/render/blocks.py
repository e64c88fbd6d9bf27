"""What a page of output is made of, before anything decides how it looks: tables and lists of lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Tone = Literal["plain", "good", "bad", "faint"]


@dataclass(frozen=True)
class Cell:
    """One cell of a table; the tone is colour where there is any, never the only carrier of the meaning."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Table:
    """Rows below a header. The columns named in ``numeric`` are aligned to the right."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Lines:
    """Sentences, one a line."""

    title: str
    lines: tuple[Cell, ...]


Block = Table | Lines


def row(*cells: str | Cell) -> tuple[Cell, ...]:
    """A row of a table from words."""
    return tuple(Cell(c) if isinstance(c, str) else c for c in cells)
