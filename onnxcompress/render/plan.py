"""A dry run: what each step would do to each weight, and the sizes that it predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.render import layers, words
from onnxcompress.render.blocks import Block, Cell, Lines
from onnxcompress.render.summary import notes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxcompress.report import Report


def plan(report: Report) -> tuple[Block, ...]:
    """The blocks of a dry run."""
    return tuple(_blocks(report))


def _blocks(report: Report) -> Iterator[Block]:
    yield from layers.every(report.steps, after="predicted")
    yield Lines("", (Cell(f"predicted size: {predicted(report)}"),))
    yield from layers.untouched(report.steps)
    yield from notes(report)


def predicted(report: Report) -> str:
    """The size before and the size that the steps add up to.

    A step predicts the bytes of weights; the structure around them changes by a few kilobytes more.
    """
    before = report.original.size_bytes
    saved = sum(layer.bytes_before - layer.bytes_after for step in report.steps for layer in step.layers)
    after = max(0, before - saved)
    share = f" ({words.percent(after / before)})" if before else ""
    return f"{words.size(before)} to about {words.size(after)}{share}"
