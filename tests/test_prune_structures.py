"""Structures cut out of models: how much goes, what the outputs lose, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

import onnxcompress
from onnxcompress.errors import ModelError, UsageError
from onnxcompress.graph import multiply_adds
from onnxcompress.graph.channel_group import Group
from onnxcompress.graph.channel_world import World
from onnxcompress.graph.model import Model
from onnxcompress.graph.narrowing import narrowed
from onnxcompress.passes import consumers, structures
from onnxcompress.passes.base import Context
from onnxcompress.passes.prune import Prune
from onnxcompress.passes.shares import Ladder, chosen_stops, expected
from onnxcompress.passes.structures import Structures
from onnxcompress.passes.takeover import stops_of
from onnxcompress.recipe import Recipe
from onnxcompress.stats.activations import observe
from onnxcompress.verify.facts import count_parameters
from tests.channel_models import model_of
from tests.small_models import check_words, normal, outputs, proto, sqnr, write

if TYPE_CHECKING:
    from collections.abc import Mapping

SAMPLES = Path(__file__).parent.parent / "sample_models"
DIGITS = {"data": SAMPLES / "digits-cnn.calib.npz", "eval_data": SAMPLES / "digits-cnn.eval.npz"}

RESIDUAL = (
    """g (float[N, 3, 8, 8] a) => (float[N, 4, 8, 8] y) { h = Conv<pads = [1, 1, 1, 1]>(a, u, e)
        i = Relu(h) p = Conv<pads = [1, 1, 1, 1]>(i, v, c) q = Relu(p) r = Conv(q, t, d) s = Add(r, i) x = Relu(s)
        y = Conv(x, w) }""",
    {"u": (32, 3, 3, 3), "e": (32,), "v": (24, 32, 3, 3), "c": (24,), "t": (32, 24, 1, 1), "d": (32,),
     "w": (4, 32, 1, 1)},
)  # fmt: skip
FEED_FORWARD = (
    """g (float[B, S, 12] a) => (float[B, S, 12] y) { h = MatMul(a, v) i = Add(h, c) k = Relu(i) o = MatMul(k, w)
        y = Add(o, b) }""",
    {"v": (12, 64), "c": (64,), "w": (64, 12), "b": (12,)},
)
BLOCK = (
    """g (float[B, S, 24] a) => (float[B, S, 24] y) { q = MatMul(a, wq) k = MatMul(a, wk) v = MatMul(a, wv)
        qr = Reshape(q, heads) kr = Reshape(k, heads) vr = Reshape(v, heads)
        qt = Transpose<perm = [0, 2, 1, 3]>(qr) kt = Transpose<perm = [0, 2, 3, 1]>(kr)
        vt = Transpose<perm = [0, 2, 1, 3]>(vr) s = MatMul(qt, kt) d = Div(s, eight) p = Softmax(d) o = MatMul(p, vt)
        ot = Transpose<perm = [0, 2, 1, 3]>(o) x = Reshape(ot, back) z = MatMul(x, wo) l = Add(z, bo) r = Add(l, a)
        n = LayerNormalization(r, g, f) h = MatMul(n, v1) i = Add(h, c1) j = Relu(i) m = MatMul(j, v2) y = Add(m, n) }
        # heads = [0, 0, 8, 4] back = [0, 0, 32]""",
    {"wq": (24, 32), "wk": (24, 32), "wv": (24, 32), "wo": (32, 24), "bo": (24,), "g": (24,), "f": (24,),
     "v1": (24, 48), "c1": (48,), "v2": (48, 24), "eight": (1,)},
)  # fmt: skip
MODELS = {"residual": RESIDUAL, "feed-forward": FEED_FORWARD, "block": BLOCK}


