"""Calls in numpy files: folders, stacks, single arrays, labels, and files that are broken."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest

from onnxcompress.data import DataOptions, load
from onnxcompress.data.arrays import Archive
from onnxcompress.errors import DataError, UsageError
from onnxcompress.graph.interface import Dim, ValueSpec

if TYPE_CHECKING:
    from pathlib import Path


def spec(name: str, dtype: object, *shape: Dim) -> ValueSpec:
    return ValueSpec(name, np.dtype(dtype), 1, shape)  # type: ignore[call-overload]


IDS = [spec("ids", np.int64, "n", "s")]
IMAGE = [spec("x", np.float32, "n", 2, 2)]


def pixels(n: int) -> np.ndarray:
    return np.arange(n * 4, dtype=np.float32).reshape(n, 2, 2)


# ------------------------------------------------------------------------------- a folder


def test_a_folder_is_one_call_per_file_in_the_order_of_names(tmp_path: Path) -> None:
    for name, length in (("b", 3), ("a", 5), ("c", 1)):
        np.savez(tmp_path / f"{name}.npz", ids=np.full((1, length), length))
    (tmp_path / "notes.md").write_text("not data")
    dataset = load(tmp_path, IDS)
    assert [f["ids"].shape for f in dataset] == [(1, 5), (1, 3), (1, 1)]
    assert dataset.source == str(tmp_path)
    assert dataset.labels is None


def test_later_calls_are_checked_when_they_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", ids=np.ones((1, 2), np.int64))
    np.savez(tmp_path / "b.npz", ids=np.ones((1, 2), np.float32))
    dataset = load(tmp_path, IDS)
    with pytest.raises(DataError, match=r"b\.npz: the input 'ids' is float32"):
        list(dataset)


def test_labels_inside_the_calls(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", ids=np.ones((1, 2), np.int64), label=7)
    np.savez(tmp_path / "b.npz", ids=np.ones((2, 2), np.int64), labels=np.array([8, 9]))
    dataset = load(tmp_path, IDS)
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [7, 8, 9]
    assert dataset.rows == (1, 2)


def test_labels_in_some_calls_only_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", ids=np.ones((1, 2), np.int64), label=7)
    np.savez(tmp_path / "b.npz", ids=np.ones((1, 2), np.int64))
    with pytest.raises(DataError, match=r"b\.npz has no array 'labels'"):
        load(tmp_path, IDS)


@pytest.mark.parametrize(("count", "rows"), [(2, (1, 1)), (5, (2, 3))])
def test_labels_of_their_own_match_calls_or_samples(tmp_path: Path, count: int, rows: tuple[int, ...]) -> None:
    (tmp_path / "calls").mkdir()
    for i in (2, 3):
        np.savez(tmp_path / "calls" / f"{i}.npz", ids=np.ones((i, 4), np.int64))
    np.save(tmp_path / "labels.npy", np.arange(count))
    dataset = load(tmp_path / "calls", IDS, DataOptions(labels=tmp_path / "labels.npy"))
    assert dataset.rows == rows


def test_labels_of_another_number_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "stack.npz", x=pixels(4))
    np.save(tmp_path / "labels.npy", np.arange(3))
    with pytest.raises(DataError, match="3 labels for 4 samples"):
        load(tmp_path / "stack.npz", IMAGE, DataOptions(labels=tmp_path / "labels.npy"))


def test_an_input_that_is_called_labels_is_an_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", labels=np.ones((1, 2), np.int64))
    dataset = load(tmp_path, [spec("labels", np.int64, "n", "s")])
    assert dataset.labels is None
    assert dataset.first()["labels"].shape == (1, 2)


# ------------------------------------------------------------------------------- a stack


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_stack_is_cut_into_samples(tmp_path: Path, save: object) -> None:
    save(tmp_path / "s.npz", x=pixels(3), labels=np.array([4, 5, 6]))  # type: ignore[operator]
    dataset = load(tmp_path / "s.npz", IMAGE)
    assert [f["x"].tolist() for f in dataset] == [pixels(3)[i : i + 1].tolist() for i in range(3)]
    last = dataset.labels_of(2)
    assert last is not None
    assert last.tolist() == [6]


def test_a_fixed_batch_is_honoured_and_the_rest_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=pixels(5), labels=np.arange(5))
    dataset = load(tmp_path / "s.npz", [spec("x", np.float32, 2, 2, 2)])
    assert [f["x"].shape for f in dataset] == [(2, 2, 2)] * 2
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 1, 2, 3]
    assert dataset.notes == ("1 of 5 samples are left over, since the model takes 2 at a time.",)


def test_fewer_samples_than_the_batch_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=pixels(1))
    with pytest.raises(DataError, match="1 samples, but the model takes 4"):
        load(tmp_path / "s.npz", [spec("x", np.float32, 4, 2, 2)])


def test_complete_inputs_on_a_new_first_axis_and_a_scalar_for_all(tmp_path: Path) -> None:
    inputs = [spec("x", np.float32, "n", 4), spec("state", np.float32, 2, None, 3), spec("sr", np.int64)]
    np.savez(tmp_path / "s.npz", x=np.zeros((5, 4), "f"), state=np.ones((5, 2, 1, 3), "f"), sr=np.array(16000))
    shapes = [{k: v.shape for k, v in feeds.items()} for feeds in load(tmp_path / "s.npz", inputs)]
    assert shapes == [{"x": (1, 4), "state": (2, 1, 3), "sr": ()}] * 5


def test_one_complete_call_that_is_no_stack(tmp_path: Path) -> None:
    inputs = [spec("x", np.float32, "n", 4), spec("state", np.float32, 2, None, 3)]
    np.savez(tmp_path / "s.npz", x=np.zeros((1, 4), "f"), state=np.ones((2, 1, 3), "f"))
    dataset = load(tmp_path / "s.npz", inputs)
    assert len(dataset) == 1
    assert dataset.first()["state"].shape == (2, 1, 3)


def test_inputs_that_disagree_on_the_number_of_samples(tmp_path: Path) -> None:
    inputs = [spec("a", np.float32, 1, 4), spec("b", np.float32, 1, 4)]
    np.savez(tmp_path / "s.npz", a=np.zeros((3, 4), "f"), b=np.zeros((2, 4), "f"))
    with pytest.raises(DataError, match="'a' has 3, 'b' has 2"):
        load(tmp_path / "s.npz", inputs)


def test_an_npy_for_a_model_with_one_input(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", pixels(3))
    assert len(load(tmp_path / "x.npy", IMAGE)) == 3
    with pytest.raises(DataError, match="takes 2 inputs"):
        load(tmp_path / "x.npy", [*IMAGE, *IDS])


def test_limit(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", pixels(9))
    limited = load(tmp_path / "x.npy", IMAGE, DataOptions(limit=3))
    assert [float(f["x"][0, 0, 0]) for f in limited] == [0, 16, 32]


def test_arrays_stored_as_they_are_are_mapped_and_calls_are_copies(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=np.asfortranarray(pixels(3)), scalar=np.array(2.5), none=np.zeros((0, 3)))
    archive = Archive(tmp_path / "s.npz")
    assert archive.array("x").tolist() == pixels(3).tolist()
    assert isinstance(archive.array("x").base, np.memmap | np.ndarray)
    assert float(archive.array("scalar")) == 2.5
    assert archive.array("none").shape == (0, 3)
    np.savez(tmp_path / "t.npz", x=pixels(3))
    first = load(tmp_path / "t.npz", IMAGE).first()["x"]
    assert first.flags.owndata
    assert first.flags.writeable


# ------------------------------------------------------------------------------- what is broken


def broken(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "bad.npz"
    np.savez(path, x=pixels(3))
    data = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "no zip":
        path.write_bytes(b"these are no arrays")
    elif kind == "pickled":
        np.savez(path, x=np.array([{}, {}], object))
    elif kind == "lies":
        with zipfile.ZipFile(path, "w") as archive:
            header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 2, 2), }"
            head = b"\x93NUMPY\x01\x00" + len(header + b"\n").to_bytes(2, "little") + header + b"\n"
            archive.writestr("x.npy", head + b"\0" * 16)
    elif kind == "no array":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", b"plain text")
    return path


@pytest.mark.parametrize("kind", ["truncated", "no zip", "pickled", "lies", "no array"])
@pytest.mark.parametrize("folder", [True, False])
def test_broken_files(tmp_path: Path, kind: str, folder: bool) -> None:
    path = broken(tmp_path, kind)
    with pytest.raises(DataError, match=r"bad\.npz") as caught:
        load(tmp_path if folder else path, IMAGE)
    assert caught.value.hint


def test_a_truncated_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", pixels(3))
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-4])
    with pytest.raises(DataError, match="truncated"):
        load(tmp_path / "x.npy", IMAGE)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="do not exist"):
        load(tmp_path / "nowhere", IMAGE)
    np.save(tmp_path / "x.npy", pixels(3))
    with pytest.raises(UsageError, match="labels"):
        load(tmp_path / "x.npy", IMAGE, DataOptions(labels=tmp_path / "nowhere.npy"))


def test_an_empty_folder_and_files_of_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="neither") as caught:
        load(tmp_path / "empty", IMAGE)
    assert "'x': float32 [n, 2, 2]" in caught.value.hint
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(UsageError, match="no kind of data"):
        load(tmp_path / "a.csv", IMAGE)
    (tmp_path / "b.npz").write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        load(tmp_path / "b.npz", IMAGE)


@pytest.mark.parametrize("labels", [np.array([1.0, np.nan, 2]), np.array([{}, {}, {}], object)])
def test_unusable_labels(tmp_path: Path, labels: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", pixels(3))
    np.save(tmp_path / "l.npy", labels)
    with pytest.raises(DataError):
        load(tmp_path / "x.npy", IMAGE, DataOptions(labels=tmp_path / "l.npy"))
