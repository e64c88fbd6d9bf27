"""Layers fitted to the original once the layers before them have changed: the solver, and whole models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxcompress
from onnxcompress.data.dataset import Dataset
from onnxcompress.graph.model import Model
from onnxcompress.passes.base import Context, Rewritten
from onnxcompress.passes.factorize import Factorize
from onnxcompress.passes.quantize import Quantize
from onnxcompress.passes.refit import Refit
from onnxcompress.recipe import Recipe
from onnxcompress.solvers.refitting import Sums, refitted
from onnxcompress.stats.probe import Probe
from tests.small_models import normal, outputs, proto, sqnr, write

if TYPE_CHECKING:
    from pathlib import Path

Array = np.ndarray
MLP = """g (float[n, 64] x) => (float[n, 32] y) {
    a = MatMul(x, w1) b = Add(a, b1) c = Relu(b) d = Gemm<transB = 1>(c, w2, b2) e = Relu(d) y = MatMul(e, w3) }"""
MLP_WEIGHTS = {
    "w1": normal(64, 96, seed=1), "b1": normal(96, seed=2), "w2": normal(80, 96, seed=3), "b2": normal(80, seed=4),
    "w3": normal(80, 32, seed=5),
}  # fmt: skip
CNN = """g (float[n, 16, 8, 8] x) => (float[n, 24, 8, 8] y) {
    a = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, k1, b1) b = Relu(a)
    c = Conv<kernel_shape = [1, 1]>(b, k2, b2) d = Relu(c) y = Conv<kernel_shape = [1, 1]>(d, k3) }"""
CNN_WEIGHTS = {
    "k1": normal(32, 16, 3, 3, seed=1), "b1": normal(32, seed=2), "k2": normal(32, 32, 1, 1, seed=3),
    "b2": normal(32, seed=4), "k3": normal(24, 32, 1, 1, seed=5),
}  # fmt: skip


def sums(z: Array, r: Array) -> Sums:
    found = Sums.none(z.shape[1], r.shape[1])
    for part in np.array_split(np.arange(len(z)), 3):
        found.add(z[part], r[part])
    return found


@given(st.integers(1, 6), st.integers(1, 5), st.integers(8, 40), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_change_is_that_of_ridge_regression(width: int, outputs_: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    z, r = rng.normal(size=(count, width)), rng.normal(size=(count, outputs_))
    found, ridge = sums(z, r), 0.1
    strength = np.sqrt(ridge * np.trace(z.T @ z) / width)
    wide, tall = np.vstack([z, strength * np.eye(width)]), np.vstack([r, np.zeros((width, outputs_))])
    expected = np.linalg.lstsq(wide, tall, rcond=None)[0]
    np.testing.assert_allclose(found.change(ridge), expected, atol=1e-9)
    assert found.left(expected) == pytest.approx(float(np.square(r - z @ expected).sum()), rel=1e-6, abs=1e-9)


def test_what_can_be_mended_is_and_noise_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    z, true = rng.normal(size=(400, 8)), rng.normal(size=(8, 4))
    found = refitted(sums(z[:300], z[:300] @ true), sums(z[300:], z[300:] @ true))
    assert found is not None
    assert found[1] < 1e-3
    np.testing.assert_allclose(found[0], true, atol=0.02)
    noise = rng.normal(size=(40, 4))
    assert refitted(sums(z[:30], noise[:30]), sums(z[30:40], noise[30:])) is None
    nothing = np.zeros((10, 4))
    assert refitted(sums(z[:10], nothing), sums(z[10:20], nothing)) is None
    assert refitted(sums(np.zeros((10, 8)), noise[:10]), sums(np.zeros((10, 8)), noise[10:20])) is None


def written(path: Path, text: str, weights: dict[str, Array], shape: tuple[int, ...]) -> tuple[Path, Array]:
    (path / "data").mkdir()
    mix = normal(shape[1], shape[1], seed=77) * np.linspace(2, 0.01, shape[1])

    def made(seed: int, count: int) -> Array:
        return np.asarray(np.einsum("nc...,cd->nd...", normal(count, *shape[1:], seed=seed), mix), np.float32)

    for i in range(40):
        np.savez(path / "data" / f"{i}.npz", x=made(i, shape[0]))
    return write(proto(text, weights), path), made(999, 64)


@pytest.mark.parametrize(("text", "weights", "shape", "gain"), [
    (MLP, MLP_WEIGHTS, (16, 64), 0.3),
    (CNN, CNN_WEIGHTS, (2, 16, 8, 8), 0.7),
], ids=["products", "convolutions"])  # fmt: skip
def test_later_layers_make_up_for_earlier_ones(
    tmp_path: Path, text: str, weights: dict[str, Array], shape: tuple[int, ...], gain: float
) -> None:
    path, feeds = written(tmp_path, text, weights, shape)
    first = next(iter(weights))
    found: dict[bool, Any] = {}
    for refit in (False, True):
        target = tmp_path / f"{refit}.onnx"
        recipe = Recipe.of((Factorize(rank=8, include=(first,), refit=refit),))
        result = onnxcompress.compress(path, recipe, target, data=tmp_path / "data", verify=False)
        steps = [s.pass_name for s in result.report.steps]
        assert steps == (["factorize", "refit"] if refit else ["factorize"])
        found[refit] = sqnr(outputs(path, {"x": feeds})["y"], outputs(target, {"x": feeds})["y"])
        if refit:
            (note,) = result.report.steps[1].notes
            assert note.startswith("layers fitted to what the original gives there: ")
    assert found[True] > found[False] + gain


def test_without_data_or_with_few_nothing_is_fitted(tmp_path: Path) -> None:
    path, _ = written(tmp_path, MLP, MLP_WEIGHTS, (16, 64))
    model = Model.open(path)
    assert Refit().rewrite(model, Context(origin=model)) == Rewritten(model, ())
    few = Dataset("here", 4, lambda i: {"x": normal(16, 64, seed=i)})
    assert Refit().rewrite(model, Context(origin=model, probe=Probe(few))) == Rewritten(model, ())


def test_a_run_that_goes_on_gives_the_bytes_of_one_that_did_not_stop(tmp_path: Path) -> None:
    path, _ = written(tmp_path, MLP, MLP_WEIGHTS, (16, 64))
    recipe = Recipe.of((Factorize(rank=8, include=("w1",)), Quantize(scheme="weight-only")))
    target = tmp_path / "out.onnx"

    def run() -> onnxcompress.Result:
        return onnxcompress.compress(
            path, recipe, target, data=tmp_path / "data", verify=False, keep_steps=True, force=True
        )  # fmt: skip

    assert any("layers fitted" in note for note in run().report.steps[1].notes)
    expected = target.read_bytes()
    (tmp_path / "out.2-refit.onnx").unlink()
    assert any("layers fitted" in note for note in run().report.steps[1].notes)
    assert target.read_bytes() == expected
