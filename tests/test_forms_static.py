"""Operators on static integers: what is written, what ONNX Runtime makes of it, and that both compute the same."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.data.dataset import Dataset
from onnxcompress.forms.chain_costs import ChainCosts
from onnxcompress.forms.chains import units
from onnxcompress.graph import edit, writer
from onnxcompress.passes.base import Context
from onnxcompress.passes.survey import Chaining, survey
from onnxcompress.runtime.session import Session
from onnxcompress.stats.probe import Probe
from tests.runtime_versions import since
from tests.small_models import Arrays, normal, opened, operators, optimized, outputs, proto, sqnr

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_PLAIN = (
    "Add", "Mul", "Sigmoid", "LeakyRelu", "AveragePool", "GlobalAveragePool", "MaxPool", "Reshape", "Transpose",
    "Squeeze", "Unsqueeze", "Flatten", "Resize", "Concat", "Pad", "Relu",
)  # fmt: skip
_KINDS = ("convolution", "depthwise", "grouped", "product")
EAGER = ChainCosts(  # integers cost next to nothing, so that everything is put on them
    {kind: [[64, 64, 64, 1000.0, 1.0]] for kind in _KINDS},
    {**dict.fromkeys(_PLAIN, (1000.0, 1.0)), "quantize": (0.0, 0.0), "dequantize": (0.0, 0.0)},
    0.0,
)
FLOATS = {"Conv", "FusedConv", "MatMul", "Add", "Mul", "Sigmoid", "LeakyRelu", "Relu", "Clip", "AveragePool", "Concat",
          "GlobalAveragePool", "MaxPool", "FusedMatMul", "QuickGelu"}  # fmt: skip
IMAGE = (2, 8, 9, 9)
CONV = "Conv<pads = [1, 1, 1, 1]>"
STRIDED = "Conv<strides = [3, 3]>"
PRODUCT = {"QLinearConv": 1, "QLinearMatMul": 1}
BOTH_PRODUCTS = {"QGemm": 1, "QLinearMatMul": 1}
WEIGHTS = {
    "w": normal(8, 8, 3, 3, seed=1, scale=0.2), "b": normal(8, seed=2),
    "v": normal(8, 8, 3, 3, seed=3, scale=0.2), "c": normal(8, seed=4),
    "deep": normal(8, 1, 3, 3, seed=5, scale=0.5), "pairs": normal(8, 2, 3, 3, seed=6, scale=0.3),
    "wide": normal(8, 16, 3, 3, seed=7, scale=0.1), "line": normal(8, 8, 3, seed=8, scale=0.3),
    "m": normal(64, 48, seed=9, scale=0.1), "n": normal(48, 40, seed=10, scale=0.1),
    "flat": normal(72, 16, seed=11, scale=0.1), "turned": normal(40, 48, seed=12, scale=0.1),
    "e": normal(48, seed=13), "f": normal(40, seed=14),
    "zero": np.array(0, np.float32), "one": np.array(1, np.float32), "six": np.array(6, np.float32),
    "less": np.array(-1, np.float32), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "rows": np.array([24, -1]),
    "twice": np.array([1, 1, 2, 2], np.float32), "axis": np.array([0]),
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A model and what has become of it. ``units``: operators on integers, with what cuts them off."""

    original: onnx.ModelProto
    model: onnx.ModelProto
    units: list[str]
    folder: Path

    @property
    def data(self) -> bytes:
        return bytes(self.model.SerializeToString())

    @property
    def stored(self) -> dict[str, np.ndarray]:
        return {t.name: numpy_helper.to_array(t) for t in self.model.graph.initializer}

    @property
    def loaded(self) -> Counter[str]:
        """Operators once ONNX Runtime has loaded the model."""
        return optimized(self.data, self.folder)

    def fresh(self) -> Arrays:
        """Inputs like those of the calibration, but others."""
        return inputs(self.original, seed=99)

    def worst(self) -> float:
        """SQNR in dB of the worst output."""
        feeds = self.fresh()
        found = outputs(self.model, feeds)
        return min(sqnr(y, found[name]) for name, y in outputs(self.original, feeds).items())


