"""A model file appears whole or not at all, leaves nothing behind, and is the same on every run."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from onnxcompress.errors import RuntimeFailure, UsageError
from onnxcompress.graph import writer
from onnxcompress.graph.model import Model
from tests.small_models import normal, opened, operators, outputs, proto

TWO = "g (float[n, 64] x) => (float[n, 32] y) { z = MatMul(x, a) y = MatMul(z, b) }"


def two(folder: Path) -> Model:
    return opened(proto(TWO, {"a": normal(64, 48, seed=1), "b": normal(48, 32, seed=2)}), folder)


def files(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.parametrize("limit", [writer.SINGLE_FILE_LIMIT, 5000])
def test_two_runs_give_the_same_bytes(tmp_path: Path, out: Path, limit: int) -> None:
    contents = []
    for _ in range(2):
        writer.save(two(tmp_path), out / "m.onnx", single_file_limit=limit)
        contents.append({p.name: p.read_bytes() for p in out.iterdir()})
    assert contents[0] == contents[1]
    assert len(contents[0]) == (1 if limit > 5000 else 2)


def test_size_is_known_before_writing(tmp_path: Path, out: Path) -> None:
    model = two(tmp_path)
    writer.save(model, out / "m.onnx")
    assert writer.serialized_size(model) == (out / "m.onnx").stat().st_size
    assert writer.to_bytes(model) == (out / "m.onnx").read_bytes()


def test_the_limit_is_the_size_of_the_file(tmp_path: Path, out: Path) -> None:
    model = two(tmp_path)
    size = writer.serialized_size(model)
    writer.save(model, out / "one.onnx", single_file_limit=size)
    assert files(out) == {"one.onnx"}
    writer.save(model, out / "two.onnx", single_file_limit=size - 1)
    assert len(files(out)) == 3


def test_external_data_on_output_are_what_onnx_reads(tmp_path: Path, out: Path) -> None:
    writer.save(two(tmp_path), out / "m.onnx", single_file_limit=5000)
    back = onnx.load(out / "m.onnx")
    for tensor, values in zip(back.graph.initializer, (normal(64, 48, seed=1), normal(48, 32, seed=2)), strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), values)
    onnx.checker.check_model(str(out / "m.onnx"))
    feeds = {"x": normal(3, 64)}
    np.testing.assert_array_equal(outputs(out / "m.onnx", feeds)["y"], outputs(tmp_path / "model.onnx", feeds)["y"])


def test_tensors_of_external_data_start_on_pages(tmp_path: Path, out: Path) -> None:
    writer.save(two(tmp_path), out / "m.onnx", single_file_limit=5000)
    raw = onnx.load(out / "m.onnx", load_external_data=False)
    entries = [{e.key: e.value for e in t.external_data} for t in raw.graph.initializer]
    assert [int(e["offset"]) % 4096 for e in entries] == [0, 0]
    assert [int(e["length"]) for e in entries] == [64 * 48 * 4, 48 * 32 * 4]


def test_the_data_file_is_named_after_its_contents(tmp_path: Path, out: Path) -> None:
    writer.save(two(tmp_path), out / "m.onnx", single_file_limit=5000, stem="stem")
    (name,) = files(out) - {"m.onnx"}
    values = normal(64, 48, seed=1).tobytes() + normal(48, 32, seed=2).tobytes()
    assert name == f"stem.{hashlib.sha256(values).hexdigest()[:16]}.data"


@pytest.mark.parametrize("limit", [writer.SINGLE_FILE_LIMIT, 100])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, ml_dtypes.int4, ml_dtypes.uint4, np.int8, np.bool_])
def test_short_types_come_back(out: Path, limit: int, dtype: Any) -> None:
    values = (np.arange(5001).reshape(3, -1) % 7).astype(dtype)
    model = Model(proto("g () => (float y) { y = Identity(w) }", {"w": np.zeros(1, np.float32)}))
    model.set_array(model.proto.graph.initializer[0], values)
    writer.save(model, out / "m.onnx", single_file_limit=limit)
    back = numpy_helper.to_array(onnx.load(out / "m.onnx").graph.initializer[0])
    assert back.dtype == values.dtype
    np.testing.assert_array_equal(back, values)


def test_arrays_are_written_row_by_row_however_they_lie_in_memory(out: Path) -> None:
    values = normal(30, 40)
    model = Model(proto("g () => (float y) { y = Identity(w) }", {"w": np.zeros(1, np.float32)}))
    model.set_array(model.proto.graph.initializer[0], np.asfortranarray(values))
    writer.save(model, out / "m.onnx")
    np.testing.assert_array_equal(numpy_helper.to_array(onnx.load(out / "m.onnx").graph.initializer[0]), values)


def test_lazy_values_are_computed_when_written_and_no_sooner(out: Path) -> None:
    asked: list[str] = []

    def compute() -> np.ndarray:
        asked.append("w")
        return normal(20, 20)

    model = Model(proto("g () => (float y) { y = Identity(w) }", {"w": np.zeros(1, np.float32)}))
    model.set_lazy(model.proto.graph.initializer[0], TensorProto.FLOAT, (20, 20), compute)
    assert writer.serialized_size(model) > 1600
    assert asked == []
    writer.save(model, out / "m.onnx")
    assert asked == ["w"]


def test_a_computation_that_breaks_its_promise_leaves_nothing(out: Path) -> None:
    model = Model(proto("g () => (float y) { y = Identity(w) }", {"w": np.zeros(1, np.float32)}))
    model.set_lazy(model.proto.graph.initializer[0], TensorProto.FLOAT, (20, 20), lambda: normal(20, 21))
    for limit in (writer.SINGLE_FILE_LIMIT, 100):
        with pytest.raises(AssertionError):
            writer.save(model, out / "m.onnx", single_file_limit=limit)
    assert files(out) == set()


@pytest.mark.parametrize("limit", [writer.SINGLE_FILE_LIMIT, 5000])
def test_large_tensors_are_told_of(tmp_path: Path, out: Path, limit: int) -> None:
    heard: list[tuple[str, int]] = []
    writer.save(two(tmp_path), out / "m.onnx", single_file_limit=limit, told=lambda *what: heard.append(what))
    assert heard == [("a", 64 * 48 * 4), ("b", 48 * 32 * 4)]


def test_permissions_are_those_of_a_new_file(tmp_path: Path, out: Path) -> None:
    old = os.umask(0o027)
    try:
        writer.save(two(tmp_path), out / "m.onnx", single_file_limit=5000)
    finally:
        os.umask(old)
    assert {oct(p.stat().st_mode & 0o777) for p in out.iterdir()} == {"0o640"}


@pytest.mark.parametrize("call", ["replace", "fsync", "write"])
@pytest.mark.parametrize("limit", [writer.SINGLE_FILE_LIMIT, 5000])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError(errno.ENOSPC, "full")], ids=["interrupt", "full"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, call: str, limit: int, kind: BaseException
) -> None:
    model = two(tmp_path)
    (out / "m.onnx").write_bytes(b"old")

    def fail(*_: object, **__: object) -> None:
        raise kind

    if call == "write":
        monkeypatch.setattr(writer, "_values", fail)
    elif call == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    else:
        monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((KeyboardInterrupt, RuntimeFailure)):
        writer.save(model, out / "m.onnx", single_file_limit=limit)
    monkeypatch.undo()
    assert files(out) == {"m.onnx"}
    assert (out / "m.onnx").read_bytes() == b"old"


@pytest.mark.parametrize("published", [False, True])
def test_a_failure_after_the_data_keeps_them_only_where_a_model_needs_them(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, published: bool
) -> None:
    if published:  # the same contents, and so the same data file
        writer.save(two(tmp_path), out / "m.onnx", single_file_limit=5000)
    before = files(out)
    replace = Path.replace

    def fail_at_the_model(self: Path, target: Path) -> Path:
        if target.suffix == ".onnx":
            raise OSError(errno.ENOSPC, "full")
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fail_at_the_model)
        with pytest.raises(RuntimeFailure):
            writer.save(two(tmp_path), out / "m.onnx", single_file_limit=5000)
    assert files(out) == before
    if published:
        Model.open(out / "m.onnx")


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RuntimeFailure, match="no room"):
        writer.save(two(tmp_path), out / "m.onnx")


def test_a_missing_folder_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write"):
        writer.save(two(tmp_path), tmp_path / "none" / "m.onnx")


# ------------------------------------------------------------------------- publish and discard


def candidate(folder: Path, out: Path, seed: int = 0) -> Path:
    """A finished model with external data under a temporary name."""
    made = proto(TWO, {"a": normal(64, 48, seed=seed), "b": normal(48, 32, seed=seed)})
    writer.save(opened(made, folder), out / ".m.candidate.onnx", single_file_limit=5000, stem="m.onnx")
    return out / ".m.candidate.onnx"


def test_publishing_removes_the_data_of_the_one_replaced(tmp_path: Path, out: Path) -> None:
    writer.publish(candidate(tmp_path, out, 1), out / "m.onnx")
    before = files(out)
    writer.publish(candidate(tmp_path, out, 2), out / "m.onnx")
    assert len(before) == len(files(out)) == 2
    assert before != files(out)
    np.testing.assert_array_equal(
        numpy_helper.to_array(onnx.load(out / "m.onnx").graph.initializer[0]), normal(64, 48, seed=2)
    )


def test_publishing_the_same_again_keeps_its_data(tmp_path: Path, out: Path) -> None:
    for _ in range(2):
        writer.publish(candidate(tmp_path, out, 1), out / "m.onnx")
    assert len(files(out)) == 2
    Model.open(out / "m.onnx")


def test_publishing_keeps_data_that_others_wrote(tmp_path: Path, out: Path) -> None:
    made = proto(TWO, {"a": normal(64, 48), "b": normal(48, 32)})
    onnx.save(made, out / "m.onnx", save_as_external_data=True, location="theirs.data", size_threshold=0)
    writer.publish(candidate(tmp_path, out), out / "m.onnx")
    assert "theirs.data" in files(out)


def test_publishing_over_a_damaged_file_works(tmp_path: Path, out: Path) -> None:
    (out / "m.onnx").write_bytes(b"junk")
    writer.publish(candidate(tmp_path, out), out / "m.onnx")
    assert operators(Model.open(out / "m.onnx").proto)["MatMul"] == 2


def test_discarding_removes_a_candidate_with_its_data(tmp_path: Path, out: Path) -> None:
    writer.discard(candidate(tmp_path, out))
    assert files(out) == set()
    writer.discard(out / "never.onnx")


def test_discarding_keeps_data_that_a_published_model_shares(tmp_path: Path, out: Path) -> None:
    writer.publish(candidate(tmp_path, out, 1), out / "m.onnx")
    writer.discard(candidate(tmp_path, out, 1))
    assert len(files(out)) == 2
    Model.open(out / "m.onnx")


def test_a_failed_publishing_keeps_the_old_model_whole(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.publish(candidate(tmp_path, out, 1), out / "m.onnx")
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    new = candidate(tmp_path, out, 2)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "bad disk")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fail)
        with pytest.raises(RuntimeFailure):
            writer.publish(new, out / "m.onnx")
    writer.discard(new)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
