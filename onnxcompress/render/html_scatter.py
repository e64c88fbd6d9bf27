"""What each layer lost against the bytes that it saved, as one drawing on logarithmic axes.

Layers without an error in the report are counted, not drawn. Nothing lost and nothing saved have no logarithm: they
stand in a band of their own at the edge of the axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxcompress.render import words
from onnxcompress.render.html_blocks import section, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnxcompress.report import LayerRecord, Step

_WIDTH, _HEIGHT = 760, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 724, 14, 290
_BAND = 40  # of an axis, for what has no logarithm
_COLOURS = 4
_TICKS = 7


@dataclass(frozen=True)
class _Point:
    colour: int
    layer: LayerRecord
    error: float

    @property
    def saved(self) -> int:
        return self.layer.bytes_before - self.layer.bytes_after


@dataclass(frozen=True)
class _Axis:
    """A logarithmic axis from ``start`` to ``end`` on the page, for values between powers ``low`` and ``high``."""

    start: float
    end: float
    low: float
    high: float
    base: float
    banded: bool

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, base: float) -> _Axis:
        logs = [math.log(v, base) for v in values if v > 0] or [0.0]
        low, high = math.floor(min(logs)), math.ceil(max(logs))
        return cls(start, end, low, max(high, low + 1), base, any(v <= 0 for v in values))

    def at(self, value: float) -> float:
        toward = math.copysign(_BAND, self.end - self.start)
        first = self.start + toward if self.banded else self.start
        if value <= 0:
            return self.start + toward / 3
        return first + (self.end - first) * (math.log(value, self.base) - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        every = math.ceil((self.high - self.low) / _TICKS)
        powers = range(int(self.low), int(self.high) + 1, every)
        return [0.0] * self.banded + [self.base**power for power in powers]


def scatter(steps: Sequence[Step]) -> Iterator[str]:
    """The drawing with its caption, or nothing where no error is known."""
    points: list[_Point] = []
    keys: list[str] = []
    unknown = 0
    for number, step in enumerate(steps, 1):
        done = [y for y in step.layers if y.status == "done"]
        known = [(y, y.error) for y in done if y.error is not None and math.isfinite(y.error)]
        unknown += len(done) - len(known)
        if known:
            points += [_Point(len(keys) % _COLOURS + 1, layer, error) for layer, error in known]
            keys.append(words.safe(f"{number} {step.pass_name}"))
    if points:
        yield from section("damage against bytes saved", _figure(points, keys, unknown))


def _figure(points: Sequence[_Point], keys: Sequence[str], unknown: int) -> Iterator[str]:
    yield '<figure><figcaption class="faint">Each dot is a layer: what it lost, ‖W − Ŵ‖² / ‖W‖², over the bytes it '
    yield "saved. Low and to the right is good. A click on a dot looks it up in the table of layers."
    if unknown:
        yield f" Not drawn, as no error was computed: {words.plural(unknown, 'layer')}."
    yield "</figcaption>"
    if len(keys) > 1:
        shown = (f'<span class="key"><i class="c{i % _COLOURS + 1}"></i> {text(k)}</span>' for i, k in enumerate(keys))
        yield f"<p>{' '.join(shown)}</p>"
    label = f"error over bytes saved of {words.plural(len(points), 'layer')}; the table of layers has the same figures"
    yield f'<div class="wide"><svg id="scatter" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
    x = _Axis.over([p.saved for p in points], _LEFT, _RIGHT, 4)
    y = _Axis.over([p.error for p in points], _BOTTOM, _TOP, 10)
    yield from _axes(x, y)
    yield from (_dot(point, x.at(point.saved), y.at(point.error)) for point in points)
    yield "</svg></div></figure>"


def _axes(x: _Axis, y: _Axis) -> Iterator[str]:
    for value in x.ticks():
        place = x.at(value)
        yield f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP}" y2="{_BOTTOM}"></line>'
        yield _label(place, _BOTTOM + 18, "middle", words.size(value) if value else "nothing")
    for value in y.ticks():
        place = y.at(value)
        yield f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{place:.1f}" y2="{place:.1f}"></line>'
        yield _label(_LEFT - 8, place + 4, "end", f"{value:.0e}" if value else "nothing")
    yield _label((_LEFT + _RIGHT) / 2, _HEIGHT - 8, "middle", "bytes saved")
    middle = (_TOP + _BOTTOM) / 2
    turned = f' transform="rotate(-90 14 {middle:.0f})"'
    yield _label(14, middle, "middle", "error", turned)


def _label(x: float, y: float, anchor: str, shown: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{text(shown)}</text>'


def _dot(point: _Point, x: float, y: float) -> str:
    name = text(words.safe(point.layer.name))
    said = text(f": {words.size(point.saved)} saved, error {point.error:.2e}")
    place = f'cx="{x:.1f}" cy="{y:.1f}" r="4.5"'
    return f'<circle class="c{point.colour}" {place} data-name="{name}"><title>{name}{said}</title></circle>'
