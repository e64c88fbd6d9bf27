"""What was asked of a benchmark, and what was found: plain values, to JSON and to rows.

The JSON has ``schema_version``, ``tool``, ``machine``, ``data`` ("synthetic" or a path), ``seed``, ``seconds``,
``models`` (the first is the reference), ``rows`` (one a setting and model), ``profiles`` (with ``--profile``) and
``notes``. What is not known is null.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onnxcompress.data.options import DataOptions
from onnxcompress.errors import UsageError
from onnxcompress.progress import Progress, Silent

if TYPE_CHECKING:
    from pathlib import Path

    from onnxcompress.report import ModelFacts, Percentiles, Tool
    from onnxcompress.runtime.interleaving import Speedup
    from onnxcompress.runtime.layer_times import Share
    from onnxcompress.runtime.session import Device

SCHEMA_VERSION = "1.0"
_MOST = 1_000_000  # of threads, a batch, or a sequence
Sizes = tuple[int | None, ...]


@dataclass(frozen=True)
class Options:
    """What is asked.

    Every combination of ``threads``, ``batches`` and ``sequences`` is a setting; None leaves the size to the data or
    the runtime. ``seconds`` within calls, for each setting.
    """

    threads: Sizes = (None,)
    batches: Sizes = (None,)
    sequences: Sizes = (None,)
    device: Device = "cpu"
    data: Path | None = None
    data_options: DataOptions = field(default_factory=DataOptions)
    seed: int = 0
    seconds: float = 4.0
    profile: bool = False
    memory: bool = True
    progress: Progress = field(default_factory=Silent)

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        if not 0 < self.seconds < math.inf:
            raise UsageError(f"{self.seconds:g} seconds are out of range", "Give more than 0 seconds.")
        for word, sizes in (("threads", self.threads), ("batch", self.batches), ("sequence", self.sequences)):
            for size in sizes:
                if size is not None and not 1 <= size <= _MOST:
                    raise UsageError(f"--{word} {size} is out of range", f"Give numbers from 1 to {_MOST:,}.")
            if self.data is not None and word != "threads" and any(size is not None for size in sizes):
                raise UsageError(
                    f"--{word} has no meaning with --data, whose calls are run as they are",
                    f"Leave --{word} out, or --data for synthetic inputs.",
                )


@dataclass(frozen=True)
class Setting:
    """Where and on what models were timed. Sizes are those of the calls; None where inputs have no such axis."""

    device: Device
    threads: int
    batch: int | None
    sequence: int | None
    shapes: dict[str, tuple[int, ...]]  # of the first call, by input


@dataclass(frozen=True)
class Row:
    """One model in one setting.

    ``speedup`` over the reference, null for the reference itself. ``throughput_per_s`` is the number of items
    (``items_per_call``, the batch; calls where that is null) a second at the median latency. ``load_ms``,
    ``peak_bytes`` and ``base_bytes`` (before the model was loaded) are those of a process of its own.
    """

    model: str
    setting: Setting
    calls: int
    units: int
    latency_ms: Percentiles
    speedup: Speedup | None
    items_per_call: int | None
    throughput_per_s: float
    load_ms: float | None
    peak_bytes: int | None
    base_bytes: int | None


@dataclass(frozen=True)
class Profile:
    """What the nodes of a model take, by operator and by layer, the slowest first."""

    model: str
    setting: Setting
    runs: int
    total_ms: float
    operators: tuple[Share, ...]
    layers: tuple[Share, ...]


@dataclass(frozen=True)
class Benched:
    """One model that was measured; ``name`` is how rows call it."""

    name: str
    facts: ModelFacts


@dataclass(frozen=True)
class Bench:
    """All that was found."""

    tool: Tool
    machine: dict[str, Any]
    data: str
    seed: int
    seconds: float
    models: tuple[Benched, ...]
    rows: tuple[Row, ...]
    profiles: tuple[Profile, ...]
    notes: tuple[str, ...]
    schema_version: str = SCHEMA_VERSION

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The settings in the order they were measured."""
        return tuple(row.setting for row in self.rows if row.model == self.models[0].name)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; the facts of a model stand beside its name."""
        made = dataclasses.asdict(self)
        made["models"] = [{"name": m["name"], **m["facts"]} for m in made["models"]]
        return made
