"""SQNR along the graph: one dot a value, in topological order, and what each step adds by itself.

Values beyond what float32 tells apart stand in a band at the top, those without any likeness in one at the bottom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxcompress.render import comparison, words
from onnxcompress.render.html_blocks import section, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnxcompress.comparing.facts import Comparison, ValueRow

_WIDTH, _HEIGHT = 760, 350
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 740, 40, 290
_BAND = 22  # above the axis, for what is exact
_EXACT_DB, _LOWEST_DB = 100.0, -20.0
_TICKS = 7


@dataclass(frozen=True)
class _Axes:
    """Places on the page: ``count`` values along it, and decibels between ``low`` and ``high``."""

    count: int
    low: float
    high: float

    @classmethod
    def over(cls, values: Sequence[ValueRow], threshold: float) -> _Axes:
        figures = [f for v in values for f in (v.sqnr_db, v.own_sqnr_db) if f is not None and f < _EXACT_DB]
        low = min([0.0, threshold - 10, *figures])
        high = max([threshold + 10, *figures])
        return cls(len(values), max(_LOWEST_DB, 10 * math.floor(low / 10)), 10 * math.ceil(high / 10))

    def x(self, index: int) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (index + 0.5) / self.count

    def y(self, decibels: float) -> float:
        if decibels >= _EXACT_DB:
            return _TOP - _BAND
        share = (min(max(decibels, self.low), self.high) - self.low) / (self.high - self.low)
        return _BOTTOM - (_BOTTOM - _TOP) * share

    def ticks(self) -> Iterator[float]:
        every = max(10, 10 * math.ceil((self.high - self.low) / 10 / _TICKS))
        value = self.low
        while value <= self.high:
            yield value
            value += every


def curve(found: Comparison) -> Iterator[str]:
    """The drawing with its caption, or nothing where no value has a ratio."""
    values = [value for value in found.values if value.sqnr_db is not None]
    if values:
        yield from section("SQNR along the graph", _figure(found, values))


def _figure(found: Comparison, values: Sequence[ValueRow]) -> Iterator[str]:
    yield '<figure><figcaption class="faint">Each dot is a value, from the inputs on the left to the outputs on the '
    yield f"right, on {text(comparison.source(found))}. A click on a dot looks it up in the table.</figcaption>"
    yield '<p><span class="key"><i class="c1"></i> SQNR, with all errors before</span> '
    yield '<span class="key"><i class="c2"></i> the step by itself, on values of the first model</span> '
    yield '<span class="key"><i class="c3"></i> differs on purpose</span></p>'
    label = f"SQNR of {words.plural(len(values), 'value')} in topological order; the table has the same figures"
    yield f'<div class="wide"><svg id="scatter" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
    axes = _Axes.over(values, found.threshold_db)
    yield from _grid(axes, found.threshold_db)
    path = " ".join(f"{axes.x(i):.1f},{axes.y(v.sqnr_db or 0.0):.1f}" for i, v in enumerate(values))
    yield f'<polyline class="curve" points="{path}"></polyline>'
    radius = 4.0 if len(values) <= 200 else 2.5
    for index, value in enumerate(values):
        yield from _dots(value, axes, index, radius)
    yield from _first(found, values, axes)
    yield "</svg></div></figure>"


def _grid(axes: _Axes, threshold: float) -> Iterator[str]:
    for value in axes.ticks():
        yield _line(axes.y(value))
        yield _label(_LEFT - 8, axes.y(value) + 4, "end", f"{value:g} dB")
    yield _line(_TOP - _BAND)
    yield _label(_LEFT - 8, _TOP - _BAND + 4, "end", "exact")
    yield _line(axes.y(threshold), ' class="threshold"')
    yield _label(_RIGHT, axes.y(threshold) - 5, "end", f"threshold {threshold:g} dB")
    yield _label((_LEFT + _RIGHT) / 2, _HEIGHT - 6, "middle", "values in topological order")


def _line(y: float, more: str = "") -> str:
    return f'<line{more} x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"></line>'


def _label(x: float, y: float, anchor: str, shown: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text(shown)}</text>'


def _dots(value: ValueRow, axes: _Axes, index: int, radius: float) -> Iterator[str]:
    if value.own_sqnr_db is not None and not value.compensated:
        yield _dot("c2", value, axes.x(index), axes.y(value.own_sqnr_db), radius * 0.7)
    if value.sqnr_db is not None:
        yield _dot("c3" if value.compensated else "c1", value, axes.x(index), axes.y(value.sqnr_db), radius)


def _dot(kind: str, value: ValueRow, x: float, y: float, radius: float) -> str:
    name = text(words.safe(value.name))
    figures = f"{comparison.decibels(value.sqnr_db)}, by itself {comparison.decibels(value.own_sqnr_db)}"
    said = text(f" ({words.safe(value.op)}): {figures}")
    place = f'cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"'
    return f'<circle class="{kind}" {place} data-name="{name}"><title>{name}{said}</title></circle>'


def _first(found: Comparison, values: Sequence[ValueRow], axes: _Axes) -> Iterator[str]:
    """A line and a name where values go below the threshold, and at the first bad layer."""
    marks = {} if found.first_below is None else {found.first_below.name: ("first below", found.first_below)}
    if found.first_bad is not None:
        marks[found.first_bad.name] = ("first bad", found.first_bad)
    places = {value.name: axes.x(index) for index, value in enumerate(values)}
    for row, (name, (word, parting)) in enumerate(marks.items()):
        x = places[name]
        yield f'<line class="threshold" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - _BAND}" y2="{_BOTTOM}"></line>'
        anchor = "start" if x < (_LEFT + _RIGHT) / 2 else "end"
        shown = f"{word}: {words.safe(parting.layer, 70)}"
        yield _label(x + (4 if anchor == "start" else -4), _BOTTOM + 16 + 16 * row, anchor, shown)
