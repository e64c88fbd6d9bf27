"""Any bytes are either read as onnx reads them or refused in words; nothing is lost on the way through."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.errors import ModelError, OnnxCompressError
from onnxcompress.graph import writer
from onnxcompress.graph.interface import interface
from onnxcompress.graph.model import Model
from onnxcompress.graph.wire import LARGE, cut, encode_varint, field_head
from tests.small_models import check_words, examples, normal, proto

if TYPE_CHECKING:
    from collections.abc import Iterator

BACKEND = Path(onnx.__file__).parent / "backend" / "test" / "data"
NUMPY_TYPES = [
    kind for kind in helper.get_all_tensor_dtypes() if kind not in (TensorProto.UNDEFINED, TensorProto.STRING)
]


def stored(message: Message) -> Iterator[TensorProto]:
    """Every tensor below a message, found by protobuf's own reflection."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        repeated = not isinstance(value, Message)
        for item in value if repeated else [value]:
            if isinstance(item, TensorProto):
                yield item
            else:
                yield from stored(item)


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with all data in ``raw_data``, so that equal models compare equal."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    for tensor in stored(twin):
        if tensor.data_type not in (TensorProto.STRING, TensorProto.UNDEFINED):
            name, doc = tensor.name, tensor.doc_string
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), name))
            tensor.doc_string = doc
    return twin


def through(model: onnx.ModelProto | bytes, folder: Path) -> onnx.ModelProto:
    """What onnx reads after the model went through the product."""
    source, target = folder / "source.onnx", folder / "target.onnx"
    source.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    writer.save(Model.open(source), target, durable=False)
    return onnx.load(target)


@st.composite
def made_tensors(draw: st.DrawFn) -> TensorProto:
    kind = draw(st.sampled_from(NUMPY_TYPES))
    dims = draw(st.lists(st.sampled_from([0, 1, 2, 3, 8, 33]), max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    values = rng.integers(0, 2, dims).astype(helper.tensor_dtype_to_np_dtype(kind))
    name = draw(st.sampled_from(["", "w", "ü", "a/b:0"]))
    if draw(st.booleans()):
        return numpy_helper.from_array(values, name)
    return helper.make_tensor(name, kind, dims, values.reshape(-1))


@st.composite
def made_models(draw: st.DrawFn) -> onnx.ModelProto:
    """Tensors of all types at all the places that can hold one; not meant to run."""

    def some(most: int = 2) -> list[TensorProto]:
        return draw(st.lists(made_tensors(), max_size=most))

    def constants() -> list[onnx.NodeProto]:
        return [helper.make_node("Constant", [], [f"c{i}"], value=t) for i, t in enumerate(some())]

    def sparse() -> list[onnx.SparseTensorProto]:
        count = draw(st.sampled_from([0, 1, 300]))
        values = numpy_helper.from_array(np.ones(count, np.float32), "sparse")
        indices = numpy_helper.from_array(np.arange(count, dtype=np.int64))
        return [helper.make_sparse_tensor(values, indices, [1000])] if count else []

    def graph(depth: int) -> onnx.GraphProto:
        nodes = constants()
        if depth and draw(st.booleans()):
            nodes.append(helper.make_node("If", ["c"], ["i"], then_branch=graph(depth - 1), else_branch=graph(0)))
        if draw(st.booleans()):
            nodes.append(
                helper.make_node("Odd", [], ["o"], domain="odd", many=[draw(made_tensors())], words=["x" * 2000, "y"])
            )
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])]
        return helper.make_graph(
            nodes,
            "g",
            [],
            outputs,
            some(),
            doc_string="d" * draw(st.sampled_from([0, 5000])),
            sparse_initializer=sparse(),
        )

    opset = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph(2), opset_imports=opset, ir_version=10)
    if draw(st.booleans()):
        model.functions.append(helper.make_function("local", "f", [], ["c0"], constants(), opset))
    helper.set_model_props(model, {"key": "value"})
    return model


@given(st.integers(0, 2**63 - 1))
def test_varints_are_those_of_protobuf(value: int) -> None:
    message = onnx.ModelProto(ir_version=value).SerializeToString()
    assert message == (b"\x08" + encode_varint(value) if value else b"\x08\x00")


def test_head_of_a_field_is_that_of_protobuf() -> None:
    text = "x" * 300
    assert onnx.ModelProto(domain=text).SerializeToString() == field_head(4, 300) + text.encode()


