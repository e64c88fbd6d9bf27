"""When two sets of outputs count as the same."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from onnxcompress.stats.equivalence import compare, difference
from tests.simplifying import parsed

ONES = np.ones(4, np.float32)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


SAME: dict[str, tuple[Any, Any]] = {
    "rounding": (ONES, ONES * np.float32(1 + 5e-5)),
    "rounding beside a large value": (f32(1e4, 0), f32(1e4, 0.5)),
    "the accuracy of kernels": (f32(1e-7), f32(5e-7)),
    "NaN in the same place": (f32(np.nan, 1), f32(np.nan, 1)),
    "half precision": (np.array([1, 2], np.float16), np.array([1.01, 2], np.float16)),
    "bfloat16": (ONES.astype(ml_dtypes.bfloat16), (ONES * 1.05).astype(ml_dtypes.bfloat16)),
    "strings": (np.array(["a", "b"], object), np.array(["a", "b"], object)),
    "sequences": ([ONES, ONES], [ONES, ONES]),
    "an empty optional": (None, None),
    "maps": ({"cat": 0.5, "dog": 0.5}, {"dog": 0.5, "cat": 0.500001}),
    "no values": (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)),
    "complex": (ONES.astype(np.complex64), ONES.astype(np.complex64)),
}
OTHER: dict[str, tuple[Any, Any]] = {
    "beyond rounding": (ONES, ONES * np.float32(1.001)),
    "an integer": (np.array([1, 2]), np.array([1, 3])),
    "a boolean": (np.array([True]), np.array([False])),
    "a string": (np.array(["a"], object), np.array(["b"], object)),
    "a type": (ONES, ONES.astype(np.float64)),
    "a shape": (ONES, ONES.reshape(2, 2)),
    "NaN": (ONES, ONES * np.float32(np.nan)),
    "the sign of infinity": (f32(np.inf), f32(-np.inf)),
    "a length": ([ONES], [ONES, ONES]),
    "an element": ([ONES, ONES], [ONES, -ONES]),
    "a key": ({"cat": 0.5}, {"dog": 0.5}),
    "a value of a map": ({"cat": 0.5}, {"cat": 0.6}),
    "a sequence": ([ONES], ONES),
    "an optional": (None, ONES),
}


@pytest.mark.parametrize(("first", "second"), SAME.values(), ids=SAME)
def test_same(first: Any, second: Any) -> None:
    assert difference({"y": first}, {"y": second}) is None


@pytest.mark.parametrize(("first", "second"), OTHER.values(), ids=OTHER)
def test_other(first: Any, second: Any) -> None:
    assert "'y'" in (difference({"y": first}, {"y": second}) or "")


def test_other_outputs() -> None:
    assert difference({"y": ONES}, {"z": ONES}) == "it gives z in place of y"


def test_without_values_only_shapes_count() -> None:
    assert difference({"y": ONES}, {"y": -ONES}, values=False) is None
    assert difference({"y": ONES}, {"y": ONES[:2]}, values=False)


def test_models_are_compared_by_running_them() -> None:
    one = parsed("g (float[N,4] x) => (float[N,4] y) { y = Exp(x) }")
    two = parsed("g (float[N,4] x) => (float[N,4] y) { a = Identity(x) y = Exp(a) }")
    other = parsed("g (float[N,4] x) => (float[N,4] y) { y = Neg(x) }")
    assert compare(one, two).difference is None
    assert compare(one, other).difference


def test_a_model_that_does_not_load_differs() -> None:
    one = parsed("g (float[N,4] x) => (float[N,4] y) { y = Exp(x) }")
    broken = parsed("g (float[N,4] x) => (float[N,4] y) { y = Exp(nowhere) }")
    assert "not load" in (compare(one, broken).difference or "")


def test_an_original_that_does_not_run_is_skipped() -> None:
    broken = parsed("g (float[N,4] x) => (float[N,4] y) { y = Exp(nowhere) }")
    assert compare(broken, broken).skipped
