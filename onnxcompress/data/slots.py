"""Inputs that are arguments of an operator (a shape, an axis, a count) and the values that always run.

A ``-1`` in the last place of a new shape, ones as repeats, counting axes, indices of zero: nothing is learnt
from such inputs, but the model has to run. From the operators' definitions (https://onnx.ai/onnx/operators/).
"""

from __future__ import annotations

from enum import Enum, auto

import numpy as np


class Fill(Enum):
    """How an argument is filled."""

    ZEROS = auto()
    ONES = auto()
    TENS = auto()
    BIG = auto()
    COUNT = auto()  # 0, 1, 2, ...
    LAST_OPEN = auto()  # 1, 1, ..., -1: a shape that holds any number of elements
    POSITIVE = auto()  # floats in 0.5 .. 1.5
    UNIT = auto()  # floats in 0 .. 0.9
    ABOVE_ONE = auto()


_REDUCE = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2")
_INDEXED = ("GatherElements", "GatherND", "ScatterElements", "ScatterND", "Scatter", "ArrayFeatureExtractor")

SLOTS: dict[tuple[str, int], Fill] = {
    **{(op, 1): Fill.COUNT for op in (*_REDUCE, "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare")},
    **{(op, 1): Fill.ZEROS for op in (*_INDEXED, "CumSum", "Trilu", "Pad", "CumProd")},
    **{(op, 1): Fill.ONES for op in ("Tile", "Expand", "TopK", "Upsample", "BitShift", "Slice", "ReverseSequence")},
    **{(op, 1): Fill.COUNT for op in ("Unsqueeze", "Squeeze")},
    ("Reshape", 1): Fill.LAST_OPEN,
    ("ConstantOfShape", 0): Fill.ONES,
    ("Slice", 1): Fill.ZEROS,
    ("Slice", 2): Fill.BIG,
    ("Slice", 3): Fill.COUNT,
    ("Slice", 4): Fill.ONES,
    ("Pad", 3): Fill.COUNT,
    ("Range", 0): Fill.ZEROS,
    ("Range", 1): Fill.TENS,
    ("Range", 2): Fill.ONES,
    ("OneHot", 1): Fill.TENS,
    ("Resize", 2): Fill.ONES,
    ("Loop", 0): Fill.ONES,
    ("RoiAlign", 2): Fill.ZEROS,
    ("NonMaxSuppression", 2): Fill.TENS,
    ("NonMaxSuppression", 3): Fill.UNIT,
    ("NonMaxSuppression", 4): Fill.UNIT,
    ("LSTM", 4): Fill.ONES,
    ("GRU", 4): Fill.ONES,
    ("RNN", 4): Fill.ONES,
    **{(op, 0): Fill.TENS for op in ("HannWindow", "HammingWindow", "BlackmanWindow")},
    ("Dropout", 1): Fill.ZEROS,
    ("BatchNormalization", 4): Fill.POSITIVE,
    ("QuantizeLinear", 1): Fill.POSITIVE,
    ("DequantizeLinear", 1): Fill.POSITIVE,
    **{(op, 0): Fill.POSITIVE for op in ("Sqrt", "Log", "Pow", "Reciprocal", "ReduceLogSum")},
    **{(op, 0): Fill.UNIT for op in ("Asin", "Acos", "Atanh")},
    ("Acosh", 0): Fill.ABOVE_ONE,
}


def filled(fill: Fill, shape: tuple[int, ...], dtype: np.dtype, rng: np.random.Generator) -> np.ndarray:
    """The argument of an operator."""
    size = int(np.prod(shape))
    values: np.ndarray
    if fill is Fill.COUNT:
        values = np.arange(size)
    elif fill is Fill.LAST_OPEN:
        values = np.array([*[1] * (size - 1), -1][:size])
    elif fill is Fill.POSITIVE:
        values = rng.uniform(0.5, 1.5, size)
    elif fill is Fill.UNIT:
        values = rng.uniform(0, 0.9, size)
    elif fill is Fill.ABOVE_ONE:
        values = rng.uniform(1.1, 3, size)
    else:
        constant = {Fill.ZEROS: 0, Fill.ONES: 1, Fill.TENS: 10, Fill.BIG: np.iinfo(np.int32).max}[fill]
        values = np.full(size, constant)
    return values.reshape(shape).astype(dtype)
