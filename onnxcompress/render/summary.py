"""A report as the page that closes a command: before and after, fidelity, forms, what was left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.render import layers, words
from onnxcompress.render.blocks import Block, Cell, Lines, Table, row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxcompress.report import BudgetResult, Fidelity, Latency, OutputFidelity, Report

_Row = tuple[Cell, ...]
_ASKED = ("min_", "max_")  # how the names of budgets begin


def summary(report: Report, *, verbose: bool = False) -> tuple[Block, ...]:
    """The blocks of a finished run, those with nothing to say left out."""
    return tuple(_blocks(report, verbose=verbose))


def _blocks(report: Report, *, verbose: bool) -> Iterator[Block]:
    yield before_and_after(report)
    if report.fidelity is not None:
        yield fidelity(report.fidelity, verbose=verbose)
    yield from layers.forms(report.steps)
    yield from layers.untouched(report.steps)
    if verbose:
        yield from layers.every(report.steps)
    yield from budgets(report.budgets)
    yield from notes(report)


def before_and_after(report: Report) -> Table:
    """Size, latency and task metrics of both models."""
    return Table("", ("", "original", "compressed", ""), tuple(_before_and_after(report)), frozenset({1, 2}))


def _before_and_after(report: Report) -> Iterator[_Row]:
    before, after = report.original, report.compressed
    if after is not None:
        yield row("size", words.size(before.size_bytes), words.size(after.size_bytes), _shrunk(report))
        yield row("parameters", words.count(before.parameters), words.count(after.parameters), _zeros(report))
        changed = "" if before.opset == after.opset else "changed"
        yield row("opset", str(before.opset), str(after.opset), changed)
    if report.latency is not None:
        yield from _latency(report.latency)
    for name, metric in report.metrics.items():
        change = metric.compressed - metric.original
        verdict = Cell(f"{change:+.4f}", "bad" if change < 0 else "plain")
        yield row(words.safe(name, 40), f"{metric.original:.4f}", f"{metric.compressed:.4f}", verdict)


def _shrunk(report: Report) -> Cell:
    before, after = report.original.size_bytes, report.compressed.size_bytes if report.compressed else 0
    if after == before or not after or not before:
        return Cell("")
    share = f"{words.percent(after / before)} of the original"
    if after > before:
        return Cell(f"LARGER: {share}", "bad")
    return Cell(f"{before / after:.2f}x smaller, {share}", "good")


def _zeros(report: Report) -> str:
    facts = report.compressed
    if facts is None or facts.nonzero is None or not facts.parameters:
        return ""
    zeros = 1 - facts.nonzero / facts.parameters
    return f"{words.percent(zeros)} zeros" if zeros >= 0.01 else ""


def _latency(latency: Latency) -> Iterator[_Row]:
    before, after, ms = latency.original_ms, latency.compressed_ms, words.milliseconds
    where = f"{words.safe(latency.device)}, {words.plural(latency.threads, 'thread')}"
    if latency.batch is not None:
        where += f", batch {latency.batch}"
    yield row("latency p50", ms(before.p50), ms(after.p50), _speedup(latency))
    where += f", {words.plural(latency.pairs, 'pair')} of calls"
    yield row("latency p95", ms(before.p95), ms(after.p95), where)
    yield row("load time", ms(latency.load_original_ms), ms(latency.load_compressed_ms), "")


def _speedup(latency: Latency) -> Cell:
    found = f"{latency.speedup:.2f}x"
    interval = f"(95 % interval {latency.speedup_low:.2f}x to {latency.speedup_high:.2f}x)"
    if latency.speedup_high < 1:
        return Cell(f"SLOWER: {found} {interval}", "bad")
    if latency.speedup_low <= 1:
        return Cell(f"as fast: {found} {interval}")
    return Cell(f"{found} faster {interval}", "good")


def source(fidelity: Fidelity) -> str:
    """What the fidelity was measured on, in words."""
    if fidelity.data == "synthetic":
        return f"{words.plural(fidelity.samples, 'call')} with synthetic inputs, as no data was given"
    return f"{words.plural(fidelity.samples, 'call')} from {words.safe(fidelity.data, 80)}"


def fidelity(found: Fidelity, *, verbose: bool = False) -> Table:
    """How close the worst output is to the original's; each of them if ``verbose``."""
    alone = len(found.outputs) == 1
    rows = [_figures(words.safe(found.outputs[0].name, 60) if alone else "worst of all", found)]
    if verbose and not alone:
        rows += [_figures(words.safe(f"{o.name} {o.group or ''}".strip(), 60), o) for o in found.outputs]
    header = ("output", "SQNR", "cosine", "max abs error", "agreement")
    return Table(f"fidelity on {source(found)}", header, tuple(rows), frozenset({1, 2, 3, 4}))


def _figures(name: str, found: Fidelity | OutputFidelity) -> _Row:
    agreement = "-" if found.agreement is None else words.percent(found.agreement)
    figures = (words.decibels(found.sqnr_db), words.cosine(found.cosine), words.number(found.max_abs_error))
    return row(name, *figures, agreement)


def budgets(found: tuple[BudgetResult, ...]) -> Iterator[Block]:
    """Checks that always run are one line while they hold; what the user asked for is always a row."""
    standing = [b.name for b in found if b.ok and not asked(b)]
    rows = [_budget(b) for b in found if not b.ok or asked(b)]
    if rows:
        yield Table("budgets and checks", ("name", "limit", "value", ""), tuple(rows), frozenset({1, 2}))
    if standing:
        yield Lines("", (Cell(f"checks that hold: {', '.join(words.safe(name, 60) for name in standing)}"),))


def asked(budget: BudgetResult) -> bool:
    """Whether the user set it; other checks always run."""
    return budget.name.startswith(_ASKED)


def _budget(budget: BudgetResult) -> _Row:
    verdict = Cell("ok", "good") if budget.ok else Cell("failed", "bad")
    limit, value = words.measured(budget.name, budget.limit), words.measured(budget.name, budget.value)
    return row(words.safe(budget.name, 60), limit, value, verdict)


def notes(report: Report) -> Iterator[Block]:
    """What the steps and the verification had to say, each once."""
    said = dict.fromkeys([*(n for s in report.steps for n in s.notes), *report.notes])
    if said:
        yield Lines("notes", tuple(Cell(words.safe(note)) for note in said))
