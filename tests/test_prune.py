"""Pruning from options to files: what becomes zero, what is stored of it, and what the outputs lose."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

import onnxcompress
from onnxcompress.errors import DataError, ModelError, OnnxCompressError, UsageError
from onnxcompress.passes import sparsities
from onnxcompress.passes.prune import Prune
from onnxcompress.passes.sparsities import Curve, Target, by_damage, by_threshold
from onnxcompress.recipe import Recipe
from tests.small_models import normal, optimized, outputs, proto, sqnr, write

if TYPE_CHECKING:
    from collections.abc import Mapping

Array = np.ndarray
SAMPLES = Path(__file__).parent.parent / "sample_models"
DIGITS = {"data": SAMPLES / "digits-cnn.calib.npz", "eval_data": SAMPLES / "digits-cnn.eval.npz"}
TEXT = """g (float[n, 64] x) => (float[n, 48] y) { a = MatMul(x, w) r = Relu(a) y = Gemm<transB = 1>(r, v, c) }"""
WEIGHTS = {"w": normal(64, 96), "v": normal(48, 96, seed=1), "c": normal(48, seed=2)}


def prune(path: Path, target: Path, **options: Any) -> onnxcompress.Result:
    """The pass alone, as the command line runs it."""
    own = {k: options.pop(k) for k in list(options) if k in Prune.__dataclass_fields__}
    recipe = Recipe.of((Prune(**own),))
    return onnxcompress.compress(path, recipe, target, **{"seconds": 0.1, **options})


def decoded(path: Path, names: Mapping[str, Array] = WEIGHTS) -> dict[str, Array]:
    """The weights of a model as a runtime sees them once they are put together."""
    model = onnx.load(path)
    for name in names:
        if name not in {t.name for t in model.graph.initializer}:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    feeds = {model.graph.input[0].name: normal(2, 64)}
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    return {**outputs(model, feeds), **stored}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for i in range(8):
        np.savez(tmp_path / "data" / f"{i}.npz", x=normal(32, 64, seed=i) @ normal(64, 64, seed=77))
    return write(proto(TEXT, WEIGHTS), tmp_path)


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("allocation", ["damage", "uniform", "global"])
@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.9])
def test_as_many_go_as_were_asked_for(
    model: Path, tmp_path: Path, allocation: str, sparsity: float, *, data: bool
) -> None:
    result = prune(
        model, tmp_path / "made.onnx", allocation=allocation, sparsity=sparsity,
        data=tmp_path / "data" if data else None,
    )  # fmt: skip
    found = decoded(tmp_path / "made.onnx")
    zeros = sum(np.count_nonzero(found[n] == 0) for n in ("w", "v"))
    assert zeros / sum(WEIGHTS[n].size for n in ("w", "v")) == pytest.approx(sparsity, abs=0.01)
    done = {r.name: r for r in result.report.steps[0].layers if r.status == "done"}
    for name, record in done.items():
        assert record.sparsity == pytest.approx(np.count_nonzero(found[name] == 0) / found[name].size, abs=0.02)
        assert record.error == pytest.approx(
            np.square(found[name] - WEIGHTS[name]).sum() / np.square(WEIGHTS[name]).sum(), rel=1e-3
        )


def test_data_make_it_better_than_magnitudes(model: Path, tmp_path: Path) -> None:
    feeds = {"x": normal(200, 64, seed=99) @ normal(64, 64, seed=77)}
    found = {}
    for importance in ("magnitude", "activation", "hessian"):
        target = tmp_path / f"{importance}.onnx"
        prune(model, target, importance=importance, allocation="uniform", data=tmp_path / "data", verify=False)
        found[importance] = sqnr(outputs(model, feeds)["y"], outputs(target, feeds)["y"])
    assert found["hessian"] > found["magnitude"] + 3
    assert found["hessian"] > found["activation"] + 2


@pytest.mark.parametrize("form", ["packed", "dense"])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "block 4x8"])
def test_forms(model: Path, tmp_path: Path, form: str, pattern: str) -> None:
    result = prune(model, tmp_path / "made.onnx", form=form, pattern=pattern, data=tmp_path / "data")
    assert result.passed
    left = optimized((tmp_path / "made.onnx").read_bytes(), tmp_path)
    assert set(left) <= {"MatMul", "Gemm", "Relu", "FusedGemm", "FusedMatMul"}
    forms = {r.form for r in result.report.steps[0].layers if r.status == "done"}
    assert forms == {"sparse" if form == "packed" else "dense"}
    found = decoded(tmp_path / "made.onnx")
    if pattern == "2:4":
        assert (np.count_nonzero(found["w"].T.reshape(-1, 4), axis=1) <= 2).all()
        assert (np.count_nonzero(found["v"].reshape(-1, 4), axis=1) <= 2).all()
    assert np.count_nonzero(found["w"] == 0) == pytest.approx(found["w"].size / 2, rel=0.25)


def test_a_file_shrinks_with_its_zeros(tmp_path: Path) -> None:
    path = write(
        proto("g (float[n, 256] x) => (float[n, 512] y) { y = MatMul(x, w) }", {"w": normal(256, 512)}), tmp_path
    )
    result = prune(path, tmp_path / "made.onnx", sparsity=0.7)
    assert (tmp_path / "made.onnx").stat().st_size < 0.35 * path.stat().st_size
    assert result.report.compressed is not None
    steps = (Prune(sparsity=0.7), onnxcompress.passes.quantize.Quantize())
    result = onnxcompress.compress(path, Recipe.of(steps), tmp_path / "both.onnx", seconds=0.1)
    assert result.passed
    assert (tmp_path / "both.onnx").stat().st_size < 0.125 * path.stat().st_size


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("data", [False, True])
def test_zeros_stay_zeros_in_codes(tmp_path: Path, bits: int, *, data: bool, symmetric: bool) -> None:
    sparse = {n: np.where(np.random.default_rng(i).random(w.shape) < 0.7, 0, w) if w.ndim > 1 else w
              for i, (n, w) in enumerate(WEIGHTS.items())}  # fmt: skip
    path = write(proto(TEXT, {n: w.astype(np.float32) for n, w in sparse.items()}, opset=18), tmp_path, "sparse.onnx")
    result = onnxcompress.quantize(
        path, tmp_path / "made.onnx", bits=bits, simplify=False, scheme="weight-only", seconds=0.1,
        symmetric=symmetric, data=tmp_path / "data" if data else None,
    )  # fmt: skip
    found = decoded(tmp_path / "made.onnx")
    for name in ("w", "v"):
        assert not found[name][sparse[name] == 0].any()
    records = [r for r in result.report.steps[0].layers if r.status == "done"]
    assert records
    assert all("sparse" in str(r.form) for r in records if bits == 8 and symmetric)
    assert sqnr(sparse["w"], found["w"]) > {8: 35, 4: 12, 2: 3}[bits]


def test_short_floats_keep_zeros_out_of_the_file(tmp_path: Path) -> None:
    w = np.where(np.random.default_rng(0).random((256, 256)) < 0.8, 0, normal(256, 256)).astype(np.float32)
    path = write(proto("g (float[n, 256] x) => (float[n, 256] y) { y = MatMul(x, w) }", {"w": w}), tmp_path)
    onnxcompress.quantize(path, tmp_path / "made.onnx", scheme="float16", seconds=0.1)
    assert (tmp_path / "made.onnx").stat().st_size < 0.16 * path.stat().st_size


def test_weights_that_are_sparser_already_stay_so(tmp_path: Path) -> None:
    w = np.where(np.random.default_rng(0).random((64, 96)) < 0.9, 0, WEIGHTS["w"]).astype(np.float32)
    path = write(proto(TEXT, WEIGHTS | {"w": w}), tmp_path)
    prune(path, tmp_path / "made.onnx", sparsity=0.5, allocation="uniform")
    assert np.array_equal(decoded(tmp_path / "made.onnx")["w"], w)


def test_a_threshold_takes_what_is_below(model: Path, tmp_path: Path) -> None:
    prune(model, tmp_path / "made.onnx", threshold=0.5)
    found = decoded(tmp_path / "made.onnx")
    for name in ("w", "v"):
        assert np.array_equal(found[name], np.where(np.abs(WEIGHTS[name]) < 0.5, 0, WEIGHTS[name]))


def test_what_cannot_have_the_pattern_is_told(tmp_path: Path) -> None:
    text = "g (float[n, 62] x) => (float[n, 48] y) { a = MatMul(x, w) y = MatMul(a, v) }"
    path = write(proto(text, {"w": normal(62, 96), "v": normal(96, 48)}), tmp_path)
    result = prune(path, tmp_path / "made.onnx", pattern="2:4")
    told = {r.name: r.reason for r in result.report.steps[0].layers if r.status == "skipped"}
    assert told == {"w": "it cannot have the pattern 2:4: 62 inputs do not divide by 4"}
    with pytest.raises(ModelError, match="do not divide"):
        prune(path, tmp_path / "other.onnx", pattern="2:4", exclude=("v",))


@pytest.mark.parametrize(
    "options",
    [
        {"sparsity": 0.0}, {"sparsity": 1.0}, {"sparsity": -0.1}, {"sparsity": float("nan")}, {"threshold": 0.0},
        {"threshold": float("inf")}, {"threshold": 0.1, "sparsity": 0.5}, {"pattern": "3:2"},
        {"pattern": "2:4", "sparsity": 0.5}, {"pattern": "stripes"},
    ],
    ids=str,
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Prune(**options)


def test_importance_that_needs_data_says_so(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="real inputs"):
        prune(model, tmp_path / "made.onnx", importance="hessian")
    assert not (tmp_path / "made.onnx").exists()


@pytest.mark.parametrize("spoil", [np.nan, np.inf])
def test_what_is_not_finite_is_named(model: Path, tmp_path: Path, spoil: float) -> None:
    w = WEIGHTS["w"].copy()
    w[1, 2] = spoil
    path = write(proto(TEXT, WEIGHTS | {"w": w}), tmp_path, "bad.onnx")
    with pytest.raises(ModelError, match="'w' holds NaN or infinity"):
        prune(path, tmp_path / "made.onnx")
    (tmp_path / "bad").mkdir()
    np.savez(tmp_path / "bad" / "0.npz", x=np.full((4, 64), spoil, np.float32))
    with pytest.raises((DataError, OnnxCompressError)):
        prune(model, tmp_path / "made.onnx", data=tmp_path / "bad")


KINDS = {
    "grouped": ("g (float[1, 16, 8, 8] x) => (float[] y) { y = Conv<group = 4>(x, w) }", (32, 4, 3, 3)),
    "transposed": ("g (float[1, 16, 8, 8] x) => (float[] y) { y = ConvTranspose(x, w) }", (16, 12, 3, 3)),
    "lookup": ("g (int64[5] x) => (float[] y) { y = Gather(w, x) }", (64, 32)),
    "three axes": ("g (float[4, 5, 32] x) => (float[] y) { y = MatMul(x, w) }", (4, 32, 16)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("opset", [11, 17, 20])
def test_other_layers(kind: str, opset: int, tmp_path: Path) -> None:
    text, dims = KINDS[kind]
    path = write(proto(text, {"w": normal(*dims)}, opset=opset), tmp_path)
    feeds: dict[str, Any] = {
        "x": np.arange(5) if "int64" in text else normal(*((1, 16, 8, 8) if "Conv" in text else (4, 5, 32)))
    }
    np.savez(tmp_path / "data.npz", **feeds)
    (tmp_path / "calls").mkdir()
    np.savez(tmp_path / "calls" / "0.npz", **feeds)
    prune(path, tmp_path / "made.onnx", sparsity=0.4, data=tmp_path / "calls", verify=False)
    x, y = outputs(path, feeds)["y"], outputs(tmp_path / "made.onnx", feeds)["y"]
    assert x.shape == y.shape
    assert sqnr(x, y) > 5


def test_a_real_model_keeps_its_accuracy(tmp_path: Path) -> None:
    path = SAMPLES / "digits-cnn.onnx"
    result = prune(path, tmp_path / "made.onnx", sparsity=0.7, **DIGITS)
    plain = prune(path, tmp_path / "plain.onnx", sparsity=0.7, importance="magnitude", allocation="uniform", **DIGITS)
    assert result.report.metrics["accuracy"].compressed >= 0.97
    assert result.report.metrics["accuracy"].compressed > plain.report.metrics["accuracy"].compressed + 0.01
    assert (tmp_path / "made.onnx").stat().st_size < 0.5 * path.stat().st_size


def test_the_same_options_give_the_same_bytes(tmp_path: Path) -> None:
    made = [tmp_path / "one.onnx", tmp_path / "two.onnx"]
    for target in made:
        prune(SAMPLES / "digits-cnn.onnx", target, data=DIGITS["data"], allocation="uniform", verify=False)
    assert made[0].read_bytes() == made[1].read_bytes()


def test_bytes_go_where_the_damage_is() -> None:
    curves = [Curve(name, 1000, [(0.0, 0.0), (0.3, 1.0), (0.5, 2.0), (0.7, 4.0), (0.8, 8.0)], 2.0) for name in "ab"]
    a, b = by_damage(curves, {"a": 1.0, "b": 0.01}, 0.5)
    assert a + b == pytest.approx(1000, abs=2)
    assert a < b <= 1000 * (1 - 0.5 / 3) + 1
    assert by_damage(curves, {}, 0.5) == pytest.approx([500, 500], abs=2)


def test_one_threshold_knows_no_units() -> None:
    w = np.random.default_rng(0).normal(size=(50, 60)).astype(np.float32)
    zeros = by_threshold([w, w * 100, w * 1e-3], 0.5)
    assert zeros == pytest.approx([1500] * 3, abs=15)


def cli(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "onnxcompress", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("model")
def test_from_the_shell(tmp_path: Path) -> None:
    done = cli("prune", "model.onnx", "--data", "data", "--sparsity", "0.6", "--json", "r.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1].startswith("onnxcompress: PASSED model.sparse60.onnx")
    report = json.loads((tmp_path / "r.json").read_text())
    assert {layer["form"] for layer in report["steps"][-1]["layers"] if layer["status"] == "done"} == {"sparse"}
    for words, code in ((["--sparsity", "2"], 2), (["--pattern", "4:2"], 2), (["--exclude", "nothing"], 2)):
        done = cli("prune", "model.onnx", *words, "-o", "other.onnx", cwd=tmp_path)
        assert done.returncode == code
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "other.onnx").exists()
    done = cli("prune", "model.onnx", "--sparsity", "0.9", "--min-sqnr", "60", "-o", "far.onnx", cwd=tmp_path)
    assert done.returncode == 1
    assert (tmp_path / "far.rejected.onnx").exists()


def test_a_sample_of_a_large_weight_tells_its_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)
    scores = np.sort(np.square(rows, dtype=np.float64), axis=None)
    exact = [scores[: int(s * scores.size)].sum() for s, _ in Target(rows, None).curve()]
    np.testing.assert_allclose([error for _, error in Target(rows, None).curve()], exact, rtol=1e-5)
    monkeypatch.setattr(sparsities, "_MANY", 1 << 11)
    sampled = [error for _, error in Target(rows, None).curve()]
    assert sampled != exact
    np.testing.assert_allclose(sampled[4:], exact[4:], rtol=0.2)