def made(name: str, folder: Path) -> Path:
    """One of the models with data beside it."""
    proto = model_of(*MODELS[name])
    (folder / "data").mkdir()
    for i in range(8):
        a = normal(4, 3, 8, 8, seed=i) if name == "residual" else normal(4, 16, 24, seed=i) @ normal(24, 24, seed=7)
        np.savez(folder / "data" / f"{i}.npz", a=a if name != "feed-forward" else a[:, :, :12])
    return write(proto, folder)


def prune(path: Path, target: Path, **options: Any) -> onnxcompress.Result:
    """The pass alone, as the command line runs it."""
    own = {k: options.pop(k) for k in list(options) if k in Prune.__dataclass_fields__}
    recipe = Recipe.of((Prune(**{"structure": "all", **own}),))
    return onnxcompress.compress(path, recipe, target, **{"seconds": 0.1, **options})


def work(path: Path, feeds: Mapping[str, np.ndarray]) -> float:
    """Multiply-adds of a call."""
    world = World(Model.open(path))
    seen = observe(world.model, multiply_adds.watched(world), [dict(feeds)], noise=False)
    return multiply_adds.total(multiply_adds.layers(world, {n: v.shapes[0] for n, v in seen.items()}))


def first_call(folder: Path) -> dict[str, np.ndarray]:
    return dict(np.load(folder / "data" / "0.npz"))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("ratio", [0.2, 0.5])
@pytest.mark.parametrize("data", [False, True])
def test_as_much_goes_as_was_asked_for(tmp_path: Path, name: str, ratio: float, *, data: bool) -> None:
    path, target = made(name, tmp_path), tmp_path / "made.onnx"
    result = prune(path, target, ratio=ratio, data=tmp_path / "data" if data else None)
    assert result.passed
    feeds = first_call(tmp_path)
    saved = 1 - work(target, feeds) / work(path, feeds)
    assert ratio <= saved + 1e-9
    assert saved < ratio + 0.2
    assert target.stat().st_size < path.stat().st_size
    onnx.checker.check_model(onnx.load(target), full_check=True)
    (step,) = result.report.steps
    assert step.options["ratio"] == ratio
    assert any(f"{100 * saved:.1f} % less" in note for note in step.notes)
    assert any("no data" in note for note in step.notes) is not data
    done = [r for r in step.layers if r.status == "done"]
    assert all(r.form == "narrow" and r.bytes_after < r.bytes_before for r in done)
    stored = {t.name: len(t.raw_data) for t in onnx.load(target).graph.initializer}
    assert all(stored[r.name] == r.bytes_after for r in step.layers)


@pytest.mark.parametrize("name", MODELS)
def test_what_stays_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = made(name, tmp_path)
    feeds = {"a": np.concatenate([first_call(tmp_path)["a"] * np.float32(0.9)] * 2)}
    found = {}
    for manner in ("refit", "plain"):
        if manner == "plain":
            monkeypatch.setattr(consumers, "refitted", lambda W, _, gone: _zeroed(W, gone))
        target = tmp_path / f"{manner}.onnx"
        prune(path, target, ratio=0.3, data=tmp_path / "data")
        found[manner] = sqnr(outputs(path, feeds)["y"], outputs(target, feeds)["y"])
    assert found["refit"] > found["plain"] + (0.3 if name == "block" else 1.5)  # its neurons are as good as random


def _zeroed(W: np.ndarray, gone: np.ndarray) -> np.ndarray:
    left = np.array(W, np.float64)
    left[:, :, gone] = 0
    return left


def test_digits_lose_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, found = SAMPLES / "digits-cnn.onnx", {}
    for manner in ("refit", "plain"):
        if manner == "plain":
            monkeypatch.setattr(consumers, "refitted", lambda W, _, gone: _zeroed(W, gone))
        target = tmp_path / f"{manner}.onnx"
        found[manner] = prune(path, target, ratio=0.3, **DIGITS).report.metrics["accuracy"]
        assert target.stat().st_size < 0.85 * path.stat().st_size
        feeds = {"image": np.load(DIGITS["eval_data"])["image"][:1]}
        assert work(target, feeds) < 0.7 * work(path, feeds)
    drop = {manner: metric.original - metric.compressed for manner, metric in found.items()}
    assert drop["refit"] < 0.02
    assert drop["refit"] < drop["plain"] / 3


