"""Does a model without some channels compute what the whole model does when nobody reads those channels?

Both run on one call. Sums over fewer terms are rounded differently, so floats may differ by a thousandth of the largest
value of an output. Where the model itself gives other values each time, shapes alone are compared.
"""

from __future__ import annotations

import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from onnxcompress.data.synthetic import synthetic_candidates
from onnxcompress.errors import DataError, RuntimeFailure
from onnxcompress.graph import writer
from onnxcompress.graph.interface import interface
from onnxcompress.graph.shapes import NOT_INFERRED, skeleton
from onnxcompress.runtime.session import Session

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.model import Model

_ROUNDING = 1e-3
_HALF = 2e-2  # half precision
_TRIES = 12  # guesses of the sizes of open dimensions
_TOO_LARGE = 1 << 29  # bytes of weights that are not run on made-up inputs


def made_up(model: Model, seed: int, threads: int | None = None) -> Feeds:
    """One call of synthetic inputs on which a model runs.

    Raises:
        DataError: nothing can be made up for it.
        RuntimeFailure: it runs on nothing that was tried, or is too large to be tried.
    """
    size = sum(model.nbytes(t) for t in model.tensors())
    if size > _TOO_LARGE:
        raise RuntimeFailure(f"{size / 1e6:.0f} MB of weights are too many to try it on made-up inputs")
    failure = RuntimeFailure("no inputs could be made up for it")
    session = loaded(model, threads)
    for candidate in islice(synthetic_candidates(model, calls=1, seed=seed), _TRIES):
        feeds = candidate.first()
        try:
            session.run(feeds)
        except RuntimeFailure as error:
            failure = error
        else:
            return feeds
    raise failure


def loaded(model: Model, threads: int | None = None) -> Session:
    """A session of a model.

    Raises:
        RuntimeFailure: it does not load.
    """
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        path = Path(folder) / "model.onnx"
        writer.save(model, path, durable=False)
        return Session(path, threads=threads)


def broken(before: Model, after: Model) -> str | None:
    """What is wrong with the structure of a model that was made from another one, in words; None where nothing is."""
    if interface(before.proto) != interface(after.proto):
        return "its inputs or outputs have changed"
    reason = _contradiction(after)
    return reason if reason is not None and _contradiction(before) is None else None


def _contradiction(model: Model) -> str | None:
    try:
        onnx.shape_inference.infer_shapes(skeleton(model), check_type=True, strict_mode=True)
    except NOT_INFERRED as error:
        return f"its shapes contradict each other: {error}"
    return None


def departs(reference: Model, small: Model, feeds: Feeds, threads: int | None = None) -> str | None:
    """How the outputs of a smaller model differ from those of another one, in words; None where they do not.

    Raises:
        RuntimeFailure: the reference does not run.
    """
    session = loaded(reference, threads)
    expected, again = session.run(feeds), session.run(feeds)
    del session
    return gives_other(expected, again, small, feeds, threads)


def gives_other(
    expected: Mapping[str, Any], again: Mapping[str, Any], small: Model, feeds: Feeds, threads: int | None = None
) -> str | None:
    """How the outputs of a model differ from those that are expected, in words; ``again``: as they came another time.

    Integers may differ where floats are there as well: those may have been a tie.
    """
    try:
        found = loaded(small, threads).run(feeds)
    except (RuntimeFailure, DataError) as error:
        return f"it does not run: {error.message}"
    steady = {name for name, value in expected.items() if _differs(value, again[name]) is None}
    arrays = {name: y for name, y in expected.items() if isinstance(y, np.ndarray)}
    floats = {name for name, y in arrays.items() if y.dtype.kind not in "biuSOU"}
    for name, y in arrays.items():
        other = np.asarray(found[name])
        if other.shape != y.shape:
            return f"the output {name!r} has the shape {other.shape} in place of {y.shape}"
        if name in steady and (name in floats or not floats):
            difference = _differs(y, other)
            if difference is not None:
                return f"the output {name!r} differs {difference}"
    return None


def _differs(first: Any, second: Any) -> str | None:
    one, two = np.asarray(first), np.asarray(second)
    if one.shape != two.shape:
        return "in shape"
    if one.dtype.kind in "biuSOU":
        return None if np.array_equal(one, two) else f"in {int((one != two).sum())} of {one.size} values"
    tolerance = _HALF if one.dtype.itemsize == 2 else _ROUNDING
    wide, other = one.astype(np.float64), two.astype(np.float64)
    finite = np.isfinite(wide)
    if not np.array_equal(finite, np.isfinite(other)):
        return "in what is finite"
    largest = float(np.abs(wide[finite]).max(initial=0))
    worst = float(np.abs(wide[finite] - other[finite]).max(initial=0))
    return f"by {worst:.3g}, where values reach {largest:.3g}" if worst > tolerance * largest + 1e-6 else None
