"""Pruned weights with a thin product beside them: what is written, and that it loses less for its bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

import onnxcompress
from onnxcompress.errors import UsageError
from onnxcompress.passes.prune import Prune
from onnxcompress.passes.quantize import Quantize
from onnxcompress.recipe import Recipe
from tests.small_models import normal, optimized, outputs, proto, sqnr, write

if TYPE_CHECKING:
    from pathlib import Path

Array = np.ndarray
TEXT = """g (float[n, 128] x) => (float[n, 16, 2, 3] y, float[n, 160] z) {
    a = MatMul(x, w) r = Relu(a) z = Gemm<transB = 1>(r, v)
    s = Constant<value = int64[4] {-1, 8, 4, 5}>() i = Reshape(z, s) y = Conv<kernel_shape = [3, 3]>(i, k) }"""


def low_rank(rows: int, columns: int, seed: int) -> Array:
    strong = normal(rows, 6, seed=seed) @ normal(6, columns, seed=seed + 50)
    return np.asarray(strong + normal(rows, columns, seed=seed + 99), np.float32)


WEIGHTS = {"w": low_rank(128, 192, 1), "v": low_rank(160, 192, 2), "k": normal(16, 8, 3, 3, seed=3)}
FEEDS = {"x": normal(64, 128, seed=9)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for i in range(8):
        np.savez(tmp_path / "data" / f"{i}.npz", allow_pickle=False, x=normal(48, 128, seed=i))
    return write(proto(TEXT, WEIGHTS), tmp_path)


def run(path: Path, *steps: Any, **options: Any) -> onnxcompress.Result:
    return onnxcompress.compress(
        path, Recipe.of(steps), path.with_name("made.onnx"), force=True, seconds=0.1, **options
    )


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "block 4x4"])
def test_the_product_makes_up_for_more_than_it_takes(model: Path, pattern: str, *, data: bool) -> None:
    options: dict[str, Any] = {"data": model.with_name("data")} if data else {}
    share: dict[str, Any] = {} if ":" in pattern else {"sparsity": 0.6}
    found = {}
    for rank in (None, 6):
        result = run(model, Prune(pattern=pattern, residual_rank=rank, **share), **options)
        made = model.with_name("made.onnx")
        found[rank] = sqnr(outputs(model, FEEDS)["z"], outputs(made, FEEDS)["z"]), made.stat().st_size
        assert result.passed
        assert set(optimized(made.read_bytes(), model.parent)) <= {
            "MatMul", "Relu", "Gemm", "Conv", "FusedGemm", "FusedMatMul", "Reshape",
            "ReorderOutput", "ReorderInput",
        }  # fmt: skip
    assert found[6][0] > found[None][0] + 2
    assert found[6][1] < found[None][1] + 2 * 6 * (128 + 192 + 160 + 192) + 2400
    records = {r.name: r for r in result.report.steps[0].layers if r.status == "done"}
    assert records["w"].ranks == records["v"].ranks == (6,)
    assert records["k"].ranks is None
    assert any(note.startswith("without a product of rank 6") for note in result.report.steps[0].notes)


def test_the_error_that_is_told_is_that_of_the_sum(model: Path) -> None:
    result = run(model, Prune(sparsity=0.6, residual_rank=6), data=model.with_name("data"))
    graph = onnx.load(model.with_name("made.onnx"))
    graph.graph.output.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, None))
    made = outputs(graph, FEEDS)["w"]
    error = next(r.error for r in result.report.steps[0].layers if r.name == "w")
    assert error == pytest.approx(np.square(made - WEIGHTS["w"]).sum() / np.square(WEIGHTS["w"]).sum(), rel=1e-3)


@pytest.mark.parametrize(("options", "said"), [
    ({"residual_rank": 0}, "no product of rank 0"),
    ({"residual_rank": 4, "form": "dense"}, "leaves no zeros"),
    ({"residual_rank": 4, "schedule": "cubic"}, "in one go"),
    ({"residual_rank": 4, "structure": "all"}, "--residual-rank has no meaning with --structure"),
])  # fmt: skip
def test_what_means_nothing_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Prune(**options)


def test_no_later_step_may_lose_it(model: Path) -> None:
    with pytest.raises(UsageError, match="is lost in a later step"):
        run(model, Prune(residual_rank=4), Quantize())
