"""Factorization from options to files: which layers get factors, what these compute, and what is left whole."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

import onnxcompress
from onnxcompress.errors import ModelError, UsageError
from onnxcompress.passes.factorize import Factorize
from onnxcompress.passes.quantize import Quantize
from onnxcompress.recipe import Recipe
from onnxcompress.verify.budgets import Budgets
from tests.small_models import normal, operators, outputs, proto, sqnr, write

if TYPE_CHECKING:
    from onnxcompress.verify.verify import Verification

Array = np.ndarray
SAMPLES = Path(__file__).parent.parent / "sample_models"


def low(*dims: int, rank: int, seed: int) -> Array:
    """A matrix (out, in) of a rank."""
    return np.asarray(normal(dims[0], rank, seed=seed) @ normal(rank, dims[1], seed=seed + 100) / np.float32(rank))


def spatially(outs: int, ins: int, rank: int, seed: int) -> Array:
    """A kernel (outs, ins, 3, 3) that is a chain of one along columns and one along rows."""
    horizontal, vertical = normal(outs, rank, 3, seed=seed), normal(rank, ins, 3, seed=seed + 1)
    return np.asarray(np.einsum("orb,ria->oiab", horizontal, vertical) / 8, np.float32)


def inside(outs: int, ins: int, inner: int, seed: int) -> Array:
    """A kernel (outs, ins, 3, 3) with few channels inside."""
    last, core, first = (
        normal(outs, inner, seed=seed),
        normal(inner, inner, 3, 3, seed=seed + 1),
        normal(inner, ins, seed=3),
    )
    return np.asarray(np.einsum("or,rsab,si->oiab", last, core, first) / 32, np.float32)


BIAS = normal(64, seed=9)
MATRIX, TABLE = low(64, 96, rank=8, seed=1), low(200, 64, rank=8, seed=2)
IMAGE = (2, 32, 12, 14)
# body, input shape, stored tensors: weights of exactly rank 8, so that factors can compute the same
LAYERS: dict[str, tuple[str, tuple[int, ...], dict[str, Array]]] = {
    "MatMul": ("y = MatMul(x, w)", (3, 100, 96), {"w": MATRIX.T.copy()}),
    "MatMul and Add": ("h = MatMul(x, w) y = Add(h, b)", (3, 100, 96), {"w": MATRIX.T.copy(), "b": BIAS}),
    "Gemm": ("y = Gemm(x, w, b)", (256, 96), {"w": MATRIX.T.copy(), "b": BIAS}),
    "Gemm transposed": ("y = Gemm<transB = 1>(x, w, b)", (256, 96), {"w": MATRIX, "b": BIAS}),
    "Gemm without bias": ("y = Gemm<transB = 1>(x, w)", (256, 96), {"w": MATRIX}),
    "two readers": ("h = MatMul(x, w) r = Relu(x) k = MatMul(r, w) y = Add(h, k)", (256, 96), {"w": MATRIX.T.copy()}),
    "1x1": ("y = Conv(x, w, b)", (2, 96, 10, 12), {"w": MATRIX[:, :, None, None], "b": BIAS}),
    "1x1 with strides": ("y = Conv<strides = [2, 1]>(x, w)", (2, 96, 10, 12), {"w": MATRIX[:, :, None, None]}),
    "one axis": (
        "y = Conv<pads = [1, 2], strides = [2]>(x, w, b)", (2, 32, 100),
        {"w": low(64, 96, rank=8, seed=5).reshape(64, 32, 3), "b": BIAS},
    ),
    "few outputs": (
        "y = Conv<pads = [1, 0, 2, 1], strides = [2, 1], dilations = [1, 2]>(x, w, b)", IMAGE,
        {"w": low(64, 288, rank=8, seed=6).reshape(64, 32, 3, 3), "b": BIAS},
    ),
    "along axes": (
        "y = Conv<pads = [1, 0, 2, 1], strides = [2, 1], dilations = [1, 2]>(x, w, b)", IMAGE,
        {"w": spatially(64, 32, 8, seed=7), "b": BIAS},
    ),
    "few inside": (
        "y = Conv<pads = [1, 0, 2, 1], strides = [1, 2], dilations = [2, 1]>(x, w, b)", IMAGE,
        {"w": inside(64, 32, 8, seed=8), "b": BIAS},
    ),
}  # fmt: skip
KINDS = {"few outputs": "output", "along axes": "spatial", "few inside": "tucker"}


def made(name: str, folder: Path) -> tuple[Path, onnx.ModelProto, dict[str, Array]]:
    body, shape, stored = LAYERS[name]
    rank = len(outputs(proto(text(body, shape, 0), stored), {"x": normal(*shape)})["y"].shape)
    model = proto(text(body, shape, rank), stored)
    (folder / "data").mkdir(exist_ok=True)
    for i in range(4):
        np.savez(folder / "data" / f"{i}.npz", allow_pickle=False, x=normal(*shape, seed=60 + i))
    return write(model, folder), model, {"x": normal(*shape, seed=99)}


def text(body: str, shape: tuple[int, ...], rank: int) -> str:
    out = f"float[{', '.join(f'd{i}' for i in range(rank))}] y" if rank else "y"
    return f"g (float[{', '.join(map(str, shape))}] x) => ({out}) {{ {body} }}"


def factorize(path: Path, target: Path, **options: Any) -> onnxcompress.Result:
    own = {k: options.pop(k) for k in list(options) if k in Factorize.__dataclass_fields__}
    return onnxcompress.compress(
        path, Recipe.of((Factorize(**own),)), target, **{"verify": False, "threads": 1, "seconds": 0.05, **options}
    )


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_what_has_a_rank_is_computed_exactly(name: str, tmp_path: Path, *, data: bool) -> None:
    path, model, feeds = made(name, tmp_path)
    target = tmp_path / "out.onnx"
    result = factorize(path, target, energy=0.99999, data=tmp_path / "data" if data else None)
    (record,) = [r for r in result.report.steps[0].layers if r.status == "done"]
    assert record.form == KINDS.get(name, "output" if "Conv" in LAYERS[name][0] else "low-rank")
    assert record.ranks is not None
    assert max(record.ranks) <= 16
    assert record.bytes_after < 0.85 * record.bytes_before
    less = onnx.load(target)
    onnx.checker.check_model(less, full_check=True)
    stored = sum(np.prod(t.dims) for t in less.graph.initializer)
    assert stored < sum(np.prod(t.dims) for t in model.graph.initializer)
    assert result.report.compressed is not None
    assert result.report.compressed.parameters == stored
    assert sqnr(outputs(model, feeds)["y"], outputs(less, feeds)["y"]) > 70


def test_tables_and_tied_outputs_share_their_factors(tmp_path: Path) -> None:
    body = "h = Gather(w, i) n = Sigmoid(h) t = Transpose<perm = [1, 0]>(w) y = MatMul(n, t)"
    model = proto(f"g (int64[b, n] i) => (float[b, n, v] y) {{ {body} }}", {"w": TABLE})
    feeds = {"i": np.arange(12).reshape(3, 4) * 16}
    path = write(model, tmp_path)
    result = factorize(path, tmp_path / "out.onnx", rank=8)
    assert [r.ranks for r in result.report.steps[0].layers if r.status == "done"] == [(8,)]
    less = onnx.load(tmp_path / "out.onnx")
    assert sorted(list(t.dims) for t in less.graph.initializer if len(t.dims) == 2) == [[8, 64], [200, 8]]
    assert sqnr(outputs(model, feeds)["y"], outputs(less, feeds)["y"]) > 70


TWO = """g (float[n, 64] x) => (float[n, 48] y) {
    a = MatMul(x, w) s = Add(a, b) r = Relu(s) y = Gemm<transB = 1>(r, v, c) }"""
STORED = {"w": normal(64, 96), "b": normal(96, seed=3), "v": normal(48, 96, seed=1), "c": normal(48, seed=2)}


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A model of full rank, and inputs far from zero that lie near a subspace."""
    (tmp_path / "data").mkdir()
    for i in range(8):
        x = 3 + normal(256, 16, seed=i) @ normal(16, 64, seed=77) + normal(256, 64, seed=50 + i, scale=0.1)
        np.savez(tmp_path / "data" / f"{i}.npz", allow_pickle=False, x=x.astype(np.float32))
    return write(proto(TWO, STORED), tmp_path)


