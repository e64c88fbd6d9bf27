"""Rows as solvers see them, and the way back to the layout in which a weight is stored."""

from __future__ import annotations

import numpy as np
import pytest

from onnxcompress.forms.base import Writing, quantized
from onnxcompress.forms.rows import Rows, rows_of
from onnxcompress.graph import edit
from onnxcompress.graph.layers import weights
from onnxcompress.graph.model import Model
from onnxcompress.graph.scopes import Scopes
from onnxcompress.solvers.grid import Quantized, quantize
from onnxcompress.solvers.groups import Grid, Groups, per_block, per_channel
from tests.small_models import normal, outputs, proto

LAYERS = [
    ("m, 32", "MatMul(x, w)", (32, 20), (1,), False),
    ("m, 32", "Gemm<transB = 1>(x, w)", (20, 32), (0,), False),
    ("m, 32", "Gemm<transB = 1>(x, w)", (20, 32), (1,), True),
    ("2, 8, 20", "Conv(x, w)", (24, 8, 2), (0,), False),
    ("2, 24, 9, 9", "Conv<group = 3>(x, w)", (24, 8, 2, 2), (0,), False),
    ("3, m, 16", "MatMul(x, w)", (3, 16, 20), (0, 2), False),
    ("5, m, 16", "LSTM<hidden_size = 8>(x, w, r)", (1, 32, 16), (0, 1), False),
    ("2, 8, 6, 6", "ConvTranspose(x, w)", (8, 12, 3, 3), (1,), False),
]


def writing(x: str, call: str, dims: tuple[int, ...], groups: Groups, grid: Grid, *, flipped: bool = False) -> Writing:
    more = {"r": normal(1, 32, 8)} if "LSTM" in call else {}
    made = proto(f"g (float[{x}] x) => (float[] y) {{ y = {call} }}", {"w": normal(*dims, seed=1), **more})
    model = Model(made)
    scopes = Scopes(model.proto)
    weight = next(w for w in weights(model, scopes) if w.name == "w")
    return Writing(model, weight, grid, groups, edit.Namer(scopes.names()), flipped)


def rows(made: Writing) -> Rows:
    found = rows_of(made, made.weight.leaves[0])
    assert found is not None
    return found


@pytest.mark.parametrize(("x", "call", "dims", "own", "flipped"), LAYERS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("kind", ["tensor", "channel", "8", "16"])
def test_rows_hold_what_is_stored_and_go_back(
    x: str, call: str, dims: tuple[int, ...], own: tuple[int, ...], flipped: bool, symmetric: bool, kind: str
) -> None:
    stored = dims[::-1] if flipped else dims
    by_word = {"tensor": per_channel(stored, ()), "channel": per_channel(stored, own)}
    groups = by_word[kind] if kind in by_word else per_block(stored, own, int(kind))
    made = writing(x, call, dims, groups, Grid(4, symmetric), flipped=flipped)
    if "Transpose" in call and groups.shape != dims:  # its kernel is cut, of each input apart
        assert rows_of(made, made.weight.leaves[0]) is None
        return
    seen = rows(made)
    np.testing.assert_array_equal(seen.values(seen.matrix(made.values())).reshape(groups.shape),
                                  made.values().reshape(groups.shape))  # fmt: skip
    codes = quantized(made)
    turned = seen.to_rows(codes)
    assert turned.codes.shape == seen.groups.shape
    assert turned.scale.shape == seen.groups.scale_shape
    dense = seen.matrix(codes.dequantize())
    np.testing.assert_array_equal(turned.dequantize().reshape(dense.shape), dense)
    back = seen.to_stored(turned)
    for name in ("codes", "scale", *(() if symmetric else ("zero_point",))):
        np.testing.assert_array_equal(getattr(back, name), getattr(codes, name))


@pytest.mark.parametrize(("x", "call", "dims", "own", "flipped"), LAYERS[:3])
def test_rows_of_a_product_are_its_outputs(
    x: str, call: str, dims: tuple[int, ...], own: tuple[int, ...], flipped: bool
) -> None:
    stored = dims[::-1] if flipped else dims
    made = writing(x, call, dims, per_channel(stored, own), Grid(8), flipped=flipped)
    values = normal(7, 32)
    np.testing.assert_allclose(
        outputs(made.model.proto, {"x": values})["y"], values @ rows(made).matrix(made.values()).T, rtol=1e-4, atol=1e-4
    )


def test_rows_of_a_convolution_meet_an_unrolled_image() -> None:
    made = writing("1, 8, 3, 3", "Conv(x, w)", (5, 8, 3, 3), per_channel((5, 8, 3, 3), (0,)), Grid(8))
    image = normal(1, 8, 3, 3)
    given = outputs(made.model.proto, {"x": image})["y"].reshape(-1)
    np.testing.assert_allclose(given, rows(made).matrix(made.values()) @ image.reshape(-1), rtol=1e-4, atol=1e-4)


def test_a_weight_read_through_a_transpose_has_the_rows_of_its_reader() -> None:
    text = "g (float[m, 20] x) => (float[] y) { t = Transpose<perm = [1, 0]>(w) y = MatMul(x, t) }"
    model = Model(proto(text, {"w": normal(32, 20)}))
    scopes = Scopes(model.proto)
    (weight,) = weights(model, scopes)
    made = Writing(model, weight, Grid(4), per_block((32, 20), (0,), 10), edit.Namer(scopes.names()))
    np.testing.assert_array_equal(rows(made).matrix(made.values()), normal(32, 20))
    assert rows(made).groups == Groups((32, 2, 10), (2,))


@pytest.mark.parametrize("groups", [per_channel((32, 32), (0,)), per_block((32, 32), (0,), 16)], ids=str)
def test_scales_along_the_inputs_are_no_rows(groups: Groups) -> None:
    made = writing("m, 32", "MatMul(x, w)", (32, 32), groups, Grid(4))
    assert rows_of(made, made.weight.leaves[0]) is None


def test_a_solver_of_rows_finds_the_codes() -> None:
    groups = per_block((32, 20), (1,), 16)
    plain = writing("m, 32", "MatMul(x, w)", (32, 20), groups, Grid(4))
    seen = rows(plain)

    def solve(_: Writing, values: np.ndarray, scale_dtype: np.dtype | None) -> Quantized:
        return seen.to_stored(quantize(seen.matrix(values), Grid(4), seen.groups, scale_dtype))

    solved = Writing(plain.model, plain.weight, Grid(4), groups, plain.namer, solve=solve)
    one, other = quantized(plain, np.dtype(np.float16)), quantized(solved, np.dtype(np.float16))
    np.testing.assert_array_equal(one.codes, other.codes)
    np.testing.assert_array_equal(one.scale, other.scale)


def test_what_a_solver_refuses_is_said_as_it_is() -> None:
    def solve(*_: object) -> Quantized:
        raise ValueError("the metric is not positive")

    plain = writing("m, 32", "MatMul(x, w)", (32, 20), per_channel((32, 20), (1,)), Grid(4))
    with pytest.raises(ValueError, match="metric"):
        quantized(Writing(plain.model, plain.weight, Grid(4), plain.groups, plain.namer, solve=solve))
