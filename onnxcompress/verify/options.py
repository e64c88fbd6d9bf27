"""How to verify: where, against which limits, and for how long."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnxcompress.verify.budgets import Budgets

if TYPE_CHECKING:
    from onnxcompress.runtime.session import Device


@dataclass(frozen=True)
class VerifyOptions:
    """How to verify. ``metric`` needs labels; times are in seconds; ``profile``: layers are timed as well.

    ``may_grow``: a result that is larger than the original is none the worse for it.
    """

    device: Device = "cpu"
    threads: int | None = None
    budgets: Budgets = field(default_factory=Budgets)
    metric: str | None = None
    latency: bool = True
    latency_seconds: float = 4.0
    fidelity_seconds: float = 60.0
    profile: bool = False
    may_grow: bool = False
