"""Steps on a model that was pruned before: its packed weights are weights like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

import onnxcompress
from onnxcompress.errors import ModelError
from onnxcompress.forms.unpacking import unpacked
from onnxcompress.graph.model import Model
from onnxcompress.passes.factorize import Factorize
from onnxcompress.passes.prune import Prune
from onnxcompress.passes.quantize import Quantize
from onnxcompress.passes.simplify import Simplify
from onnxcompress.recipe import Recipe
from tests.small_models import normal, outputs, proto, sqnr, write

if TYPE_CHECKING:
    from pathlib import Path

Array = np.ndarray
TEXT = "g (float[n, 256] x) => (float[n, 512] y) { a = MatMul(x, w) r = Relu(a) y = Gemm<transB = 1>(r, v) }"
FEEDS = {"x": normal(16, 256, seed=9)}
PATTERNS = ("unstructured", "2:4", "1:4", "block 4x4")


def run(path: Path, target: Path, *steps: Any, **options: Any) -> onnxcompress.Result:
    return onnxcompress.compress(path, Recipe.of(steps), target, **{"seconds": 0.1, **options})


def stored(path: Path) -> dict[str, Array]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(proto(TEXT, {"w": normal(256, 192), "v": normal(512, 192, seed=1)}), tmp_path)


def share(pattern: str) -> dict[str, Any]:
    """How much goes, where the pattern does not say it."""
    return {} if ":" in pattern else {"sparsity": 0.5}


def pruned(model: Path, pattern: str = "unstructured", **options: Any) -> Path:
    target = model.with_name("pruned.onnx")
    run(model, target, Prune(pattern=pattern, **{**share(pattern), **options}))
    return target


@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_was_packed_comes_out_as_it_went_in(model: Path, pattern: str) -> None:
    packed, dense = pruned(model, pattern), model.with_name("dense.onnx")
    run(model, dense, Prune(pattern=pattern, form="dense", **share(pattern)))
    found = unpacked(Model.open(packed))
    assert found is not None
    assert {n.op_type for n in found.proto.graph.node} == {"MatMul", "Relu", "Gemm"}
    arrays = {t.name: found.array(t) for t in found.tensors()}
    expected = stored(dense)
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array)
    assert unpacked(Model.open(dense)) is None


@pytest.mark.parametrize("pattern", PATTERNS)
def test_quantized_later_is_as_small_as_at_once(model: Path, tmp_path: Path, pattern: str) -> None:
    prune = Prune(pattern=pattern, **share(pattern))
    run(model, tmp_path / "once.onnx", prune, Quantize(scheme="weight-only"))
    run(pruned(model, pattern), tmp_path / "later.onnx", Quantize(scheme="weight-only"))
    once, later = ((tmp_path / f"{n}.onnx").stat().st_size for n in ("once", "later"))
    assert later == pytest.approx(once, abs=600)
    one, two = (outputs(tmp_path / f"{n}.onnx", FEEDS)["y"] for n in ("once", "later"))
    np.testing.assert_allclose(one, two, atol=1e-4 * np.abs(one).max())


def test_what_stays_in_float_is_packed_again(model: Path, tmp_path: Path) -> None:
    packed = pruned(model)
    result = run(packed, tmp_path / "made.onnx", Quantize(scheme="weight-only", exclude=("v",)))
    assert result.passed
    assert {"v.v", "v.m", "w.q"} <= set(stored(tmp_path / "made.onnx"))
    assert "v" not in stored(tmp_path / "made.onnx")
    assert any("packed again" in note for note in result.report.steps[0].notes)


def test_simplify_leaves_a_pruned_model_as_small(model: Path, tmp_path: Path) -> None:
    packed = pruned(model)
    assert run(packed, tmp_path / "made.onnx", Simplify()).passed
    assert (tmp_path / "made.onnx").stat().st_size <= packed.stat().st_size + 400  # its provenance
    assert sqnr(outputs(packed, FEEDS)["y"], outputs(tmp_path / "made.onnx", FEEDS)["y"]) > 120


@pytest.mark.parametrize("sparsity", [0.3, 0.7])
def test_no_zero_is_lost_when_it_is_pruned_again(model: Path, tmp_path: Path, sparsity: float) -> None:
    packed = pruned(model)
    before = unpacked(Model.open(packed))
    assert before is not None
    run(packed, tmp_path / "made.onnx", Prune(sparsity=sparsity, allocation="uniform"))
    after = unpacked(Model.open(tmp_path / "made.onnx"))
    assert after is not None
    weights = {t.name: after.array(t) for t in after.tensors()}
    for tensor in before.tensors():
        was, found = before.array(tensor) == 0, weights[tensor.name] == 0
        assert found[was].all()
        assert found.mean() == pytest.approx(max(sparsity, was.mean()), abs=0.01)


def test_factors_of_packed_weights(model: Path, tmp_path: Path) -> None:
    result = run(pruned(model, sparsity=0.3), tmp_path / "made.onnx", Factorize(rank=16), verify=False)
    assert {r.status for r in result.report.steps[0].layers} == {"done"}


def test_other_constant_nodes_are_left_alone(model: Path) -> None:
    found = onnx.load(pruned(model))
    for node in found.graph.node:
        if node.output[0] == "w":
            node.output[0] = "u"
    found.graph.node.insert(len(found.graph.node) - 3, onnx.helper.make_node("Sin", ["u"], ["w"]))
    left = unpacked(Model(found))
    assert left is not None
    assert [t.name for t in left.tensors() if t.name in ("w", "v")] == ["v"]


def test_a_packed_weight_that_cannot_be_read_is_refused(model: Path) -> None:
    found = onnx.load(pruned(model))
    for tensor in found.graph.initializer:
        if tensor.name == "w.v":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(3, np.float32), tensor.name))
    onnx.save(found, model.with_name("odd.onnx"))
    with pytest.raises(ModelError, match="packed weight 'w' cannot be read"):
        run(model.with_name("odd.onnx"), model.with_name("made.onnx"), Quantize(), verify=False)
