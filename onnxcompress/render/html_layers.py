"""All layers of all steps as one table, which the script of the page sorts and searches; columns with nothing go."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxcompress.render import words
from onnxcompress.render.html_blocks import text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from onnxcompress.report import LayerRecord, Step


@dataclass(frozen=True)
class _Row:
    number: int
    step: str
    layer: LayerRecord


@dataclass(frozen=True)
class _Column:
    """A heading, what a row shows below it, and the number to sort by where there is one."""

    title: str
    shown: Callable[[_Row], str]
    value: Callable[[_Row], float | None] | None = None
    kind: str = ""


_COLUMNS = (
    _Column("#", lambda r: str(r.number), lambda r: r.number),
    _Column("step", lambda r: r.step),
    _Column("layer", lambda r: r.layer.name, kind="name"),
    _Column("operator", lambda r: r.layer.op),
    _Column("form", lambda r: "left alone" if r.layer.status == "skipped" else r.layer.form or ""),
    _Column("bits", lambda r: _or_empty(r.layer.bits, "{:g}"), lambda r: r.layer.bits),
    _Column("ranks", lambda r: " × ".join(map(str, r.layer.ranks or ())), lambda r: math.prod(r.layer.ranks or (0,))),
    _Column("zeros", lambda r: _zeros(r.layer.sparsity), lambda r: r.layer.sparsity),
    _Column("before", lambda r: words.size(r.layer.bytes_before), lambda r: r.layer.bytes_before),
    _Column("after", lambda r: words.size(r.layer.bytes_after), lambda r: r.layer.bytes_after),
    _Column("saved", lambda r: words.size(_saved(r.layer)), lambda r: _saved(r.layer)),
    _Column("error", lambda r: _or_empty(r.layer.error, "{:.1e}"), lambda r: r.layer.error),
    _Column("why", lambda r: r.layer.reason or "", kind="why"),
)
_SORTED = "before"


def layers(steps: Sequence[Step]) -> Iterator[str]:
    """The table with its search box, the largest layers first."""
    found = [(f"{number} {step.pass_name}", y) for number, step in enumerate(steps, 1) for y in step.layers]
    if not found:
        return
    rows = [_Row(number, step, layer) for number, (step, layer) in enumerate(found, 1)]
    columns = [c for c in _COLUMNS if any(c.shown(r) for r in rows)]
    if len({r.step for r in rows}) == 1:
        columns = [c for c in columns if c.title != "step"]
    most = max(max(r.layer.bytes_before, r.layer.bytes_after) for r in rows) or 1
    yield '<section id="layers"><h2>layers</h2>'
    yield '<p class="search"><label for="search">search</label> <input id="search" type="search" autocomplete="off" '
    yield 'spellcheck="false" placeholder="name, operator, form, reason"> <output id="shown" for="search"></output></p>'
    yield '<p class="faint">Below each name: <span class="key"><i class="before"></i> bytes before</span> '
    yield '<span class="key"><i class="after"></i> bytes after</span> The headings sort.</p>'
    yield '<div class="wide region" role="region" aria-label="layers" tabindex="0"><table id="table">'
    yield f"<thead><tr>{''.join(map(_head, columns))}</tr></thead><tbody>"
    for row in sorted(rows, key=lambda r: -r.layer.bytes_before):
        yield f"<tr>{''.join(_cell(column, row, most) for column in columns)}</tr>"
    yield "</tbody></table></div>"
    if any(r.layer.histogram for r in rows):
        yield '<figure id="values" aria-live="polite"><figcaption class="faint">A click on a name, or Enter on it, '
        yield "shows how the values of that weight are spread before and after.</figcaption></figure>"
    yield "</section>"


def _head(column: _Column) -> str:
    order = "descending" if column.title == _SORTED else "none"
    kind = ' class="number"' if column.value else ""
    return f'<th scope="col"{kind} aria-sort="{order}"><button type="button">{column.title}</button></th>'


def _cell(column: _Column, row: _Row, most: float) -> str:
    shown = text(words.safe(column.shown(row)))
    if column.kind == "name":
        found = row.layer.histogram
        if found is not None:
            data = f"{found.low:g},{found.high:g};{_counts(found.before)};{_counts(found.after)}"
            shown = f'<button type="button" data-h="{data}">{shown}</button>'
        return f'<th scope="row" class="name">{shown}{_bytes(row.layer, most)}</th>'
    if column.value is None:
        return f'<td class="{column.kind}">{shown}</td>' if column.kind else f"<td>{shown}</td>"
    value = column.value(row)
    known = value is not None and math.isfinite(value) and shown
    return f'<td class="number" data-v="{value:.9g}">{shown}</td>' if known else f'<td class="number">{shown}</td>'


def _bytes(layer: LayerRecord, most: float) -> str:
    before, after = (f"{100 * count / most:.2f}%" for count in (layer.bytes_before, layer.bytes_after))
    return (
        f'<span class="bytes" aria-hidden="true"><i class="before" style="width:{before}"></i>'
        f'<i class="after" style="width:{after}"></i></span>'
    )


def _counts(counts: Sequence[int]) -> str:
    return " ".join(map(str, counts))


def _saved(layer: LayerRecord) -> int:
    return layer.bytes_before - layer.bytes_after


def _or_empty(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _zeros(share: float | None) -> str:
    return "" if share is None else words.percent(share)
