"""A comparison as files: HTML with a drawing and a table of all values, and Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.comparing.parting import is_bad
from onnxcompress.render import comparison, markdown, words
from onnxcompress.render.blocks import Block, Cell, Lines, Table, row
from onnxcompress.render.html_blocks import sections, text
from onnxcompress.render.html_curve import curve
from onnxcompress.render.html_document import document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxcompress.comparing.facts import Comparison, ValueRow

_MARKDOWN_ROWS = 20


def html_page(found: Comparison) -> str:
    """The whole page; all values are in it."""
    return document(f"onnxcompress: {words.safe(found.a.path)} and {words.safe(found.b.path)}", _body(found))


def markdown_page(found: Comparison) -> str:
    """What the console shows."""
    return markdown.document(
        comparison.closing(found), comparison.blocks(found, top=_MARKDOWN_ROWS), passed=found.passed
    )


def _body(found: Comparison) -> Iterator[str]:
    kind = "passed" if found.passed else "failed"
    names = f"{words.safe(found.a.path)}, {words.safe(found.b.path)}"
    yield f'<h1><span class="verdict {kind}">{kind}</span> {text(names)}</h1>'
    yield f"<p>{text(comparison.closing(found))}</p>"
    if found.data is not None:
        yield from sections((Lines("where values part", tuple(comparison.partings(found))), comparison.outputs(found)))
        yield from curve(found)
        yield from _values(found)
    yield from sections(comparison.structure(found, None))
    yield from sections(_rest(found))


def _rest(found: Comparison) -> Iterator[Block]:
    if found.unmatched:
        rows = tuple(row(*(words.safe(v) for v in (u.name, u.op, u.reason))) for u in found.unmatched)
        yield Table("values that were not compared", ("value", "operator", "why"), rows)
    if found.notes:
        yield Lines("notes", tuple(Cell(words.safe(note)) for note in found.notes))
    models = {
        "file": [words.safe(m.path) for m in (found.a, found.b)],
        "SHA-256": [words.safe(m.sha256) for m in (found.a, found.b)],
        "bytes": [f"{m.size_bytes:,}" for m in (found.a, found.b)],
    }
    yield Table("models", ("", "first", "second"), tuple(row(name, *cells) for name, cells in models.items()))
    tool = found.tool
    said = f"{tool.name} {tool.version}, onnx {tool.onnx}, onnxruntime {tool.onnxruntime}"
    yield Lines("versions", (Cell(words.safe(said)),))


_HEADS = ("#", "value", "operator", "layer", "SQNR", "by itself", "cosine", "max abs error", "remark")
_NUMBERS = frozenset({"#", "SQNR", "by itself", "cosine", "max abs error"})


def _values(found: Comparison) -> Iterator[str]:
    """All values, which the script of the page sorts and searches."""
    if not found.values:
        return
    yield '<section id="layers"><h2>values, in the order of the graph</h2>'
    yield '<p class="search"><label for="search">search</label> <input id="search" type="search" autocomplete="off" '
    yield 'spellcheck="false" placeholder="name, operator, layer"> <output id="shown" for="search"></output></p>'
    yield '<div class="wide region" role="region" aria-label="values" tabindex="0"><table id="table">'
    yield f"<thead><tr>{''.join(map(_head, _HEADS))}</tr></thead><tbody>"
    yield from (_row(number, value, found.threshold_db) for number, value in enumerate(found.values, 1))
    yield "</tbody></table></div></section>"


def _head(title: str) -> str:
    order = "ascending" if title == "#" else "none"
    kind = ' class="number"' if title in _NUMBERS else ""
    return f'<th scope="col"{kind} aria-sort="{order}"><button type="button">{title}</button></th>'


def _row(number: int, value: ValueRow, threshold: float) -> str:
    cosine = "" if value.cosine is None else words.cosine(value.cosine)
    error = "" if value.max_abs_error is None else words.number(value.max_abs_error)
    layer = value.node or value.segment[-1]
    cells = (
        _number(str(number), number),
        f'<th scope="row" class="name">{text(words.safe(value.name))}</th>',
        f"<td>{text(words.safe(value.op))}</td>",
        f'<td class="why">{text(words.safe(layer))}</td>',
        _number(comparison.decibels(value.sqnr_db), value.sqnr_db, bad=is_bad(value, threshold)),
        _number(comparison.decibels(value.own_sqnr_db), value.own_sqnr_db),
        _number(cosine, value.cosine),
        _number(error, value.max_abs_error),
        f"<td>{text(words.safe(comparison.remark(value)))}</td>",
    )
    return f"<tr>{''.join(cells)}</tr>"


def _number(shown: str, value: float | None, *, bad: bool = False) -> str:
    kind = "number bad" if bad else "number"
    if value is None:
        return f'<td class="{kind}">{text(shown)}</td>'
    return f'<td class="{kind}" data-v="{value:.9g}">{text(shown)}</td>'
