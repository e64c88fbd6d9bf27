"""Where a scale of each feature is absorbed: the right constants along the right axes, and refused with a reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxcompress.graph.absorb import Refusal, Site, absorbing, sites
from onnxcompress.graph.absorb_rules import Operand
from onnxcompress.graph.model import Model
from tests.rescaling_models import REFUSED, TAKEN, arrays, integers
from tests.small_models import outputs, proto


def model_of(text: str, shapes: dict[str, tuple[int, ...]], opset: int = 17) -> onnx.ModelProto:
    return proto(text, {**arrays(shapes), **integers(text)}, opset=opset)


def found(model: onnx.ModelProto, value: str) -> Site | Refusal:
    return absorbing(Model(model), value)


def last_value(model: onnx.ModelProto) -> str:
    """What the last layer with a stored weight reads of what another layer computed."""
    stored = {t.name for t in model.graph.initializer}
    layers = [n for n in model.graph.node if n.op_type in ("MatMul", "Gemm", "Conv", "ConvTranspose")]
    values: list[str] = [n.input[0] for n in layers if n.input[1] in stored and n.input[0] not in ("a", *stored)]
    return values[-1]


@pytest.mark.parametrize("name", TAKEN)
def test_constants_that_take_a_scale(name: str) -> None:
    text, shapes, divided, multiplied = TAKEN[name]
    model = model_of(text, shapes)
    site = found(model, last_value(model))
    assert isinstance(site, Site), site
    assert {o.name for o in site.producers} == divided
    assert {o.name for o in site.consumers} == multiplied
    for operand in (*site.producers, *site.consumers):
        assert operand.features == site.features
        assert operand.dims == shapes.get(operand.name, operand.dims)
    listed = [s for s in sites(Model(model)) if isinstance(s, Site)]
    assert [set(s.values) for s in listed].count(set(site.values)) == 1
    assert len(listed) == (2 if name == "factor on the way down" else 1)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason(name: str) -> None:
    text, shapes, reason = REFUSED[name]
    model = model_of(text, shapes)
    feeds = {i.name: np.zeros([d.dim_value for d in i.type.tensor_type.shape.dim],
                              helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type))
             for i in model.graph.input}  # fmt: skip
    outputs(model, feeds)  # it is a model that runs
    for layer in [n for n in model.graph.node if n.op_type in ("MatMul", "Gemm", "Conv")]:
        if layer.input[0] == "a":
            continue
        refusal = found(model, layer.input[0])
        if layer.input[1] == "w":
            assert isinstance(refusal, Refusal), refusal
            assert reason in refusal.reason
            assert refusal.reason == refusal.reason.strip()
            assert not refusal.reason.endswith(".")


@pytest.mark.parametrize("name", ["v", "c", "w"])
def test_initializers_that_a_caller_may_replace_are_left(name: str) -> None:
    text, shapes, *_ = TAKEN["matmul, bias, relu"]
    model = model_of(text, shapes)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    model.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    result = found(model, "x")
    assert isinstance(result, Refusal)
    assert "replaced" in result.reason or "Add" in result.reason or "no layer" in result.reason


def test_half_precision_is_left() -> None:
    text, shapes, *_ = TAKEN["matmul"]
    halves = {name: array.astype(np.float16) for name, array in arrays(shapes).items()}
    model = proto(text.replace("float[", "float16["), halves)
    result = found(model, "x")
    assert isinstance(result, Refusal)
    assert "float32" in result.reason


def test_a_weight_that_is_a_graph_output_is_left() -> None:
    model = proto("g (float[5, 10] a) => (float[] y, float[8, 12] w) { x = MatMul(a, v) y = MatMul(x, w) }",
                  arrays({"v": (10, 8), "w": (8, 12)}))  # fmt: skip
    result = found(model, "x")
    assert isinstance(result, Refusal)
    assert "read elsewhere" in result.reason


def test_axes_of_operands() -> None:
    text, shapes, *_ = TAKEN["gemm transposed"]
    site = found(model_of(text, shapes), "x")
    assert isinstance(site, Site)
    assert set(site.producers) == {
        Operand("v", "x", 1, (8, 10), 0, 8),
        Operand("c", "x", 2, (4, 8), 1, 8),
    }
    assert site.consumers == (Operand("w", "y", 1, (12, 8), 1, 8),)
    assert site.values == (("x", -1),)
    text, shapes, *_ = TAKEN["grouped"]
    site = found(model_of(text, shapes), "x")
    assert isinstance(site, Site)
    assert site.consumers == (Operand("w", "y", 1, (6, 4, 3, 3), 1, 8, groups=2),)
    assert site.values == (("x", -3),)


def test_a_weight_between_two_sites_belongs_to_both() -> None:
    text = "g (float[5, 10] a) => (float[] y) { p = MatMul(a, u) x = MatMul(p, v) y = MatMul(x, w) }"
    model = proto(text, arrays({"u": (10, 6), "v": (6, 8), "w": (8, 12)}))
    first, second = (s for s in sites(Model(model)) if isinstance(s, Site))
    assert ([o.axis for o in first.consumers], [o.axis for o in second.producers]) == ([0], [1])
    assert first.consumers[0].name == second.producers[0].name == "v"


@pytest.mark.parametrize("opset", [9, 12])
def test_older_operators(opset: int) -> None:
    text = ("g (float[2, 3, 9, 9] a) => (float[] y) { m = Conv(a, v) "
            "x = Pad<pads = [0, 0, 1, 1, 0, 0, 1, 1]>(m) y = Conv(x, w) }")  # fmt: skip
    if opset > 10:
        text = text.replace("Pad<pads = [0, 0, 1, 1, 0, 0, 1, 1]>(m)", "Pad(m, pads)")
    model = proto(text, {**arrays({"v": (8, 3, 3, 3), "w": (12, 8, 3, 3)}), **integers(text)}, opset=opset)
    assert isinstance(found(model, "x"), Site)


def test_values_that_no_layer_reads() -> None:
    text, shapes, *_ = TAKEN["matmul"]
    model = model_of(text, shapes)
    for value in ("y", "w", "nothing"):
        assert isinstance(found(model, value), Refusal)
