"""Layers ranked by the damage that compressing each of them alone does to the outputs: what was asked, and what came.

The damage is the noise-to-signal ratio at the worst output, and group of its channels, when one weight is rounded:

    nᵢ = max over outputs and groups of Σ(y − ŷ)² / Σy²,   SQNR in dB = −10 · log₁₀ nᵢ
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

    from onnxcompress.report import ModelFacts, Tool
    from onnxcompress.runtime.session import Device

SCHEMA_VERSION = "1.0"
Bits = Literal[8, 4, 3, 2]
Source = Literal["measured", "estimated", "unknown"]


@dataclass(frozen=True)
class Options:
    """What is asked.

    ``min_sqnr`` in dB; ``seconds`` for measuring; ``activations`` None: static integers are tried where layers can run
    on them; ``max_memory``: bytes for Gram matrices.
    """

    bits: Bits = 8
    min_sqnr: float = 20.0
    seconds: float = 30.0
    activations: bool | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    simplify: bool = True
    data: Path | None = None
    data_options: DataOptions = field(default_factory=DataOptions)
    device: Device = "cpu"
    threads: int | None = None
    seed: int = 0
    max_memory: int = 1 << 30
    progress: Progress = field(default_factory=Silent)

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        if self.bits not in (8, 4, 3, 2):
            raise UsageError(f"{self.bits} bits are out of range", "Give 8, 4, 3 or 2.")
        if not 0 < self.seconds < math.inf:
            raise UsageError(f"{self.seconds:g} seconds are out of range", "Give more than 0 seconds.")
        if not math.isfinite(self.min_sqnr):
            raise UsageError(f"an SQNR of {self.min_sqnr:g} dB is out of range", "Give a number of dB such as 20.")
        if self.activations and self.bits != 8:
            raise UsageError(
                f"with weights of {self.bits} bits nothing runs on static integers", "Leave --activations out."
            )


@dataclass(frozen=True)
class LayerDamage:
    """One weight. Noise is a ratio to the signal, at the worst output of the model.

    ``estimated_noise`` alone is that at the layer's own output. ``noise`` is what counts: measured, or else expected of
    the estimate. ``reason``: why it is not ranked, or what is special about it. ``group_size``: weights that share a
    scale.
    """

    name: str
    nodes: tuple[str, ...]
    op: str
    shape: tuple[int, ...]
    parameters: int
    bits: int | None
    group_size: int | None
    estimated_noise: float | None = None
    measured_noise: float | None = None
    static_noise: float | None = None
    noise: float | None = None
    source: Source = "unknown"
    reason: str | None = None


@dataclass(frozen=True)
class Rest:
    """What the layers that are not left out do together: the sum of what each does, and as it was measured."""

    expected_noise: float
    measured_noise: float | None


@dataclass(frozen=True)
class Sensitivity:
    """The ranking, the worst first, and the patterns of the layers to leave out.

    ``gain`` is the part of an estimated noise that arrives at the outputs, in the median of the measured layers.
    """

    tool: Tool
    model: ModelFacts
    data: str
    samples: int
    seed: int
    bits: int
    min_sqnr_db: float
    seconds: float
    gain: float
    layers: tuple[LayerDamage, ...]
    exclude: tuple[str, ...]
    rest: Rest
    notes: tuple[str, ...]
    schema_version: str = SCHEMA_VERSION

    @property
    def ranked(self) -> tuple[LayerDamage, ...]:
        """The layers of which something is known."""
        return tuple(layer for layer in self.layers if layer.noise is not None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: beside each ``…_noise`` its ``…_db``, null where there is none or the noise is zero."""
        made = dataclasses.asdict(self)
        for part in (*made["layers"], made["rest"]):
            for key in [k for k in part if k.endswith("noise")]:
                shown = decibels(part[key])
                part[f"{key.removesuffix('noise')}sqnr_db"] = shown if shown is None or shown < math.inf else None
        return made


def decibels(noise: float | None) -> float | None:
    """SQNR in dB of a noise-to-signal ratio, infinite without noise."""
    if noise is None:
        return None
    return -10 * math.log10(noise) if noise > 0 else math.inf