@pytest.mark.parametrize(
    ("structure", "names"),
    [("heads", {"wq", "wk", "wv", "wo"}), ("neurons", {"v1", "v2"}), ("all", {"wq", "wk", "wv", "wo", "v1", "v2"})],
)
def test_kinds(tmp_path: Path, structure: str, names: set[str]) -> None:
    ratio = 0.8 if structure == "all" else 0.45  # more than one kind alone can give
    result = prune(made("block", tmp_path), tmp_path / "made.onnx", structure=structure, ratio=ratio)
    records = result.report.steps[0].layers
    assert {r.name for r in records if r.status == "done"} == names
    for record in records:
        if record.status == "skipped":
            assert record.reason in {f"its outputs are {'neurons' if structure == 'heads' else 'heads'}"} or any(
                word in str(record.reason) for word in ("put of the model", "LayerNormalization")
            )
    assert all(r.sparsity is not None for r in records if r.name in {"wq", "wk", "wv", "v1"} & names)


def test_patterns_choose_layers(tmp_path: Path) -> None:
    path = made("block", tmp_path)
    result = prune(path, tmp_path / "in.onnx", ratio=0.1, include=("v1",))
    assert {r.name for r in result.report.steps[0].layers if r.status == "done"} == {"v1", "v2"}
    result = prune(path, tmp_path / "out.onnx", ratio=0.1, exclude=("wk",))
    reasons = {r.name: r.reason for r in result.report.steps[0].layers}
    assert reasons["wq"] == "its channels are those of 'wk' too, which is excluded by 'wk'"
    with pytest.raises(UsageError, match="matches no weight"):
        prune(path, tmp_path / "none.onnx", include=("nothing*",))


def test_no_more_goes_than_can(tmp_path: Path) -> None:
    result = prune(made("feed-forward", tmp_path), tmp_path / "made.onnx", ratio=0.99)
    left = {t.name: list(t.dims) for t in onnx.load(tmp_path / "made.onnx").graph.initializer}
    assert left["v"] == [12, 8]
    assert any("no more can go" in note for note in result.report.steps[0].notes)


@pytest.mark.parametrize(
    "options",
    [
        {"structure": None, "ratio": 0.3},
        {"ratio": 0.0},
        {"ratio": 1.0},
        {"ratio": float("nan")},
        {"sparsity": 0.5},
        {"threshold": 0.1},
        {"pattern": "2:4"},
        {"importance": "magnitude"},
        {"allocation": "global"},
        {"form": "dense"},
    ],
    ids=str,
)
def test_options_that_mean_nothing(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as raised:
        Prune(**{"structure": "all", **options})
    check_words(raised.value)


def test_names_of_files() -> None:
    assert Prune(structure="heads").tag == "narrow30"
    assert Prune(structure="all", ratio=0.125).tag == "narrow12.5"
    assert Prune().parts() == (Prune(),)


def test_nothing_to_prune(tmp_path: Path) -> None:
    path = write(model_of("g (float[B, 6] a) => (float[] y) { y = MatMul(a, w) }", {"w": (6, 8)}), tmp_path)
    with pytest.raises(ModelError, match="output of the model") as raised:
        prune(path, tmp_path / "made.onnx")
    check_words(raised.value)
    with pytest.raises(ModelError, match="its outputs are neurons"):
        prune(made("feed-forward", tmp_path), tmp_path / "made.onnx", structure="heads")
    few = model_of("g (float[B, 6] a) => (float[] y) { h = MatMul(a, v) y = MatMul(h, w) }", {"v": (6, 8), "w": (8, 6)})
    with pytest.raises(ModelError, match="a multiple of 8 stays"):
        prune(write(few, tmp_path), tmp_path / "made.onnx")


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    proto = model_of(*FEED_FORWARD)
    for tensor in proto.graph.initializer:
        if tensor.name == "w":
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[3, 3] = np.nan
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, "w"))
    with pytest.raises(ModelError, match="'w' holds NaN") as raised:
        prune(write(proto, tmp_path), tmp_path / "made.onnx")
    check_words(raised.value)


