"""How much each weight matters: the error at the outputs when that weight alone is changed.

One session serves for all weights: those on trial are inputs of the model while it is watched, so that a trial is one
more inference and nothing is loaded anew.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.graph import writer
from onnxcompress.runtime.session import Session
from onnxcompress.stats.magnitudes import without_masks
from onnxcompress.stats.whatif import as_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.model import Model
    from onnxcompress.progress import Progress

Array = np.ndarray


def damage(
    model: Model,
    trials: Mapping[str, Callable[[], Array]],
    feeds: Feeds,
    progress: Progress,
    *,
    threads: int | None = None,
) -> dict[str, float]:
    """‖y − ŷ‖² / ‖y‖² of the worst float output for each initializer of the main graph in ``trials``.

    Args:
        model: the model as it is.
        trials: for each initializer the values that it would have.
        feeds: one call.
        progress: told of each trial.
        threads: threads of the runtime.

    Raises:
        RuntimeFailure: the model does not load or run with these weights as inputs.
    """
    own, session = _watched(model, trials, threads)
    expected = session.run({**feeds, **own})
    progress.start("measuring which weights matter", len(trials))
    found = {}
    for name, values in trials.items():
        progress.advance(name)
        found[name] = _worst(expected, session.run({**feeds, **own, name: values()}))
    progress.finish()
    return found


def _watched(model: Model, names: Container[str], threads: int | None) -> tuple[dict[str, Array], Session]:
    """The values of those initializers, and the model with them as inputs."""
    twin = model.copy()
    own = as_inputs(twin, names)
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        path = Path(folder) / "trials.onnx"
        writer.save(twin, path, durable=False)
        return own, Session(path, threads=threads)


def _worst(expected: Mapping[str, object], found: Mapping[str, object]) -> float:
    return max((_ratio(y, found[name]) for name, y in expected.items() if _is_float(y)), default=0.0)


def _is_float(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _ratio(expected: object, found: object) -> float:
    """Noise over signal, where both are finite; infinity where the shapes differ."""
    y, z = without_masks(np.asarray(expected, np.float64)), np.asarray(found, np.float64)
    if y.shape != z.shape:
        return float("inf")
    finite = np.isfinite(y) & np.isfinite(z)
    energy = float(np.square(y[finite]).sum())
    noise = float(np.square(y[finite] - z[finite]).sum())
    return noise / energy if energy else (float("inf") if noise else 0.0)
