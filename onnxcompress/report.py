"""Everything that happened, as frozen values, to and from JSON.

One `Report` is made per command and rendered in several ways. The JSON names are a contract
(``report.schema.json`` in this package); a field that has no meaning for a run is ``null``.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

if typing.TYPE_CHECKING:
    from pathlib import Path

SCHEMA_VERSION = "1.0"

Status = Literal["done", "skipped"]
Outcome = Literal["passed", "failed"]


@dataclass(frozen=True)
class Tool:
    """Versions of the tool and of the libraries that decide its results."""

    name: str
    version: str
    onnx: str
    onnxruntime: str


@dataclass(frozen=True)
class ModelFacts:
    """One model file. Sizes in bytes include external data; ``macs`` are per call, null when unknown."""

    path: str
    sha256: str
    size_bytes: int
    parameters: int
    nonzero: int | None
    macs: int | None
    opset: int


@dataclass(frozen=True)
class Confusion:
    """How often the best class of the original became another one."""

    original: int
    compressed: int
    count: int


@dataclass(frozen=True)
class OutputFidelity:
    """How close one output (or one group of channels of it) is to the original's.

    ``points`` are some of its values, original and compressed; ``confusions`` the classes that changed, most first.
    """

    name: str
    sqnr_db: float
    cosine: float
    max_abs_error: float
    agreement: float | None
    group: str | None = None  # "axis 2, channel 4" where one output is split, else null
    points: tuple[tuple[float, float], ...] = ()
    confusions: tuple[Confusion, ...] = ()


@dataclass(frozen=True)
class CallFidelity:
    """How close the worst output of one call is; ``call`` counts from 1 in the order of the data."""

    call: int
    output: str
    sqnr_db: float


@dataclass(frozen=True)
class Fidelity:
    """Fidelity to the original; the top figures are those of the worst output, ``worst_calls`` the worst few calls."""

    data: str
    samples: int
    sqnr_db: float
    cosine: float
    max_abs_error: float
    agreement: float | None
    outputs: tuple[OutputFidelity, ...]
    worst_calls: tuple[CallFidelity, ...] = ()


@dataclass(frozen=True)
class Percentiles:
    """Latency of one call in milliseconds."""

    p50: float
    p95: float


@dataclass(frozen=True)
class Latency:
    """Paired latency. ``speedup`` is original / compressed with a 95 % confidence interval.

    ``pairs_ms`` are the pairs as measured, original and compressed, an even selection where there are many.
    """

    device: str
    threads: int
    batch: int | None
    pairs: int
    original_ms: Percentiles
    compressed_ms: Percentiles
    speedup: float
    speedup_low: float
    speedup_high: float
    load_original_ms: float
    load_compressed_ms: float
    pairs_ms: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class LayerTime:
    """Milliseconds of a call within one layer, by the runtime's own profiler; null where a model has no such layer."""

    layer: str
    ops: tuple[str, ...]
    original_ms: float | None
    compressed_ms: float | None


@dataclass(frozen=True)
class Metric:
    """A task metric of both models on labelled data."""

    original: float
    compressed: float


@dataclass(frozen=True)
class Histogram:
    """Some of the values of a weight in bins of one width from ``low`` to ``high``, and what they became."""

    low: float
    high: float
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class LayerRecord:
    """What was done to one weight, or why nothing was.

    ``error`` is ‖W − Ŵ‖² / ‖W‖² over the weight, null when nothing changed or it was not computed; ``sparsity`` the
    share of zeros, null where it was not looked at; ``ranks`` those of its factors; ``histogram`` of its values, null
    where it was not taken.
    """

    name: str
    op: str
    status: Status
    reason: str | None
    form: str | None
    bits: float | None
    bytes_before: int
    bytes_after: int
    error: float | None = None
    sparsity: float | None = None
    ranks: tuple[int, ...] | None = None
    histogram: Histogram | None = None


@dataclass(frozen=True)
class Step:
    """One pass that ran, with what it did to each layer."""

    pass_name: str = field(metadata={"json": "pass"})
    options: dict[str, Any]
    seconds: float
    peak_memory_bytes: int
    layers: tuple[LayerRecord, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BudgetResult:
    """One budget or standing check: its limit, the value found, and whether it holds."""

    name: str
    limit: float | str | None
    value: float | str | None
    ok: bool


@dataclass(frozen=True)
class Report:
    """The whole story of one command."""

    tool: Tool
    machine: dict[str, Any]
    recipe: dict[str, Any]
    seed: int
    original: ModelFacts
    compressed: ModelFacts | None
    fidelity: Fidelity | None
    latency: Latency | None
    metrics: dict[str, Metric]
    steps: tuple[Step, ...]
    budgets: tuple[BudgetResult, ...]
    notes: tuple[str, ...]
    verdict: Outcome
    layer_times: tuple[LayerTime, ...] = ()
    schema_version: str = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; NaN and infinities, which JSON has not, become null."""
        return typing.cast("dict[str, Any]", _plain(self))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Report:
        """The inverse of `to_json`.

        Raises:
            KeyError: a required name is missing.
        """
        return typing.cast("Report", _build(cls, data))

    def write_json(self, path: Path) -> None:
        """Write the report as indented JSON."""
        path.write_text(json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def step_to_json(step: Step) -> dict[str, Any]:
    """One step as it stands in a report."""
    return typing.cast("dict[str, Any]", _plain(step))


def step_from_json(data: dict[str, Any]) -> Step:
    """The inverse of `step_to_json`.

    Raises:
        KeyError: a required name is missing.
    """
    return typing.cast("Step", _build(Step, data))


def _json_name(item: dataclasses.Field[Any]) -> str:
    return str(item.metadata.get("json", item.name))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {_json_name(f): _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _build(kind: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _build(next(a for a in arguments if a is not type(None)), value)
    if origin is tuple:
        kinds = itertools.repeat(arguments[0]) if arguments[-1] is Ellipsis else arguments
        return tuple(_build(kind, v) for kind, v in zip(kinds, value, strict=False))
    if origin is dict:
        return {k: _build(arguments[1], v) for k, v in value.items()}
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        found = {
            f.name: _build(hints[f.name], value[_json_name(f)])
            for f in dataclasses.fields(kind)
            if _json_name(f) in value or f.default is dataclasses.MISSING
        }
        return typing.cast("Any", kind)(**found)
    if kind is float and value is None:
        return math.nan
    return value
