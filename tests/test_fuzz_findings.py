"""Damaged models that were met with a traceback or without an end once; the smallest of each kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxcompress.data.synthetic import synthetic
from onnxcompress.errors import DataError, ModelError
from onnxcompress.graph.layers import weights
from onnxcompress.graph.opset import raised
from onnxcompress.graph.scopes import Scopes
from onnxcompress.inspection.look import inspect
from tests.small_models import check_words, normal, opened, proto, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PRODUCT = "g (float[2, 4] x) => (float[2, 4] y) { y = MatMul(x, w) }"


def product() -> onnx.ModelProto:
    return proto(PRODUCT, {"w": normal(4, 4)})


def refused(model: onnx.ModelProto, folder: Path, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        opened(model, folder)
    check_words(caught.value)


# ------------------------------------------------------------------------- refused when read


def typeless(tensor: TensorProto) -> None:
    tensor.data_type = TensorProto.UNDEFINED


def typeless_elsewhere(tensor: TensorProto) -> None:
    typeless(tensor)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="model.onnx")


def far_too_long(tensor: TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="a" * 3000)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (typeless, "does not say of what type it is"),
        (typeless_elsewhere, "does not say of what type it is"),
        (far_too_long, "is missing"),
    ],
)
def test_tensors(damage: Callable[[TensorProto], None], words: str, tmp_path: Path) -> None:
    model = product()
    damage(model.graph.initializer[0])
    refused(model, tmp_path, words)


@pytest.mark.parametrize("op", ["MatMul", "Gemm", "Conv", "Add", "Gather"])
def test_layers_without_their_second_input(op: str, tmp_path: Path) -> None:
    model = product()
    model.graph.node[0].op_type = op
    del model.graph.node[0].input[1:]
    refused(model, tmp_path, rf"\({op}\) has 1 inputs and needs 2")


def test_inputs_are_counted_in_branches_and_functions(tmp_path: Path) -> None:
    branch = """g (bool c, float[2, 4] x) => (float[2, 4] y) {
        y = If(c) <then_branch = t () => (float[2, 4] p) { p = MatMul(x) }, else_branch = e () => (float[2, 4] q) {
            q = Relu(x) }>
    }"""
    refused(proto(branch), tmp_path, "has 1 inputs and needs 2")
    call = """g (float[2, 4] x) => (float[2, 4] y) { y = local.f(x) }
    <domain: "local", opset_import: ["": 17]> f (a) => (b) { b = MatMul(a) }"""
    refused(proto(call), tmp_path, "has 1 inputs and needs 2")


def test_functions_may_take_less_than_the_operator_whose_name_they_have(tmp_path: Path) -> None:
    call = """g (float[2, 4] x) => (float[2, 4] y) { y = local.MatMul(x) }
    <domain: "local", opset_import: ["": 17]> MatMul (a) => (b) { b = Relu(a) }"""
    opened(proto(call), tmp_path)


def test_attributes_of_another_type(tmp_path: Path) -> None:
    model = proto("g (float[2, 4] x) => (y) { y = Transpose <perm = 1> (x) }")
    refused(model, tmp_path, "'perm' in a wrong type")


@pytest.mark.parametrize("version", [-3, 0, 1 << 31, (1 << 63) - 1])
def test_opsets_that_cannot_be(version: int, tmp_path: Path) -> None:
    model = product()
    model.opset_import[0].version = version
    refused(model, tmp_path, f"declares the opset {version}")


def test_two_functions_of_one_name(tmp_path: Path) -> None:
    call = """g (float[2, 4] x) => (float[2, 4] y) { y = local.f(x) }
    <domain: "local", opset_import: ["": 17]> f (a) => (b) { b = Relu(a) }"""
    model = proto(call)
    model.functions.append(model.functions[0])
    refused(model, tmp_path, "the model has two functions called 'local/f'")


# ------------------------------------------------------------------------- found later


@pytest.mark.parametrize("shape", ["1, 65536, 224, 224", "4611686018427387904, 4", ", ".join(["1"] * 80)])
def test_absurd_inputs_are_not_made_up(shape: str, tmp_path: Path) -> None:
    path = write(proto(f"g (float[{shape}] x) => (y) {{ y = MaxPool <kernel_shape = [1, 1]> (x) }}"), tmp_path)
    with pytest.raises(DataError, match="no values are made up") as caught:
        synthetic(opened(onnx.load(path), tmp_path)).first()
    check_words(caught.value)
    assert inspect(path).nodes == 1


def test_shapes_that_contradict_stop_a_newer_opset(tmp_path: Path) -> None:
    model = product()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4]))
    with pytest.raises(ModelError, match="cannot be raised to opset 21") as caught:
        raised(opened(model, tmp_path), 21)
    check_words(caught.value)


def test_orders_of_axes_that_are_none_are_not_followed(tmp_path: Path) -> None:
    text = "g (float[2, 4] x) => (y) { v = Transpose <perm = [1, 0, 2]> (w) y = MatMul(x, v) }"
    model = opened(proto(text, {"w": normal(4, 4)}), tmp_path)
    (weight,) = weights(model, Scopes(model.proto))
    assert [leaf.axes for leaf in weight.leaves] == [None]


@pytest.mark.parametrize("shape", [(16, 4), (64,), ()])
def test_recurrent_weights_of_another_rank_say_nothing_of_the_input(shape: tuple[int, ...], tmp_path: Path) -> None:
    text = "g (float[T, 1, C] x) => (y) { y = LSTM <hidden_size = 4> (x, w, r) }"
    model = opened(proto(text, {"w": normal(*shape), "r": normal(1, 16, 4)}), tmp_path)
    assert np.ndim(synthetic(model).first()["x"]) == 3
