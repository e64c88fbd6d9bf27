"""What each operator of a model takes, from the runtime's own profiler.

The profiler writes one event a node and run. Operators that run others (If, Loop, Scan) are charged for what they do
themselves, and not again for what they run.
"""

from __future__ import annotations

import json
import tempfile
import time
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxcompress.errors import RuntimeFailure
from onnxcompress.runtime.intervals import median
from onnxcompress.runtime.session import Device, Feeds, Session

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Event = dict[str, Any]

_WARM_UP = 2
_FEWEST, _MOST = 3, 50  # runs
_SUFFIX = "_kernel_time"


@dataclass(frozen=True)
class NodeTime:
    """One node of the optimized graph: milliseconds in a run, the median over runs."""

    name: str
    op: str
    provider: str
    ms: float


@dataclass(frozen=True)
class NodeTimes:
    """All nodes of a model, and how many runs they were watched for."""

    runs: int
    nodes: tuple[NodeTime, ...]


def profiled(
    model: Path, feeds: Sequence[Feeds], device: Device = "cpu", threads: int | None = None, seconds: float = 1.0
) -> NodeTimes:
    """Run a model under the profiler for about so many seconds, after a warm-up.

    Raises:
        RuntimeFailure: the model does not run, or the profile cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="onnxcompress-profile-") as folder:
        session = Session(model, device, threads, profile=Path(folder) / "profile")
        for _ in range(_WARM_UP):
            session.run(feeds[0])
        started, runs = time.perf_counter(), 0
        while runs < _FEWEST or (runs < _MOST and time.perf_counter() - started < seconds):
            session.run(feeds[runs % len(feeds)])
            runs += 1
        try:
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8", errors="replace"))
        except (OSError, ValueError) as error:
            raise RuntimeFailure(
                f"the profile of {model} cannot be read: {error}", "Free space for temporary files."
            ) from error
    return node_times(events, skip=_WARM_UP)


def node_times(events: Iterable[Event], skip: int = 0) -> NodeTimes:
    """The nodes of a profile, slowest first, without the first runs."""
    known = list(events)
    starts = sorted(e["ts"] for e in known if e.get("name") == "model_run")
    nodes = [e for e in known if e.get("cat") == "Node" and str(e.get("name", "")).endswith(_SUFFIX)]
    taken: dict[tuple[str, str, str], dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for event, microseconds in _own_times(nodes):
        run = bisect_right(starts, event["ts"]) - 1
        if run >= skip:
            about = event["args"]
            key = event["name"].removesuffix(_SUFFIX), about.get("op_name", ""), about.get("provider", "")
            taken[key][run] += microseconds / 1000
    runs = max(len(starts) - skip, 0)
    found = [NodeTime(*key, _middle(by_run, runs)) for key, by_run in taken.items()]
    return NodeTimes(runs, tuple(sorted(found, key=lambda node: -node.ms)))


def _middle(by_run: dict[int, float], runs: int) -> float:
    """The median over all runs; a node that a run did not come to took nothing."""
    return median([*by_run.values(), *[0.0] * (runs - len(by_run))])


def _own_times(nodes: Iterable[Event]) -> list[tuple[Event, float]]:
    """Each event with its microseconds less those of the events that lie within it."""
    open_events: list[tuple[Event, list[float]]] = []
    found = []
    for event in sorted(nodes, key=lambda e: (e["ts"], -e["dur"])):
        while open_events and event["ts"] >= open_events[-1][0]["ts"] + open_events[-1][0]["dur"]:
            open_events.pop()
        if open_events:
            open_events[-1][1][0] -= event["dur"]
        own = [float(event["dur"])]
        open_events.append((event, own))
        found.append((event, own))
    return [(event, max(own[0], 0.0)) for event, own in found]
