"""The last line of every verb: one that a script can search for.

onnxcompress: PASSED model.int8.onnx: 23.0 MiB, 3.77x smaller, SQNR 31.2 dB, 1.51x faster
onnxcompress: FAILED min_sqnr 25.1 (limit 30): see model.int8.rejected.onnx
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.render import words
from onnxcompress.render.plan import predicted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onnxcompress.report import BudgetResult, Latency, Report

NAME = "onnxcompress"


def closing(report: Report, path: Path | None, *, passed: bool, dry_run: bool = False) -> str:
    """The verdict of a finished run."""
    if dry_run:
        return f"{NAME}: PASSED dry run, nothing written: {predicted(report)}"
    if passed:
        return f"{NAME}: PASSED " + _join(path, ", ".join(_figures(report)))
    reasons = ", ".join(_failure(b) for b in report.budgets if not b.ok) or "the result was refused"
    return f"{NAME}: FAILED {reasons}" + (f": see {words.safe(path)}" if path else "")


def broken(message: str) -> str:
    """The verdict of a run that an error ended."""
    return f"{NAME}: FAILED {words.safe(message)}"


def _join(path: Path | None, figures: str) -> str:
    return ": ".join(part for part in (words.safe(path) if path else "", figures) if part)


def _failure(budget: BudgetResult) -> str:
    parts = [words.safe(budget.name, 60)]
    if budget.value is not None:
        parts.append(words.measured(budget.name, budget.value))
    if budget.limit is not None:
        parts.append(f"(limit {words.measured(budget.name, budget.limit)})")
    return " ".join(parts)


def _speed(latency: Latency) -> str:
    if latency.speedup_high < 1:
        return f"SLOWER: {latency.speedup:.2f}x"
    return f"as fast ({latency.speedup:.2f}x)" if latency.speedup_low <= 1 else f"{latency.speedup:.2f}x faster"


def _figures(report: Report) -> Iterator[str]:
    before, after = report.original.size_bytes, report.compressed
    if after is not None:
        yield words.size(after.size_bytes)
        if 0 < after.size_bytes < before:
            yield f"{before / after.size_bytes:.2f}x smaller"
    if report.fidelity is not None:
        made_up = " on synthetic inputs" if report.fidelity.data == "synthetic" else ""
        yield f"SQNR {words.decibels(report.fidelity.sqnr_db)}{made_up}"
    for name, metric in report.metrics.items():
        yield f"{words.safe(name, 40)} {metric.original:.4f} to {metric.compressed:.4f}"
    if report.latency is not None:
        yield _speed(report.latency)
    elif report.fidelity is None and after is not None:
        yield "not verified"
