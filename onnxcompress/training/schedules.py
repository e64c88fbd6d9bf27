"""How the rate changes from step to step: up over the warm-up, then constant, on a line or on a cosine to zero.

With k of n steps done, w of them warm-up, and u = (k − w) / (n − w):

    k < w      (k + 1) / w
    constant   1
    linear     1 − u
    cosine     (1 + cos π u) / 2        (Loshchilov & Hutter 2017, arXiv 1608.03983)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from onnxcompress.errors import UsageError

Kind = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True)
class Schedule:
    """A schedule; ``warmup`` is a share of all steps.

    Raises:
        UsageError: the share is not from 0 to below 1.
    """

    kind: Kind = "cosine"
    warmup: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise UsageError(f"a warm-up of {self.warmup:g} is no share of the steps", "Give 0 or more, below 1.")

    def factor(self, done: int, steps: int) -> float:
        """What the rate is multiplied by in the step after ``done`` of ``steps``."""
        warm = round(self.warmup * steps)
        if done < warm:
            return (done + 1) / warm
        if self.kind == "constant":
            return 1.0
        along = (done - warm) / max(steps - warm, 1)
        return 1 - along if self.kind == "linear" else (1 + math.cos(math.pi * along)) / 2