def seen(folder: Path) -> dict[str, Array]:
    return {"x": np.concatenate([np.load(f)["x"] for f in sorted((folder / "data").iterdir())])}


def test_data_make_it_better_and_keep_the_mean(two: Path, tmp_path: Path) -> None:
    feeds = seen(tmp_path)
    expected = outputs(two, feeds)["y"]
    found = {}
    for name, data in (("with", tmp_path / "data"), ("without", None)):
        factorize(two, tmp_path / f"{name}.onnx", rank=16, include=("v",), data=data)
        found[name] = outputs(tmp_path / f"{name}.onnx", feeds)["y"]
    assert sqnr(expected, found["with"]) > sqnr(expected, found["without"]) + 3
    spread = expected.std(axis=0)
    assert (np.abs(found["with"].mean(axis=0) - expected.mean(axis=0)) < 0.02 * spread).all()


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("by", ["params", "work"])
@pytest.mark.parametrize("share", [0.8, 0.6, 0.4])
def test_no_more_stays_than_was_asked_for(two: Path, tmp_path: Path, share: float, by: str, *, data: bool) -> None:
    result = factorize(two, tmp_path / "out.onnx", **{by: share}, data=tmp_path / "data" if data else None)
    sizes = {t.name: int(np.prod(t.dims)) for t in onnx.load(tmp_path / "out.onnx").graph.initializer}
    kept = sum(n for name, n in sizes.items() if name not in ("b", "c"))
    least = any("least ranks everywhere" in note for note in result.report.steps[0].notes)
    assert least or by == "work" or kept <= share * (64 * 96 + 48 * 96)
    assert kept >= 0.2 * share * (64 * 96 + 48 * 96)
    assert any(r.status == "done" for r in result.report.steps[0].layers)


