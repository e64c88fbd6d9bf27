"""Real models with calibration data: one row a model, against the fastest that other tools give.

Data of the calibration split go in, the evaluation split judges.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.corpus import calibration, measured
from tests.benchmarks.corpus_row import cells, report
from tests.benchmarks.measure import Failed
from tests.benchmarks.peers import PEERS, Peer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.corpus_row import Row
    from tests.benchmarks.settings import Settings

TITLE = "Real models: onnxcompress quantize MODEL --data CALIBRATION"
TARGET = (
    "no slower than the original, at most 1 % of the task metric lost; against the fastest peer: size, speed, fidelity"
)
_ITEMS = {"smollm2-135m-instruct": 4, "silero-vad": 1, "silero-vad-16k-seq": 1, "dnsmos": 4, "minilm-l3": 64}
_MANY = 32
_MOST_LOST = 0.01
_NOISE = 1.1  # of latencies measured on two machines


def measure(settings: Settings) -> None:
    """Measure and print, a line for each model when it is done, then the table."""
    if not settings.can_score:
        return
    rows = []
    for name in settings.real_models():
        try:
            with tempfile.TemporaryDirectory(prefix="onnxcompress-bench-") as folder:
                data = calibration(name, Path(folder), settings, _ITEMS.get(name, _MANY))
                rows.append(measured(name, Path(folder), settings, "--data", data))
        except Failed as failure:
            print(f"{name}: {failure}", flush=True)
            continue
        misses = ", ".join(missed(rows[-1])) or "nothing"
        print("  ".join(cells(rows[-1])[:-1]), f"  misses {misses}", flush=True)
    print("\n" + report(rows))


def missed(row: Row) -> Iterator[str]:
    """The parts of the bar that a row does not meet."""
    if row.drop > max(_MOST_LOST * abs(row.before), 2 / row.items):  # two items are within the noise
        yield "metric"
    if any(interval.low > 1 for interval in row.latency):
        yield "slower than float"
    peer = fastest(row.name)
    if peer is None or peer.latency is None:
        return
    if row.bytes_ratio > peer.bytes_ratio:
        yield "size"
    if any(mine.low > theirs * _NOISE for mine, theirs in zip(row.latency, peer.latency, strict=True)):
        yield "latency"
    if (peer.sqnr_db or 0) > row.sqnr_db or (peer.agreement or 0) > (1 if row.agreement is None else row.agreement):
        yield "fidelity"


def fastest(name: str) -> Peer | None:
    """The peer of least latency."""
    known = [p for p in PEERS.get(name, ()) if p.latency is not None]
    return min(known, key=lambda p: p.latency[0] if p.latency else 1.0, default=None)
