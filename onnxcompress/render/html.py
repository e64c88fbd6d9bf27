"""A report as one HTML file that opens without a network: tables, bars and a list of layers to sort and search.

Names come from the model and are hostile: all text is escaped, and there is no script but that of the page.
"""

from __future__ import annotations

import html
import json
from importlib import resources
from typing import TYPE_CHECKING

from onnxcompress.render import closing, words
from onnxcompress.render.blocks import Block, Cell, Lines, Table
from onnxcompress.render.summary import summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from onnxcompress.report import LayerRecord, Report

_CLASSES = {"plain": "", "good": "good", "bad": "bad", "faint": "faint"}
_COLUMNS = (
    "step", "layer", "operator", "form", "bits", "ranks", "zeros", "before", "after", "saved", "error", "why not",
)  # fmt: skip
_NUMERIC = frozenset({4, 6, 7, 8, 9, 10})


def page(report: Report, path: Path | None, *, passed: bool) -> str:
    """The whole page."""
    title = f"onnxcompress: {words.safe(report.original.path)}"
    body = "\n".join(_body(report, path, passed=passed))
    style, script = (_asset(name) for name in ("report.css", "report.js"))
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{_text(title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
</main>
<script>
{script}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return resources.files("onnxcompress.render").joinpath(name).read_text(encoding="utf-8")


def _body(report: Report, path: Path | None, *, passed: bool) -> Iterator[str]:
    verdict = "passed" if passed else "failed"
    yield f'<h1><span class="verdict {verdict}">{verdict}</span> {_text(words.safe(report.original.path))}</h1>'
    yield f"<p>{_text(closing.closing(report, path, passed=passed))}</p>"
    if report.compressed is not None:
        yield from _bars(report)
    for block in summary(report, verbose=False):
        yield from _block(block)
    yield from _outputs(report)
    yield from _layers(report)
    yield from _making(report)


def _bars(report: Report) -> Iterator[str]:
    """Before and after as bars: bytes, and latency where it was measured."""
    after_bytes = report.compressed.size_bytes if report.compressed else 0
    pairs: list[tuple[str, float, float, Callable[[float], str]]] = [
        ("size", report.original.size_bytes, after_bytes, words.size)
    ]
    if report.latency is not None:
        one, two = report.latency.original_ms, report.latency.compressed_ms
        for name, before, after in (("latency p50", one.p50, two.p50), ("latency p95", one.p95, two.p95)):
            pairs.append((name, before, after, words.milliseconds))
    yield '<section aria-label="before and after"><div class="bars">'
    for name, before, after, shown in pairs:
        most = max(before, after) or 1
        for word, value in (("original", before), ("compressed", after)):
            width = f"width:{100 * value / most:.2f}%"
            yield f'<span class="label">{name}, {word}</span>'
            yield f'<span class="track"><span class="bar {word}" style="{width}"></span></span>'
            yield f'<span class="figure">{_text(shown(value))}</span>'
    yield "</div></section>"


def _block(block: Block) -> Iterator[str]:
    yield "<section>"
    if block.title:
        yield f"<h2>{_text(block.title)}</h2>"
    if isinstance(block, Lines):
        yield "<ul>" + "".join(f"<li{_class(line)}>{_text(line.text)}</li>" for line in block.lines) + "</ul>"
    else:
        yield from _table(block)
    yield "</section>"


def _table(block: Table) -> Iterator[str]:
    heads = "".join(f'<th scope="col"{_right(i in block.numeric)}>{_text(t)}</th>' for i, t in enumerate(block.header))
    yield f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>'
    for cells in block.rows:
        first, *rest = cells
        shown = "".join(f"<td{_right(i in block.numeric, c)}>{_text(c.text)}</td>" for i, c in enumerate(rest, 1))
        yield f'<tr><th scope="row"{_class(first)}>{_text(first.text)}</th>{shown}</tr>'
    yield "</tbody></table></div>"


def _outputs(report: Report) -> Iterator[str]:
    """Fidelity of every output and group."""
    found = report.fidelity
    if found is None or len(found.outputs) < 2:
        return
    rows = []
    for output in found.outputs:
        name = words.safe(f"{output.name} {output.group or ''}".strip())
        agreement = "-" if output.agreement is None else words.percent(output.agreement)
        figures = (words.decibels(output.sqnr_db), words.cosine(output.cosine), words.number(output.max_abs_error))
        rows.append(tuple(Cell(text) for text in (name, *figures, agreement)))
    header = ("output", "SQNR", "cosine", "max abs error", "agreement")
    yield from _block(Table("every output", header, tuple(rows), frozenset({1, 2, 3, 4})))


def _layers(report: Report) -> Iterator[str]:
    """One row for each weight of each step, which the script sorts and searches."""
    rows = [(n, step.pass_name, y) for n, step in enumerate(report.steps, 1) for y in step.layers]
    if not rows:
        return
    yield '<section id="layers"><h2>layers</h2>'
    yield '<p><label for="search">search</label> <input id="search" type="search" autocomplete="off">'
    yield '<output id="shown"></output></p>'
    heads = "".join(
        f'<th scope="col"{_right(i in _NUMERIC)} aria-sort="none"><button type="button">{name}</button></th>'
        for i, name in enumerate(_COLUMNS)
    )
    yield f'<div class="wide"><table id="table"><thead><tr>{heads}</tr></thead><tbody>'
    for number, name, layer in rows:
        yield _layer(f"{number} {name}", layer)
    yield "</tbody></table></div></section>"


def _layer(step: str, layer: LayerRecord) -> str:
    saved = layer.bytes_before - layer.bytes_after
    cells: Sequence[tuple[str, float | None]] = (
        (words.safe(step), None),
        (words.safe(layer.name), None),
        (words.safe(layer.op), None),
        (words.safe(layer.form or "-"), None),
        ("-" if layer.bits is None else f"{layer.bits:g}", layer.bits or 0),
        ("-" if layer.ranks is None else " × ".join(map(str, layer.ranks)), None),
        ("-" if layer.sparsity is None else words.percent(layer.sparsity), layer.sparsity or 0),
        (words.size(layer.bytes_before), layer.bytes_before),
        (words.size(layer.bytes_after), layer.bytes_after),
        (words.size(saved), saved),
        ("-" if layer.error is None else f"{layer.error:.2e}", layer.error or 0),
        (words.safe(layer.reason or ""), None),
    )
    shown = []
    for index, (text, value) in enumerate(cells):
        key = "" if value is None else f' data-v="{value!r}"'
        shown.append(f"<td{_right(index in _NUMERIC)}{key}>{_text(text)}</td>")
    return f"<tr>{''.join(shown)}</tr>"


def _making(report: Report) -> Iterator[str]:
    """How it was made: recipe, machine, versions, hashes."""
    facts = report.to_json()
    parts = {
        "recipe": facts["recipe"], "machine": facts["machine"], "tool": facts["tool"], "seed": facts["seed"],
        "original": facts["original"], "compressed": facts["compressed"],
    }  # fmt: skip
    yield "<section><h2>how it was made</h2>"
    for name, value in parts.items():
        shown = words.safe_lines(json.dumps(value, indent=2, ensure_ascii=False))
        yield f"<details><summary>{name}</summary><pre>{_text(shown)}</pre></details>"
    yield "</section>"


def _class(cell: Cell) -> str:
    name = _CLASSES[cell.tone]
    return f' class="{name}"' if name else ""


def _right(numeric: bool, cell: Cell | None = None) -> str:
    names = [n for n in ("number" if numeric else "", _CLASSES[cell.tone] if cell is not None else "") if n]
    return f' class="{" ".join(names)}"' if names else ""


def _text(text: str) -> str:
    return html.escape(text, quote=True)