@pytest.fixture
def any_graph() -> Iterator[None]:
    """Let graphs through whose names make no sense: the bytes alone are of interest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxcompress.graph.model.check_graph", lambda _: None)
        yield


@pytest.mark.usefixtures("any_graph")
@examples(120)
@given(model=made_models())
def test_nothing_is_lost(tmp_path: Path, model: onnx.ModelProto) -> None:
    assert plain(through(model, tmp_path)) == plain(model)


@pytest.mark.usefixtures("any_graph")
@examples(40)
@given(model=made_models())
def test_values_are_those_that_onnx_reads(tmp_path: Path, model: onnx.ModelProto) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    opened = Model.open(path)
    expected, found = list(stored(model)), list(stored(opened.proto))
    assert len(expected) == len(found)
    for one, other in zip(expected, found, strict=True):
        array, wanted = opened.array(other), numpy_helper.to_array(one)
        assert (array.dtype, array.shape, array.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes())


@pytest.mark.parametrize("folder", ["light", "simple", "pytorch-converted", "pytorch-operator"])
def test_models_of_the_backend_tests_come_back(tmp_path: Path, folder: str) -> None:
    files = sorted((BACKEND / folder).glob("**/*.onnx"))
    assert len(files) >= 9
    for file in files:
        assert plain(through(file.read_bytes(), tmp_path)) == plain(onnx.load(file)), file.parent.name


def test_a_second_writing_gives_the_same_bytes(tmp_path: Path) -> None:
    for file in sorted((BACKEND / "pytorch-operator").glob("**/*.onnx")):
        first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
        writer.save(Model.open(file), first, durable=False)
        writer.save(Model.open(first), second, durable=False)
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(("count", "stays"), [(LARGE // 4 - 1, True), (LARGE // 4, False), (5000, False)])
@pytest.mark.parametrize("raw", [True, False])
def test_large_float_data_stay_in_the_file(tmp_path: Path, count: int, stays: bool, raw: bool) -> None:
    values = normal(count)
    tensor = (
        numpy_helper.from_array(values, "w") if raw else helper.make_tensor("w", TensorProto.FLOAT, [count], values)
    )
    model = proto("g () => (float[n] y) { y = Identity(w) }")
    model.graph.initializer.append(tensor)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    opened = Model.open(path)
    found = opened.proto.graph.initializer[0]
    assert opened.has_data(found) == stays
    assert len(found.raw_data) + 4 * len(found.float_data) == (4 * count if stays else 0)
    np.testing.assert_array_equal(opened.array(found), values)


def test_unpacked_float_data_are_read_as_well(tmp_path: Path) -> None:
    """Protobuf readers have to accept repeated numbers one by one; some writers leave them so."""
    values = normal(600)
    data = b"".join(b"\x25" + v.tobytes() for v in values)  # field 4, four bytes
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[600], name="w").SerializeToString() + data
    graph = (
        proto("g () => (float[n] y) { y = Identity(w) }").graph.SerializeToString()
        + field_head(5, len(tensor))
        + tensor
    )
    model = onnx.ModelProto(ir_version=8, opset_import=[helper.make_opsetid("", 17)]).SerializeToString()
    back = through(model + field_head(7, len(graph)) + graph, tmp_path)
    np.testing.assert_array_equal(numpy_helper.to_array(back.graph.initializer[0]), values)


# ------------------------------------------------------------------------- damaged files


@functools.cache
def victim() -> bytes:
    """A model with large and small tensors at every kind of place, about 8 KB."""
    model = proto(
        """g (float[n, 16] x, bool c) => (float[n, 16] y) {
            z = If(c) <
                then_branch = t () => (float[n, 16] a) { a = MatMul(x, w) },
                else_branch = e () => (float[n, 16] b) { b = Add(x, k) }
            >
            k = Constant<value = float[1] {2}>()
            y = local.f(z)
        }
        <domain: "local", opset_import: ["": 17]>
        f (p) => (q) { o = Constant<value = float[1] {1}>() q = Mul(p, o) }""",
        {"w": normal(16, 16), "k2": np.arange(300, dtype=np.int64)},
    )
    model.graph.node[0].attribute[0].g.initializer.append(numpy_helper.from_array(normal(16, 16), "inner"))
    values = numpy_helper.from_array(normal(300), "s")
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.arange(300, dtype=np.int64)), [900])
    )
    helper.set_model_props(model, {"author": "nobody"})
    return bytes(model.SerializeToString())


def outcome(data: bytes, folder: Path) -> onnx.ModelProto | None:
    """The model after it went through, or None where it was refused in words."""
    try:
        return through(data, folder)
    except OnnxCompressError as error:
        check_words(error)
        return None


def read_by_onnx(data: bytes) -> onnx.ModelProto | None:
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except (DecodeError, UnicodeDecodeError):
        return None
    return model


def test_a_truncated_file_is_refused_or_read_as_onnx_reads_it(tmp_path: Path) -> None:
    whole = victim()
    for length in {*range(1, 300), *range(300, len(whole), 5), *range(len(whole) - 300, len(whole))}:
        found, expected = outcome(whole[:length], tmp_path), read_by_onnx(whole[:length])
        if expected is None:
            assert found is None, length
        if found is not None:
            assert expected is not None
            assert plain(found) == plain(expected), length


@examples(400)
@given(
    place=st.integers(0, len(victim()) - 1),
    bytes_=st.binary(min_size=1, max_size=12),
    cut_out=st.sampled_from([0, 1, 4, 200]),
)
def test_a_damaged_file_never_ends_in_a_traceback(tmp_path: Path, place: int, bytes_: bytes, cut_out: int) -> None:
    data = victim()
    outcome(data[:place] + bytes_ + data[place + max(len(bytes_), cut_out) :], tmp_path)


@examples(100)
@given(data=st.binary(min_size=1, max_size=300))
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "junk.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError):
        Model.open(path)


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"\n", b"PK\x03\x04zip", b'{"json": 1}', b"\x08\x08", bytes([0x3A, *b"\xff" * 9, 0x7F])],
    ids=["empty", "zero", "tag", "zip", "json", "version", "length"],
)
def test_files_that_are_no_models_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "no.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError) as caught:
        Model.open(path)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["graph", "node", "value", "weight", "key", "dimension"])
def test_names_that_are_no_text_are_refused(tmp_path: Path, name: str) -> None:
    model = proto("graph (float[dimension] value) => (float[n] y) { y = Add(value, weight) }", {"weight": normal(4)})
    model.graph.node[0].name = "node"
    helper.set_model_props(model, {"key": "v"})
    data = model.SerializeToString().replace(name.encode(), b"\xff" + name.encode()[1:])
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match="UTF-8"):
        Model.open(path)


def test_a_comment_may_hold_anything(tmp_path: Path) -> None:
    model = proto("g (float[n] x) => (float[n] y) { y = Neg(x) }")
    model.doc_string = "comment"
    data = model.SerializeToString().replace(b"comment", b"c\xffmment")
    assert b"c\xffmment" in through(data, tmp_path).SerializeToString()


@pytest.mark.parametrize("place", ["input", "output", "small weight", "large weight", "constant"])
def test_types_that_nobody_knows_are_refused(tmp_path: Path, place: str) -> None:
    model = proto("g (float[4] x) => (float[n] y) { k = Constant<value = float[1] {1}>() z = Add(x, w) y = Add(z, k) }")
    size = 1000 if place == "large weight" else 4
    model.graph.initializer.append(numpy_helper.from_array(normal(size), "w"))
    weight = model.graph.initializer[0]
    constant = model.graph.node[0].attribute[0].t
    for kind, tensor in (("weight", weight), ("constant", constant)):
        if place.endswith(kind):
            tensor.data_type = 99
    for kind, info in (("input", model.graph.input[0]), ("output", model.graph.output[0])):
        if place == kind:
            info.type.tensor_type.elem_type = 99
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="99") as caught:
        interface(Model.open(path).proto)
    check_words(caught.value)


def test_nesting_has_an_end() -> None:
    inner = b"x" * 2000
    for _ in range(200):  # graph > node > attribute > graph
        inner = field_head(6, len(inner)) + inner
        inner = field_head(5, len(inner)) + inner
        inner = field_head(1, len(inner)) + inner
    data = field_head(7, len(inner)) + inner
    with pytest.raises(ModelError, match="deep"):
        cut(memoryview(data))


@pytest.mark.parametrize("dims", [[-1, 5], [10**9, 10**9], [2**62, 2, 2, 2], [3]])
def test_shapes_that_contradict_the_data_are_refused(tmp_path: Path, dims: list[int]) -> None:
    model = proto("g () => (float[n] y) { y = Identity(w) }", {"w": normal(1000)})
    model.graph.initializer[0].dims[:] = dims
    with pytest.raises(ModelError, match="'w'"):
        through(model, tmp_path)


def test_a_file_cannot_pretend_to_hold_a_payload(tmp_path: Path) -> None:
    """The reference that stands in a tensor in place of its data cannot be forged."""
    model = proto("g () => (float[n] y) { y = Identity(w) }", {"w": normal(1000), "v": normal(4)})
    model.graph.initializer[1].data_location = TensorProto.EXTERNAL
    model.graph.initializer[1].external_data.add(key="payload", value="0")
    with pytest.raises(ModelError):
        through(model, tmp_path)
