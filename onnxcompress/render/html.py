"""A report as one HTML file that opens without a network: tables, bars and a list of layers to sort and search."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.render import closing, layers, summary, words
from onnxcompress.render.html_bars import bars
from onnxcompress.render.html_blocks import section, sections, table, text
from onnxcompress.render.html_document import document
from onnxcompress.render.html_latency import distributions
from onnxcompress.render.html_layers import layers as layer_table
from onnxcompress.render.html_making import making
from onnxcompress.render.html_outputs import outputs
from onnxcompress.render.html_scatter import scatter
from onnxcompress.render.html_times import times
from onnxcompress.render.plan import predicted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onnxcompress.report import Report


def page(report: Report, path: Path | None, *, passed: bool, dry_run: bool = False) -> str:
    """The whole page."""
    return document(
        f"onnxcompress: {words.safe(report.original.path)}", _body(report, path, passed=passed, dry_run=dry_run)
    )


def _body(report: Report, path: Path | None, *, passed: bool, dry_run: bool) -> Iterator[str]:
    verdict = "dry run" if dry_run else "passed" if passed else "failed"
    kind = "passed" if passed else "failed"
    yield f'<h1><span class="verdict {kind}">{verdict}</span> {text(words.safe(report.original.path))}</h1>'
    yield f"<p>{text(closing.closing(report, path, passed=passed, dry_run=dry_run))}</p>"
    yield from _foreseen(report) if dry_run else _found(report)
    yield from sections(layers.forms(report.steps))
    yield from sections(layers.untouched(report.steps, most=None))
    yield from sections(summary.notes(report))
    yield from scatter(report.steps)
    yield from times(report.layer_times)
    yield from layer_table(report.steps)
    yield from making(report)


def _found(report: Report) -> Iterator[str]:
    """What came of it, the verdict's reasons first."""
    yield from sections(summary.budgets(report.budgets))
    yield from section("before and after", (*bars(report), *table(summary.before_and_after(report))))
    if report.latency is not None:
        yield from distributions(report.latency)
    if report.fidelity is not None:
        yield from sections((summary.fidelity(report.fidelity, verbose=True),))
        yield from outputs(report.fidelity)


def _foreseen(report: Report) -> Iterator[str]:
    yield f"<p>predicted size: {text(predicted(report))}</p>"
