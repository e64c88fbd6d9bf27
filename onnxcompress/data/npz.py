"""Calls of a model in numpy files: a folder of ``.npz``, one stacked ``.npz``, or one ``.npy``.

Folder: each file is one complete call, in the order of the names; sizes may differ from call to call.
Stacked: the samples lie on the first axis of every array. An array of the rank of its input is cut into
batches (one sample at a time, or as many as the model's fixed first dimension says); an array with one axis
more holds a complete input per sample; a scalar holds for all calls. A file that is no stack, but one fitting
call, is taken as that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.data import labels as labelling
from onnxcompress.data.arrays import Archive, open_npy
from onnxcompress.data.dataset import Dataset, Feeds
from onnxcompress.data.fit import describe, fit, fixed
from onnxcompress.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from onnxcompress.data.options import DataOptions
    from onnxcompress.graph.interface import ValueSpec


def load_folder(folder: Path, inputs: Sequence[ValueSpec], options: DataOptions) -> Dataset:
    """One call per ``.npz`` file in a folder, sorted by name."""
    paths = sorted(folder.glob("*.npz"))

    def read(i: int) -> Feeds:
        return _call(Archive(paths[i]), inputs, str(paths[i]))

    if options.labels is not None:
        labels = labelling.read_labels(options.labels)
        counts = [1] * len(paths)
        if len(labels) != len(paths):
            counts = [_samples(Archive(p), inputs) for p in paths]
        return Dataset(str(folder), len(paths), read, labels, labelling.matched(labels, counts, folder))
    parts = [_labels_within(Archive(p), inputs) for p in paths]
    present = [p for p in parts if p is not None]
    if not present:
        return Dataset(str(folder), len(paths), read)
    if len(present) < len(parts):
        lacking = paths[next(i for i, p in enumerate(parts) if p is None)]
        raise DataError(f"{lacking} has no array 'labels', as the other files have", "Label all calls or none.")
    return Dataset(str(folder), len(paths), read, labelling.joined(present, folder), tuple(map(len, present)))


def _call(archive: Archive, inputs: Sequence[ValueSpec], where: str) -> Feeds:
    names = _input_names(archive, inputs)
    # Copied, so that nothing depends on the file any more.
    return {k: np.array(v) for k, v in fit({n: archive.array(n) for n in names}, inputs, where).items()}


def _input_names(archive: Archive, inputs: Sequence[ValueSpec]) -> list[str]:
    taken = {s.name for s in inputs}
    return [n for n in archive.names if n in taken or n not in labelling.NAMES]


def _labels_within(archive: Archive, inputs: Sequence[ValueSpec]) -> np.ndarray | None:
    taken = {s.name for s in inputs}
    name = next((n for n in labelling.NAMES if n in archive.names and n not in taken), None)
    return None if name is None else labelling.as_rows(archive.array(name))


def _samples(archive: Archive, inputs: Sequence[ValueSpec]) -> int:
    """Samples in a call: the first dimension of its first input that has one."""
    known = set(archive.names)
    shapes = (archive.header(s.name).shape for s in inputs if s.name in known)
    return next((shape[0] for shape in shapes if shape), 1)


def load_stacked(path: Path, inputs: Sequence[ValueSpec], options: DataOptions) -> Dataset:
    """The samples on the first axis of the arrays of one ``.npz`` file."""
    archive = Archive(path)
    labels = labelling.read_labels(options.labels) if options.labels else _labels_within(archive, inputs)
    # The names are checked before any array is touched; arrays stay mapped where the file allows it.
    names = _input_names(archive, inputs)
    _check_names(names, inputs, path)
    arrays = {n: archive.array(n) for n in names}
    return _stack(path, arrays, inputs, labels)


def load_npy(path: Path, inputs: Sequence[ValueSpec], options: DataOptions) -> Dataset:
    """The samples on the first axis of one array, for a model with one input."""
    if len(inputs) != 1:
        wanted = ", ".join(f"{s.name!r}: {describe(s)}" for s in inputs)
        raise DataError(
            f"{path} is one array, but the model takes {len(inputs)} inputs", f"Give an .npz with {wanted}."
        )
    labels = labelling.read_labels(options.labels) if options.labels else None
    return _stack(path, {inputs[0].name: open_npy(path)}, inputs, labels)


def _check_names(names: Sequence[str], inputs: Sequence[ValueSpec], path: Path) -> None:
    if set(names) != {s.name for s in inputs}:
        fit(dict.fromkeys(names, np.empty(0)), inputs, str(path))  # raises with the names


def _stack(
    path: Path, arrays: Mapping[str, np.ndarray], inputs: Sequence[ValueSpec], labels: np.ndarray | None
) -> Dataset:
    cuts = {s.name: _cut(arrays[s.name], s, path) for s in inputs}
    counts = {name: len(range(0, size - per + 1, per)) for name, (size, per, _) in cuts.items() if size >= 0}
    if len(set(counts.values())) > 1:
        return _single(path, arrays, inputs, labels, counts)
    calls = next(iter(counts.values()), 1)
    samples, per = next(((size, per) for size, per, _ in cuts.values() if size >= 0), (1, 1))
    if calls == 0:
        raise DataError(f"{path} holds {samples} samples, but the model takes {per} at a time", "Give more samples.")

    def read(i: int) -> Feeds:
        return fit({name: np.array(slicer(i)) for name, (_, _, slicer) in cuts.items()}, inputs, f"{path}, call {i}")

    notes: tuple[str, ...] = ()
    if left := samples - calls * per:
        notes = (f"{left} of {samples} samples are left over, since the model takes {per} at a time.",)
    if labels is None:
        return Dataset(str(path), calls, read, notes=notes)
    if len(labels) != samples:
        raise DataError(f"there are {len(labels)} labels for {samples} samples in {path}", "Give one per sample.")
    return Dataset(str(path), calls, read, labels[: calls * per], (per,) * calls, notes)


def _cut(array: np.ndarray, spec: ValueSpec, path: Path) -> tuple[int, int, Callable[[int], np.ndarray]]:
    """Samples in a stacked array (-1: it holds for every call), samples per call, and how to cut a call."""
    if array.ndim == 0:
        return -1, 1, lambda _: array
    rank = array.ndim if spec.shape is None else len(spec.shape)
    if array.ndim == rank + 1:
        return len(array), 1, lambda i: array[i]
    if array.ndim != rank:
        raise DataError(
            f"{path}: {spec.name!r} has the shape {list(array.shape)}",
            f"Expected samples of {describe(spec)}, stacked on the first axis.",
        )
    per = max((fixed(spec.shape[0]) if spec.shape else None) or 1, 1)
    return len(array), per, lambda i: array[i * per : (i + 1) * per]


def _single(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    inputs: Sequence[ValueSpec],
    labels: np.ndarray | None,
    counts: Mapping[str, int],
) -> Dataset:
    """Arrays that do not agree on the number of samples may still be one complete call."""
    try:
        feeds = {name: np.array(a) for name, a in fit(arrays, inputs, str(path)).items()}
    except DataError as error:
        told = ", ".join(f"{name!r} has {n}" for name, n in counts.items())
        raise DataError(
            f"{path}: the inputs do not agree on the number of samples ({told})",
            "Stack the samples of every input on its first axis, or give a folder with one .npz per call.",
        ) from error
    rows = None if labels is None else (len(labels),)
    return Dataset(str(path), 1, lambda _: dict(feeds), labels, rows)
