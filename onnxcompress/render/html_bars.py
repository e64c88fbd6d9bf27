"""Before and after as bars: bytes, latency up to its percentiles, and the speed-up with its interval.

A report holds percentiles and no single times, so a bar says where half and where 95 % of the calls were done, and
no more. The figure stands beside each bar in words: the bars say nothing that cannot be read.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnxcompress.render import words
from onnxcompress.render.html_blocks import text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxcompress.report import Latency, Percentiles, Report


def bars(report: Report) -> Iterator[str]:
    """Whatever of size and latency the report has."""
    if report.compressed is None:
        return
    yield '<div class="bars">'
    before, after = report.original.size_bytes, report.compressed.size_bytes
    for word, value in (("original", before), ("compressed", after)):
        yield _row(f"size, {word}", _bar(word, 0, value / (max(before, after) or 1)), words.size(value))
    if report.latency is not None:
        yield from _latency(report.latency)
    yield "</div>"
    if report.latency is not None:
        yield '<p class="faint">Latency: the bar ends at the median, its outline at the 95th percentile. '
        yield f"Speed-up: the dot, with its 95 % interval over {words.plural(report.latency.pairs, 'pair')} of calls; "
        yield "the line marks the speed of the original.</p>"


def _latency(found: Latency) -> Iterator[str]:
    one, two = found.original_ms, found.compressed_ms
    most = max((v for v in (one.p50, one.p95, two.p50, two.p95) if math.isfinite(v)), default=0) or 1
    for word, times in (("original", one), ("compressed", two)):
        yield _row(f"latency, {word}", _times(word, times, most), _figure(times))
    low, high = found.speedup_low, found.speedup_high
    end = 1.15 * max(v for v in (1, found.speedup, high) if math.isfinite(v))
    shown = _bar("interval", low / end, high / end) + _mark("one", 1 / end) + _mark("dot", found.speedup / end)
    yield _row("speed-up", shown, f"{found.speedup:.2f}x ({low:.2f}x to {high:.2f}x)")


def _times(word: str, times: Percentiles, most: float) -> str:
    return _bar(f"{word} rest", 0, times.p95 / most) + _bar(word, 0, times.p50 / most)


def _figure(times: Percentiles) -> str:
    return f"p50 {words.milliseconds(times.p50)}, p95 {words.milliseconds(times.p95)}"


def _row(label: str, shown: str, figure: str) -> str:
    return (
        f'<span class="label">{text(label)}</span><span class="track" aria-hidden="true">{shown}</span>'
        f'<span class="figure">{text(figure)}</span>'
    )


def _bar(kind: str, start: float, end: float) -> str:
    if not (math.isfinite(start) and math.isfinite(end)):
        return ""
    left, right = (100 * min(max(v, 0), 1) for v in (start, end))
    return f'<span class="bar {kind}" style="left:{left:.2f}%;width:{max(right - left, 0):.2f}%"></span>'


def _mark(kind: str, place: float) -> str:
    return (
        f'<span class="{kind}" style="left:{100 * min(max(place, 0), 1):.2f}%"></span>' if math.isfinite(place) else ""
    )
