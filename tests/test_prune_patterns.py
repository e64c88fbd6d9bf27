"""Pruning in patterns from options to files: where zeros stand, and that files pay less than a bit for each weight."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
import pytest

import onnxcompress
from onnxcompress.forms import supports
from onnxcompress.forms.sparse import Blocks
from onnxcompress.passes.prune import Prune
from onnxcompress.passes.quantize import Quantize
from onnxcompress.recipe import Recipe
from tests.small_models import normal, optimized, outputs, proto, write

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray
SAMPLES = Path(__file__).parent.parent / "sample_models"
DIGITS = {"data": SAMPLES / "digits-cnn.calib.npz", "eval_data": SAMPLES / "digits-cnn.eval.npz"}
TEXT = "g (float[n, 256] x) => (float[n, 512] y) { a = MatMul(x, w) r = Relu(a) y = Gemm<transB = 1>(r, v) }"
WEIGHTS = {"w": normal(256, 192), "v": normal(512, 192, seed=1)}
COUNT = sum(w.size for w in WEIGHTS.values())
KEPT = {"1:4": COUNT // 4, "2:4": COUNT // 2, "block 4x4": COUNT // 2, "block 1x8": COUNT // 2}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(proto(TEXT, WEIGHTS), tmp_path)


def run(path: Path, target: Path, *steps: Any, **options: Any) -> onnxcompress.Result:
    return onnxcompress.compress(path, Recipe.of(steps), target, **{"seconds": 0.1, **options})


def rows(path: Path) -> dict[str, Array]:
    """The weights (out, in) as a runtime puts them together."""
    model = onnx.load(path)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for name in WEIGHTS.keys() - stored.keys():
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    found = {**outputs(model, {"x": normal(2, 256)}), **stored}
    return {"w": found["w"].T, "v": found["v"]}


def holds(pattern: str, weight: Array) -> bool:
    """Whether zeros stand as the pattern says."""
    if ":" in pattern:
        n, m = (int(x) for x in pattern.split(":"))
        return bool((np.count_nonzero(weight.reshape(-1, m), axis=1) <= n).all())
    height, width = (int(x) for x in pattern.split()[1].split("x"))
    cells = weight.reshape(weight.shape[0] // height, height, -1, width) != 0
    return bool((cells.any(axis=(1, 3)) == cells.all(axis=(1, 3))).all())


def single(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What makes every weight take a bit for each of its values."""

    def planned(layout: Any, _pattern: Any, kept: int, *_: Any) -> Blocks:
        return Blocks.single(int(np.prod(layout.dims)), kept)

    def recognised(_layout: Any, values: Array, *_: Any) -> Blocks:
        return Blocks.single(values.size, int(np.count_nonzero(values)))

    def use() -> None:
        monkeypatch.setattr(supports, "planned", planned)
        monkeypatch.setattr(supports, "recognised", recognised)

    return use


