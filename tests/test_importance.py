"""Importances by the gradients of a likelihood: their means against formulas, and what is pruned by them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import onnxcompress
from onnxcompress.cli.app import app
from onnxcompress.data.dataset import Dataset
from onnxcompress.errors import ModelError, UsageError
from onnxcompress.passes.prune import Prune
from onnxcompress.passes.sparsities import Target
from onnxcompress.recipe import Recipe
from onnxcompress.solvers.supports import Pattern
from onnxcompress.training import importance
from onnxcompress.training.importance import Sensitivity, measured
from onnxcompress.training.likelihood import likelihood
from tests.small_models import check_words, normal, opened, outputs, proto, sqnr, write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Array = np.ndarray
SAMPLES = Path(__file__).parent.parent / "sample_models"
LEAST = {"gradient": 2.0, "taylor": 10.0, "fisher": 10.0}  # dB
KINDS: tuple[importance.Kind, ...] = ("gradient", "taylor", "fisher")
TWO = "m (float[n, 6] x) => (float[n, 4] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }"
TWO_WEIGHTS = {"w": normal(6, 5, seed=1), "v": normal(5, 4, seed=2)}
WIDE = "m (float[n, 64] x) => (float[n, 48] y) { a = MatMul(x, w) r = Relu(a) y = Gemm<transB = 1>(r, v, c) }"
WIDE_WEIGHTS = {"w": normal(64, 96), "v": normal(48, 96, seed=1), "c": normal(48, seed=2)}

needs_onnx_ad = pytest.mark.usefixtures("onnx_ad")


@pytest.fixture
def onnx_ad() -> None:
    pytest.importorskip("onnx_ad", reason="onnx-ad is not installed (pip install 'onnxcompress[train]')")


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for i in range(8):
        np.savez(tmp_path / "data" / f"{i}.npz", x=normal(32, 64, seed=i) @ normal(64, 64, seed=77))
    return write(proto(WIDE, WIDE_WEIGHTS), tmp_path)


def dataset(*calls: Mapping[str, Array]) -> Dataset:
    return Dataset("calls", len(calls), lambda i: dict(calls[i]))


def prune(path: Path, target: Path, **options: Any) -> onnxcompress.Result:
    own = {k: options.pop(k) for k in list(options) if k in Prune.__dataclass_fields__}
    return onnxcompress.compress(path, Recipe.of((Prune(**own),)), target, **{"seconds": 0.1, **options})


def two_layers(x: Array) -> Array:
    return np.asarray(np.maximum(x @ TWO_WEIGHTS["w"], 0) @ TWO_WEIGHTS["v"], np.float32)


def by_row(x: Array, slope: Array) -> tuple[list[Array], list[Array]]:
    """∂ℓ/∂w and ∂ℓ/∂v of each row of the model of two layers, from ∂ℓ/∂y."""
    a = x @ TWO_WEIGHTS["w"]
    back = slope @ TWO_WEIGHTS["v"].T * (a > 0)
    rows = range(len(x))
    return [np.outer(x[i], back[i]) for i in rows], [np.outer(np.maximum(a[i], 0), slope[i]) for i in rows]


def expected_fisher(calls: Sequence[Array]) -> dict[str, Array]:
    """The diagonal of the Fisher information, for the average element of a call, averaged over calls."""
    found = {name: np.zeros(w.shape) for name, w in TWO_WEIGHTS.items()}
    for x in calls:
        for element in np.eye(4):
            for name, each in zip(("w", "v"), by_row(x, np.tile(element, (len(x), 1))), strict=True):
                found[name] += np.square(each).sum(axis=0) / (4 * len(x))
    variance = np.var(np.concatenate([two_layers(x) for x in calls]))
    return {name: total / len(calls) / variance for name, total in found.items()}


@needs_onnx_ad
def test_squares_come_to_the_fisher_information(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance, "_DRAWS", 3000)
    calls = [normal(2, 6, seed=3), normal(5, 6, seed=4)]  # of unequal sizes, which count the same
    found = measured(
        opened(proto(TWO, TWO_WEIGHTS), tmp_path), ["w", "v"], dataset(*({"x": x} for x in calls)), squared=True
    )
    for name, wanted in expected_fisher(calls).items():
        np.testing.assert_allclose(found.means[name], wanted, rtol=0.15, atol=1e-3 * wanted.max())


@needs_onnx_ad
@pytest.mark.parametrize("squared", [False, True])
def test_means_of_the_targets_that_are_drawn(tmp_path: Path, *, squared: bool) -> None:
    model, calls = opened(proto(TWO, TWO_WEIGHTS), tmp_path), [normal(1, 6, seed=s) for s in (3, 4, 5)]
    given = [{"y": two_layers(x)} for x in calls]
    target = likelihood(model, ["w", "v"], given)
    variance = np.var([y["y"] for y in given])
    total = {name: np.zeros(w.shape) for name, w in TWO_WEIGHTS.items()}
    for number, (x, y) in enumerate(zip(calls, given, strict=True)):
        rng = np.random.default_rng((7, number))
        for _ in range(importance._DRAWS):
            (drawn,) = target.drawn(y, rng).values()
            slope = (y["y"] - drawn) / variance / 2  # the root of four elements
            for name, (g,) in zip(("w", "v"), by_row(x, slope), strict=True):
                total[name] += np.square(g) if squared else np.abs(g)
    found = measured(model, ["w", "v"], dataset(*({"x": x} for x in calls)), squared=squared, seed=7)
    assert not found.reasons
    for name, wanted in total.items():
        np.testing.assert_allclose(found.means[name], wanted / 3 / importance._DRAWS, rtol=1e-3, atol=1e-6)


@needs_onnx_ad
@pytest.mark.parametrize("odds", ["y = Softmax<axis = -1>(z)", "q = LogSoftmax<axis = -1>(z) y = Identity(q)"])
def test_classes_are_judged_by_what_their_softmax_reads(tmp_path: Path, odds: str) -> None:
    x = {"x": normal(3, 6, seed=3, scale=9.0)}  # so that every row is sure of its class
    whole = TWO.replace("y = MatMul(r, v)", f"z = MatMul(r, v) {odds}")
    first, second = (
        measured(opened(proto(text, TWO_WEIGHTS), tmp_path), ["w", "v"], dataset(x), squared=True)
        for text in (TWO, whole)
    )
    for name in TWO_WEIGHTS:
        np.testing.assert_allclose(second.means[name], first.means[name], rtol=1e-4, atol=1e-7)


def test_scores_are_those_of_the_formulas() -> None:
    w, mean = np.array([[2.0, -3.0, 0.0]], np.float32), np.array([[0.5, 0.25, 4.0]], np.float32)
    wanted: dict[str, Any] = {"gradient": [[0.5, 0.25, 0]], "taylor": [[1, 0.75, 0]], "fisher": [[1, 1.125, 0]]}
    for kind in KINDS:
        np.testing.assert_allclose(Sensitivity(kind, mean).scores(w), wanted[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", [None, np.eye(64, dtype=np.float32)])
def test_the_least_scores_go_and_the_rest_stays_as_it_was(kind: Any, metric: Array | None) -> None:
    rows, felt = normal(32, 64), Sensitivity(kind, np.abs(normal(32, 64, seed=1)))
    target = Target(rows, metric, None, felt)
    scores, found = felt.scores(rows), target.solved(Pattern(), 1400, kind)
    assert np.count_nonzero(found == 0) == 1400
    assert scores[found == 0].max() <= scores[found != 0].min()
    np.testing.assert_array_equal(found[found != 0], rows[found != 0])
    np.testing.assert_array_equal(target.trial(1400 / 2048), found)
    errors = [error for _, error in target.curve()]
    assert errors == sorted(errors)
    assert errors[-1] > 0


@needs_onnx_ad
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("allocation", ["damage", "uniform", "global"])
def test_a_model_is_pruned_by_gradients(wide: Path, tmp_path: Path, kind: str, allocation: str) -> None:
    target = tmp_path / "made.onnx"
    prune(
        wide, target, importance=kind, allocation=allocation, sparsity=0.6, form="dense", data=tmp_path / "data",
        verify=False,
    )  # fmt: skip
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(target).graph.initializer}
    size = zeros = 0
    for name in ("w", "v"):
        left = stored[name] != 0
        np.testing.assert_array_equal(stored[name][left], WIDE_WEIGHTS[name][left])
        size, zeros = size + left.size, zeros + int(np.count_nonzero(~left))
    assert zeros / size == pytest.approx(0.6, abs=0.01)


@needs_onnx_ad
def test_weights_without_a_gradient_stay_and_it_is_said_why(tmp_path: Path) -> None:
    text = """m (float[n, 64] x) => (float[n, 40] y, int64[n, 1] best, float16[n, 40] h) {
      y = MatMul(x, w) other = MatMul(x, u) best = ArgMax<axis = 1>(other)
      small = Cast<to = 10>(x) h = MatMul(small, s) }"""
    weights = {"w": normal(64, 40), "u": normal(64, 40, seed=1), "s": normal(64, 40, seed=2).astype(np.float16)}
    path, target = write(proto(text, weights), tmp_path), tmp_path / "made.onnx"
    np.savez(tmp_path / "calls.npz", x=normal(16, 64))
    result = prune(path, target, importance="fisher", sparsity=0.5, data=tmp_path / "calls.npz", verify=False)
    told = {r.name: (r.status, r.reason) for r in result.report.steps[0].layers}
    assert told["w"][0] == "done"
    assert told["u"] == ("skipped", "no gradient reaches it")
    assert told["s"] == ("skipped", "not stored in float32, so it has no gradient")


@needs_onnx_ad
def test_values_of_constant_nodes_have_gradients(tmp_path: Path) -> None:
    model = proto("m (float[n, 64] x) => (float[n, 40] y) { y = MatMul(x, w) }", {"w": normal(64, 40)})
    (stored,) = model.graph.initializer
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=stored))
    del model.graph.initializer[:]
    path, target = write(model, tmp_path), tmp_path / "made.onnx"
    np.savez(tmp_path / "calls.npz", x=normal(16, 64))
    result = prune(path, target, importance="taylor", sparsity=0.5, data=tmp_path / "calls.npz", verify=False)
    assert [r.status for r in result.report.steps[0].layers if r.name == "w"] == ["done"]


@needs_onnx_ad
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_tables_that_were_not_looked_up_may_be_on_other_inputs(tmp_path: Path, kind: str) -> None:
    text = "m (int64[n] i) => (float[n, 40] y) { e = Gather(table, i) y = MatMul(e, w) }"
    path = write(proto(text, {"table": normal(200, 16), "w": normal(16, 40, seed=1)}), tmp_path)
    (tmp_path / "calls").mkdir()
    for i in range(8):
        np.savez(tmp_path / "calls" / f"{i}.npz", i=np.random.default_rng(i).integers(0, 50, 32))
    prune(
        path, tmp_path / "made.onnx", importance=kind, sparsity=0.5, allocation="uniform", form="dense",
        data=tmp_path / "calls", verify=False,
    )  # fmt: skip
    (table,) = (t for t in onnx.load(tmp_path / "made.onnx").graph.initializer if t.name == "table")
    left = onnx.numpy_helper.to_array(table) != 0
    assert left[:50].mean() > left[50:].mean() > 0.1


@needs_onnx_ad
def test_the_seed_decides(wide: Path, tmp_path: Path) -> None:
    def made(seed: int) -> bytes:
        target = tmp_path / f"made{seed}.onnx"
        prune(wide, target, importance="taylor", data=tmp_path / "data", seed=seed, force=True, verify=False)
        return target.read_bytes()

    first = made(1)
    assert first == made(1)
    assert first != made(2)


@needs_onnx_ad
@pytest.mark.parametrize("kind", KINDS)
def test_from_the_command_line(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "made.onnx"
    words = ["prune", str(SAMPLES / "digits-cnn.onnx"), "--importance", kind, "--sparsity", "0.5", "-o", str(target)]
    done = CliRunner().invoke(app, [*words, "--data", str(SAMPLES / "digits-cnn.calib.npz"), "--no-verify"])
    assert done.exit_code == 0, done.output
    with np.load(SAMPLES / "digits-cnn.eval.npz") as x:
        feeds = {name: x[name][:64] for name in x.files if name != "labels"}
    whole, made = (outputs(path, feeds)["logits"] for path in (SAMPLES / "digits-cnn.onnx", target))
    assert target.stat().st_size < 0.6 * (SAMPLES / "digits-cnn.onnx").stat().st_size
    assert sqnr(whole, made) > LEAST[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_real_inputs_are_needed(wide: Path, tmp_path: Path, kind: str) -> None:
    with pytest.raises(UsageError, match=f"--importance {kind} has to see real inputs") as caught:
        prune(wide, tmp_path / "made.onnx", importance=kind)
    check_words(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_structures_do_not_go_by_gradients(kind: Any) -> None:
    with pytest.raises(UsageError, match=f"--importance {kind} has no meaning with --structure channels") as caught:
        Prune(structure="channels", importance=kind)
    check_words(caught.value)


@needs_onnx_ad
def test_a_model_without_gradients_is_refused(tmp_path: Path) -> None:
    text = "m (float[n, 64] x) => (float[n, 40] y) { a = MatMul(x, w) y = com.microsoft.QuickGelu(a) }"
    model = proto(text, {"w": normal(64, 40)})
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    path = write(model, tmp_path)
    np.savez(tmp_path / "calls.npz", x=normal(16, 64))
    with pytest.raises(ModelError, match=r"the model has no gradient: .*QuickGelu") as caught:
        prune(path, tmp_path / "made.onnx", importance="fisher", data=tmp_path / "calls.npz")
    check_words(caught.value)
    assert "--importance" in caught.value.hint
    assert not (tmp_path / "made.onnx").exists()


@pytest.mark.usefixtures("without_onnx_ad")
def test_without_onnx_ad_it_is_said_what_to_install(wide: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="onnx-ad") as caught:
        prune(wide, tmp_path / "made.onnx", importance="taylor", data=tmp_path / "data")
    assert "pip install 'onnxcompress[train]'" in caught.value.hint