def inputs(model: onnx.ModelProto, seed: int) -> Arrays:
    stored = {t.name for t in model.graph.initializer}
    free = [i for i in model.graph.input if i.name not in stored]
    shapes = {i.name: [d.dim_value or 3 for d in i.type.tensor_type.shape.dim] for i in free}
    return {name: normal(*shape, seed=seed + i) for i, (name, shape) in enumerate(shapes.items())}


def source(body: str, shape: tuple[int | str, ...] = IMAGE, outs: str = "y:4", **more: np.ndarray) -> onnx.ModelProto:
    """A model of x; ``outs``: results with their ranks."""
    stored = {**WEIGHTS, **more}
    used = {n: a for n, a in stored.items() if any(f"{start}{n}{end}" in body for start in "( " for end in ",)")}
    ranks = dict(o.split(":") for o in outs.split())
    results = ", ".join(f"float[{','.join(f'{n}{i}' for i in range(int(r)))}] {n}" for n, r in ranks.items())
    return proto(f"g (float[{','.join(map(str, shape))}] x) => ({results}) {{ {body} }}", used)


def static(
    model: onnx.ModelProto,
    folder: Path,
    *,
    exclude: tuple[str, ...] = (),
    calls: Sequence[Arrays] | None = None,
    costs: ChainCosts = EAGER,
) -> Made:
    """Everything that can be is put on integers, whatever it does to the outputs."""
    feeds = calls or [inputs(model, seed=10 * i) for i in range(4)]
    data = Dataset("given", len(feeds), lambda i: dict(feeds[i]))
    twin = opened(model, folder)
    context = Context(chains=costs, noise_limit=math.inf, probe=Probe(data, threads=1))
    found = survey(twin, context, (), exclude, Chaining(allowed=True, reduce_range=False))
    edit.apply(twin, [planned.edit for planned in found.edits()])
    words = [u.op + (f"+{u.cut.op_type}" if u.cut is not None else "") for u in found.static.units]
    return Made(model, onnx.load_from_string(writer.to_bytes(twin)), words, folder)


CHAINS = {
    "Relu": f"h = {CONV}(x, w, b) r = Relu(h) y = {CONV}(r, v, c)",
    "Clip to six": f"h = {CONV}(x, w, b) r = Clip(h, zero, six) y = {CONV}(r, v, c)",
    "Clip on both sides": f"h = {CONV}(x, w, b) r = Clip(h, less, one) y = {CONV}(r, v, c)",
    "Clip on one side": f"h = {CONV}(x, w, b) r = Clip(h, , one) y = {CONV}(r, v, c)",
    "no activation": f"h = {CONV}(x, w) y = {CONV}(h, v)",
    "a residual": f"h = {CONV}(x, w, b) r = Relu(h) k = {CONV}(r, v, c) a = Add(k, r) y = Relu(a)",
    "a residual of the input": f"h = {CONV}(x, w, b) y = Add(h, x)",
    "a value added to itself": f"h = {CONV}(x, w, b) a = Add(h, h) y = {CONV}(a, v, c)",
    "Concat": f"h = {CONV}(x, w, b) r = Relu(h) j = Concat<axis = 1>(r, x) y = {CONV}(j, wide, c)",
    "MaxPool": f"h = {CONV}(x, w, b) r = Relu(h) m0 = MaxPool<kernel_shape = [2, 2]>(r) y = {CONV}(m0, v, c)",
    "AveragePool": f"h = {CONV}(x, w, b) m0 = AveragePool<kernel_shape = [2, 2]>(h) y = {CONV}(m0, v, c)",
    "GlobalAveragePool": f"h = {CONV}(x, w, b) r = Relu(h) y = GlobalAveragePool(r)",
    "Transpose": f"h = {CONV}(x, w, b) t = Transpose<perm = [0, 1, 3, 2]>(h) y = {CONV}(t, v, c)",
    "Resize": f'h = {CONV}(x, w, b) u = Resize<mode = "nearest">(h, , twice) y = {CONV}(u, v, c)',
    "Sigmoid and Mul": f"h = {CONV}(x, w, b) s = Sigmoid(h) k = Mul(h, s) y = {CONV}(k, v, c)",
    "LeakyRelu": f"h = {CONV}(x, w, b) r = LeakyRelu<alpha = 0.1>(h) y = {CONV}(r, v, c)",
    "depthwise": f"h = {CONV}(x, w, b) r = Relu(h) d = Conv<group = 8>(r, deep, c) q = Relu(d) y = {CONV}(q, v)",
    "grouped": f"h = {CONV}(x, w, b) r = Relu(h) y = Conv<group = 4>(r, pairs, c)",
    "strides and dilations": f"h = {CONV}(x, w, b) y = Conv<strides = [2, 1], dilations = [1, 2]>(h, v, c)",
    "Pad": f"h = {CONV}(x, w, b) p = Pad(h, pads) y = Conv(p, v, c)",
    "Pad behind Relu": f"h = {CONV}(x, w, b) r = Relu(h) p = Pad(r, pads, zero) y = Conv(p, v, c)",
    "Pad behind Pad": f"h = {CONV}(x, w, b) q = Pad(h, pads) p = Pad(q, pads) y = Conv(p, v, c)",
    "Pad of the input": f"p = Pad(x, pads) h = Conv(p, w, b) y = {CONV}(h, v, c)",
    "Pad beside another reader": f"h = {CONV}(x, w, b) p = Pad(h, pads) k = Conv(p, v, c) y = Add(k, h)",
    "one weight of two": f"h = {CONV}(x, w, b) r = Relu(h) y = {CONV}(r, w, c)",
    "one weight and one bias of two": f"h = {CONV}(x, w, b) r = Relu(h) y = {CONV}(r, w, b)",
    "one bias of two": f"h = {CONV}(x, w, b) r = Relu(h) y = {CONV}(r, v, b)",
}


