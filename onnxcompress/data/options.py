"""How data files are to be read: the options of ``--data``, checked when they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from onnxcompress.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

Layout = Literal["auto", "nchw", "nhwc"]


@dataclass(frozen=True)
class DataOptions:
    """How to read the data.

    Attributes:
        labels: An ``.npy`` with one row per sample, or an ``.npz`` with an array ``labels``.
        tokenizer: The ``tokenizer.json`` for a text file.
        mean: Pixels are scaled to 0..1 first, then ``(x - mean) / std``; one value or one per channel.
        std: See ``mean``. A model that takes 0..255 as floats has std 0.00392157 (1/255).
        layout: Order of the axes of an image input; ``auto`` reads it from the model.
        size: Height and width of images where the model leaves them open.
        limit: At most so many calls, spread evenly over the data.
    """

    labels: Path | None = None
    tokenizer: Path | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: Layout = "auto"
    size: tuple[int, int] | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.layout not in get_args(Layout):
            raise UsageError(f"the layout {self.layout!r} is not known", "Choose auto, nchw or nhwc.")
        if self.size is not None and min(self.size) < 1:
            raise UsageError("the image size must be at least 1x1", "Give it as HEIGHTxWIDTH, such as 224x224.")
        if self.limit is not None and self.limit < 1:
            raise UsageError("the number of calls must be at least 1", "Leave the limit out to use all data.")
        self._check_normalization()

    def _check_normalization(self) -> None:
        mean, std = self.mean or (), self.std or ()
        if not all(math.isfinite(v) for v in (*mean, *std)) or any(v <= 0 for v in std):
            raise UsageError("mean and std must be finite, and std above zero", "Check --mean and --std.")
        if any(abs(v) > 1 for v in mean) or any(v > 1 for v in std):
            raise UsageError(
                "mean and std are on the scale of 0 to 255, but pixels are scaled to 0..1 first",
                "Divide both by 255.",
            )