def test_a_wrong_removal_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = narrowed

    def wrong(model: Model, kept: Mapping[Group, list[int]]) -> Model:
        """Others than those that were to go, in the first group."""
        moved = {g: (sorted({(c + 1) % g.channels for c in k}) if g.label == "p" else k) for g, k in kept.items()}
        return real(model, moved)

    monkeypatch.setattr(structures, "narrowed", wrong)
    with pytest.raises(ModelError, match="the channels of 'p' cannot be removed"):
        prune(made("residual", tmp_path), tmp_path / "made.onnx", ratio=0.5)


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        # one weight makes channels and reads them
        ("g (float[B, 6] a) => (float[] y) { h = Gemm(a, v) r = Relu(h) y = Gemm<transB = 1>(r, v) }", {"v": (6, 32)}),
        # shared by layers that lose the same
        ("""g (float[B, 6] a) => (float[] y) { h = MatMul(a, v) r = Relu(h) q = Sigmoid(h) s = MatMul(r, w)
            t = MatMul(q, w) y = Add(s, t) }""", {"v": (6, 32), "w": (32, 4)}),
        # two groups are read by one weight, and grouped convolutions read one
        ("""g (float[N, 3, 8, 8] a) => (float[] y) { h = Conv(a, u) i = Conv(a, v) j = Relu(i)
            k = Concat<axis = 1>(h, j) y = Conv(k, w, b) }""",
         {"u": (16, 3, 1, 1), "v": (24, 3, 1, 1), "w": (5, 40, 3, 3), "b": (5,)}),
        ("g (float[N, 3, 8, 8] a) => (float[] y) { h = Conv(a, u) d = Conv<group = 2>(h, v, c) y = Conv(d, w) }",
         {"u": (64, 3, 1, 1), "v": (12, 32, 3, 3), "c": (12,), "w": (5, 12, 1, 1)}),
        # what is not watched: a transposed convolution, weights on the left
        ("g (float[N, 3, 8, 8] a) => (float[] y) { h = Conv(a, u) x = Relu(h) y = ConvTranspose(x, w) }",
         {"u": (32, 3, 2, 2), "w": (32, 4, 2, 2)}),
        ("g (float[B, 6, 5] a) => (float[] y) { h = MatMul(v, a) r = Relu(h) y = MatMul(w, r) }",
         {"v": (32, 6), "w": (4, 32)}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("data", [False, True])
def test_shared_and_unusual_readers(
    tmp_path: Path, text: str, shapes: dict[str, tuple[int, ...]], *, data: bool
) -> None:
    proto = model_of(text, shapes)
    (tmp_path / "data").mkdir()
    dims = [d.dim_value or 4 for d in proto.graph.input[0].type.tensor_type.shape.dim]
    for i in range(6):
        np.savez(tmp_path / "data" / f"{i}.npz", a=normal(*dims, seed=i))
    path = write(proto, tmp_path)
    result = prune(path, tmp_path / "made.onnx", ratio=0.2, data=tmp_path / "data" if data else None)
    assert result.passed
    assert not any("not compared" in note for note in result.report.steps[0].notes)
    feeds = first_call(tmp_path)
    assert work(tmp_path / "made.onnx", feeds) <= 0.8 * work(path, feeds)


def test_models_that_do_not_run_are_counted_by_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structures, "one_call", lambda *_: None)
    context = Context()
    model = Model.open(made("residual", tmp_path))
    result = Structures("all", 0.3).rewrite(model, context)
    assert 0.5 < sum(r.bytes_after for r in result.layers) / sum(r.bytes_before for r in result.layers) <= 0.71


