"""Start-up: what the user waits before anything happens, against the import of Typer alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks.measure import in_turns, python, seconds, tool
from tests.benchmarks.tables import number, spread, table, verdict

if TYPE_CHECKING:
    from tests.benchmarks.settings import Settings

TITLE = "Start-up, as a ratio to python -c 'import typer'"
LIMIT = 1.5
TARGET = f"--help and --version at most {LIMIT}"

_ROUNDS = 15


def measure(settings: Settings) -> None:
    """Measure and print."""
    commands = {
        "import typer": python("import typer"),
        "--help": tool("--help"),
        "--version": tool("--version"),
        "quantize --help": tool("quantize", "--help"),
    }
    runs = in_turns(commands, settings.rounds or _ROUNDS)
    times = {name: [r.seconds for r in found] for name, found in runs.items()}
    base = seconds(runs["import typer"])
    print(report(base, {n: (seconds(runs[n]), times[n]) for n in commands if n != "import typer"}))


def report(base: float, found: dict[str, tuple[float, list[float]]]) -> str:
    """The table: median ratio, spread of the ratios, verdict; the help of a verb has no target."""
    rows = [
        [
            name,
            number(middle / base),
            spread([t / base for t in times]),
            verdict(middle / base <= LIMIT) if name in ("--help", "--version") else "-",
        ]
        for name, (middle, times) in found.items()
    ]
    return table(["command", "ratio", "least to most", "target"], rows)