@pytest.mark.parametrize("body", CHAINS.values(), ids=CHAINS)
def test_a_chain_runs_on_integers_from_end_to_end(tmp_path: Path, body: str) -> None:
    made = static(source(body), tmp_path)
    agree(made)
    assert made.worst() > 30
    found = made.loaded
    assert not set(found) & FLOATS
    layers = body.count("Conv")
    assert found["QLinearConv"] == layers
    assert found["QuantizeLinear"] == 1
    assert found["DequantizeLinear"] <= 1 + ("Pad" in body)  # padded codes may be decoded for nobody


def agree(made: Made) -> None:
    """With all optimizations the runtime computes what it does without any, but for a step of the result."""
    feeds = made.fresh()
    written = Session(made.data, threads=1, level="none").run(feeds)
    steps = made.stored
    for name, y in outputs(made.model, feeds).items():
        step = float(steps.get(f"{name}.s", np.array(np.abs(y).max() / 127)))
        assert np.abs(y - written[name]).max() <= 1.01 * step, name


@pytest.mark.parametrize(
    ("body", "shape", "outs", "layers"),
    [
        ("h = MatMul(x, m) r = Relu(h) y = MatMul(r, n)", ("rows", 64), "y:2", {"QLinearMatMul": 2}),
        ("h = MatMul(x, m) s = Sigmoid(h) k = Mul(h, s) y = MatMul(k, n)", (3, "t", 64), "y:3", {"QLinearMatMul": 2}),
        ("h = Conv<pads = [1, 1]>(x, line, b) r = Relu(h) y = Conv(r, line, c)", (2, 8, 30), "y:3", {"QLinearConv": 2}),
        (f"h = {STRIDED}(x, w, b) r = Reshape(h, rows) y = MatMul(r, flat)", (24, 8, 9, 9), "y:2", PRODUCT),
        (f"h = {STRIDED}(x, w, b) r = Flatten(h) y = MatMul(r, flat)", (24, 8, 9, 9), "y:2", PRODUCT),
        ("h = Gemm(x, m, e) r = Relu(h) y = Gemm<transB = 1>(r, turned, f)", ("rows", 64), "y:2", {"QGemm": 2}),
        ("h = Gemm(x, m) r = Clip(h, zero, six) y = MatMul(r, n)", ("rows", 64), "y:2", BOTH_PRODUCTS),
        ("u = Unsqueeze(x, axis) h = Conv(u, w, b) y = Squeeze(h, axis)", (8, 9, 9), "y:3", {"QLinearConv": 1}),
    ],
    ids=["products", "products of rank 3", "one axis", "Reshape", "Flatten", "Gemm", "Gemm and MatMul",
         "Squeeze and Unsqueeze"],
)  # fmt: skip
def test_other_ranks_run_on_integers_too(
    tmp_path: Path, body: str, shape: tuple[int | str, ...], outs: str, layers: dict[str, int]
) -> None:
    made = static(source(body, shape, outs), tmp_path)
    agree(made)
    assert made.worst() > 30
    found = made.loaded
    assert not set(found) & FLOATS
    assert {op: found[op] for op in layers} == layers
    assert (found["QuantizeLinear"], found["DequantizeLinear"]) == (1, 1)


