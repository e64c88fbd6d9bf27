"""External data are read where they may be believed, and refused in words where not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

from onnxcompress.errors import ModelError, OnnxCompressError
from onnxcompress.graph.model import Model
from tests.small_models import check_words, examples, normal, proto

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DATA = "weights.bin"


def model(folder: Path, location: str = DATA, **entries: str) -> Path:
    """A model whose only weight, 64 float32, lies elsewhere; the file there holds 300 bytes."""
    made = proto("g (float[8] x) => (float[8] y) { y = MatMul(x, w) }", {"w": normal(8, 8)})
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    (folder / DATA).write_bytes(b"\0" * 16 + normal(8, 8).tobytes() + b"\0" * 28)
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, ml_dtypes.bfloat16, ml_dtypes.int4, np.bool_])
@pytest.mark.parametrize("one_file", [True, False])
def test_what_onnx_saved_is_read(tmp_path: Path, dtype: Any, one_file: bool) -> None:
    first, second = (np.arange(42).reshape(6, 7) % 8).astype(dtype), np.ones(5, dtype)
    made = proto("g () => (float y) { y = Identity(a) }", {"a": first, "b": second})
    convert_model_to_external_data(made, one_file, DATA if one_file else None, size_threshold=0)
    onnx.save(made, tmp_path / "model.onnx")
    opened = Model.open(tmp_path / "model.onnx")
    for tensor, values in zip(opened.proto.graph.initializer, (first, second), strict=True):
        assert not opened.has_data(tensor)
        np.testing.assert_array_equal(opened.array(tensor), values)


def test_offset_and_length_are_kept_to(tmp_path: Path) -> None:
    opened = Model.open(model(tmp_path, offset="16", length="256"))
    np.testing.assert_array_equal(opened.array(opened.proto.graph.initializer[0]), normal(8, 8))


def test_a_length_that_is_not_given_follows_from_the_shape(tmp_path: Path) -> None:
    opened = Model.open(model(tmp_path, offset="16"))
    np.testing.assert_array_equal(opened.array(opened.proto.graph.initializer[0]), normal(8, 8))


def test_data_in_a_folder_below_are_read(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    path = model(tmp_path, f"below/{DATA}", offset="16")
    (tmp_path / DATA).rename(tmp_path / "below" / DATA)
    opened = Model.open(path)
    np.testing.assert_array_equal(opened.array(opened.proto.graph.initializer[0]), normal(8, 8))


def test_a_model_in_a_folder_that_is_a_link_is_read(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    model(real, offset="16")
    (tmp_path / "link").symlink_to(real)
    Model.open(tmp_path / "link" / "model.onnx")


@pytest.mark.parametrize(
    "location",
    [
        "",
        "../" + DATA,
        "below/../../" + DATA,
        "/etc/passwd",
        "C:\\data",
        "\\\\host\\data",
        "a\0b",
        "missing",
        ".",
        "./../x",
    ],
)
def test_locations_outside_of_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    with pytest.raises(ModelError) as caught:
        Model.open(model(tmp_path, location, offset="16"))
    assert "'w'" in caught.value.message


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": "300"}, {"offset": "45"}, {"length": "257", "offset": "0"}, {"length": "4"},
        {"offset": "-1"}, {"offset": "1e3"}, {"offset": "9" * 23}, {"offset": ""},
        {"length": "-1"}, {"length": "٣"},
    ],
    ids=str,
)  # fmt: skip
def test_ranges_beyond_the_file_or_the_tensor_are_refused(tmp_path: Path, entries: dict[str, str]) -> None:
    with pytest.raises(ModelError):
        Model.open(model(tmp_path, **entries))


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("change", [_link, _pipe, _folder], ids=["link", "pipe", "folder"])
def test_what_is_no_regular_file_is_refused(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = model(tmp_path, offset="16")
    change(tmp_path / DATA)
    with pytest.raises(ModelError):
        Model.open(path)


def test_a_linked_folder_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    inside = tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    path = model(inside, f"below/{DATA}", offset="16")
    (inside / DATA).rename(outside / DATA)
    (inside / "below").symlink_to(outside)
    with pytest.raises(ModelError, match="link"):
        Model.open(path)


def test_a_file_that_shrinks_meanwhile_is_noticed(tmp_path: Path) -> None:
    opened = Model.open(model(tmp_path, offset="16"))
    os.truncate(tmp_path / DATA, 100)
    with pytest.raises(ModelError, match="shorter"):
        opened.array(opened.proto.graph.initializer[0])


def test_external_data_in_a_constant_and_in_a_body_are_read(tmp_path: Path) -> None:
    branches = """then_branch = t () => (float[n] a) { a = Identity(k) },
        else_branch = e () => (float[n] b) { b = Identity(j) }"""
    made = proto(f"g (bool c) => (float[n] y) {{ y = If(c) <{branches}> }}")
    values = normal(8, 8)
    (tmp_path / DATA).write_bytes(values.tobytes())

    def elsewhere(name: str) -> TensorProto:
        tensor = numpy_helper.from_array(values, name)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=DATA)
        return tensor

    made.graph.node.insert(0, helper.make_node("Constant", [], ["k"], value=elsewhere("k")))
    made.graph.node[1].attribute[1].g.initializer.append(elsewhere("j"))
    path = tmp_path / "model.onnx"
    path.write_bytes(made.SerializeToString())
    opened = Model.open(path)
    arrays = [opened.array(t) for t in opened.tensors()]
    assert len(arrays) == 2
    np.testing.assert_array_equal(arrays, [values, values])


@examples(200)
@given(key=st.sampled_from(["location", "offset", "length", "checksum"]), value=st.text(max_size=8))
def test_any_entry_is_read_or_refused(tmp_path: Path, key: str, value: str) -> None:
    path = model(tmp_path, **{"offset": "16", key: value} if key != "location" else {"offset": "16"})
    if key == "location":
        path = model(tmp_path, value, offset="16")
    try:
        opened = Model.open(path)
        assert opened.array(opened.proto.graph.initializer[0]).shape == (8, 8)
    except OnnxCompressError as error:
        check_words(error)