@pytest.mark.parametrize(
    ("body", "stored", "reason"),
    [
        ("y = Conv<group = 2>(x, w)", {"w": normal(64, 16, 3, 3)}, "groups"),
        ('y = Conv<auto_pad = "SAME_UPPER">(x, w)', {"w": normal(64, 32, 3, 3)}, "auto_pad"),
        ("y = ConvTranspose(x, w)", {"w": normal(32, 64, 3, 3)}, "ConvTranspose"),
        ("y = Conv(x, w)", {"w": normal(8, 32, 3, 3)}, "nothing can be saved"),
        ("y = Conv<pads = [1, 1, 1, 1]>(x, w)", {"w": normal(16, 32, 1, 1)}, "tiny|no rank|saved"),
    ],
)
def test_what_cannot_be_factored_is_told(body: str, stored: dict[str, Array], reason: str, tmp_path: Path) -> None:
    path = write(proto(f"g (float[2, 32, 12, 14] x) => (float[a, b, c, d] y) {{ {body} }}", stored), tmp_path)
    with pytest.raises(ModelError, match=reason):
        factorize(path, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"rank": 0}, {"rank": -1}, {"params": 0.0}, {"params": 1.0}, {"work": 1.5}, {"energy": 0.0}, {"energy": 1.1},
        {"rank_ratio": 0.0}, {"rank": 4, "energy": 0.9}, {"params": 0.5, "work": 0.5}, {"energy": float("nan")},
    ],
    ids=str,
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Factorize(**options)


@pytest.mark.parametrize("spoil", [np.nan, np.inf])
def test_what_is_not_finite_is_named(tmp_path: Path, spoil: float) -> None:
    bad = STORED["w"].copy()
    bad[3, 4] = spoil
    path = write(proto(TWO, {**STORED, "w": bad}), tmp_path)
    with pytest.raises(ModelError, match="'w' holds NaN or infinity"):
        factorize(path, tmp_path / "out.onnx")


def timed(monkeypatch: pytest.MonkeyPatch, speed: float) -> None:
    """Factored models have that speed, whatever the machine says; others run as fast as the original."""
    story = importlib.import_module("onnxcompress.compress")
    real = story.verify

    def verified(original: Path, candidate: Path, *rest: Any) -> Verification:
        found: Verification = real(original, candidate, *rest)
        assert found.latency is not None
        factored = any(".inner" in n.output[0] for n in onnx.load(candidate).graph.node)
        value = speed if factored else 1.0
        latency = replace(found.latency, speedup=value, speedup_low=0.98 * value, speedup_high=1.02 * value)
        return replace(found, latency=latency)

    monkeypatch.setattr(story, "verify", verified)


