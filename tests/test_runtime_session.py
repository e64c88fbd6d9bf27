from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import parser

from onnxcompress.errors import RuntimeFailure
from onnxcompress.runtime.failures import OutOfMemory, UnsupportedModel, plain
from onnxcompress.runtime.session import Session, bound_caller, require_active, require_provider

if TYPE_CHECKING:
    from pathlib import Path

HEAD = '<ir_version: 10, opset_import: ["" : 21, "my.domain" : 1]> '
DOUBLE = HEAD + "g (float[N, 4] x) => (float[N, 4] y) { y = Add(x, x) }"


def blob(text: str) -> bytes:
    return bytes(parser.parse_model(text).SerializeToString())


def test_runs_and_names_outputs() -> None:
    session = Session(blob(DOUBLE))
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    assert list(session.run({"x": x})) == ["y"]
    np.testing.assert_array_equal(session.run({"x": x})["y"], 2 * x)
    assert session.load_ms > 0
    assert session.threads >= 1
    assert session.outputs[0].shape == ("N", 4)


def test_cuda_is_refused_where_there_is_none() -> None:
    with pytest.raises(RuntimeFailure, match="CUDAExecutionProvider") as caught:
        Session(blob(DOUBLE), "cuda")
    assert caught.value.exit_code == 4
    assert "onnxruntime-gpu" in caught.value.hint


def test_a_provider_that_did_not_start_is_refused() -> None:
    require_provider("cuda", ["CUDAExecutionProvider"])
    require_active("cuda", ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(RuntimeFailure, match="did not start"):
        require_active("cuda", ["CPUExecutionProvider"])


@pytest.mark.parametrize(
    "body",
    [
        "g (float[N, 4] x) => (float[N, 4] y) { y = my.domain.Foo(x) }",
        "g (float[N, 4] x) => (float[N, 4] y) { y = Foo(x) }",
    ],
)
def test_unknown_operators_are_told_apart(body: str) -> None:
    with pytest.raises(UnsupportedModel, match="Foo"):
        Session(blob(HEAD + body))


def test_too_new_opset_is_unsupported() -> None:
    with pytest.raises(UnsupportedModel):
        Session(blob(DOUBLE.replace('"" : 21', '"" : 99')))


def test_a_faulty_model_is_a_failure_but_not_unsupported() -> None:
    text = HEAD + "g (float[N, 4] x, float[3, 3] w) => (float[N, 3] y) { y = MatMul(x, w) }"
    with pytest.raises(RuntimeFailure, match="Incompatible dimensions") as caught:
        Session(blob(text))
    assert not isinstance(caught.value, UnsupportedModel)


def test_out_of_memory_is_said_so() -> None:
    session = Session(blob(HEAD + "g (int64[N] s) => (float[A, B] y) { y = ConstantOfShape(s) }"))
    with pytest.raises(OutOfMemory, match="out of memory"):
        session.run({"s": np.array([1 << 40, 1 << 10])})


def test_failures_are_one_line_and_silent(capfd: pytest.CaptureFixture[str]) -> None:
    session = Session(blob(DOUBLE))
    with pytest.raises(RuntimeFailure, match="Got: 5 Expected: 4") as caught:
        session.run({"x": np.zeros((2, 5), np.float32)})
    with pytest.raises(RuntimeFailure):
        session.run({})
    assert "\n" not in caught.value.message
    assert "ONNXRuntimeError" not in caught.value.message
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("[ONNXRuntimeError] : 1 : FAIL : Fatal error: a:Foo(-1) is bad\n", "Fatal error: a:Foo(-1) is bad"),
        (
            "[ONNXRuntimeError] : 1 : FAIL : /src/model.cc:256 ns::Model::Model(const A<B>*) Too new: 99",
            "Too new: 99",
        ),
        (
            "Status Message: /s/arena.cc:360 void* ns::Arena::Alloc(size_t) const Failed for size 3",
            "Status Message: Failed for size 3",
        ),
        ("while running /s/a.h:1 int f(T) [with T = float] tail", "while running tail"),
        ("no source here (really)", "no source here (really)"),
    ],
)
def test_messages_lose_the_source_code(raw: str, clean: str) -> None:
    assert plain(raw) == clean


def test_long_messages_are_cut() -> None:
    assert len(plain("word " * 1000)) <= 300


def test_optimized_graph_is_written(tmp_path: Path) -> None:
    text = HEAD + "g (float[N, 4] x) => (float[N, 4] y) { a = Identity(x) y = Relu(a) }"
    Session(blob(text), level="basic", optimized_path=tmp_path / "o.onnx")
    kept = onnx.load(tmp_path / "o.onnx")
    assert [node.op_type for node in kept.graph.node] == ["Relu"]


def test_an_optimization_can_be_left_out(tmp_path: Path) -> None:
    text = HEAD + (
        "g (float[4] x) => (float[4] y) <float[1] a = {1.0}, float[1] b = {2.0}> { c = Add(a, b) y = Mul(x, c) }"
    )
    counts = []
    for disabled in ((), ("ConstantFolding",)):
        Session(blob(text), level="basic", optimized_path=tmp_path / "o.onnx", disabled=disabled)
        counts.append(len(onnx.load(tmp_path / "o.onnx").graph.node))
    assert counts == [1, 2]


def test_weights_may_be_given_apart() -> None:
    model = parser.parse_model(HEAD + "g (float[N, 3] x) => (float[N, 3] y) <float[3, 3] w> { y = MatMul(x, w) }")
    weight = onnx.TensorProto(name="w", data_type=1, dims=[3, 3], data_location=onnx.TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="nowhere")
    model.graph.initializer.append(weight)
    values = np.arange(9, dtype=np.float32).reshape(3, 3)
    x = np.eye(3, dtype=np.float32)
    session = Session(model.SerializeToString(), weights={"w": values})
    np.testing.assert_array_equal(session.run({"x": x})["y"], values)


def test_bfloat16_goes_in_and_comes_out() -> None:
    session = Session(blob(HEAD + "g (bfloat16[N, 2] x) => (bfloat16[N, 2] y) { y = Identity(x) }"))
    x = np.array([[1.5, -2.0], [3.0, 0.25]], ml_dtypes.bfloat16)
    y = session.run({"x": x})["y"]
    assert y.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(y, x)


def test_sequences_and_strings() -> None:
    text = (
        HEAD + "g (string[N] s, float[2] x) => (string[N] t, seq(float[2]) q) "
        "{ t = Identity(s) q = SequenceConstruct(x, x) }"
    )
    got = Session(blob(text)).run({"s": np.array(["a", "b"], object), "x": np.ones(2, np.float32)})
    assert list(got["t"]) == ["a", "b"]
    assert len(got["q"]) == 2


def test_bound_calls_run() -> None:
    session = cast("Any", Session(blob(DOUBLE)))
    bound_caller(session._session, {"x": np.ones((2, 4), np.float32)}, "cpu")()
    with pytest.raises(RuntimeFailure, match="does not run"):
        bound_caller(session._session, {}, "cpu")()
