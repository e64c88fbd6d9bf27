"""Grids of one and three bits, ternary and asymmetric ones, in the forms that store codes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxcompress.forms import blockwise, decode, gather
from onnxcompress.forms.assemble import Assembled, assemble, available
from onnxcompress.forms.base import Writing, quantized
from onnxcompress.graph import edit, writer
from onnxcompress.graph.layers import weights
from onnxcompress.graph.model import Model
from onnxcompress.graph.scopes import Scopes
from onnxcompress.solvers.grid import Quantized, quantize
from onnxcompress.solvers.groups import Grid, Groups, per_block, per_channel
from tests.runtime_versions import needs_form
from tests.small_models import normal, optimized, outputs, proto, sqnr
from tests.test_forms_outputs import EMBEDDING, F16, F32, MATMUL, PRODUCTS, Made, grouped, one, product

if TYPE_CHECKING:
    from pathlib import Path

GRIDS = [Grid(1), Grid(1, symmetric=False), Grid(3), Grid(3, symmetric=False), Grid(2, ternary=True)]


def binary(values: np.ndarray, grid: Grid, groups: Groups, scale_dtype: np.dtype | None) -> Quantized:
    """Signs about zero or about the mean, with the mean distance from it."""
    view = values.astype(np.float32).reshape(groups.shape)
    mean = np.float32(0) if grid.symmetric else view.mean(groups.shared, keepdims=True)
    scale = (2 * np.abs(view - mean).mean(groups.shared, keepdims=True)).astype(scale_dtype or np.float32)
    zero = (np.float32(0.5) - mean / scale.astype(np.float32)).astype(scale.dtype)
    zero = np.broadcast_to(zero, groups.scale_shape)
    return Quantized((view >= mean).astype(np.uint8), scale, zero, 0.3)


def written(original: onnx.ModelProto, form: str, grid: Grid, groups: Groups, scale: np.dtype = F32, **more: Any
            ) -> tuple[Made, Writing, Assembled]:  # fmt: skip
    """The weight ``w`` in a form, beside the same model with the weight as its codes say."""
    model = Model(original).copy()
    scopes = Scopes(model.proto)
    weight = next(w for w in weights(model, scopes) if w.name == "w")
    solve = (lambda _, v, d: binary(v, grid, groups, d)) if grid.bits == 1 else None
    made = Writing(model, weight, grid, groups, edit.Namer(scopes.names()), **{"solve": solve, **more})
    dense = quantized(made, scale).dequantize().reshape(made.dims)
    assert all(form in available(made, leaf) for leaf in weight.leaves)
    done = assemble(made, scale, dict.fromkeys(weight.leaves, form))
    edit.apply(model, [done.edit])
    return Made(original, replaced(original, dense.T if made.flipped else dense), writer.to_bytes(model)), made, done


def replaced(original: onnx.ModelProto, values: np.ndarray) -> onnx.ModelProto:
    """The model with other values of ``w``."""
    twin = onnx.ModelProto()
    twin.CopyFrom(original)
    (stored,) = [t for t in twin.graph.initializer if t.name == "w"]
    stored.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), "w"))
    return twin


@pytest.mark.parametrize(
    ("grid", "low", "high", "stored"),
    [(Grid(1), 0, 1, 1), (Grid(1, symmetric=False), 0, 1, 1), (Grid(3), -4, 3, 4), (Grid(3, symmetric=False), 0, 7, 4),
     (Grid(2, ternary=True), -1, 1, 2), (Grid(2), -2, 1, 2), (Grid(4), -8, 7, 4), (Grid(8), -127, 127, 8)],
)  # fmt: skip
def test_codes_fit_what_is_stored(grid: Grid, low: int, high: int, stored: int) -> None:
    assert (grid.low, grid.high, grid.stored_bits) == (low, high, stored)
    assert np.iinfo(grid.dtype).min <= low
    if grid.bits < 8:
        assert low + grid.offset >= 0
        assert high + grid.offset < 1 << stored


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("kind", ["tensor", "channel", "16"])
@pytest.mark.parametrize("opset", [7, 13, 21])
def test_decode_is_folded(tmp_path: Path, grid: Grid, kind: str, opset: int) -> None:
    made, _, _ = written(one(MATMUL, 64, 48, opset=opset), decode.NAME, grid, grouped(kind, (64, 48), (1,)), F16)
    onnx.checker.check_model(made.proto, full_check=True)
    wanted, given = made.both({"x": normal(5, 64)})
    np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-4)
    assert optimized(made.written, tmp_path) == {"MatMul": 1}


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize(
    ("x", "call", "dims", "own"),
    [("m, 32", "Gemm<transB = 1>(x, w, b)", (48, 32), (0,)),
     ("2, 24, 9, 9", "Conv<group = 3>(x, w)", (48, 8, 3, 3), (0,)),
     ("2, 8, 20", "Conv(x, w)", (24, 8, 3), (0,)), ("m, 31", "MatMul(x, w)", (31, 17), (1,))],
)  # fmt: skip
def test_decode_of_other_layers(
    tmp_path: Path, grid: Grid, x: str, call: str, dims: tuple[int, ...], own: tuple[int, ...]
) -> None:
    more = {"b": normal(48)} if "b)" in call else {}
    original = proto(f"g (float[{x}] x) => (float[] y) {{ y = {call} }}", {"w": normal(*dims, seed=1), **more})
    made, _, _ = written(original, decode.NAME, grid, per_block(dims, own, 8), F32)
    shape = [d.dim_value or 3 for d in original.graph.input[0].type.tensor_type.shape.dim]
    wanted, given = made.both({"x": normal(*shape)})
    np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-4)
    layout = {"ReorderInput", "ReorderOutput"}  # of the runtime, which keeps images in its own order
    assert len(set(optimized(made.written, tmp_path)) - layout) == 1


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("kind", ["channel", "16"])
@pytest.mark.parametrize("opset", [7, 21])
def test_gather_decodes_rows(grid: Grid, kind: str, opset: int) -> None:
    original = one(EMBEDDING, 30, 48, opset=opset)
    made, _, done = written(original, gather.NAME, grid, grouped(kind, (30, 48), (0,)))
    wanted, given = made.both({"i": np.array([0, 29, 3, -1])})
    np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-5)
    scales = 30 * (48 // int(kind) if kind != "channel" else 1) * 4
    zeros = 0 if grid.symmetric else scales if grid.bits == 1 else scales // 4
    assert done.nbytes == 30 * 48 * grid.stored_bits // 8 + scales + zeros


def test_one_bit_a_weight_is_what_the_file_holds() -> None:
    original = one("g (float[m, 512] x) => (float[m, 512] y) { y = MatMul(x, w) }", 512, 512)
    made, _, done = written(original, decode.NAME, Grid(1), per_channel((512, 512), (1,)), F16)
    assert done.nbytes == 512 * 512 // 8 + 2 * 512
    assert len(made.written) < done.nbytes + 4000


OTHERS = [Grid(8, symmetric=False), Grid(4, symmetric=False), Grid(3), Grid(3, symmetric=False), Grid(2),
          Grid(2, symmetric=False), Grid(2, ternary=True)]  # fmt: skip


@pytest.mark.parametrize("kind", PRODUCTS)
@pytest.mark.parametrize("grid", OTHERS, ids=str)
@pytest.mark.parametrize("groups", ["channel", "16", "32", "64"])
def test_blockwise_products_of_other_grids(tmp_path: Path, kind: str, grid: Grid, groups: str) -> None:
    needs_form(blockwise.OTHER_GRIDS, grid.bits, 32)
    original, dims, axis, x = product(kind)
    made, _, _ = written(original, blockwise.OTHER_GRIDS, grid, grouped(groups, dims, (1 - axis,)), F16)
    wanted, given = made.both({"x": x})
    assert sqnr(wanted, given) > 30
    left = optimized(made.written, tmp_path)
    assert left["MatMulNBits"] == 1
    assert not {"MatMul", "Gemm", "Transpose", "Cast", "Concat", "Expand"} & set(left)


@pytest.mark.parametrize("grid", [Grid(4), Grid(8), *OTHERS], ids=str)
@pytest.mark.parametrize(("inputs", "block"), [(768, 256), (384, 128), (96, 32), (48, 16)])
def test_blocks_of_all_sizes_and_odd_counts(grid: Grid, inputs: int, block: int) -> None:
    needs_form(blockwise.name_for(grid), grid.bits, block)
    text = f"g (float[m, {inputs}] x) => (float[m, 20] y) {{ y = MatMul(x, w) }}"
    original = proto(text, {"w": normal(inputs, 20) + np.float32(0.5)})
    made, _, _ = written(original, blockwise.name_for(grid), grid, per_block((inputs, 20), (1,), block))
    wanted, given = made.both({"x": normal(7, inputs)})
    assert sqnr(wanted, given) > 30


@pytest.mark.parametrize("grid", GRIDS[:2], ids=str)
def test_the_operator_has_no_single_bits(grid: Grid) -> None:
    _, made, _ = written(one(MATMUL, 64, 48), decode.NAME, grid, per_channel((64, 48), (1,)))
    assert available(made, made.weight.leaves[0]) == (decode.NAME,)


def test_solved_codes_take_the_place_of_rounded_ones() -> None:
    groups = per_channel((64, 48), (1,))
    original = one(MATMUL, 64, 48)

    def solve(_: Writing, values: np.ndarray, scale_dtype: np.dtype | None) -> Quantized:
        found = quantize(values, Grid(8), groups, scale_dtype)
        return dataclasses.replace(found, codes=-found.codes, error=0.25)

    made, _, done = written(original, decode.NAME, Grid(8), groups, solve=solve)
    x = normal(5, 64)
    plain, _, _ = written(original, decode.NAME, Grid(8), groups)
    np.testing.assert_allclose(outputs(made.written, {"x": x})["y"], -outputs(plain.written, {"x": x})["y"], atol=1e-4)
    assert done.codes.error == 0.25
