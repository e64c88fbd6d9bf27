"""Where the time of a call goes, layer by layer, in both models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.render import words
from onnxcompress.render.html_blocks import section, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnxcompress.report import LayerTime

_MOST = 60  # rows
_NUMBER = ' class="number"'
_HEADS = ("operators", "original", "compressed", "saved")


def times(found: Sequence[LayerTime]) -> Iterator[str]:
    """A table with bars, the slowest layers first; nothing where layers were not timed."""
    if found:
        yield from section("time of each layer", _table(found))


def _table(found: Sequence[LayerTime]) -> Iterator[str]:
    totals = [sum(t.original_ms or 0 for t in found), sum(t.compressed_ms or 0 for t in found)]
    yield '<p class="faint">By the profiler of the runtime, which takes time at every node itself: shares say more '
    yield f"than totals, {words.milliseconds(totals[0])} and {words.milliseconds(totals[1])}. A layer that only one "
    yield "model has came or went with the compression, or was fused."
    left = len(found) - _MOST
    yield f" Not shown: {words.plural(left, 'faster layer')}.</p>" if left > 0 else "</p>"
    yield '<p><span class="key"><i class="before"></i> original</span> <span class="key"><i class="after"></i> '
    yield "compressed</span></p>"
    heads = "".join(f'<th scope="col"{"" if i == 0 else _NUMBER}>{head}</th>' for i, head in enumerate(_HEADS))
    yield '<div class="wide region" role="region" aria-label="time of each layer" tabindex="0"><table class="small">'
    yield f'<thead><tr><th scope="col">layer</th>{heads}</tr></thead><tbody>'
    most = max(max(t.original_ms or 0, t.compressed_ms or 0) for t in found) or 1
    yield from (_row(layer, most) for layer in found[:_MOST])
    yield "</tbody></table></div>"


def _row(found: LayerTime, most: float) -> str:
    before, after = found.original_ms, found.compressed_ms
    widths = (f"{100 * (value or 0) / most:.2f}%" for value in (before, after))
    bar = '<i class="{}" style="width:{}"></i>'
    inner = "".join(bar.format(kind, width) for kind, width in zip(("before", "after"), widths, strict=True))
    bars = f'<span class="bytes" aria-hidden="true">{inner}</span>'
    saved = "" if before is None or after is None else words.milliseconds(before - after)
    cells = (_shown(before), _shown(after), saved)
    numbers = "".join(f"<td{_NUMBER}>{text(cell)}</td>" for cell in cells)
    name = f'<th scope="row" class="name">{text(words.safe(found.layer))}{bars}</th>'
    return f"<tr>{name}<td>{text(words.safe(', '.join(found.ops), 60))}</td>{numbers}</tr>"


def _shown(value: float | None) -> str:
    return "" if value is None else words.milliseconds(value)
