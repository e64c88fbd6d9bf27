"""Do two models compute the same? Both run once, without optimizations, on one call of synthetic inputs.

Floats may differ by rounding: by 10⁻⁴ of the largest value of an output, and by 10⁻⁶ in any case, since
kernels for functions like Sigmoid are accurate to that and no more; in half precision by a few of its own
steps. Integers, booleans and strings have to be equal, and where one output is NaN the other one has to be
too.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxcompress.data.synthetic import synthetic_candidates
from onnxcompress.errors import DataError, ModelError, RuntimeFailure
from onnxcompress.graph import writer
from onnxcompress.graph.opset import raised
from onnxcompress.graph.scopes import Scopes
from onnxcompress.runtime.session import Session

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.model import Model

TOO_LARGE = 1 << 29  # bytes of weights from which two sessions would take too much memory
_ROUNDING = 1e-4
_KERNELS = 1e-6
_STEPS = 32  # of half precision
_TRIES = 12  # guesses of the sizes of open dimensions
_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


@dataclass(frozen=True)
class Comparison:
    """What came of it: ``difference`` None where there is none; ``skipped`` says why nothing was compared."""

    difference: str | None = None
    skipped: str | None = None


def compare(original: Model, changed: Model, *, seed: int = 0) -> Comparison:
    """Run both models on the same inputs, one after the other, and compare what they give."""
    size = sum(original.nbytes(t) for t in original.tensors())
    if size > TOO_LARGE:
        return Comparison(skipped=f"{size / 1e6:.0f} MB of weights are too many to run it twice")
    try:
        feeds, expected = _first_that_runs(original, seed)
    except (DataError, RuntimeFailure) as error:
        return Comparison(skipped=error.message)
    try:
        given = _outputs(changed, feeds)
    except RuntimeFailure as error:
        return Comparison(difference=error.message)
    exact = not _is_random(original.proto)
    return Comparison(difference=difference(expected, given, values=exact))


def _first_that_runs(model: Model, seed: int) -> tuple[Feeds, dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        session = _session(model, Path(folder))
        failure = RuntimeFailure("no inputs could be made up for it")
        for candidate in islice(synthetic_candidates(model, calls=1, seed=seed), _TRIES):
            feeds = candidate.first()
            try:
                return feeds, session.run(feeds)
            except RuntimeFailure as error:
                failure = error
    raise failure


def _outputs(model: Model, feeds: Feeds) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        return _session(model, Path(folder)).run(feeds)


def _session(model: Model, folder: Path) -> Session:
    path = folder / "model.onnx"
    writer.save(model, path, durable=False)
    return Session(path, level="none")


def _is_random(proto: onnx.ModelProto) -> bool:
    nodes = (node for scope in Scopes(proto).all for node in scope.body.node)
    return any(n.op_type in _RANDOM or (n.op_type == "Dropout" and len(n.input) > 2) for n in nodes)


# ------------------------------------------------------------------------- values


def difference(expected: Mapping[str, Any], given: Mapping[str, Any], *, values: bool = True) -> str | None:
    """The first difference between two sets of outputs in words, or None; shapes alone without ``values``."""
    if list(expected) != list(given):
        return f"it gives {', '.join(given)} in place of {', '.join(expected)}"
    for name, first in expected.items():
        found = _differs(first, given[name], values)
        if found:
            return f"the output {name!r} differs: {found}"
    return None


def _differs(first: Any, second: Any, values: bool) -> str | None:
    if isinstance(first, (list, dict)) or first is None or second is None:
        return _container_differs(first, second, values)
    one, two = np.asarray(first), np.asarray(second)
    if one.dtype != two.dtype:
        return f"{two.dtype} in place of {one.dtype}"
    if one.shape != two.shape:
        return f"the shape {two.shape} in place of {one.shape}"
    return _beyond_rounding(one, two) if values else None


def _container_differs(first: Any, second: Any, values: bool) -> str | None:
    """Sequences, maps (from label to score, say) and optionals."""
    if type(first) is not type(second):
        return f"a {type(second).__name__} in place of a {type(first).__name__}"
    if first is None or not values:
        return None
    if len(first) != len(second):
        return f"{len(second)} elements in place of {len(first)}"
    if isinstance(first, list):
        return next((d for a, b in zip(first, second, strict=True) if (d := _differs(a, b, True))), None)
    if first.keys() != second.keys():
        return "other keys"
    return _differs(np.array(list(first.values())), np.array([second[key] for key in first]), True)


def _beyond_rounding(one: np.ndarray, two: np.ndarray) -> str | None:
    if one.dtype.kind in "biuOSU":
        return None if np.array_equal(one, two) else f"{int((one != two).sum())} of {one.size} values"
    dtype = np.complex128 if one.dtype.kind == "c" else np.float64
    wide, other = one.astype(dtype), two.astype(dtype)
    finite = np.isfinite(wide)
    if not np.array_equal(finite, np.isfinite(other)) or not np.array_equal(
        wide[~finite], other[~finite], equal_nan=True
    ):
        return "NaN or infinity elsewhere"
    if not finite.any():
        return None
    largest = float(np.abs(wide[finite]).max())
    worst = float(np.abs(wide[finite] - other[finite]).max())
    half = one.dtype.itemsize == 2
    tolerance = max(_ROUNDING, _STEPS * _step(one.dtype)) if half else _ROUNDING
    allowed = max(tolerance * largest, _KERNELS)
    return f"by {worst:.3g}, where values reach {largest:.3g}" if worst > allowed else None


def _step(dtype: np.dtype) -> float:
    """Distance from one to the next number of a half-precision type."""
    return 2.0**-7 if dtype.name == "bfloat16" else 2.0**-10


def raised_alike(model: Model, opset: int, *, seed: int = 0) -> Model:
    """The model at a newer operator set, if it computes the same there.

    Raises:
        ModelError: it cannot be raised, computes something else then, or could not be compared.
    """
    newer = raised(model, opset)
    found = compare(model, newer, seed=seed)
    if found.skipped is not None:
        raise ModelError(f"at opset {opset} it could not be compared with the original: {found.skipped}")
    if found.difference is not None:
        raise ModelError(f"at opset {opset} it computes something else: {found.difference}")
    return newer
