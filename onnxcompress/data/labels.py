"""Labels: what is right, one row per sample, from a file of their own or from beside the inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.data.arrays import Archive, open_npy
from onnxcompress.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NAMES = ("labels", "label")


def read_labels(path: Path) -> np.ndarray:
    """The array of an ``.npy`` file, or the array ``labels`` of an ``.npz`` file."""
    if not path.is_file():
        raise UsageError(f"the labels {path} do not exist", "Give an .npy file with one row per sample.")
    if path.suffix == ".npy":
        return as_rows(open_npy(path))
    if path.suffix != ".npz":
        raise UsageError(f"{path} is no file of labels", "Give an .npy file, or an .npz file with an array 'labels'.")
    archive = Archive(path)
    name = next((n for n in NAMES if n in archive.names), None)
    if name is None:
        raise DataError(f"{path} has no array 'labels'", f"It holds {', '.join(archive.names) or 'nothing'}.")
    return as_rows(archive.array(name))


def as_rows(labels: np.ndarray) -> np.ndarray:
    """Labels with the samples on the first axis: a single one becomes one row."""
    rows = np.atleast_1d(np.array(labels))
    if rows.dtype.kind not in "biufUS" or (rows.dtype.kind == "f" and np.isnan(rows).any()):
        raise DataError(f"labels of the type {rows.dtype.name} are not usable", "Give numbers (no NaN) or strings.")
    return rows


def joined(parts: Sequence[np.ndarray], source: Path) -> np.ndarray:
    """The labels of all calls as one array."""
    if len({p.shape[1:] for p in parts}) > 1:
        raise DataError(f"the labels in {source} differ in shape from call to call", "Give one row per sample.")
    return np.concatenate(parts)


def matched(labels: np.ndarray, rows: Sequence[int], source: Path) -> tuple[int, ...]:
    """How many rows of the labels belong to each call: one, or one per sample of it."""
    if len(labels) == len(rows):
        return (1,) * len(rows)
    if len(labels) == sum(rows):
        return tuple(rows)
    count = f"{len(rows)} calls" if sum(rows) == len(rows) else f"{len(rows)} calls with {sum(rows)} samples"
    raise DataError(f"there are {len(labels)} labels for the {count} of {source}", "Give one label per sample.")
