"""Does a call fit the model? Names, types, shapes and values, told with what was expected.

Types must be of the same kind. Conversions within a kind are made where every value survives: float64 to
float32 (rounded, but not to infinity), int64 to int32 where the values fit, bool to int and 0/1 to bool.
Integers never turn into floats by themselves: raw pixels given to a model that wants normalized ones would
pass unnoticed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.interface import ValueSpec

_KINDS = {
    "bfloat": "float",
    "float": "float",
    "uint": "int",
    "int": "int",
    "bool": "bool",
    "complex": "complex",
}


def describe(spec: ValueSpec) -> str:
    """A type and shape as one reads them: ``float32 [batch, 3, 224, 224]``."""
    dtype = "no tensor" if spec.dtype is None else "string" if spec.dtype == object else spec.dtype.name
    if spec.shape is None:
        return f"{dtype} of any shape"
    return f"{dtype} [{', '.join('?' if d is None else str(d) for d in spec.shape)}]"


def fixed(dim: int | str | None) -> int | None:
    """The size of a fixed dimension; None where it is open (some exporters write -1 for that)."""
    return dim if isinstance(dim, int) and dim >= 0 else None


def kind(dtype: np.dtype) -> str:
    """Float, int, bool, complex, string or other; the extension types of ml_dtypes included."""
    if dtype.kind in "OSU":
        return "string"
    return next((word for start, word in _KINDS.items() if dtype.name.startswith(start)), "other")


def fit(feeds: Mapping[str, np.ndarray], inputs: Sequence[ValueSpec], where: str) -> Feeds:
    """The arrays of one call as the model takes them, in the order of its inputs.

    Raises:
        DataError: a name, type, shape or value does not fit; says where, which and what was expected.
    """
    wanted = ", ".join(f"{s.name!r}: {describe(s)}" for s in inputs)
    names = {s.name for s in inputs}
    missing = [s.name for s in inputs if s.name not in feeds]
    unexpected = [name for name in feeds if name not in names]
    if missing or unexpected:
        problems = [f"lacks {_listed(missing)}"] * bool(missing)
        problems += [f"has {_listed(unexpected)}, which the model does not take"] * bool(unexpected)
        raise DataError(f"{where} {' and '.join(problems)}", f"The model takes {wanted or 'no inputs'}.")
    return {s.name: fit_array(feeds[s.name], s, where) for s in inputs}


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(n) for n in names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def fit_array(array: np.ndarray, spec: ValueSpec, where: str) -> np.ndarray:
    """One array as the model takes it, C-contiguous."""
    subject = f"{where}: the input {spec.name!r}"
    if spec.dtype is None:
        raise DataError(f"{subject} is a sequence, map or optional value", "Only tensors can be given as data.")
    _check_shape(array, spec, subject)
    return np.asarray(_converted(array, spec.dtype, spec, subject), order="C")


def _check_shape(array: np.ndarray, spec: ValueSpec, subject: str) -> None:
    if spec.shape is None:
        return
    dims = [fixed(d) for d in spec.shape]
    fits = len(dims) == array.ndim and all(d is None or d == n for d, n in zip(dims, array.shape, strict=True))
    if not fits:
        raise DataError(f"{subject} has the shape {list(array.shape)}", f"Expected {describe(spec)}.")


def _converted(array: np.ndarray, dtype: np.dtype, spec: ValueSpec, subject: str) -> np.ndarray:
    given, wanted = kind(array.dtype), kind(dtype)
    if given != wanted and {given, wanted} != {"int", "bool"}:
        raise DataError(f"{subject} is {array.dtype.name}", f"Expected {describe(spec)}; convert it first.")
    with np.errstate(over="ignore", invalid="ignore"):
        converted = array if array.dtype == dtype else array.astype(dtype)
    if wanted == "float":
        _check_finite(array, converted, spec, subject)
    elif wanted in ("int", "bool") and converted is not array and not _equal(converted, array):
        raise DataError(f"{subject} has values that {dtype.name} cannot hold", f"Expected {describe(spec)}.")
    return converted


def _check_finite(array: np.ndarray, converted: np.ndarray, spec: ValueSpec, subject: str) -> None:
    if not np.isfinite(_plain(array)).all():
        raise DataError(f"{subject} holds NaN or infinite values", "Leave such samples out, or repair them.")
    if not np.isfinite(_plain(converted)).all():
        raise DataError(f"{subject} has values too large for {converted.dtype.name}", f"Expected {describe(spec)}.")


def _equal(left: np.ndarray, right: np.ndarray) -> bool:
    return np.array_equal(_plain(left), _plain(right))


def _plain(array: np.ndarray) -> np.ndarray:
    """The values in a type of numpy's own, where ml_dtypes has no comparison or test for them."""
    if array.dtype.isbuiltin == 1:
        return array
    return array.astype(np.float32 if kind(array.dtype) == "float" else np.int64)
