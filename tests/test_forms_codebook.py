"""Weights that are places in a table: looked up once, when the model is loaded."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from onnxcompress.errors import ModelError
from onnxcompress.forms import codebook, decode
from onnxcompress.forms.assemble import Assembled, assemble, available
from onnxcompress.forms.base import Codebook, Codes, Coding, Writing
from onnxcompress.graph import edit, writer
from onnxcompress.graph.layers import weights
from onnxcompress.graph.model import Model
from onnxcompress.graph.scopes import Scopes
from onnxcompress.solvers.groups import Grid, Groups
from tests.small_models import normal, optimized, proto
from tests.test_forms_grids import replaced
from tests.test_forms_outputs import EMBEDDING, F16, F32, MATMUL, Made, one

if TYPE_CHECKING:
    from pathlib import Path


def random_book(coding: Coding, dims: tuple[int, ...]) -> tuple[Codebook, np.ndarray]:
    """A codebook that uses all of its entries, and the weight that it stands for, in the stored order."""
    rng = np.random.default_rng(3)
    count = int(np.prod(dims)) // coding.length
    table = rng.standard_normal((coding.entries, coding.length)).astype(np.float16).astype(np.float32)
    indices = rng.permutation(np.arange(count) % coding.entries)
    scale = None
    dense = table[indices]
    if coding.groups is not None:
        scale = (rng.random(coding.groups.scale_shape) + 0.5).astype(np.float16).astype(np.float32)
        dense = dense.reshape(coding.groups.shape) * scale
    dense = dense.reshape([dims[a] for a in coding.order]).transpose(np.argsort(coding.order))
    return Codebook(indices, table, scale, 0.125), dense


def written(original: onnx.ModelProto, coding: Coding, dtype: np.dtype = F32, *, flipped: bool = False
            ) -> tuple[Made, Assembled]:  # fmt: skip
    model = Model(original).copy()
    scopes = Scopes(model.proto)
    weight = next(w for w in weights(model, scopes) if w.name == "w")
    dims = weight.dims[::-1] if flipped else weight.dims
    book, dense = random_book(coding, dims)
    coding = dataclasses.replace(coding, solve=lambda values: _checked(book, values, dims, coding.order))
    made = Writing(model, weight, Grid(8), Groups(dims, ()), edit.Namer(scopes.names()), flipped, codebook=coding)
    assert all(available(made, leaf) == (decode.NAME,) for leaf in weight.leaves)
    done = assemble(made, dtype, dict.fromkeys(weight.leaves, decode.NAME))
    edit.apply(model, [done.edit])
    return Made(original, replaced(original, dense.T if flipped else dense), writer.to_bytes(model)), done


def _checked(book: Codebook, values: np.ndarray, dims: tuple[int, ...], order: tuple[int, ...]) -> Codebook:
    assert values.shape == tuple(dims[a] for a in order)
    return book


def coded(bits: int, length: int, order: tuple[int, ...], groups: Groups | None = None, entries: int = 0) -> Coding:
    def unsolved(values: np.ndarray) -> Codebook:
        raise AssertionError(values.shape)

    return Coding(bits, entries or 1 << bits, length, order, groups, unsolved)


def check(made: Made, feeds: dict[str, np.ndarray], folder: Path, operator: str) -> None:
    onnx.checker.check_model(made.proto, full_check=True)
    wanted, given = made.both(feeds)
    np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-4)
    assert set(optimized(made.written, folder)) - {"ReorderInput", "ReorderOutput"} == {operator}


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("dtype", [F16, F32])
def test_indices_of_any_bits_are_looked_up_when_loaded(tmp_path: Path, bits: int, length: int, dtype: np.dtype) -> None:
    made, done = written(one(MATMUL, 64, 48), coded(bits, length, (1, 0)), dtype)
    check(made, {"x": normal(5, 64)}, tmp_path, "MatMul")
    assert done.nbytes == 64 * 48 // length * bits // 8 + (1 << bits) * length * dtype.itemsize
    assert done.codes.error == 0.125


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 21])
@pytest.mark.parametrize("groups", [None, Groups((48, 64), (1,)), Groups((48, 4, 16), (2,))], ids=str)
def test_any_opset_with_and_without_scales(tmp_path: Path, opset: int, groups: Groups | None) -> None:
    made, _ = written(one(MATMUL, 64, 48, opset=opset), coded(5, 2, (1, 0), groups), F16)
    check(made, {"x": normal(5, 64)}, tmp_path, "MatMul")


@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize(
    ("x", "call", "dims", "order"),
    [
        ("m, 32", "Gemm<transB = 1>(x, w)", (48, 32), (0, 1)),
        ("2, 24, 9, 9", "Conv<group = 3>(x, w)", (48, 8, 3, 3), (0, 1, 2, 3)),
        ("2, 8, 6, 6", "ConvTranspose(x, w)", (8, 12, 3, 3), (1, 0, 2, 3)),
        ("m, 31", "MatMul(x, w)", (31, 18), (0, 1)),
    ],
)
def test_other_layers(
    tmp_path: Path, bits: int, length: int, x: str, call: str, dims: tuple[int, ...], order: tuple[int, ...]
) -> None:
    free = ", ".join("abcd"[: x.count(",") + 1])
    original = proto(f"g (float[{x}] x) => (float[{free}] y) {{ y = {call} }}", {"w": normal(*dims)})
    made, _ = written(original, coded(bits, length, order))
    shape = [d.dim_value or 3 for d in original.graph.input[0].type.tensor_type.shape.dim]
    check(made, {"x": normal(*shape)}, tmp_path, call.split("<")[0].split("(")[0])


def test_a_flipped_weight_is_turned_back(tmp_path: Path) -> None:
    text = "g (float[m, 64] x) => (float[m, 48] y) { y = Gemm<transB = 1>(x, w, b) }"
    original = proto(text, {"w": normal(48, 64), "b": normal(48)})
    made, _ = written(original, coded(4, 2, (1, 0)), flipped=True)
    check(made, {"x": normal(5, 64)}, tmp_path, "Gemm")


def test_an_embedding_is_looked_up_whole(tmp_path: Path) -> None:
    made, _ = written(one(EMBEDDING, 30, 48), coded(6, 4, (0, 1)))
    check(made, {"i": np.array([0, 29, -1])}, tmp_path, "Gather")


def test_the_type_of_the_weight_stays(tmp_path: Path) -> None:
    original = one(MATMUL.replace("float", "double"), 64, 48, dtype=np.float64)
    model = Model(original).copy()
    scopes = Scopes(model.proto)
    (weight,) = weights(model, scopes)
    book, dense = random_book(coded(4, 1, (0, 1)), (64, 48))
    coding = dataclasses.replace(coded(4, 1, (0, 1)), solve=lambda _: book)
    made = Writing(model, weight, Grid(8), Groups((64, 48), ()), edit.Namer(scopes.names()), codebook=coding)
    edit.apply(model, [assemble(made, F32, {}).edit])
    data = writer.to_bytes(model)
    x = normal(5, 64).astype(np.float64)
    from tests.small_models import outputs

    np.testing.assert_allclose(outputs(data, {"x": x})["y"], x @ dense.astype(np.float64), rtol=1e-6, atol=1e-6)
    assert set(optimized(data, tmp_path)) == {"MatMul"}


def test_what_does_not_fit_is_refused() -> None:
    for coding in (coded(4, 5, (0, 1)), coded(9, 1, (0, 1)), coded(3, 1, (0, 1), entries=9)):
        with pytest.raises(ValueError, match="does not fit"):
            codebook.store(_writing(one(MATMUL, 64, 48)), coding, Codes(lambda: None), F32)


def test_a_solution_of_another_size_is_refused() -> None:
    original = one(MATMUL, 64, 48)
    wrong = Codebook(np.full(64 * 48, 7), normal(4, 1), None, 0.0)
    with pytest.raises(ValueError, match="entries"):
        codebook.solved(_writing(original), dataclasses.replace(coded(2, 1, (0, 1)), solve=lambda _: wrong))


def test_values_that_are_not_finite_are_named() -> None:
    values = normal(64, 48)
    values[3, 3] = np.nan
    with pytest.raises(ModelError, match="NaN"):
        codebook.solved(_writing(proto(MATMUL, {"w": values})), coded(2, 1, (0, 1)))


def _writing(original: onnx.ModelProto) -> Writing:
    model = Model(original)
    scopes = Scopes(model.proto)
    (weight,) = weights(model, scopes)
    return Writing(model, weight, Grid(8), Groups((64, 48), ()), edit.Namer(scopes.names()))
