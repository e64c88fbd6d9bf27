"""Writers that are killed at a random instant: the target has to be one of the two models, whole, each time."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.tables import number, table, verdict
from tests.killing import MODES, Tally, kill_often

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.benchmarks.settings import Settings

TITLE = "Killed while writing"
TARGET = "the old model or the new one, loadable, after each kill; nothing left after the next run has cleared up"

_KILLS = 200


def measure(settings: Settings) -> None:
    """Kill, count and print."""
    found = {}
    for name, mode in MODES.items():
        with tempfile.TemporaryDirectory(prefix="onnxcompress-bench-") as folder:
            found[name] = kill_often(mode, settings.rounds or _KILLS, Path(folder))
    print(report(found))


def report(found: Mapping[str, Tally]) -> str:
    """The table, and below it each fault."""
    rows = [
        [
            name,
            str(tally.kills),
            str(tally.in_between),
            str(tally.first),
            str(tally.second),
            str(tally.absent),
            str(len(tally.faults)),
            f"{number(tally.seconds)} s",
            verdict(not tally.faults),
        ]
        for name, tally in found.items()
    ]
    header = ["mode", "kills", "amid a write", "first model", "second", "none yet", "faults", "time", "target"]
    faults = [f"{name}: {fault}" for name, tally in found.items() for fault in tally.faults]
    return "\n".join([table(header, rows), *faults])