@pytest.mark.parametrize("pattern", sorted(KEPT))
def test_a_pattern_takes_less_than_a_bit_for_each_weight(model: Path, tmp_path: Path, pattern: str) -> None:
    result = run(model, tmp_path / "made.onnx", Prune(pattern=pattern, allocation="uniform"))
    assert result.passed
    assert {r.form for r in result.report.steps[0].layers if r.status == "done"} == {"sparse"}
    found = rows(tmp_path / "made.onnx")
    for name, weight in found.items():
        assert holds(pattern, weight)
        assert np.count_nonzero(weight) == KEPT[pattern] * weight.size // COUNT
        original = WEIGHTS[name].T if name == "w" else WEIGHTS[name]
        assert np.array_equal(weight, np.where(weight != 0, original, 0))
    assert (tmp_path / "made.onnx").stat().st_size < 4 * KEPT[pattern] + COUNT / 8
    left = optimized((tmp_path / "made.onnx").read_bytes(), tmp_path)
    assert set(left) <= {"MatMul", "Gemm", "Relu", "FusedGemm", "FusedMatMul"}


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("pattern", sorted(KEPT))
def test_codes_after_a_pattern_keep_its_zeros_and_take_less(
    model: Path, tmp_path: Path, pattern: str, bits: Literal[8, 4], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = (Prune(pattern=pattern, allocation="uniform"), Quantize(bits=bits, scheme="weight-only"))
    result = run(model, tmp_path / "made.onnx", *steps)
    assert {r.form for r in result.report.steps[-1].layers if r.status == "done"} == {"decode+sparse"}
    found = rows(tmp_path / "made.onnx")
    run(model, tmp_path / "pruned.onnx", steps[0])
    pruned = rows(tmp_path / "pruned.onnx")
    for name, weight in found.items():
        assert holds(pattern, weight) or pattern.startswith("block")
        assert not weight[pruned[name] == 0].any()
    size = (tmp_path / "made.onnx").stat().st_size
    assert bits != 8 or size < KEPT[pattern] + COUNT / 8
    single(monkeypatch)()
    run(model, tmp_path / "bits.onnx", *steps)
    assert size < (tmp_path / "bits.onnx").stat().st_size - COUNT / 8 / 4
    for name, weight in rows(tmp_path / "bits.onnx").items():
        assert np.array_equal(weight, found[name])


def test_short_floats_after_a_pattern_take_less(tmp_path: Path) -> None:
    weight = np.where(np.kron(np.random.default_rng(0).random((64, 48)) < 0.4, np.ones((4, 4))), WEIGHTS["w"], 0)
    text = "g (float[n, 256] x) => (float[n, 192] y) { y = MatMul(x, w) }"
    path = write(proto(text, {"w": weight.astype(np.float32)}), tmp_path)
    onnxcompress.quantize(path, tmp_path / "made.onnx", scheme="float16", seconds=0.1)
    assert (tmp_path / "made.onnx").stat().st_size < 2 * np.count_nonzero(weight) + weight.size / 8


LAYERS: dict[str, tuple[str, tuple[int, ...]]] = {
    "grouped": ("g (float[1, 16, 8, 8] x) => (float[] y) { y = Conv<group = 4>(x, w) }", (256, 4, 3, 3)),
    "transposed": ("g (float[1, 16, 8, 8] x) => (float[] y) { y = ConvTranspose(x, w) }", (16, 64, 3, 3)),
    "lookup": ("g (int64[5] x) => (float[] y) { y = Gather(w, x) }", (256, 64)),
    "three axes": ("g (float[4, 5, 32] x) => (float[] y) { y = MatMul(x, w) }", (4, 32, 96)),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("pattern", ["1:4", "2:4", "block 2x4"])
def test_packed_is_the_same_as_dense_in_other_layers(tmp_path: Path, layer: str, pattern: str) -> None:
    text, dims = LAYERS[layer]
    path = write(proto(text, {"w": normal(*dims)}), tmp_path)
    made = {}
    forms: tuple[Literal["packed", "dense"], ...] = ("packed", "dense")
    for form in forms:
        result = run(path, tmp_path / f"{form}.onnx", Prune(pattern=pattern, form=form), verify=False)
        assert result.report.steps[0].layers[0].form == ("sparse" if form == "packed" else "dense")
        shape = (1, 16, 8, 8) if "Conv" in text else (4, 5, 32)
        made[form] = outputs(tmp_path / f"{form}.onnx", {"x": np.arange(5) if "int64" in text else normal(*shape)})["y"]
    assert np.array_equal(made["packed"], made["dense"])
    operators = {n.op_type for n in onnx.load(tmp_path / "packed.onnx").graph.node}
    assert ("ScatterElements" in operators) == (":" in pattern)
    assert "GatherElements" not in operators


@pytest.mark.parametrize("pattern", ["1:4", "block 4x4"])
def test_a_real_model(tmp_path: Path, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = SAMPLES / "digits-cnn.onnx"
    step = Prune(pattern=pattern, exclude=("0.weight",), sparsity=0.4 if "block" in pattern else None)
    result = run(path, tmp_path / "made.onnx", step, **DIGITS)
    done = [r for r in result.report.steps[0].layers if r.form == "sparse"]
    assert len(done) >= 4
    assert result.report.metrics["accuracy"].compressed >= 0.85
    single(monkeypatch)()
    run(path, tmp_path / "bits.onnx", step, **DIGITS)
    assert (tmp_path / "made.onnx").stat().st_size < (tmp_path / "bits.onnx").stat().st_size - 2000
    feeds = {"image": np.load(DIGITS["eval_data"])["image"][:16]}
    for name, found in outputs(tmp_path / "made.onnx", feeds).items():
        assert np.array_equal(found, outputs(tmp_path / "bits.onnx", feeds)[name])


@pytest.mark.usefixtures("model")
def test_from_the_shell(tmp_path: Path) -> None:
    for pattern, name in (("1:4", "one.onnx"), ("block 4x4", "two.onnx")):
        command = [sys.executable, "-m", "onnxcompress", "prune", "model.onnx", "--pattern", pattern, "-o", name]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / name).stat().st_size < 4 * KEPT[pattern] + COUNT / 8