@pytest.mark.parametrize(
    "body",
    ["y = Gemm<alpha = 0.5>(x, m, e)", "y = Gemm<beta = 2.0>(x, m, e)", "t = Transpose(x) y = Gemm<transA = 1>(t, m)"],
)
def test_a_gemm_with_factors_stays_in_float(tmp_path: Path, body: str) -> None:
    made = static(source(body, ("rows", 64), "y:2"), tmp_path)
    assert "Gemm" not in made.units
    feeds = made.fresh()
    np.testing.assert_array_equal(outputs(made.model, feeds)["y"], outputs(made.original, feeds)["y"])


def test_a_float_pooling_before_codes_stays_in_float(tmp_path: Path) -> None:
    """The runtime would quantize before it, which is slower."""
    body = f"h = {CONV}(x, w, b) r = Relu(h) p = MaxPool<kernel_shape = [2, 2]>(r) y = {CONV}(p, v, c)"
    costs = ChainCosts(EAGER.layers, {**EAGER.elementwise, "MaxPool": (0.0, 1e9)}, 0.0)
    made = static(source(body), tmp_path, exclude=("w",), costs=costs)
    assert made.units == ["Conv"]
    agree(made)
    order = list(made.loaded)
    assert order.index("MaxPool") < order.index("QuantizeLinear") < order.index("QLinearConv")


@pytest.mark.parametrize(
    ("body", "outs", "ends"),
    [
        (f"h = {CONV}(x, w, b) r = Relu(h) y = {CONV}(r, v, c) z = {CONV}(r, w, c)", "y:4 z:4", 2),
        (f"h = {CONV}(x, w, b) r = Relu(h) y = {CONV}(r, v, c)", "y:4 r:4", 2),
        (f"h = {CONV}(x, w, b) r = Relu(h) p = Pad(r, pads) y = Conv(p, v, c)", "y:4 p:4", 2),
        (f"h = {CONV}(x, w, b) r = Relu(h) p = Pad(r, pads) y = Conv(p, v, c)", "y:4 r:4", 2),
        (f"h = {CONV}(x, w, b) q = MaxPool<kernel_shape = [2, 2]>(h) y = {CONV}(q, v, c)", "y:4 q:4 h:4", 3),
    ],
    ids=["two ends", "and its middle", "and the padded middle", "and what is padded", "and every value"],
)
def test_values_that_leave_the_model_are_decoded_and_run_on(tmp_path: Path, body: str, outs: str, ends: int) -> None:
    made = static(source(body, outs=outs), tmp_path)
    agree(made)
    assert made.worst() > 30
    found = made.loaded
    assert not set(found) & FLOATS
    assert found["QuantizeLinear"] == 1
    assert found["DequantizeLinear"] <= ends + 1


def test_what_is_cut_off_behind_an_output_is_written_apart(tmp_path: Path) -> None:
    """A Relu whose input leaves the model is no part of the operator before it."""
    made = static(source(f"h = {CONV}(x, w, b) r = Relu(h) y = {CONV}(r, v, c)", outs="y:4 h:4"), tmp_path)
    assert made.units == ["Conv", "Conv"]
    agree(made)
    assert made.worst() > 30
    assert float(outputs(made.model, made.fresh())["h"].min()) < -1


def test_the_same_input_of_two_is_quantized_once(tmp_path: Path) -> None:
    made = static(source(f"h = {CONV}(x, w, b) k = {CONV}(x, v, c) y = Add(h, k)"), tmp_path)
    assert sum(n.op_type == "QuantizeLinear" and n.input[0] == "x" for n in made.model.graph.node) == 1
    assert made.loaded["QuantizeLinear"] == 1


