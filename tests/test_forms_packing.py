"""Packed codes come apart again, by numpy and by the nodes that a model gets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from onnx import TensorProto, helper

from onnxcompress.forms.packing import pack, packed_length, unpack, unpacking_nodes
from onnxcompress.graph.edit import Namer
from tests.small_models import outputs


@given(
    codes=npst.arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 41))),
    bits=st.sampled_from([1, 2, 4]),
)
def test_unpack_is_the_inverse_of_pack(codes: np.ndarray, bits: int) -> None:
    codes %= 1 << bits
    packed = pack(codes, bits)
    assert packed.shape == (len(codes), packed_length(codes.shape[1], bits))
    assert packed.dtype == np.uint8
    np.testing.assert_array_equal(unpack(packed, bits, codes.shape[1]), codes)


@pytest.mark.parametrize(
    ("count", "bits", "length"), [(8, 4, 4), (9, 4, 5), (1, 2, 1), (4, 2, 1), (5, 2, 2), (0, 4, 0)]
)
def test_packed_length(count: int, bits: int, length: int) -> None:
    assert packed_length(count, bits) == length


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize(("shape", "axis"), [((40,), 0), ((3, 24), -1), ((2, 3, 16), -1)])
def test_nodes_unpack_in_the_same_order(bits: int, shape: tuple[int, ...], axis: int) -> None:
    codes = np.random.default_rng(0).integers(0, 1 << bits, shape).astype(np.uint8)
    packed = pack(codes, bits).astype(np.float32)
    nodes, tensors, value = unpacking_nodes("x", bits, axis, "w", Namer({"x"}))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, packed.shape)],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)],
        [helper.make_tensor(t.name, t.data_type, t.dims, t.compute().reshape(-1)) for t in tensors],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4)
    np.testing.assert_array_equal(outputs(model, {"x": packed})[value], codes)