def test_half_precision(tmp_path: Path) -> None:
    text, shapes = FEED_FORWARD
    proto = model_of(text.replace("float[", "float16["), shapes)
    for tensor in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor).astype(np.float16) * np.float16(0.2)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    (tmp_path / "data").mkdir()
    for i in range(6):
        np.savez(tmp_path / "data" / f"{i}.npz", a=normal(2, 8, 12, seed=i).astype(np.float16))
    result = prune(write(proto, tmp_path), tmp_path / "made.onnx", ratio=0.3, data=tmp_path / "data")
    assert result.passed
    assert {t.data_type for t in onnx.load(tmp_path / "made.onnx").graph.initializer} == {onnx.TensorProto.FLOAT16}


def test_stops() -> None:
    def group(kind: Any, channels: int) -> Group:
        return Group(channels, (), kind, (), (), (), (), "g")

    assert stops_of(group("channels", 32)) == [8, 16, 24]
    assert stops_of(group("neurons", 30)) == [6, 14, 22]
    assert stops_of(group("channels", 8)) == []
    assert stops_of(group("heads", 4)) == [1, 2, 3]
    assert stops_of(group("heads", 16))[-1] == 14
    many = stops_of(group("neurons", 4096))
    assert len(many) == 32
    assert all((4096 - n) % 8 == 0 for n in many)
    assert many[-1] <= 4096 * 7 / 8


def test_less_goes_of_groups_that_matter(tmp_path: Path) -> None:
    world = World(Model.open(made("residual", tmp_path)))
    layers = multiply_adds.layers(world, {})
    ladder = Ladder((0.0, 0.1, 0.3), ({}, {("h", 0): 8}, {("h", 0): 16}))
    other = Ladder((0.0, 0.1, 0.3), ({}, {("p", 0): 8}, {("p", 0): 16}))
    assert chosen_stops([ladder, other], layers, 0.1) == [0, 1]  # p does more work
    assert chosen_stops(expected([ladder, other], [{1: 0.1}, {1: 1e3}]), layers, 0.02) == [1, 0]
    assert chosen_stops([ladder, other], layers, 0.9) == [2, 2]


def test_damage_is_expected_to_grow_with_the_error() -> None:
    cuts: tuple[multiply_adds.Cuts, ...] = ({}, {}, {}, {})
    ladder = Ladder((0.0, 0.1, 0.2, 0.4), cuts)
    first, second, third, fourth = expected([ladder] * 4, [{1: 1.0}, {1: 1.0, 2: 5.0}, {}, {1: float("inf")}])
    assert first.errors == pytest.approx((0, 1, 2, 4))
    assert second.errors == pytest.approx((0, 1, 5, 13))
    assert third.errors == fourth.errors == pytest.approx((0, 1, 2, 4))
    (alone,) = expected([ladder], [{}])
    assert alone.errors == ladder.errors
    (falling,) = expected([ladder], [{1: 3.0, 2: 2.0}])
    assert list(falling.errors) == sorted(falling.errors)
    (free,) = expected([Ladder((0.0, 0.0, 0.0, 0.0), cuts)], [{1: 0.0}])
    assert free.errors == (0, 0, 0, 0)


