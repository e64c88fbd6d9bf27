"""Files that no exporter writes are refused when they are read, in one sentence and before anything is allocated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.errors import ModelError
from onnxcompress.graph.model import Model
from tests.small_models import check_words, opened

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MATMUL = helper.make_node("MatMul", ["x", "w"], ["y"])
SQUARE = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")


def model(nodes: Sequence[onnx.NodeProto] = (MATMUL,), stored: Sequence[TensorProto] = (SQUARE,)) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "g", [x], [y], list(stored))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def tensor(dims: list[int], raw: int | None = None, data_type: int = TensorProto.FLOAT) -> TensorProto:
    made = TensorProto(name="w", data_type=data_type, dims=dims)
    if raw is not None:
        made.raw_data = bytes(raw)
    return made


def body(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "body", [], [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)])


BRANCH = helper.make_node("If", ["c"], ["p"], then_branch=body(helper.make_node("Neg", ["q"], ["b"])))


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([helper.make_node("Constant", [], [], value=SQUARE), MATMUL], "no output"),
        ([helper.make_node("Relu", ["x"], [""]), MATMUL], "no output"),
        ([MATMUL, helper.make_node("Relu", ["x"], ["y"])], "'y' twice"),
        ([helper.make_node("Relu", ["y"], ["w"]), MATMUL], "'w' twice"),
        ([helper.make_node("MatMul", ["none", "w"], ["y"])], "'none', which is not defined"),
        ([helper.make_node("Neg", ["x"], ["z"])], "output 'y' is not defined"),
        ([helper.make_node("Add", ["x", "y"], ["y"])], "its own result"),
        ([helper.make_node("Add", ["y", "x"], ["a"]), helper.make_node("Neg", ["a"], ["y"])], "its own result"),
        ([helper.make_node("Cast", ["x"], ["c"], to=9), BRANCH, helper.make_node("Neg", ["p"], ["q"]),
          helper.make_node("Neg", ["q"], ["y"])], "its own result"),
    ],
)  # fmt: skip
def test_graphs_that_cannot_be_are_refused(nodes: list[onnx.NodeProto], words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        opened(model(nodes), tmp_path)
    check_words(caught.value)


def test_two_initializers_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="two initializers called 'w'"):
        opened(model(stored=[SQUARE, SQUARE]), tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        tensor([10**6, 2 * 10**5]),
        tensor([10**6, 2 * 10**5], 64),
        tensor([2**62, 4, 4], 64),
        tensor([2**32, 2**32]),
        tensor([4, 4], 60),
        tensor([4, 4], 68),
        tensor([4, 4], 5000),
        tensor([4, 4], 0),
        tensor([3], 3, TensorProto.INT64),
        tensor([2], 2, TensorProto.STRING),
        TensorProto(name="w", data_type=TensorProto.INT64, dims=[3], int64_data=[1, 2]),
    ],
)
def test_values_that_do_not_fit_their_shape_are_refused(wrong: TensorProto, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"fit its shape|declares the shape") as caught:
        opened(model(stored=[wrong]), tmp_path)
    check_words(caught.value)


def test_absurd_dimensions_of_an_empty_tensor_take_no_memory(tmp_path: Path) -> None:
    made = opened(model(stored=[SQUARE, TensorProto(name="e", data_type=1, dims=[2**40, 0])]), tmp_path)
    assert made.nbytes(made.proto.graph.initializer[1]) == 0


def test_nodes_out_of_order_and_shadowed_names_are_let_through(tmp_path: Path) -> None:
    shadow = body(helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Neg", ["a"], ["b"]))
    choose = helper.make_node("If", ["c"], ["a"], then_branch=shadow, else_branch=shadow)
    nodes = [helper.make_node("MatMul", ["a", "w"], ["y"]), choose, helper.make_node("Cast", ["x"], ["c"], to=9)]
    assert isinstance(opened(model(nodes), tmp_path), Model)