def test_a_slower_result_is_not_written(two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, 0.8)
    with pytest.raises(ModelError, match="slower with factors"):
        factorize(two, tmp_path / "out.onnx", data=tmp_path / "data", verify=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", two.name]
    both = Recipe.of((Factorize(), Quantize(scheme="weight-only")))
    result = onnxcompress.compress(two, both, tmp_path / "out.onnx", data=tmp_path / "data", threads=1, seconds=0.05)
    assert result.passed
    assert not any(".inner" in n.output[0] for n in onnx.load(tmp_path / "out.onnx").graph.node)
    assert any(r.reason == "the model was measured to be slower with factors" for r in result.report.steps[0].layers)


def test_a_faster_result_is_kept(two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, 1.3)
    result = factorize(two, tmp_path / "out.onnx", data=tmp_path / "data", verify=True)
    assert result.passed
    assert any(".inner" in n.output[0] for n in onnx.load(tmp_path / "out.onnx").graph.node)


def test_as_far_as_fidelity_allows(two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, 1.3)
    found = {}
    for limit in (12.0, 25.0):
        recipe = Recipe.of((Factorize(),), Budgets(min_sqnr=limit))
        target = tmp_path / f"{limit}.onnx"
        result = onnxcompress.compress(two, recipe, target, data=tmp_path / "data", threads=1, seconds=0.02)
        assert result.passed
        assert result.report.fidelity is not None
        assert result.report.fidelity.sqnr_db >= limit
        found[limit] = target.stat().st_size
    assert found[12.0] < found[25.0]


def test_factors_are_quantized_behind(two: Path, tmp_path: Path) -> None:
    recipe = Recipe.of((Factorize(params=0.6), Quantize(scheme="weight-only")))
    result = onnxcompress.compress(two, recipe, tmp_path / "out.onnx", data=tmp_path / "data", verify=False)
    alone = factorize(two, tmp_path / "alone.onnx", params=0.6, data=tmp_path / "data")
    assert result.path is not None
    assert alone.path is not None
    assert result.path.stat().st_size < 0.6 * alone.path.stat().st_size
    feeds = seen(tmp_path)
    first, second = (outputs(p, feeds)["y"] for p in (alone.path, result.path))
    assert sqnr(first, second) > 25


def test_the_same_options_give_the_same_bytes(two: Path, tmp_path: Path) -> None:
    for name, threads in (("one", 1), ("two", 2)):
        factorize(two, tmp_path / f"{name}.onnx", data=tmp_path / "data", threads=threads)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def test_a_real_model_keeps_its_accuracy(tmp_path: Path) -> None:
    path = SAMPLES / "digits-cnn.onnx"
    data = {"data": SAMPLES / "digits-cnn.calib.npz", "eval_data": SAMPLES / "digits-cnn.eval.npz"}
    result = factorize(path, tmp_path / "out.onnx", params=0.6, verify=True, metric="accuracy", **data)
    metric = result.report.metrics["accuracy"]
    assert metric.compressed >= metric.original - 0.02
    assert result.path is not None
    assert result.path.stat().st_size < 0.75 * path.stat().st_size
    assert operators(onnx.load(result.path))["Conv"] > operators(onnx.load(path))["Conv"]


def test_from_the_shell(two: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "onnxcompress", "factorize", str(two), "--data", str(tmp_path / "data")]
    done = subprocess.run(
        [*command, "--rank-ratio", "0.25", "--no-verify", "--json", str(tmp_path / "r.json")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "low-rank" in done.stdout
    assert (tmp_path / "model.factored25.onnx").exists()
    layers = json.loads((tmp_path / "r.json").read_text())["steps"][-1]["layers"]
    assert {tuple(y["ranks"]) for y in layers if y["status"] == "done"} <= {(16,), (12,)}
    wrong = subprocess.run([*command, "--rank", "0"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "--rank 1 or more" in wrong.stderr
