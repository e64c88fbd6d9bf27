"""Several models of one command: a line for each as it ends, the table that closes the run, and its JSON.

The JSON has

- ``schema_version``, ``tool`` {``name``, ``version``, ``onnx``, ``onnxruntime``}, ``jobs`` (at once);
- ``summary`` {``models``, ``passed``, ``failed``, ``exit_code``}: the worst of the exit codes;
- ``models`` [{``model``, ``exit_code``, ``verdict`` ("passed", "failed": a check or budget does not hold, or "error"),
  ``output`` (null where none was written), ``error`` and ``hint`` (null where there was none), ``report`` (that of a
  single model, null where there is none)}], in the order in which they were given.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from onnxcompress.render import closing, words
from onnxcompress.render.blocks import Block, Cell, Lines, Table, row

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from onnxcompress.report import Report, Tool

SCHEMA_VERSION = "1.0"
_NAMED = 3  # models that failed, in the last line
_POOR = "LOW FIDELITY"  # how a note of the verification begins
_NAME = 60  # characters of a path in the table


@dataclass(frozen=True)
class Finished:
    """What came of one of several models. ``said`` is its last line, without the name of the tool and the verdict."""

    model: Path
    code: int
    said: str
    output: Path | None = None
    hint: str | None = None
    report: Report | None = None

    @property
    def verdict(self) -> Literal["passed", "failed", "error"]:
        """What the exit code means."""
        return "passed" if self.code == 0 else "failed" if self.code == 1 else "error"


def worst(found: Sequence[Finished]) -> int:
    """The exit code of all: 4 is worse than 3, and so on down to 0."""
    return max((one.code for one in found), default=0)


def line(one: Finished, place: str) -> str:
    """One model as it ends: ``2 of 3  FAILED m.onnx: it is empty``; no line that looks like the last."""
    word = "PASSED" if one.code == 0 else "FAILED"
    return f"{place}  {word} {words.safe(one.model)}: {words.safe(one.said)}"


def blocks(found: Sequence[Finished], jobs: int) -> tuple[Block, ...]:
    """The table: a row for each model, in their order; and what to think of its times."""
    header = ("model", "verdict", "original", "compressed", "SQNR", "speed-up", "")
    table = Table("", header, tuple(map(_row, found)), frozenset({2, 3, 4, 5}))
    if jobs == 1 or all(one.report is None or one.report.latency is None for one in found):
        return (table,)
    note = f"{jobs} models ran at once: speed-ups are less sure than those of one at a time"
    return (table, Lines("", (Cell(note),)))


def last(found: Sequence[Finished], *, dry_run: bool = False) -> str:
    """``onnxcompress: PASSED 3 of 3 models: ...``, or how many of them FAILED, and the first of those."""
    failed = [one for one in found if one.code != 0]
    count = f"of {words.plural(len(found), 'model')}"
    if failed:
        names = ", ".join(words.safe(one.model, _NAME) for one in failed[:_NAMED])
        more = f" and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
        return f"{closing.NAME}: FAILED {len(failed)} {count}: {names}{more}"
    sizes = "dry run, nothing written" if dry_run else _sizes(found)
    return f"{closing.NAME}: PASSED {len(found)} {count}: {sizes}"


def to_json(found: Sequence[Finished], tool: Tool, jobs: int) -> dict[str, Any]:
    """Everything, as plain values."""
    failed = sum(one.code != 0 for one in found)
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": asdict(tool),
        "jobs": jobs,
        "summary": {
            "models": len(found), "passed": len(found) - failed, "failed": failed, "exit_code": worst(found),
        },
        "models": [
            {
                "model": str(one.model),
                "exit_code": one.code,
                "verdict": one.verdict,
                "output": None if one.output is None else str(one.output),
                "error": one.said if one.code > 1 else None,
                "hint": one.hint,
                "report": None if one.report is None else one.report.to_json(),
            }
            for one in found
        ],
    }  # fmt: skip


def _row(one: Finished) -> tuple[Cell, ...]:
    report, name = one.report, words.safe(one.model, _NAME)
    verdict = Cell(one.verdict if one.code == 0 else one.verdict.upper(), "good" if one.code == 0 else "bad")
    said = words.safe(one.said) if one.code != 0 else _warned(report)
    if report is None:
        return row(name, verdict, "", "", "", "", said)
    after = report.compressed
    return row(
        name,
        verdict,
        words.size(report.original.size_bytes),
        words.size(after.size_bytes) if after is not None else "-",
        words.decibels(report.fidelity.sqnr_db) if report.fidelity is not None else "-",
        _speed(report),
        said,
    )


def _warned(report: Report | None) -> Cell:
    """What a result that passed is pointed out for."""
    poor = report is not None and any(note.startswith(_POOR) for note in report.notes)
    return Cell(_POOR, "bad") if poor else Cell("")


def _speed(report: Report) -> Cell:
    if report.latency is None:
        return Cell("-")
    slower = report.latency.speedup_high < 1
    return Cell(f"{report.latency.speedup:.2f}x" + (" SLOWER" if slower else ""), "bad" if slower else "plain")


def _sizes(found: Sequence[Finished]) -> str:
    """All sizes, summed up."""
    pairs = [(r.original.size_bytes, r.compressed.size_bytes) for r in _reports(found) if r.compressed is not None]
    before, after = (sum(sizes) for sizes in zip(*pairs, strict=True)) if pairs else (0, 0)
    smaller = f", {before / after:.2f}x smaller" if 0 < after < before else ""
    return f"{words.size(before)} to {words.size(after)}{smaller}"


def _reports(found: Sequence[Finished]) -> Sequence[Report]:
    return [one.report for one in found if one.report is not None]
