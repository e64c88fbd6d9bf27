"""What differs in the files of two models, exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.comparing.compare import compare
from onnxcompress.comparing.facts import Both, Options, PortChange, StoredSide, Structure, TensorChange
from tests import comparing_models as made
from tests.small_models import normal, proto, write

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def differences(a: onnx.ModelProto, b: onnx.ModelProto, folder: Path) -> Structure:
    return compare(write(a, folder, "a.onnx"), write(b, folder, "b.onnx"), Options(threads=1)).structure


def test_values_types_and_shapes_of_tensors(tmp_path: Path) -> None:
    first = made.stored(made.chain(), "first")
    nudged = first.copy()
    nudged[0, 0] += 1
    found = differences(made.chain(), made.chain(first=nudged), tmp_path)
    side = StoredSide("float32", (8, 16), 512)
    sqnr = 10 * float(np.log10(np.square(first.astype(np.float64)).sum()))
    (change,) = found.tensors
    assert (change.name, change.change, change.a, change.b) == ("first", "values", side, side)
    assert change.sqnr_db is not None
    assert abs(change.sqnr_db - sqnr) < 1e-5
    assert found.same_tensors == 2
    assert (found.facts, found.operators, found.ports) == ((), (), ())


def test_a_tensor_of_another_type_and_what_puts_it_there(tmp_path: Path) -> None:
    text = made.CHAIN.replace("c = MatMul(b, second)", "wide = Cast <to = 1> (second)\n c = MatMul(b, wide)")
    weights = {n: made.stored(made.chain(), n) for n in ("first", "second", "third")}
    found = differences(
        made.chain(), proto(text, {**weights, "second": weights["second"].astype(np.float16)}), tmp_path
    )
    sides = StoredSide("float32", (16, 16), 1024), StoredSide("float16", (16, 16), 512)
    assert found.tensors == (TensorChange("second", "type", *sides),)
    assert found.operators == (Both("Cast", 0, 1),)
    assert Both("nodes", 5, 6) in found.facts


def test_a_tensor_stored_otherwise_is_told_by_its_name(tmp_path: Path) -> None:
    text = made.CHAIN.replace(
        "c = MatMul(b, second)", "i = Cast <to = 1> (second_q)\n w = Mul(i, second_s)\n c = MatMul(b, w)"
    )
    weights = {n: made.stored(made.chain(), n) for n in ("first", "third")}
    codes: dict[str, np.ndarray] = {"second_q": np.ones((16, 16), np.int8), "second_s": np.ones(16, np.float32)}
    found = differences(made.chain(), proto(text, {**weights, **codes}), tmp_path)
    parts = StoredSide("int8", (16, 16), 256 + 64, ("second_q", "second_s"))
    assert found.tensors == (TensorChange("second", "stored otherwise", StoredSide("float32", (16, 16), 1024), parts),)


def test_tensors_that_come_and_go(tmp_path: Path) -> None:
    text = made.CHAIN.replace("y = MatMul(d, third)", "y = MatMul(d, other)")
    weights = {n: made.stored(made.chain(), n) for n in ("first", "second", "third")}
    weights["other"] = weights.pop("third")[:, :4].copy()
    found = differences(made.chain(), proto(text, weights), tmp_path)
    assert [(t.name, t.change) for t in found.tensors] == [("third", "removed"), ("other", "added")]


def test_values_are_compared_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change in the last values only of tensors that are read in several blocks, packed ones too."""
    monkeypatch.setattr("onnxcompress.inspection.statistics._BLOCK_VALUES", 1024)
    weights: dict[str, np.ndarray] = {"w": normal(100, 40), "p": np.ones((50, 100)).astype(ml_dtypes.int4)}
    text = "agraph (float[n, 100] x) => (float[n, 40] y, float[50, 100] z) { y = MatMul(x, w)\n z = Cast <to = 1> (p) }"
    a, b = proto(text, weights, opset=21, ir=10), proto(text, weights, opset=21, ir=10)
    for tensor in b.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        array[-1, -1] = 3
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    found = differences(a, b, tmp_path)
    assert {(t.name, t.change) for t in found.tensors} == {("w", "values"), ("p", "values")}


def test_interface_opset_metadata_and_producer(tmp_path: Path) -> None:
    other = made.chain()
    other.opset_import[0].version = 18
    other.producer_name = "somebody"
    other.metadata_props.add(key="license", value="MIT")
    other.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, ["n", 16]))
    other.graph.output[0].type.tensor_type.shape.dim[1].ClearField("dim_value")
    found = differences(made.chain(), other, tmp_path)
    for fact in (
        Both("opset ai.onnx", 17, 18),
        Both("metadata license", None, "MIT"),
        Both("producer", "", "somebody"),
    ):
        assert fact in found.facts
    assert found.ports == (
        PortChange("output", "y", "float32 [n, 4]", "float32 [n, ?]"),
        PortChange("output", "c", None, "float32 [n, 16]"),
    )
    assert not found.tensors
    renamed = made.chain()
    renamed.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "rows"
    assert not differences(made.chain(), renamed, tmp_path).ports
