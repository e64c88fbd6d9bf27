"""What was asked of a comparison, and what was found: plain values, to JSON.

The first model is ``a``, the second ``b``. The JSON has

- ``schema_version``, ``tool``, ``a`` and ``b`` {``path``, ``sha256``, ``size_bytes``, ``parameters``, ``nonzero``,
  ``macs``, ``opset``}, ``data`` ("synthetic", a path, or null where nothing was run), ``calls``, ``threshold_db``,
  ``min_sqnr_db``, ``failures`` in words, ``verdict`` ("passed" or "failed");
- ``structure`` {``facts`` [{``name``, ``a``, ``b``}] that differ, ``operators`` [{``name``, ``a``, ``b``}] counts that
  differ, ``tensors`` [{``name``, ``change`` ("added", "removed", "values", "type", "shape", "stored otherwise"), ``a``
  and ``b`` {``dtype``, ``shape``, ``size_bytes``, ``parts``}, ``sqnr_db``}], ``same_tensors``, ``ports`` [{``kind``,
  ``name``, ``a``, ``b``}]};
- ``matched_by`` ("name", or "place" where names were lost), ``values`` [{``name``, ``other``, ``op``, ``node``,
  ``shape``, ``sqnr_db``, ``cosine``, ``max_abs_error``, ``agreement``, ``own_sqnr_db``, ``compensated``, ``output``,
  ``segment``}] in topological order of ``a``, ``unmatched`` [{``name``, ``op``, ``reason``}];
- ``outputs`` [{``name``, ``sqnr_db``, ``cosine``, ``max_abs_error``, ``agreement``}] of unwatched models;
- ``first_below`` {``name``, ``layer``, ``op``, ``sqnr_db``, ``own_sqnr_db``}, ``first_bad`` and ``worst_step`` {the
  same}, null where there is none, see `parting`; ``notes``.

``sqnr_db`` is with the errors of everything before; ``own_sqnr_db`` is that of the same step of ``b`` on the values of
``a``, so what this step adds alone; null where it was not computed. What is not known is null; there is no NaN.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from onnxcompress.data.options import DataOptions
from onnxcompress.errors import UsageError
from onnxcompress.progress import Progress, Silent

if TYPE_CHECKING:
    from pathlib import Path

    from onnxcompress.report import ModelFacts, OutputFidelity, Tool
    from onnxcompress.runtime.session import Device

SCHEMA_VERSION = "1.0"
Shape = tuple[int, ...]
Change = Literal["added", "removed", "values", "type", "shape", "stored otherwise"]


@dataclass(frozen=True)
class Options:
    """What is asked. ``threshold``: SQNR in dB below which values have parted; ``min_sqnr``: below which it fails."""

    threshold: float = 20.0
    min_sqnr: float | None = None
    device: Device = "cpu"
    threads: int | None = None
    seed: int = 0
    data: Path | None = None
    data_options: DataOptions = field(default_factory=DataOptions)
    progress: Progress = field(default_factory=Silent)

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        for name, value in (("--threshold", self.threshold), ("--min-sqnr", self.min_sqnr)):
            if value is not None and not math.isfinite(value):
                raise UsageError(f"{name} {value} is no limit", f"Give a number of dB, such as {name} 20.")


@dataclass(frozen=True)
class Both:
    """A fact of both models; None where one has nothing of the kind."""

    name: str
    a: str | int | None
    b: str | int | None


@dataclass(frozen=True)
class PortChange:
    """An input or output that differs, in words such as ``float32 [batch, 3]``."""

    kind: Literal["input", "output"]
    name: str
    a: str | None
    b: str | None


@dataclass(frozen=True)
class StoredSide:
    """How one model stores a tensor; ``parts``: names of the tensors that make it up, where these are several."""

    dtype: str
    shape: Shape
    size_bytes: int
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class TensorChange:
    """One stored tensor that differs. ``sqnr_db`` of its values in ``b``, where both have one type and shape."""

    name: str
    change: Change
    a: StoredSide | None
    b: StoredSide | None
    sqnr_db: float | None = None


@dataclass(frozen=True)
class Structure:
    """All differences that need no run. ``same_tensors``: how many are alike to the last bit."""

    facts: tuple[Both, ...]
    operators: tuple[Both, ...]
    tensors: tuple[TensorChange, ...]
    same_tensors: int
    ports: tuple[PortChange, ...]

    @property
    def identical(self) -> bool:
        """Whether nothing differs."""
        return not (self.facts or self.operators or self.tensors or self.ports)


@dataclass(frozen=True)
class ValueRow:
    """One value that both models have.

    ``sqnr_db`` is None where it has none (integers, or nothing to compare), ``agreement`` the share of equal integers,
    None for floats. ``compensated``: differs on purpose, as what reads it in ``b`` takes the difference back.
    ``segment``: the nodes of ``a`` from the matched values before to this one, the last is that which makes it.
    """

    name: str
    other: str
    op: str
    node: str
    shape: Shape
    sqnr_db: float | None
    cosine: float | None
    max_abs_error: float | None
    agreement: float | None
    segment: tuple[str, ...]
    own_sqnr_db: float | None = None
    compensated: bool = False
    output: bool = False


@dataclass(frozen=True)
class Unmatched:
    """A value of ``a`` that is not compared, and why."""

    name: str
    op: str
    reason: str


@dataclass(frozen=True)
class Parting:
    """A layer at which values part."""

    name: str
    layer: str
    op: str
    sqnr_db: float
    own_sqnr_db: float | None


@dataclass(frozen=True)
class Comparison:
    """All that was found."""

    tool: Tool
    a: ModelFacts
    b: ModelFacts
    structure: Structure
    data: str | None
    calls: int
    threshold_db: float
    min_sqnr_db: float | None
    matched_by: Literal["name", "place"]
    values: tuple[ValueRow, ...]
    unmatched: tuple[Unmatched, ...]
    outputs: tuple[OutputFidelity, ...]
    first_below: Parting | None
    first_bad: Parting | None
    worst_step: Parting | None
    failures: tuple[str, ...]
    notes: tuple[str, ...]
    schema_version: str = SCHEMA_VERSION

    @property
    def passed(self) -> bool:
        """Whether the limit holds, if there is one."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        found: dict[str, Any] = _plain(dataclasses.asdict(self))
        return {**found, "verdict": "passed" if self.passed else "failed"}


def known(value: float) -> float | None:
    """None for a figure that is not defined."""
    return None if math.isnan(value) else value


def _plain(value: Any) -> Any:
    """The value without NaN and infinities, which JSON has no words for."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
