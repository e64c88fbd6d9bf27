"""Start-up: what the user waits before anything happens, against the import of Typer alone.

Processor time is shown as well, because on a busy machine the wait is mostly for others.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from tests.benchmarks.measure import in_turns, python, tool
from tests.benchmarks.tables import number, spread, table, verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.measure import Ran
    from tests.benchmarks.settings import Settings

TITLE = "Start-up, as a ratio to python -c 'import typer'"
LIMIT = 1.5
TARGET = f"--help and --version at most {LIMIT}"

_ROUNDS = 15
_BASE = "import typer"
_JUDGED = ("--help", "--version")


def measure(settings: Settings) -> None:
    """Measure and print."""
    commands = {
        _BASE: python("import typer"),
        "--help": tool("--help"),
        "--version": tool("--version"),
        "quantize --help": tool("quantize", "--help"),
    }
    found = in_turns(commands, settings.rounds or _ROUNDS)
    print(report(found.pop(_BASE), found))


def report(base: Sequence[Ran], found: Mapping[str, Sequence[Ran]]) -> str:
    """The table: ratios by round, and their median; the help of a verb has no target."""
    rows = []
    for name, runs in found.items():
        waits = [r.seconds / b.seconds for r, b in zip(runs, base, strict=True)]
        work = [r.cpu_seconds / b.cpu_seconds for r, b in zip(runs, base, strict=True)]
        met = verdict(median(waits) <= LIMIT) if name in _JUDGED else "-"
        rows.append([name, number(median(waits)), spread(waits), number(median(work)), met])
    return table(["command", "ratio", "least to most", "of processor time", "target"], rows)
