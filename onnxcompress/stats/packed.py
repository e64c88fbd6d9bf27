"""Gram matrices as a flat set of arrays, as they are kept on disk: each view once, with the layers that share it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.stats.gram import Grams
from onnxcompress.stats.tally import Gram

if TYPE_CHECKING:
    from collections.abc import Mapping

Array = np.ndarray


def packed(grams: Grams) -> dict[str, Array]:
    """``layers`` and ``views`` say which layer has which view; ``matrix i``, ``mean i`` and ``positions`` are those."""
    views = {id(gram): gram for gram in grams.layers.values()}
    numbers = {key: i for i, key in enumerate(views)}
    arrays = {
        "layers": np.array(list(grams.layers), np.str_),
        "views": np.array([numbers[id(gram)] for gram in grams.layers.values()], np.int64),
        "positions": np.array([gram.positions for gram in views.values()], np.int64),
        "left_out": np.array(list(grams.left_out), np.str_),
        "reasons": np.array(list(grams.left_out.values()), np.str_),
        "passes": np.array(grams.passes, np.int64),
    }
    for i, gram in enumerate(views.values()):
        arrays |= {f"matrix {i}": gram.matrix, f"mean {i}": gram.mean}
    return arrays


def unpacked(arrays: Mapping[str, Array]) -> Grams:
    """The inverse of `packed`."""
    views = [
        Gram(arrays[f"matrix {i}"], arrays[f"mean {i}"], int(n)) for i, n in enumerate(arrays["positions"].tolist())
    ]
    layers = zip(arrays["layers"].tolist(), arrays["views"].tolist(), strict=True)
    left_out = zip(arrays["left_out"].tolist(), arrays["reasons"].tolist(), strict=True)
    return Grams({name: views[i] for name, i in layers}, dict(left_out), int(arrays["passes"]))