def test_nothing_of_the_float_weights_is_left(tmp_path: Path) -> None:
    made = static(source(CHAINS["Relu"]), tmp_path)
    kinds = {name: a.dtype.name for name, a in made.stored.items()}
    assert kinds["w.q"] == "int8"
    assert not {"w", "v", "b", "c"} & set(kinds)
    assert sum(a.dtype == np.int32 for a in made.stored.values()) == 2
    assert {a.shape for n, a in made.stored.items() if n in ("w.s", "v.s")} == {(8,)}


def test_a_bias_that_something_else_reads_stays(tmp_path: Path) -> None:
    made = static(source(f"h = {CONV}(x, w, b) t = Tanh(b) y = {CONV}(h, v, t)"), tmp_path)
    np.testing.assert_array_equal(made.stored["b"], WEIGHTS["b"])
    assert made.worst() > 30


def test_sizes_and_calls_may_differ_from_those_of_the_calibration(tmp_path: Path) -> None:
    model = source(CHAINS["a residual"], ("n", 8, "h", "w0"))
    made = static(model, tmp_path, calls=[{"x": normal(1 + i, 8, 5 + 3 * i, 9 - i, seed=i)} for i in range(4)])
    feeds = {"x": normal(5, 8, 4, 21, seed=50)}
    assert sqnr(outputs(model, feeds)["y"], outputs(made.model, feeds)["y"]) > 30


# ------------------------------------------------------------------------- weights and biases out of proportion


@pytest.mark.parametrize("factor", [0.0, 1e-6, 1e-12, 1e-30])
@pytest.mark.parametrize("size", [50.0])
def test_a_channel_of_next_to_nothing_keeps_its_bias(tmp_path: Path, factor: float, size: float) -> None:
    w, b = WEIGHTS["w"].copy(), WEIGHTS["b"].copy()
    w[3] *= factor
    b[3] = size
    made = static(source(f"h = {CONV}(x, w, b) y = {CONV}(h, v, c)", w=w, b=b), tmp_path)
    agree(made)
    assert made.worst() > 30


def test_a_channel_of_zeros_stays_zero(tmp_path: Path) -> None:
    w, b = WEIGHTS["w"].copy(), WEIGHTS["b"].copy()
    w[[0, 5]], b[[0, 5]] = 0, 0
    made = static(source(f"h = {CONV}(x, w, b) y = Relu(h)", w=w, b=b), tmp_path)
    found = outputs(made.model, made.fresh())["y"]
    assert not found[:, [0, 5]].any()
    assert made.worst() > 30


def test_a_weight_of_nothing_but_zeros_leaves_the_bias(tmp_path: Path) -> None:
    made = static(source(f"h = {CONV}(x, w, b) y = {CONV}(h, v, c)", w=WEIGHTS["w"] * 0), tmp_path)
    agree(made)
    assert made.worst() > 30


def test_a_bias_fits_even_where_the_range_of_the_input_was_drawn_in_a_thousandfold(tmp_path: Path) -> None:
    """An outlier in a channel that nothing reads is clipped away, so the scale of a bias is far below what was seen."""
    w, b = WEIGHTS["w"].copy(), WEIGHTS["b"].copy()
    w[:, 5], w[0], b[0] = 0, w[0] * 1e-12, 50
    calls = [{"x": normal(2, 8, 40, 40, seed=i)} for i in range(4)]
    calls[0]["x"][0, 5, 4, 4] = 3e5
    made = static(source(CHAINS["Relu"], ("n", 8, "h", "w0"), w=w, b=b), tmp_path, calls=calls)
    assert float(made.stored["x.s"]) < 1
    biases = [a for a in made.stored.values() if a.dtype == np.int32]
    assert max(int(np.abs(a.astype(np.int64)).max()) for a in biases) <= 2**30 + 64
    feeds = {"x": normal(2, 8, 40, 40, seed=9)}
    assert sqnr(outputs(made.original, feeds)["y"], outputs(made.model, feeds)["y"]) > 30


