"""Latency as it was measured: how the times of both models are spread, and how the ratio within pairs is.

Each pair is one turn of the original and one of the compressed model close together in time, so that what slows one
down slows the other down as well; the ratio within pairs says more than the two spreads.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnxcompress.render import words
from onnxcompress.render.html_blocks import section, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from onnxcompress.report import Latency

_WIDTH, _HEIGHT = 480, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 20, 460, 10, 150
_BINS = 32
_FEWEST = 5
_TRIMMED = 0.01  # at each end, of values that would stretch the axis


def distributions(found: Latency) -> Iterator[str]:
    """Both drawings, or nothing where too few pairs are known."""
    pairs = [(a, b) for a, b in found.pairs_ms if math.isfinite(a) and math.isfinite(b) and a > 0 and b > 0]
    if len(pairs) < _FEWEST:
        return
    originals, compressed, ratios = [a for a, _ in pairs], [b for _, b in pairs], [a / b for a, b in pairs]
    said = f"times of {words.plural(len(pairs), 'pair')} of calls"
    times = _drawing({"before": originals, "after": compressed}, said, words.milliseconds)
    ratio = _drawing({"after": ratios}, "original over compressed, pair by pair", lambda v: f"{v:.2f}x", mark=1.0)
    keys = (
        '<p><span class="key"><i class="before"></i> original</span> <span class="key"><i class="after"></i> '
        "compressed</span></p>"
    )
    yield from section("latency as measured", (keys, '<div class="pair">', *times, *ratio, "</div>"))


def _drawing(
    series: Mapping[str, Sequence[float]], title: str, shown: Callable[[float], str], mark: float | None = None
) -> Iterator[str]:
    ends = [end for values in series.values() for end in _trimmed(values)]
    low, high = min(*ends, *([mark] if mark else [])), max(*ends, *([mark] if mark else []))
    if not low < high:
        low, high = 0.99 * low, 1.01 * high
    counts = {name: _binned(values, low, high) for name, values in series.items()}
    most = max(max(c) for c in counts.values()) or 1
    label = text(f"{title}, from {shown(low)} to {shown(high)}")
    yield f'<figure><figcaption class="faint">{text(title)}</figcaption>'
    yield f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
    yield f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{_BOTTOM}" y2="{_BOTTOM}"></line>'
    for name, bins in counts.items():
        yield f'<path class="spread {name}" d="{_outline(bins, most)}"></path>'
    if mark is not None:
        place = _LEFT + (_RIGHT - _LEFT) * (mark - low) / (high - low)
        yield f'<line class="same" x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP}" y2="{_BOTTOM}"></line>'
    middle = (_LEFT + _RIGHT) / 2
    for place, anchor, value in ((_LEFT, "start", low), (middle, "middle", (low + high) / 2), (_RIGHT, "end", high)):
        yield f'<text x="{place:.0f}" y="{_BOTTOM + 20}" text-anchor="{anchor}">{text(shown(value))}</text>'
    yield "</svg></figure>"


def _trimmed(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values)
    cut = int(_TRIMMED * len(ordered))
    return ordered[cut], ordered[-1 - cut]


def _binned(values: Sequence[float], low: float, high: float) -> list[int]:
    counts = [0] * _BINS
    for value in values:
        counts[min(_BINS - 1, max(0, int(_BINS * (value - low) / (high - low))))] += 1
    return counts


def _outline(counts: Sequence[int], most: int) -> str:
    width = (_RIGHT - _LEFT) / len(counts)
    tall = _BOTTOM - _TOP
    steps = (f"V{_BOTTOM - tall * n / most:.1f}H{_LEFT + (i + 1) * width:.1f}" for i, n in enumerate(counts))
    return f"M{_LEFT},{_BOTTOM}{''.join(steps)}V{_BOTTOM}"
