"""Residual blocks taken out: which ones there are, what stands in for them, and what the model computes then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxcompress
from onnxcompress.errors import ModelError, UsageError
from onnxcompress.graph import multiply_adds
from onnxcompress.graph.channel_world import World
from onnxcompress.graph.residual_blocks import Block, residual_blocks
from onnxcompress.passes.base import Context
from onnxcompress.passes.blocks import Blocks
from onnxcompress.passes.prune import Prune
from onnxcompress.recipe import Recipe
from onnxcompress.stats.block_trials import BlockTrials
from tests.small_models import normal, opened, operators, outputs, proto, sqnr, write

CONV = "Conv<pads = [1, 1, 1, 1]>"
IMAGES = f"""g (float[n, 8, 9, 9] x) => (float[n, 8, 9, 9] y) {{
    s = {CONV}(x, w0, b0) t = Relu(s)
    h1 = {CONV}(t, w1, b1) r1 = Relu(h1) f1 = {CONV}(r1, w2) a = Add(f1, t)
    h2 = {CONV}(a, w3, b1) f2 = Relu(h2) c = Add(a, f2)
    e = Add(c, bias) y = {CONV}(e, w4) }}"""
TEXTS = """g (float[n, t, 16] x) => (float[n, t, 16] y) {
    a = MatMul(x, m1) b = Relu(a) f = MatMul(b, m2) s = Add(x, f) l = LayerNormalization(s, gamma, beta)
    d = MatMul(l, m3) u = Relu(d) v = MatMul(u, m4) y = Add(v, l) }"""


def _small(*dims: int, seed: int) -> np.ndarray:
    return normal(*dims, seed=seed, scale=0.2)


PLAIN = {
    **{f"w{i}": _small(8, 8, 3, 3, seed=i) for i in range(5)},
    "b0": normal(8, seed=7), "b1": normal(8, seed=8), "bias": normal(1, 8, 1, 1, seed=9),
}  # fmt: skip
PRODUCTS = {
    "m1": _small(16, 32, seed=1), "m2": _small(32, 16, seed=2),
    "m3": _small(16, 32, seed=3), "m4": _small(32, 16, seed=4),
    "gamma": np.ones(16, np.float32), "beta": np.zeros(16, np.float32),
}  # fmt: skip
KINDS = {
    "images": (IMAGES, PLAIN, (2, 8, 9, 9), [("a", "t", -3), ("c", "a", -3)]),
    "texts": (TEXTS, PRODUCTS, (2, 5, 16), [("s", "x", -1), ("y", "l", -1)]),
}


def made(kind: str, folder: Path) -> tuple[Path, onnx.ModelProto]:
    text, stored, shape, _ = KINDS[kind]
    model = proto(text, stored)
    (folder / "data").mkdir()
    for i in range(6):
        np.savez(folder / "data" / f"{i}.npz", allow_pickle=False, x=normal(*shape, seed=50 + i))
    return write(model, folder), model


def blocks(model: onnx.ModelProto, folder: Path, shape: tuple[int, ...]) -> list[Block]:
    twin = opened(model, folder)
    names = [o for n in model.graph.node for o in n.output if o not in {v.name for v in model.graph.output}]
    shown = onnx.ModelProto.FromString(model.SerializeToString())
    shown.graph.output.extend(onnx.helper.make_tensor_value_info(n, 1, None) for n in names)
    shapes = {n: y.shape for n, y in outputs(shown, {"x": normal(*shape)}).items()}
    shapes["x"] = shape
    return residual_blocks(twin, shapes, multiply_adds.layers(World(twin), shapes))


@pytest.mark.parametrize("kind", KINDS)
def test_residual_sums_are_found_and_no_others(kind: str, tmp_path: Path) -> None:
    _, model = made(kind, tmp_path)
    found = blocks(model, tmp_path, KINDS[kind][2])
    assert [(b.output, b.shortcut, b.axis) for b in found] == KINDS[kind][3]


def test_a_branch_that_is_read_elsewhere_does_not_go(tmp_path: Path) -> None:
    text = f"""g (float[n, 8, 9, 9] x) => (float[n, 8, 9, 9] y, float[n, 8, 9, 9] z) {{
        f = {CONV}(x, w0) a = Add(x, f) y = {CONV}(a, w1) z = Relu(f) }}"""
    assert blocks(proto(text, {k: PLAIN[k] for k in ("w0", "w1")}), tmp_path, (2, 8, 9, 9)) == []


def prune(path: Path, target: Path, **options: Any) -> onnxcompress.Result:
    own = {k: options.pop(k) for k in list(options) if k in Prune.__dataclass_fields__}
    recipe = Recipe.of((Prune(structure="blocks", **own),))
    return onnxcompress.compress(path, recipe, target, **{"seconds": 0.05, "threads": 1, **options})


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_is_the_least_squares_fit(kind: str, tmp_path: Path) -> None:
    """Against numpy, on the x that is left and the y that was."""
    path, model = made(kind, tmp_path)
    shape = KINDS[kind][2]
    found = blocks(model, tmp_path, shape)
    calls = [{"x": normal(*shape, seed=50 + i)} for i in range(6)]
    trials = BlockTrials(opened(model, tmp_path), found, calls, 2, 1)
    (block, bridge), *_ = trials.bridged(found[:1]).items()
    shown = onnx.load(path)
    shown.graph.output.append(onnx.helper.make_tensor_value_info(block.output, 1, None))
    if block.shortcut != "x":
        shown.graph.output.append(onnx.helper.make_tensor_value_info(block.shortcut, 1, None))
    seen = [{**c, **outputs(shown, c)} for c in calls]
    x, y = (
        np.concatenate([np.moveaxis(s[n], block.axis, -1).reshape(-1, s[n].shape[block.axis]) for s in seen])
        for n in (block.shortcut, block.output)
    )
    assert bridge.scale is not None
    assert bridge.shift is not None
    for c in range(x.shape[1]):
        slope, offset = np.polyfit(x[:, c].astype(float), y[:, c].astype(float), 1)
        assert bridge.scale[c] == pytest.approx(slope, rel=1e-3, abs=1e-4)
        assert bridge.shift[c] == pytest.approx(offset, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_layers_and_closer_with_data_than_without(kind: str, tmp_path: Path) -> None:
    path, model = made(kind, tmp_path)
    feeds = {"x": normal(*KINDS[kind][2], seed=99)}
    expected = outputs(model, feeds)["y"]
    ratios = {}
    for name, data in (("with", tmp_path / "data"), ("without", None)):
        result = prune(path, tmp_path / f"{name}.onnx", ratio=0.2, data=data)
        assert result.path is not None
        less = onnx.load(result.path)
        layers = ("Conv", "MatMul")
        assert sum(operators(less)[op] for op in layers) < sum(operators(model)[op] for op in layers)
        assert result.path.stat().st_size < path.stat().st_size
        ratios[name] = sqnr(expected, outputs(less, feeds)["y"])
        gone = [y for y in result.report.steps[0].layers if y.status == "done"]
        assert gone
        assert all(y.bytes_after == 0 for y in gone)
    assert ratios["with"] > ratios["without"]


def test_excluded_layers_keep_their_block(tmp_path: Path) -> None:
    path, _ = made("images", tmp_path)
    result = prune(path, tmp_path / "out.onnx", ratio=0.15, exclude=("w1",), data=tmp_path / "data")
    assert result.path is not None
    stored = {t.name for t in onnx.load(result.path).graph.initializer}
    assert {"w1", "w2"} <= stored
    assert "w3" not in stored


def test_a_model_without_blocks_is_refused(tmp_path: Path) -> None:
    model = opened(proto("g (float[2, 8, 9, 9] x) => (float[2, 8, 9, 9] y) { y = Relu(x) }", {}), tmp_path)
    with pytest.raises(ModelError, match="no block"):
        Blocks(0.3).rewrite(model, Context())


def test_options(tmp_path: Path) -> None:
    assert Prune(structure="blocks", ratio=0.25).tag == "shallow25"
    assert Prune(structure="blocks").parts() == (Blocks(0.3),)
    with pytest.raises(UsageError):
        Prune(structure="blocks", sparsity=0.5)
    path, _ = made("images", tmp_path)
    result = prune(path, tmp_path / "most.onnx", ratio=0.9, data=tmp_path / "data")
    assert any("no more can go" in note for note in result.report.steps[0].notes)
