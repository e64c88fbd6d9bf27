"""A call is taken where it fits the model, and refused with what was expected where it does not."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxcompress.data.fit import describe, fit
from onnxcompress.errors import DataError
from onnxcompress.graph.interface import Dim, ValueSpec


def spec(name: str, dtype: object, *shape: Dim) -> ValueSpec:
    return ValueSpec(name, np.dtype(dtype), 1, shape)  # type: ignore[call-overload]


def one(array: object, dtype: object, *shape: Dim) -> np.ndarray:
    return fit({"x": np.asarray(array)}, [spec("x", dtype, *shape)], "call.npz")["x"]


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.array([1.5, -2], np.float64), np.float32),
        (np.array([1.5, -2], np.float32), np.float16),
        (np.array([1.5, -2], np.float32), ml_dtypes.bfloat16),
        (np.array([1, -2], np.int64), np.int32),
        (np.array([1, -2], np.int32), np.int64),
        (np.array([0, 255], np.int64), np.uint8),
        (np.array([True, False]), np.int64),
        (np.array([1, 0], np.int64), np.bool_),
        (np.array([1.5, 2], ">f4"), np.float32),
    ],
)
def test_conversions_that_keep_every_value(array: np.ndarray, dtype: object) -> None:
    made = one(array, dtype, 2)
    assert made.dtype == np.dtype(dtype)  # type: ignore[call-overload]
    assert made.astype(np.float64).tolist() == array.astype(np.float64).tolist()


@pytest.mark.parametrize(
    ("array", "dtype", "part"),
    [
        (np.array([1], np.int64), np.float32, "is int64"),
        (np.array([1], np.uint8), np.float32, "is uint8"),
        (np.array([1], np.float32), np.int64, "is float32"),
        (np.array([2**31], np.int64), np.int32, "int32 cannot hold"),
        (np.array([-1], np.int64), np.uint64, "uint64 cannot hold"),
        (np.array([256], np.int64), np.uint8, "uint8 cannot hold"),
        (np.array([2], np.int64), np.bool_, "bool cannot hold"),
        (np.array([1e300], np.float64), np.float32, "too large for float32"),
        (np.array([1e6], np.float32), np.float16, "too large for float16"),
        (np.array([np.nan], np.float32), np.float32, "NaN"),
        (np.array([np.inf], np.float32), np.float32, "NaN or infinite"),
        (np.array(["a"]), np.float32, "is str"),
    ],
)
def test_conversions_that_would_lose_something(array: np.ndarray, dtype: object, part: str) -> None:
    with pytest.raises(DataError, match=part) as caught:
        one(array, dtype, 1)
    assert "call.npz: the input 'x'" in caught.value.message
    assert caught.value.hint


@given(
    hnp.arrays(np.int64, 4, elements=st.integers(-(2**40), 2**40)),
    st.sampled_from([np.int32, np.int16, np.uint32]),
)
def test_integers_survive_or_are_refused(array: np.ndarray, dtype: type) -> None:
    limits = np.iinfo(dtype)
    fits = bool(((array >= limits.min) & (array <= limits.max)).all())
    if fits:
        assert one(array, dtype, 4).astype(np.int64).tolist() == array.tolist()
    else:
        with pytest.raises(DataError):
            one(array, dtype, 4)


@pytest.mark.parametrize("shape", [(2, 3), ("batch", 3), (None, None), (2, -1)])
def test_shapes_that_fit(shape: tuple[Dim, ...]) -> None:
    assert one(np.zeros((2, 3), np.float32), np.float32, *shape).shape == (2, 3)


@pytest.mark.parametrize("shape", [(2, 4), (1, "n"), ("n",), ("n", 2, 3), ()])
def test_shapes_that_do_not(shape: tuple[Dim, ...]) -> None:
    with pytest.raises(DataError, match=r"has the shape \[2, 3\]") as caught:
        one(np.zeros((2, 3), np.float32), np.float32, *shape)
    assert describe(spec("x", np.float32, *shape)) in caught.value.hint


def test_an_unranked_input_takes_any_shape() -> None:
    anything = ValueSpec("x", np.dtype(np.float32), 1, None)
    assert fit({"x": np.zeros((2, 1, 3), np.float32)}, [anything], "here")["x"].shape == (2, 1, 3)


def test_missing_and_unexpected_names_are_told_with_what_was_expected() -> None:
    inputs = [spec("ids", np.int64, "n", "s"), spec("mask", np.int64, "n", "s")]
    with pytest.raises(DataError) as caught:
        fit({"ids": np.ones((1, 2), np.int64), "maks": np.ones((1, 2), np.int64)}, inputs, "a.npz")
    assert caught.value.message == "a.npz lacks 'mask' and has 'maks', which the model does not take"
    assert "'mask': int64 [n, s]" in caught.value.hint


def test_order_layout_and_rank_0() -> None:
    inputs = [spec("a", np.float32, 2, 3), spec("b", np.int64)]
    made = fit({"b": np.array(3), "a": np.zeros((3, 2), np.float32).T}, inputs, "here")
    assert list(made) == ["a", "b"]
    assert made["a"].flags.c_contiguous
    assert made["b"].shape == ()


def test_strings_stay_strings() -> None:
    assert one(np.array(["a", "bc"]), object, 2).tolist() == ["a", "bc"]


def test_a_sequence_cannot_be_given() -> None:
    with pytest.raises(DataError, match="sequence"):
        fit({"x": np.zeros(1)}, [ValueSpec("x", None, 0, None)], "here")