def cli(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "onnxcompress", "prune", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_command_line(tmp_path: Path) -> None:
    path = made("residual", tmp_path)
    done = cli(path, "--structure", "all", "--ratio", "0.2", "--data", tmp_path / "data")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.narrow20.onnx").exists()
    assert "narrow" in done.stdout
    for wrong in (["--ratio", "0.2"], ["--structure", "all", "--ratio", "2"], ["--structure", "rows"]):
        assert cli(path, *wrong).returncode == 2
    done = cli(path, "--structure", "heads", "-o", tmp_path / "none.onnx")
    assert done.returncode == 3
    assert "its outputs are channels" in done.stderr
    assert not (tmp_path / "none.onnx").exists()


def test_a_recipe_quantizes_what_is_left(tmp_path: Path) -> None:
    path = made("residual", tmp_path)
    text = """
        [[steps]]
        pass = "prune"
        structure = "channels"
        ratio = 0.3
        [[steps]]
        pass = "quantize"
    """
    recipe = Recipe.from_text(text, "text")
    assert Recipe.from_text(recipe.to_toml(), "again").steps == recipe.steps
    result = onnxcompress.compress(path, recipe, tmp_path / "made.onnx", data=tmp_path / "data", seconds=0.1)
    assert result.passed
    assert [s.pass_name for s in result.report.steps] == ["prune", "quantize"]
    assert (tmp_path / "made.onnx").stat().st_size < 0.5 * path.stat().st_size


def test_parameters_that_are_cut_out_are_no_longer_counted(tmp_path: Path) -> None:
    sample = SAMPLES / "digits-cnn.onnx"
    target = tmp_path / "made.onnx"
    recipe = Recipe.of((Prune(structure="all", ratio=0.3),))
    report = onnxcompress.compress(sample, recipe, target, seconds=0.1).report
    assert report.compressed is not None
    assert report.compressed.parameters == count_parameters(Model.open(target)) < report.original.parameters


def test_row_shares_take_the_lightest_rows(tmp_path: Path) -> None:
    """Of the rows of a layer the lightest go, though what reads them is heavy."""
    w, v = normal(32, 8, 3, 3, seed=1), normal(8, 32, 3, 3, seed=2)
    light = np.random.default_rng(0).permutation(32)[:16]
    w[light] *= 0.1
    v[:, light] *= 100
    text = """g (float[n, 8, 9, 9] x) => (float[n, 8, 7, 7] y) {
        h = Conv<pads = [1, 1, 1, 1]>(x, w) r = Relu(h) y = Conv(r, v) }"""
    path = write(proto(text, {"w": w, "v": v}), tmp_path)
    found = {}
    for importance in ("auto", "row-share"):
        target = tmp_path / f"{importance}.onnx"
        prune(path, target, ratio=0.45, importance=importance)
        stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(target).graph.initializer}
        found[importance] = {int(np.argmax([np.array_equal(row, one) for one in w])) for row in stored["w"]}
    assert found["row-share"] == set(range(32)) - set(light.tolist())
    assert found["auto"] == set(light.tolist())


@pytest.mark.parametrize(
    ("structure", "importance"), [("blocks", "row-share"), ("all", "hessian"), (None, "row-share")]
)
def test_importance_goes_with_what_is_cut_out(structure: str | None, importance: str) -> None:
    with pytest.raises(UsageError, match=r"row|importance"):
        Prune(structure=structure, importance=importance)  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "said"), [
    ("g (float[3, 1, 4] x) => (float[3, 1, 1, 4] y) { y = LSTM<hidden_size = 4>(x, w, r) }", "LSTM, whose gates"),
    ("g (float[n, 4] x) => (float[n, 4] y) { d = DequantizeLinear(q, s) y = MatMul(x, d) }", "are quantized"),
    ("g (float[n, 4] x) => (float[n, 4] y) { y = Relu(x) }", "no layers with stored weights"),
])  # fmt: skip
def test_why_there_is_nothing_to_remove(tmp_path: Path, text: str, said: str) -> None:
    stored = {
        "w": normal(1, 16, 4), "r": normal(1, 16, 4), "q": np.ones((4, 4), np.int8), "s": np.array(0.1, np.float32),
    }  # fmt: skip
    path = write(proto(text, {n: a for n, a in stored.items() if f" {n}" in text or f"({n}" in text}), tmp_path)
    with pytest.raises(ModelError, match=said):
        onnxcompress.compress(path, Recipe.of((Prune(structure="channels"),)), tmp_path / "made.onnx")
