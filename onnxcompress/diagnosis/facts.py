"""What was found on a machine: plain values, to JSON.

The JSON has ``schema_version``, ``versions``, ``runtimes``, ``processor``, ``memory``, ``threads``, ``providers``,
``forms`` and ``advice``. What is not known is null.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from onnxcompress.runtime.providers import ProviderState

SCHEMA_VERSION = "1.0"
Source = Literal["measured", "shipped", "none"]


@dataclass(frozen=True)
class Feature:
    """An instruction set that decides how fast integers are; ``name`` as Linux calls it."""

    name: str
    present: bool
    meaning: str


@dataclass(frozen=True)
class Processor:
    """The processor; ``kind`` is what costs are looked up by."""

    name: str
    architecture: str
    system: str
    kind: str
    features: tuple[Feature, ...]


@dataclass(frozen=True)
class Memory:
    """Bytes; None where the system does not tell, and no limit where the container has none."""

    total_bytes: int | None
    available_bytes: int | None
    limit_bytes: int | None = None


@dataclass(frozen=True)
class Threads:
    """Cores, and what was set about threads. ``settings``: the environment variables that are set."""

    usable_cores: int
    logical_cpus: int
    load: float | None  # processes that wanted to run, on average over the last minute
    settings: dict[str, str]


@dataclass(frozen=True)
class FormSpeed:
    """One form of a matrix product: (rows, in_features) times (in_features, out_features), over the float product."""

    form: str
    rows: int
    in_features: int
    out_features: int
    speedup: float


@dataclass(frozen=True)
class Forms:
    """Which forms are fast: measured here, or as the table has it that ships with the package."""

    source: Source
    remembered_in: str | None
    speeds: tuple[FormSpeed, ...]


@dataclass(frozen=True)
class Facts:
    """All that can be known without judging it. ``runtimes``: installed packages of ONNX Runtime."""

    versions: dict[str, str]
    runtimes: tuple[str, ...]
    processor: Processor
    memory: Memory
    threads: Threads
    providers: tuple[ProviderState, ...]
    nvidia: bool  # whether the system has a driver of NVIDIA's
    forms: Forms


@dataclass(frozen=True)
class Diagnosis:
    """The facts, and what to do about them, a sentence or two each."""

    facts: Facts
    advice: tuple[str, ...]
    schema_version: str = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "schema_version": self.schema_version,
            **dataclasses.asdict(self.facts),
            "advice": list(self.advice),
        }
