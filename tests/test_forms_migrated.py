"""The migrated form computes what its codes say, by the operators of the dynamic form, and loses less to outliers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from onnxcompress.forms import blockwise, decode, dynamic, fused, migrated, split
from onnxcompress.forms.assemble import MIN_OPSETS, assemble, available
from onnxcompress.forms.base import Writing, quantized
from onnxcompress.graph import edit, writer
from onnxcompress.graph.layers import weights
from onnxcompress.graph.model import Model
from onnxcompress.graph.scopes import Scopes
from onnxcompress.solvers.groups import Grid, Groups, per_channel
from onnxcompress.solvers.migration import migration
from tests.small_models import normal, operators, optimized, outputs, proto, sqnr

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

F16, F32 = np.dtype(np.float16), np.dtype(np.float32)
MATMUL = "g (float[m, 64] x) => (float[m, 48] y) { y = MatMul(x, w) }"
KINDS = {
    "matmul": (MATMUL, (64, 48), 0),
    "three axes": ("g (float[2, m, 64] x) => (float[] y) { y = MatMul(x, w) }", (64, 48), 0),
    "gemm": ("g (float[m, 64] x) => (float[m, 48] y) { y = Gemm(x, w, c) }", (64, 48), 0),
    "gemm transposed": ("g (float[m, 64] x) => (float[m, 48] y) { y = Gemm<transB = 1>(x, w, c) }", (48, 64), 1),
    "matmul transposed": ("g (float[m, 64] x) => (float[] y) { t = Transpose(w) y = MatMul(x, t) }", (48, 64), 1),
}


def factors(seed: int = 7) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).uniform(-2, 2, 64)).astype(np.float32)


def wide(*shape: int) -> np.ndarray:
    """Activations with a few wide features."""
    x = normal(*shape)
    x[..., [3, 30, 51]] *= 40
    return x


def written(
    original: onnx.ModelProto, form: str, s: Mapping[str, np.ndarray | None], axis: int = 0, scale: np.dtype = F32,
    *, flipped: bool = False, groups: Groups | None = None,
) -> bytes:  # fmt: skip
    """Weights by their names in a form, each with its migration."""
    model = Model(original).copy()
    scopes = Scopes(model.proto)
    namer, edits = edit.Namer(scopes.names()), []
    for weight in weights(model, scopes):
        if weight.name not in s:
            continue
        along, dims = (1 - axis, weight.dims[::-1]) if flipped else (axis, weight.dims)
        own, factor = s[weight.name], None
        if own is not None:
            factor = own.reshape(-1, 1) if along == 0 else own.reshape(1, -1)
        writing = Writing(model, weight, Grid(8), groups or per_channel(dims, (1 - along,)), namer, flipped,
                          migration=factor)  # fmt: skip
        assert all(form in available(writing, leaf) for leaf in weight.leaves)
        edits.append(assemble(writing, scale, dict.fromkeys(weight.leaves, form)).edit)
    edit.apply(model, edits)
    return writer.to_bytes(model)


def original_of(kind: str, opset: int = 17) -> tuple[onnx.ModelProto, int]:
    text, dims, axis = KINDS[kind]
    return proto(text, {"w": normal(*dims, seed=1), "c": normal(48, seed=2)}, opset=opset), axis


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [F32, F16], ids=str)
def test_products_compute_what_the_migrated_codes_say(kind: str, scale: np.dtype, tmp_path: Path) -> None:
    original, axis = original_of(kind)
    s = factors()
    made = written(original, migrated.NAME, {"w": s}, axis, scale)
    x = normal(2, 30, 64) if kind == "three axes" else normal(60, 64)
    seen = (x * s).astype(np.float32)  # flat once it is divided
    assert sqnr(outputs(original, {"x": seen})["y"], outputs(made, {"x": seen})["y"]) > 35
    left = optimized(made, tmp_path)
    assert not {"MatMul", "Gemm", "Transpose", "MatMulInteger", "Cast"} & set(left)
    assert left["Mul"] == 1


@pytest.mark.parametrize("kind", ["gemm transposed", "matmul transposed"])
def test_weights_that_are_turned_over(kind: str) -> None:
    original, axis = original_of(kind)
    s = factors()
    seen = (normal(60, 64) * s).astype(np.float32)
    made = written(original, migrated.NAME, {"w": s}, axis, flipped=True)
    assert sqnr(outputs(original, {"x": seen})["y"], outputs(made, {"x": seen})["y"]) > 35
    assert "Transpose" not in operators(onnx.load_from_string(made))


def test_factors_of_one_are_the_dynamic_form() -> None:
    original, _ = original_of("gemm")
    feeds = {"x": wide(20, 64)}
    made = written(original, migrated.NAME, {"w": np.ones(64, np.float32)})
    plain = written(original, dynamic.ONE_PASS, {"w": None})
    np.testing.assert_allclose(outputs(made, feeds)["y"], outputs(plain, feeds)["y"], rtol=1e-5, atol=1e-4)


def test_it_fuses_to_the_operators_of_the_dynamic_form(tmp_path: Path) -> None:
    original, _ = original_of("gemm")
    made = optimized(written(original, migrated.NAME, {"w": factors()}), tmp_path)
    plain = optimized(written(original, dynamic.ONE_PASS, {"w": None}), tmp_path)
    assert made == plain + type(plain)({"Mul": 1})


def test_outliers_cost_less_once_they_have_moved() -> None:
    original, _ = original_of("matmul")
    x = wide(300, 64)
    found = migration(normal(64, 48, seed=1), x.min(0), x.max(0), np.square(x).mean(0))
    assert found.s is not None
    wanted = outputs(original, {"x": x})["y"]
    quality = {
        form: sqnr(wanted, outputs(written(original, form, {"w": s}), {"x": x})["y"])
        for form, s in ((dynamic.ONE_PASS, None), (migrated.NAME, found.s))
    }
    expected = 10 * np.log10(found.before / found.after)
    assert quality[migrated.NAME] - quality[dynamic.ONE_PASS] == pytest.approx(expected, abs=2)
    assert expected > 3


TWO = "g (float[m, 64] x) => (float[m, 48] y) { a = MatMul(x, w) b = MatMul(x, v) y = Add(a, b) }"


@pytest.mark.parametrize("same", [True, False])
def test_readers_share_what_is_divided_by_the_same(same: bool) -> None:
    original = proto(TWO, {"w": normal(64, 48, seed=1), "v": normal(64, 48, seed=2)})
    s = {"w": factors(), "v": factors() if same else factors(8)}
    made = written(original, migrated.NAME, s)
    found = operators(onnx.load_from_string(made))
    assert (found["DynamicQuantizeLinear"], found["Constant"]) == ((1, 1) if same else (2, 2))
    x = {"x": (normal(40, 64) * factors()).astype(np.float32)}
    assert sqnr(outputs(original, x)["y"], outputs(made, x)["y"]) > (30 if same else 10)


def test_products_in_a_body_divide_there() -> None:
    text = """g (float[m, 64] x, bool c) => (float[] y) { y = If(c) <
        then_branch = t () => (float[] a) { a = MatMul(x, w) },
        else_branch = e () => (float[] b) { b = MatMul(x, w) } > }"""
    original = proto(text, {"w": normal(64, 48, seed=1)})
    s = factors()
    made = written(original, migrated.NAME, {"w": s})
    for condition in (True, False):
        feeds = {"x": (normal(30, 64) * s).astype(np.float32), "c": np.array(condition)}
        assert sqnr(outputs(original, feeds)["y"], outputs(made, feeds)["y"]) > 35


def test_the_opset_that_it_states() -> None:
    assert MIN_OPSETS[migrated.NAME] == migrated.MIN_OPSET == 11
    original, axis = original_of("gemm transposed", migrated.MIN_OPSET)
    s = factors()
    made = written(original, migrated.NAME, {"w": s}, axis)
    onnx.checker.check_model(onnx.load_from_string(made))
    seen = {"x": (normal(30, 64) * s).astype(np.float32)}
    assert sqnr(outputs(original, seen)["y"], outputs(made, seen)["y"]) > 35


def test_one_scale_for_the_weight() -> None:
    original, _ = original_of("matmul")
    s = factors()
    made = written(original, migrated.NAME, {"w": s}, groups=Groups((64, 48), (0, 1)))
    seen = {"x": (normal(30, 64) * s).astype(np.float32)}
    assert sqnr(outputs(original, seen)["y"], outputs(made, seen)["y"]) > 25


def writing_of(text: str = MATMUL, grid: Grid | None = None, **fields: object) -> Writing:
    model = Model(proto(text, {"w": normal(64, 48, seed=1)}))
    scopes = Scopes(model.proto)
    (weight,) = weights(model, scopes)
    namer = edit.Namer(scopes.names())
    return Writing(model, weight, grid or Grid(8), per_channel((64, 48), (1,)), namer, **fields)  # type: ignore[arg-type]


def test_the_weight_is_written_times_its_migration() -> None:
    s = factors().reshape(-1, 1)
    writing = writing_of(migration=s)
    np.testing.assert_array_equal(writing.values(), normal(64, 48, seed=1) * s)
    assert writing.values().dtype == np.float32
    found = quantized(writing).dequantize()
    np.testing.assert_allclose(found, normal(64, 48, seed=1) * s, atol=float(np.abs(found).max()) / 100)


def test_no_other_form_has_a_migrated_weight() -> None:
    writing = writing_of(migration=factors().reshape(-1, 1))
    (leaf,) = writing.weight.leaves
    assert available(writing, leaf) == (decode.NAME, migrated.NAME)
    plain = writing_of(outliers=(1, 2))
    others = available(plain, plain.weight.leaves[0])
    assert migrated.NAME not in others
    assert {decode.NAME, dynamic.ONE_PASS, dynamic.TWO_PASSES, fused.NAME, split.NAME} <= set(others)


@pytest.mark.parametrize(
    "writing",
    [
        writing_of(migration=np.ones((1, 64), np.float32)),  # along the outputs
        writing_of(migration=np.ones((64, 48), np.float32)),
        writing_of(migration=np.ones((63, 1), np.float32)),
        writing_of(migration=np.ones(64, np.float32)),
        writing_of(grid=Grid(4), migration=np.ones((64, 1), np.float32)),
        writing_of(grid=Grid(8, symmetric=False), migration=np.ones((64, 1), np.float32)),
        writing_of(outliers=(1,), migration=np.ones((64, 1), np.float32)),
        writing_of("g (float[48, 48] x) => (float[] y) { t = Transpose(w) y = MatMul(x, t) }",
                   migration=np.ones((64, 1), np.float32)),  # whose inputs lie along the other axis
        writing_of("g (int64[n] x) => (float[] y) { y = Gather(w, x) }", migration=np.ones((64, 1), np.float32)),
    ],
)  # fmt: skip
def test_it_is_not_available_where_it_does_not_fit(writing: Writing) -> None:
    assert available(writing, writing.weight.leaves[0]) == (decode.NAME,)
    assert blockwise.NAME not in MIN_OPSETS


@pytest.mark.parametrize("form", [dynamic.ONE_PASS, fused.NAME, blockwise.NAME])
def test_no_other_form_is_written(form: str) -> None:
    writing = writing_of(migration=factors().reshape(-1, 1))
    with pytest.raises(ValueError, match="has a migration"):
        assemble(writing, F32, {writing.weight.leaves[0]: form})


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf])
def test_factors_have_to_be_positive(wrong: float) -> None:
    s = np.ones((64, 1), np.float32)
    s[5] = wrong
    writing = writing_of(migration=s)
    with pytest.raises(ValueError, match="positive"):
        assemble(writing, F32, {writing.weight.leaves[0]: migrated.NAME})


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_constant_activations_do_no_harm(value: float) -> None:
    original, _ = original_of("gemm")
    s = factors()
    made = written(original, migrated.NAME, {"w": s})
    feeds = {"x": np.full((3, 64), value, np.float32) * s}
    wanted = outputs(original, feeds)["y"]
    np.testing.assert_allclose(outputs(made, feeds)["y"], wanted, atol=0.05 * np.abs(wanted).max() + 1e-6)
