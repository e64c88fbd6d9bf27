"""What the graph does with an input is found, through moves, bodies and functions, and nothing else is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

from onnxcompress.data.roles import Role
from onnxcompress.data.synthetic import trace_inputs
from onnxcompress.data.trace import Facts, Tracer
from onnxcompress.graph.model import Model


def model(graph: str, functions: str = "") -> Model:
    """A model from text; what is declared after the outputs without a value becomes a weight of zeros."""
    proto = parser.parse_model(f'<ir_version: 9, opset_import: ["": 20, "local": 1]> {graph}\n{functions}')
    for info in proto.graph.value_info:
        tensor = info.type.tensor_type
        dims = [d.dim_value for d in tensor.shape.dim]
        zeros = np.zeros(dims, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        proto.graph.initializer.append(onnx.numpy_helper.from_array(zeros, info.name))
    return Model(proto)


def facts(graph: str, name: str, functions: str = "") -> Facts:
    made = model(graph, functions)
    info = next(i for i in made.proto.graph.input if i.name == name)
    rank = len(info.type.tensor_type.shape.dim) if info.type.tensor_type.HasField("shape") else None
    return Tracer(made).facts(name, rank)


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        ("y = Gather(big, ids)", 40),
        ("a = Cast<to=6>(ids) b = Unsqueeze(a, one) c = Reshape(b, shape) y = Gather(big, c)", 40),
        ("z = Gather(big, ids) w = Gather(small, ids) y = Concat<axis=-1>(z, w)", 7),
        ("t = Transpose<perm=[1, 0]>(big) y = Gather<axis=1>(t, ids)", 40),
        ("y = Gather<axis=1>(big, ids)", 2),
        ("y = OneHot(ids, depth, values)", 11),
        ("c = Shape(ids) y = Gather(big, c)", None),
        ("a = Mul(ids, one) y = Gather(big, a)", None),
        ("y = Identity(ids)", None),
    ],
)
def test_rows_of_the_tables_that_are_indexed(body: str, rows: int | None) -> None:
    graph = f"""g (int64[n, s] ids) => (float y)
        <float[40, 2] big, float[7, 2] small, int64[1] one = {{1}}, int64[1] shape = {{-1}},
         int64 depth = {{11}}, float[2] values = {{0, 1}}> {{ {body} }}"""
    assert facts(graph, "ids").rows == rows


def test_through_if_and_loop_and_function() -> None:
    graph = """g (int64[n] ids, bool c) => (float y) <float[40, 2] big, float[9, 2] small, int64 m = {3}> {
        y = If(c) <
            then_branch = t () => (float a) { a = Gather(big, ids) },
            else_branch = e () => (float b) { b = local.look(ids) }
        >
        z = Loop(m, c, ids) <
            body = l (int64 i, bool k, int64[n] v) => (bool k2, int64[n] v2, float o)
                { k2 = Identity(k) v2 = Identity(v) o = Gather(small, v) }
        >
    }"""
    function = """<domain: "local", opset_import: ["": 18]> look (x) => (y)
        { table = Constant<value = float[5, 1] {1, 2, 3, 4, 5}>() y = Gather(table, x) }"""
    assert facts(graph.replace("local.look(ids)", "Gather(big, ids)"), "ids").rows == 9
    assert facts(graph, "ids", function).rows == 5


def test_constants_compared_with() -> None:
    graph = """g (int64 sr, float[n] x) => (bool y) <int64 rate = {16000}, int64 other = {8000}> {
        a = Equal(sr, rate) b = Cast<to=7>(sr) c = Equal(other, b) y = Or(a, c) }"""
    assert facts(graph, "sr").compared == {8000.0, 16000.0}
    assert facts(graph, "x").compared == set()


@pytest.mark.parametrize(
    ("shape", "body", "sizes"),
    [
        ("[n, c, h, w]", "y = Conv(x, w4)", {1: 6}),
        ("[n, c, h, w]", "y = Conv<group=2>(x, w4)", {1: 12}),
        ("[n, h, w, c]", "t = Transpose<perm=[0, 3, 1, 2]>(x) y = Conv(t, w4)", {3: 6}),
        ("[n, t]", "u = Unsqueeze(x, one) y = Conv(u, w3)", {}),
        ("[n, f]", "y = MatMul(x, w2)", {1: 5}),
        ("[n, f]", "y = Gemm<transB=1>(x, w2)", {1: 8}),
        ("[n, f]", "a = Sub(x, bias) y = Relu(a)", {1: 5}),
        ("[s, n, f]", "y, h = LSTM<hidden_size=4>(x, wl, rl)", {2: 3}),
        ("[n, f]", "a = ReduceMax(x) y = MatMul(a, w2)", {}),
    ],
)
def test_sizes_that_weights_prescribe(shape: str, body: str, sizes: dict[int, int]) -> None:
    graph = f"""g (float{shape} x) => (float y) <float[4, 6, 3, 3] w4, float[4, 1, 9] w3, float[5, 8] w2,
        float[5] bias, int64[1] one = {{1}}, float[1, 16, 3] wl, float[1, 16, 4] rl> {{ {body} }}"""
    assert facts(graph, "x").sizes == sizes


def test_rank_and_channels_of_an_unranked_input() -> None:
    made = model("g (float[] x) => (float y) <float[4, 6, 3, 3] w> { y = Conv(x, w) }")
    made.proto.graph.input[0].type.tensor_type.ClearField("shape")
    found = Tracer(made).facts("x", None)
    assert (found.rank, found.sizes) == (4, {1: 6})


@pytest.mark.parametrize(
    ("declared", "body", "role"),
    [
        ("int64[n, s] anything", "y = Gather(table, anything)", Role.TOKENS),
        ("int64[n, s] token_type_ids", "y = Gather(table, token_type_ids)", Role.TYPES),
        ("int64[n, s] position_ids", "y = Gather(table, position_ids)", Role.POSITIONS),
        ("int64[n, s] attention_mask", "y = Cast<to=1>(attention_mask)", Role.MASK),
        ("float[n, s] mask", "y = Identity(mask)", Role.MASK),
        ("bool[n, s] m", "y = Cast<to=1>(m)", Role.MASK),
        ("bool use_cache_branch", "y = Cast<to=1>(use_cache_branch)", Role.FLAG),
        ("int64[n] x_lens", "y = Cast<to=1>(x_lens)", Role.LENGTH),
        ("float[2, n, 128] state", "y = Identity(state)", Role.STATE),
        ("float[n, 2, p, 8] past_key_values.0.key", "y = Identity(past_key_values.0.key)", Role.STATE),
        ("int64 k", "a = Equal(k, rate) y = Cast<to=1>(a)", Role.CHOICE),
        ("int64 sr", "y = Cast<to=1>(sr)", Role.CHOICE),
        ("float[n, 3, 8, 8] x", "y = Conv(x, w)", Role.IMAGE),
        ("uint8[n, 8, 8, 3] x", "y = Cast<to=1>(x)", Role.IMAGE),
        ("float[n, t] x", "u = Unsqueeze(x, one) y = Conv(u, w1)", Role.AUDIO),
        ("float[n, t] waveform", "y = Identity(waveform)", Role.AUDIO),
        ("float[n, 20] x", "y = Identity(x)", Role.FEATURES),
        ("int64[1, 2] orig_target_sizes", "y = Cast<to=1>(orig_target_sizes)", Role.IMAGE_SIZE),
        ("int64[1] timestep", "y = Cast<to=1>(timestep)", Role.TIMESTEP),
        ("float[1] speed", "y = Identity(speed)", Role.ONES),
        ("int64[2] shape", "y = Reshape(table, shape)", Role.SLOT),
        ("string[n] x", "a = StringConcat(x, x) y = Identity(table)", Role.TEXT),
    ],
)
def test_roles(declared: str, body: str, role: Role) -> None:
    name = declared.split()[-1]
    plain = name.replace(".", "_dot_")
    text = f"g ({declared} ) => (float y) <float[40, 2] table, int64 rate = {{16000}}, float[4, 3, 3, 3] w,"
    text += f" float[4, 1, 9] w1, int64[1] one = {{1}}> {{ {body} }}"
    made = model(text.replace(name, plain))
    for graph_input in made.proto.graph.input:
        graph_input.name = name if graph_input.name == plain else graph_input.name
    for node in made.proto.graph.node:
        node.input[:] = [name if i == plain else i for i in node.input]
    onnx.checker.check_model(made.proto)
    assert trace_inputs(made)[name].role is role
