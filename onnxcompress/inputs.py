"""The inputs that a run uses: those that were given, or synthetic ones that the model accepts."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Protocol

from onnxcompress.data import load, synthetic_candidates
from onnxcompress.errors import DataError, RuntimeFailure, UsageError
from onnxcompress.graph.interface import interface
from onnxcompress.runtime.failures import LimitReached
from onnxcompress.runtime.session import Device, Session

if TYPE_CHECKING:
    from pathlib import Path

    from onnxcompress.data.dataset import Dataset
    from onnxcompress.data.options import DataOptions
    from onnxcompress.graph.model import Model


_FEW_CALLS = 8
_JUDGING_SHARE = 4  # one call of so many is held back


class _Options(Protocol):
    @property
    def data(self) -> Path | None: ...
    @property
    def data_options(self) -> DataOptions: ...
    @property
    def device(self) -> Device: ...
    @property
    def threads(self) -> int | None: ...
    @property
    def seed(self) -> int: ...


class _Both(_Options, Protocol):
    @property
    def eval_data(self) -> Path | None: ...


@dataclasses.dataclass(frozen=True)
class _Given:
    data: Path | None
    data_options: DataOptions
    device: Device
    threads: int | None
    seed: int


def held_apart(data: Dataset | None, options: _Both) -> tuple[Dataset, Dataset] | None:
    """The calls that were given parted in those to calibrate on and those to judge by, where they can be.

    How far a step may go is found by trying, and what is fitted to calls gives these more than others. Few calls stay
    together, as do those with labels.
    """
    given = options.data is not None and options.eval_data is None and options.data_options.labels is None
    if data is None or not given or len(data) < _FEW_CALLS:
        return None
    return data.parted(len(data) // _JUDGING_SHARE)


def both(
    model: Model, options: _Both, *, run: bool, learns: bool = False
) -> tuple[Dataset | None, tuple[str, ...], Dataset | None]:
    """What a model is calibrated on, what there is to say of that, and what the result is judged on.

    Labels belong to what is judged, unless they are learned.

    Raises:
        the errors of `find`.
    """
    if options.eval_data is None:
        data, notes = find(model, options, run=run)
        return data, notes, data
    bare = dataclasses.replace(options.data_options, labels=None)
    judged = evaluation(model, options.eval_data, bare if learns else options.data_options)
    read = options.data_options if learns else bare
    given = _Given(options.data, read, options.device, options.threads, options.seed)
    data, notes = find(model, given, run=run)
    return data, notes, judged


def find(model: Model, options: _Options, *, run: bool) -> tuple[Dataset | None, tuple[str, ...]]:
    """The data of a run and what there is to say of them.

    Without data that were given and without ``run``, there are none.

    Raises:
        UsageError: the path of the data does not exist.
        DataError: the data do not fit the model.
        RuntimeFailure: memory runs out.
    """
    if options.data is not None:
        data = load(options.data, interface(model.proto).inputs, options.data_options)
        return data, data.notes
    if not run or model.path is None:
        return None, ()
    try:
        session = Session(model.path, options.device, options.threads, level="basic")
    except LimitReached:
        raise
    except RuntimeFailure as error:
        return None, (f"the model was not run: {error.message}",)
    return _accepted(model, session, options.seed)


def evaluation(model: Model, path: Path, options: DataOptions) -> Dataset:
    """What a result is judged on where that is not the data of the run: all of them.

    Raises:
        UsageError: the path does not exist.
        DataError: the data do not fit the model.
    """
    if not path.exists():
        raise UsageError(f"the data {path} do not exist", "Check the path given to --eval-data.")
    return load(path, interface(model.proto).inputs, dataclasses.replace(options, limit=None))


def _accepted(model: Model, session: Session, seed: int) -> tuple[Dataset | None, tuple[str, ...]]:
    """The first synthetic inputs that the model runs on."""
    reason = "no synthetic inputs could be made up"
    try:
        for data in synthetic_candidates(model, seed=seed):
            try:
                session.run(data.first())
            except LimitReached:
                raise
            except RuntimeFailure as error:
                reason = error.message
                continue
            return data, data.notes
    except DataError as error:
        reason = error.message
    return None, (f"the model did not run on synthetic inputs, give --data: {reason}",)
