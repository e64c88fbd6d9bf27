"""Which kind of data is at a path: the one place that decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.data import images, npz, text
from onnxcompress.data.fit import describe
from onnxcompress.data.options import DataOptions
from onnxcompress.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from onnxcompress.data.dataset import Dataset
    from onnxcompress.graph.interface import ValueSpec

TEXT_SUFFIXES = frozenset({".txt", ".text"})


def load(path: Path, inputs: Sequence[ValueSpec], options: DataOptions | None = None) -> Dataset:
    """The data at a path as calls of a model with these inputs; the first call is read and checked at once.

    Raises:
        UsageError: there is nothing at the path, or an option that it needs is not given.
        DataError: it cannot be read, or does not fit the inputs.
    """
    options = options or DataOptions()
    if not path.exists():
        raise UsageError(f"the data {path} do not exist", "Check the path given to --data.")
    dataset = _folder(path, inputs, options) if path.is_dir() else _file(path, inputs, options)
    dataset.first()
    return dataset if options.limit is None else dataset.take(options.limit)


def _folder(path: Path, inputs: Sequence[ValueSpec], options: DataOptions) -> Dataset:
    if any(path.glob("*.npz")):
        return npz.load_folder(path, inputs, options)
    if images.find_images(path):
        return images.load_images(path, inputs, options)
    wanted = ", ".join(f"{s.name!r}: {describe(s)}" for s in inputs)
    raise DataError(
        f"the folder {path} holds neither .npz files nor images",
        f"Give one .npz per call, with {wanted or 'no inputs'}; or images (jpg, png, bmp, webp).",
    )


def _file(path: Path, inputs: Sequence[ValueSpec], options: DataOptions) -> Dataset:
    suffix = path.suffix.lower()
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty", "Write it again.")
    if suffix == ".npz":
        return npz.load_stacked(path, inputs, options)
    if suffix == ".npy":
        return npz.load_npy(path, inputs, options)
    if suffix in images.SUFFIXES:
        return images.load_images(path, inputs, options)
    if suffix in TEXT_SUFFIXES or options.tokenizer is not None:
        return text.load_text(path, inputs, options)
    raise UsageError(
        f"{path} is no kind of data that can be read",
        "Give a folder of .npz files or images, an .npz or .npy file, or a text file with --tokenizer.",
    )