@pytest.mark.parametrize("limit", [1.0, 2.7, 5.1, 6.0, 6.7, 20.0])
def test_a_limit_that_is_reached_is_cut_off_by_the_codes_alone(tmp_path: Path, limit: float) -> None:
    body, w = CHAINS["Clip to six"], WEIGHTS["w"] * 20
    made = static(source(body, w=w, six=np.array(limit, np.float32)), tmp_path)
    agree(made)
    found = made.loaded
    assert not set(found) & FLOATS
    assert float(made.stored["r.s"]) * 255 <= limit * 1.001


# ------------------------------------------------------------------------- float layers between integer ones

MIXED = f"h = {CONV}(x, w, b) r = Relu(h) d = Conv<group = 8>(r, deep, c) q = Relu(d) y = {CONV}(q, v, b)"


def mixed(folder: Path) -> Made:
    """A depthwise convolution in float between two on integers, one of its channels much larger than the others."""
    deep = WEIGHTS["deep"].copy()
    deep[3] *= 60
    v = WEIGHTS["v"].copy()
    v[:, 3] /= 60
    return static(source(MIXED, deep=deep, v=v), folder, exclude=("deep",))


def test_a_float_layer_between_integer_ones_keeps_its_weights(tmp_path: Path) -> None:
    made = mixed(tmp_path)
    assert made.units == ["Conv+Relu", "Conv"]
    agree(made)
    assert made.worst() > 25
    assert made.loaded["QLinearConv"] == 2
    assert made.loaded["Sum"] == 1  # the runtime does not take it out again


@since((1, 23), "leaves such float layers alone")
def test_without_the_sum_in_between_the_runtime_rounds_float_weights(tmp_path: Path) -> None:
    """Once this fails the runtime leaves float layers alone, and what guards them can go."""
    made = mixed(tmp_path)
    (guard,) = [n for n in made.model.graph.node if n.op_type == "Sum"]
    bare = onnx.ModelProto()
    bare.CopyFrom(made.model)
    for node in bare.graph.node:
        for i, name in enumerate(node.input):
            if name == guard.output[0]:
                node.input[i] = guard.input[0]
    bare.graph.node.remove(next(n for n in bare.graph.node if n.op_type == "Sum"))
    feeds = made.fresh()
    expected = outputs(made.original, feeds)["y"]
    guarded, taken = outputs(made.model, feeds)["y"], outputs(bare, feeds)["y"]
    assert optimized(bare.SerializeToString(), tmp_path)["QLinearConv"] == 3
    assert sqnr(expected, taken) < sqnr(expected, guarded) - 6


@pytest.mark.parametrize(
    "body",
    [
        f"h = {CONV}(x, w, b) t = Tanh(h) y = {CONV}(t, v, c)",
        f"h = {CONV}(x, w, b) s = Softmax<axis = 1>(h) y = {CONV}(s, v, c)",
        f"h = {CONV}(x, w, b) p, q = Split<axis = 1>(h) j = Concat<axis = 1>(q, p) y = {CONV}(j, v, c)",
        f"h = {CONV}(x, w, b) k = Div(h, six) y = {CONV}(k, v, c)",
        f"h = {CONV}(x, w, b) g = Less(x, zero) k = Where(g, h, x) y = {CONV}(k, v, c)",
        f"h = {CONV}(x, w, b) k = Add(h, one) r = Relu(k) y = {CONV}(r, v, c)",
        f'h = {CONV}(x, w, b) u = Resize<mode = "linear">(h, , twice) y = {CONV}(u, v, c)',
        f"h = {CONV}(x, w, b) p = Pad(h, pads, one) y = Conv(p, v, c)",
    ],
    ids=["Tanh", "Softmax", "Split", "Div", "Where", "a constant is added", "linear Resize", "Pad by one"],
)
def test_other_float_operators_in_between_compute_the_same(tmp_path: Path, body: str) -> None:
    made = static(source(body), tmp_path)
    assert made.units.count("Conv") == 2
    agree(made)
    assert made.worst() > 28


# ------------------------------------------------------------------------- what is no unit


