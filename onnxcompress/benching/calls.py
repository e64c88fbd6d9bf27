"""The calls that all models of a benchmark are timed on: the same for each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.data import load
from onnxcompress.data.fit import describe, fit, fixed
from onnxcompress.data.sized import Word, asked_axis, sized_candidates
from onnxcompress.data.synthetic import SOURCE, trace_inputs
from onnxcompress.errors import DataError, ModelError, RuntimeFailure
from onnxcompress.graph.interface import interface
from onnxcompress.runtime.failures import LimitReached
from onnxcompress.runtime.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from onnxcompress.benching.facts import Options
    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.interface import ValueSpec
    from onnxcompress.graph.model import Model

_MOST_CALLS = 4  # of given data


class Inputs:
    """Finds calls for each pair of sizes that was asked for."""

    def __init__(self, models: Mapping[str, tuple[Path, Model]], options: Options) -> None:
        self._models = models
        self._options = options
        self._trial: Session | None = None
        require_same_inputs({name: model for name, (_, model) in models.items()})

    @property
    def source(self) -> str:
        """``synthetic``, or the path of the data."""
        return SOURCE if self._options.data is None else str(self._options.data)

    def calls(self, batch: int | None, sequence: int | None) -> tuple[Feeds, ...]:
        """The calls, accepted by the reference and of shapes that all models take.

        Raises:
            UsageError: an axis is fixed at another size.
            DataError: the data do not fit a model, or no synthetic ones run.
        """
        first = next(iter(self._models.values()))[1]
        if self._options.data is not None:
            data = load(self._options.data, interface(first.proto).inputs, self._options.data_options)
            found = tuple(data.take(_MOST_CALLS))
        else:
            sizes: dict[Word, int] = {}
            sizes |= {} if batch is None else {"batch": batch}
            sizes |= {} if sequence is None else {"sequence": sequence}
            self._require_open(sizes)
            found = (self._accepted(first, sizes),)
        for name, (_, model) in self._models.items():
            for feeds in found:
                fit(feeds, interface(model.proto).inputs, f"the calls for {name}")
        return found

    def _require_open(self, sizes: Mapping[Word, int]) -> None:
        for _, model in self._models.values():
            inputs = trace_inputs(model)
            for word, size in sizes.items():
                asked_axis(inputs, word, size)

    def _accepted(self, model: Model, sizes: Mapping[Word, int]) -> Feeds:
        """The first synthetic call that the reference runs on."""
        if self._trial is None:
            path = next(iter(self._models.values()))[0]
            self._trial = Session(path, self._options.device, level="basic")
        reason: str | None = None
        for data in sized_candidates(model, sizes, seed=self._options.seed):
            try:
                self._trial.run(data.first())
            except LimitReached:
                raise
            except RuntimeFailure as error:
                reason = reason or error.message  # that of the most plausible one
                continue
            return data.first()
        asked = " and ".join(f"{word} {size}" for word, size in sizes.items())
        raise DataError(
            f"the model did not run on synthetic inputs{' of ' + asked if asked else ''}: {reason or 'none'}",
            "Give --data, " + ("or other sizes." if asked else "a folder of .npz calls."),
        )

    def close(self) -> None:
        """Let the trial session go, so that its memory does not disturb."""
        self._trial = None


def require_same_inputs(models: Mapping[str, Model]) -> None:
    """Refuse models that cannot be run on the same calls.

    Raises:
        ModelError: inputs differ in name, type, rank, or a fixed size.
    """
    (first, reference), *others = models.items()
    wanted = {spec.name: spec for spec in interface(reference.proto).inputs}
    for name, model in others:
        found = {spec.name: spec for spec in interface(model.proto).inputs}
        if found.keys() != wanted.keys() or not all(_agree(found[n], wanted[n]) for n in wanted):
            raise ModelError(
                f"{name} takes {_listed(found.values())}, but {first} {_listed(wanted.values())}",
                "Models that are compared must have the same inputs; measure others in a run of their own.",
            )


def _agree(one: ValueSpec, other: ValueSpec) -> bool:
    if one.dtype != other.dtype:
        return False
    if one.shape is None or other.shape is None:
        return True
    pairs = [(fixed(a), fixed(b)) for a, b in zip(one.shape, other.shape, strict=False)]
    return len(one.shape) == len(other.shape) and all(a is None or b is None or a == b for a, b in pairs)


def _listed(specs: Iterable[ValueSpec]) -> str:
    shown = [f"{spec.name!r}: {describe(spec)}" for spec in specs]
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "") or "no inputs"
