"""What was asked of an inspection, and what was found: plain values, to JSON.

The JSON has

- ``schema_version``, ``tool``, ``model`` {``path``, ``sha256``, ``size_bytes``, ``parameters``, ``nonzero``, ``macs``,
  ``opset``}, ``producer``, ``ir_version``, ``opsets`` {domain: version}, ``metadata``, ``nodes``, ``subgraphs``,
  ``functions`` [{``name``, ``nodes``}], ``domains`` {domain: nodes} of operators that are no standard ones;
- ``inputs`` and ``outputs`` [{``name``, ``dtype``, ``shape``, ``seen``}]: ``shape`` as declared, where a dynamic axis
  is a name or null; ``seen`` as in the call that was made up, null where there was none;
- ``shapes_from`` ("run": watched in one run on synthetic inputs, or "inferred"), ``uncounted`` (layers whose
  multiply-adds are not known), ``activations`` {``peak_bytes``, ``node`` where that is, ``unknown`` values left out};
- ``by_dtype`` [{``name``, ``tensors``, ``values``, ``size_bytes``, ``share``}], ``by_operator`` [{``name``, ``nodes``,
  ``tensors``, ``size_bytes``, ``share``, ``macs``}];
- ``tensors`` [{``name``, ``operator``, ``readers``, ``layers``, ``dtype``, ``shape``, ``size_bytes``, ``share``,
  ``macs``, ``statistics`` {``minimum``, ``maximum``, ``mean``, ``std``, ``zeros``, ``nonfinite``}}], as in the file;
- ``prospects`` [{``verb``, ``size_bytes``, ``share``, ``layers``, ``remark``}], what each verb would leave, roughly;
- ``notes``.

Shares are of the file with its external data. What is not known is null; there is no NaN and no Infinity.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from onnxcompress.progress import Progress, Silent

if TYPE_CHECKING:
    from onnxcompress.graph.interface import Dim
    from onnxcompress.report import ModelFacts, Tool

SCHEMA_VERSION = "1.0"
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Options:
    """What is asked. ``run``: watch shapes in one run on synthetic inputs; without it they are inferred."""

    run: bool = True
    threads: int | None = None
    seed: int = 0
    progress: Progress = field(default_factory=Silent)


@dataclass(frozen=True)
class Statistics:
    """The finite values of a tensor in short, how many of all values are zero, and how many are not finite."""

    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None
    zeros: int
    nonfinite: int


@dataclass(frozen=True)
class StoredFacts:
    """One stored tensor.

    ``operator`` labels what reads it, ``readers`` names those nodes, ``layers`` counts those that read it as their
    weight; ``macs`` are the multiply-adds done with it in a call, null where they are not known or it is no weight.
    ``statistics`` are null for words, complex and empty tensors.
    """

    name: str
    operator: str
    readers: tuple[str, ...]
    layers: int
    dtype: str
    shape: Shape
    size_bytes: int
    share: float
    macs: int | None
    statistics: Statistics | None

    @property
    def values(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def zeros(self) -> float | None:
        """Share of the values that are zero."""
        return self.statistics.zeros / self.values if self.statistics is not None else None


@dataclass(frozen=True)
class PortFacts:
    """One input or output: its shape as declared, and as it was in a call that was made up."""

    name: str
    dtype: str
    shape: tuple[Dim, ...] | None
    seen: Shape | None


@dataclass(frozen=True)
class TypeFacts:
    """All stored tensors of one type of elements."""

    name: str
    tensors: int
    values: int
    size_bytes: int
    share: float


@dataclass(frozen=True)
class OperatorFacts:
    """All nodes of one operator, and what is stored for them; ``macs`` null where no shape of any is known."""

    name: str
    nodes: int
    tensors: int
    size_bytes: int
    share: float
    macs: int | None


@dataclass(frozen=True)
class FunctionFacts:
    """A function that the model defines for itself."""

    name: str
    nodes: int


@dataclass(frozen=True)
class Activations:
    """The most bytes of values that are alive at once, and the node at which they are."""

    peak_bytes: int
    node: str
    unknown: int


@dataclass(frozen=True)
class Prospect:
    """What a verb would leave of the model: an estimate, null with the reason in ``remark`` where it can do nothing."""

    verb: str
    size_bytes: int | None
    share: float | None
    layers: int
    remark: str


@dataclass(frozen=True)
class Inspection:
    """All that was found."""

    tool: Tool
    model: ModelFacts
    producer: str
    ir_version: int
    opsets: dict[str, int]
    metadata: dict[str, str]
    nodes: int
    subgraphs: int
    functions: tuple[FunctionFacts, ...]
    domains: dict[str, int]
    inputs: tuple[PortFacts, ...]
    outputs: tuple[PortFacts, ...]
    shapes_from: Literal["run", "inferred"]
    uncounted: int
    activations: Activations | None
    by_dtype: tuple[TypeFacts, ...]
    by_operator: tuple[OperatorFacts, ...]
    tensors: tuple[StoredFacts, ...]
    prospects: tuple[Prospect, ...]
    notes: tuple[str, ...]
    schema_version: str = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)