def names(model: onnx.ModelProto, folder: Path) -> list[str]:
    return [u.op + (f"+{u.cut.op_type}" if u.cut is not None else "") for u in units(opened(model, folder))]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (f"h = {CONV}(x, w, b) y = Relu(h)", ["Conv+Relu"]),
        (f"h = {CONV}(x, w, b) y = Clip(h, zero, six)", ["Conv+Clip"]),
        (f"h = {CONV}(x, w, b) y = Clip(h, one, six)", ["Conv"]),  # a grid holds zero and so cannot end at one
        (f"h = {CONV}(x, w, b) o = ReduceMax(x) y = Clip(h, zero, o)", ["Conv"]),
        (f"h = {CONV}(x, w, b) y = Tanh(h)", ["Conv"]),
        (f"h = {CONV}(x, w, b) r = Relu(h) y = Add(r, h)", ["Conv", "Add"]),
        (f"h = {CONV}(w, x) y = Relu(h)", []),  # what varies is the weight
        (f"t = Neg(b) y = {CONV}(x, w, t)", []),
        ("y = Add(x, one)", []),
        ("y = Mul(one, x)", []),
        ("y = Pad(x, pads, one)", []),
        ('y = Pad<mode = "reflect">(x, pads)', []),
        ('y = Resize<mode = "linear">(x, , twice)', []),
        ('y = Resize<mode = "cubic">(x, , twice)', []),
        ("y, i = MaxPool<kernel_shape = [2, 2]>(x) z = Identity(i)", []),
    ],
)  # fmt: skip
def test_units_and_what_is_none(tmp_path: Path, body: str, found: list[str]) -> None:
    assert names(source(body), tmp_path) == found


@pytest.mark.parametrize("name", ["w", "b", "six", "zero"])
def test_what_a_caller_may_override_is_no_constant(tmp_path: Path, name: str) -> None:
    model = source(f"h = {CONV}(x, w, b) y = Clip(h, zero, six)")
    assert names(model, tmp_path) == ["Conv+Clip"]
    model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, WEIGHTS[name].shape))
    assert names(model, tmp_path) == ([] if name in ("w", "b") else ["Conv"])


def test_a_bias_that_a_caller_may_override_still_can_be(tmp_path: Path) -> None:
    model = source(CHAINS["Relu"])
    model.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [8]))
    made = static(model, tmp_path)
    assert made.units == ["Conv"]
    feeds = {**made.fresh(), "b": normal(8, seed=77)}
    assert sqnr(outputs(model, feeds)["y"], outputs(made.model, feeds)["y"]) > 25


@pytest.mark.parametrize("op", ["Conv", "Relu", "Clip"])
def test_operators_of_other_domains_are_no_part(tmp_path: Path, op: str) -> None:
    model = source(f"h = {CONV}(x, w, b) r = Relu(h) y = Clip(r, zero, six)")
    next(n for n in model.graph.node if n.op_type == op).domain = "mine"
    assert names(model, tmp_path) == {"Conv": [], "Relu": ["Conv"], "Clip": ["Conv+Relu"]}[op]


def test_half_floats_are_left_alone(tmp_path: Path) -> None:
    halves = {n: WEIGHTS[n].astype(np.float16) for n in ("w", "b")}
    model = proto(f"g (float16[2,8,9,9] x) => (float16[A,B,C,D] y) {{ y = {CONV}(x, w, b) }}", halves)
    made = static(model, tmp_path, calls=[{"x": normal(*IMAGE).astype(np.float16)}])
    assert made.units == []
    assert operators(made.model) == {"Conv": 1}


@since((1, 23), "ends the process when it loads the original, in its fusion of convolutions")
def test_branches_see_values_of_the_chain_decoded(tmp_path: Path) -> None:
    model = proto(
        f"""g (float[2,8,9,9] x, bool f) => (float[A,B,C,D] y) {{
            h = {CONV}(x, w, b) r = Relu(h) k = {CONV}(r, v, c) y = If(f) <
            then_branch = t () => (float[A,B,C,D] p) {{ p = Add(k, r) }},
            else_branch = e () => (float[A,B,C,D] q) {{ q = {CONV}(r, w) }}> }}""",
        {n: WEIGHTS[n] for n in "wbvc"},
    )
    calls = [{"x": normal(*IMAGE, seed=i), "f": np.array(i % 2 == 0)} for i in range(4)]
    made = static(model, tmp_path, calls=calls)
    assert made.units == ["Conv+Relu", "Conv"]
    for feeds in calls:
        assert sqnr(outputs(model, feeds)["y"], outputs(made.model, feeds)["y"]) > 30
