"""One real model's row: what was measured, and which part of the bar it misses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.benchmarks.peers import PEERS, Peer, bar
from tests.benchmarks.tables import number, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOST_BYTES = 0.27
MOSTLY = 0.95
_ROUNDING = 0.005  # of the peers' agreement, which is known to two digits
_SMALLER_IS_BETTER = frozenset({"ppl", "rmse_vs_fp32", "cer", "median_cents", "mean_abs_dscore"})
_HEADER = [
    "model", "float share", "bytes", "SQNR dB", "cosine", "agreement", "task metric",
    "latency, 1 thread", "latency, 2 threads", "tool / copy", "tool s", "bar",
]  # fmt: skip


@dataclass(frozen=True)
class Interval:
    """A ratio with its 95 % confidence interval."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Row:
    """What was measured on one model. ``items``: how many the task metric was computed on."""

    name: str
    float_share: float
    bytes_ratio: float
    sqnr_db: float
    cosine: float
    metric: str
    before: float
    after: float
    items: int
    agreement: float | None
    latency: Sequence[Interval]
    seconds: float
    copies: float

    @property
    def drop(self) -> float:
        """By how much the task metric became worse."""
        change = self.after - self.before
        return change if self.metric in _SMALLER_IS_BETTER else -change

    @property
    def misses(self) -> tuple[str, ...]:
        """The parts of the bar that are not met."""
        return tuple(self._misses())

    def _misses(self) -> Iterator[str]:
        if self.float_share >= MOSTLY and self.bytes_ratio > MOST_BYTES:
            yield "size"
        if any(interval.low > 1 for interval in self.latency):
            yield "latency"
        peer = bar(self.name)
        if peer is None:
            return
        if (peer.sqnr_db is not None and self.sqnr_db < peer.sqnr_db) or (
            peer.cosine is not None and self.cosine < peer.cosine
        ):
            yield "fidelity"
        if (peer.agreement or 0) - _ROUNDING > (1 if self.agreement is None else self.agreement):
            yield "agreement"
        if peer.drop is not None and self.drop > peer.drop + 2 / self.items:  # two items are within the noise
            yield "metric"


def report(rows: Sequence[Row]) -> str:
    """The table: each model's row, then other tools': ``=`` on this model, ``~`` on one of its kind."""
    lines = []
    for row in rows:
        lines.append(cells(row))
        lines += [_peer_cells(peer) for peer in PEERS.get(row.name, ())]
    met = sum(not row.misses for row in rows)
    return f"{table(_HEADER, lines)}\n\nthe bar is met on {met} of {len(rows)} models"


def cells(row: Row) -> list[str]:
    """The cells of one row."""
    return [
        row.name,
        f"{row.float_share:.3f}",
        f"{row.bytes_ratio:.3f}",
        f"{row.sqnr_db:.1f}",
        f"{row.cosine:.5f}",
        number(row.agreement),
        f"{row.metric} {number(row.before, 4)} to {number(row.after, 4)}",
        *(str(interval) for interval in row.latency),
        number(row.copies),
        f"{row.seconds:.0f}",
        f"MISS: {', '.join(row.misses)}" if row.misses else "PASS",
    ]


def _peer_cells(peer: Peer) -> list[str]:
    speeds = [f"{x:.2f}" for x in peer.latency] if peer.latency else ["-", "-"]
    return [
        f"  {'=' if peer.same else '~'} {peer.kind}: {peer.name}",
        "",
        f"{peer.bytes_ratio:.3f}",
        number(peer.sqnr_db),
        number(peer.cosine, 4),
        number(peer.agreement),
        peer.quality,
        *speeds,
        "",
        "",
        "",
    ]
