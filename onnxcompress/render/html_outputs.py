"""Outputs of the compressed model against those of the original: some values, the worst calls, classes that changed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnxcompress.render import words
from onnxcompress.render.blocks import Table, row
from onnxcompress.render.html_blocks import section, table, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxcompress.report import Fidelity, OutputFidelity

_SIZE, _LOW, _HIGH = 340, 20, 320
_MOST = 6  # outputs that are drawn


def outputs(found: Fidelity) -> Iterator[str]:
    """Drawings of the worst outputs, then tables of what there is."""
    drawn = sorted((o for o in found.outputs if len(o.points) > 1), key=lambda o: o.sqnr_db)
    if drawn:
        shown = [part for output in drawn[:_MOST] for part in _scatter(output)]
        left = len(drawn) - _MOST
        more = f" Not drawn: {words.plural(left, 'better output')}." if left > 0 else ""
        caption = f'<p class="faint">Some values of each output; on the line both models give the same.{more}</p>'
        yield from section("outputs, original against compressed", (caption, '<div class="pair">', *shown, "</div>"))
    if found.worst_calls:
        rows = tuple(
            row(str(c.call), words.safe(c.output, 60), words.decibels(c.sqnr_db)) for c in found.worst_calls
        )  # fmt: skip
        block = Table("calls that lose most", ("call", "worst output", "SQNR"), rows, frozenset({2}))
        yield from section(block.title, table(block))
    for output in found.outputs:
        if output.confusions:
            yield from _confusions(output)


def _scatter(output: OutputFidelity) -> Iterator[str]:
    values = [v for point in output.points for v in point if math.isfinite(v)]
    low, high = min(values), max(values)
    if not low < high:
        low, high = low - 1, high + 1

    def at(value: float) -> float:
        return _LOW + (_HIGH - _LOW) * (value - low) / (high - low)

    name = words.safe(output.name, 60)
    label = text(f"{name}: values of the compressed model over those of the original, from {low:g} to {high:g}")
    yield f'<figure><figcaption class="faint">{text(name)}: compressed (up) over original (right)</figcaption>'
    yield f'<svg viewBox="0 0 {_SIZE} {_SIZE}" role="img" aria-label="{label}">'
    yield f'<line class="same" x1="{_LOW}" y1="{_SIZE - _LOW}" x2="{_HIGH}" y2="{_SIZE - _HIGH}"></line>'
    for x, y in output.points:
        if math.isfinite(x) and math.isfinite(y):
            yield f'<circle class="point" cx="{at(x):.1f}" cy="{_SIZE - at(y):.1f}" r="2.5"></circle>'
    yield f'<text x="{_LOW}" y="{_SIZE - 4}" text-anchor="start">{low:.4g}</text>'
    yield f'<text x="{_HIGH}" y="{_SIZE - 4}" text-anchor="end">{high:.4g}</text></svg></figure>'


def _confusions(output: OutputFidelity) -> Iterator[str]:
    title = f"classes that changed in {words.safe(output.name, 60)}"
    rows = tuple(row(str(c.original), str(c.compressed), f"{c.count:,}") for c in output.confusions)
    block = Table(
        title, ("best class of the original", "of the compressed model", "how often"), rows, frozenset({1, 2})
    )
    yield from section(title, table(block))
