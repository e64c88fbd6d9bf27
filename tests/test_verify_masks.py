"""What stands for minus infinity, and what is padding, says nothing about the rest of an output."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxcompress
from onnxcompress.errors import ModelError, UsageError
from onnxcompress.stats.magnitudes import without_masks
from onnxcompress.stats.output_noise import OutputNoise
from onnxcompress.verify.fidelity import OutputMeter
from tests.small_models import normal, proto, write

Array = np.ndarray


@pytest.mark.parametrize("mask", [-1e9, -1e10, -1e20, -1e38, 1e38])
def test_masks_do_not_make_the_rest_exact(mask: float) -> None:
    x = normal(8, 100).astype(np.float32)
    y = x + normal(8, 100, seed=1).astype(np.float32) * 0.3
    expected = 10 * math.log10(np.square(x[:, :50], dtype=np.float64).sum() / np.square((x - y)[:, :50]).sum())
    x[:, 50:] = y[:, 50:] = mask
    meter = OutputMeter("hidden")
    meter.add(x, y)
    assert min(row.sqnr_db for row in meter.rows() if not math.isnan(row.sqnr_db)) == pytest.approx(expected, abs=0.01)
    noise = OutputNoise([{}], [{"hidden": x}], None).ratio([{"hidden": y}])
    assert noise == pytest.approx(10 ** (-expected / 10), rel=1e-3)


def test_large_values_among_their_like_are_no_masks() -> None:
    for x in (normal(50) * 1e12, np.array([1e9, 2e6, 3e5]), np.full(4, 1e30), np.zeros(0)):
        assert without_masks(x) is x


def test_nothing_compared_is_nothing_exact(tmp_path: Path) -> None:
    text = "g (float[n, 64] x) => (float[n, 48] y) { y = MatMul(x, w) }"
    path = write(proto(text, {"w": normal(64, 48)}), tmp_path)
    np.savez(tmp_path / "some.npz", x=normal(4, 64))
    (tmp_path / "none").mkdir()
    np.savez(tmp_path / "none" / "0.npz", x=np.zeros((0, 64), np.float32))
    options: dict[str, Any] = {"data": tmp_path / "some.npz", "eval_data": tmp_path / "none", "seconds": 0.1}
    result = onnxcompress.quantize(path, tmp_path / "made.onnx", min_sqnr=10, **options)
    assert not result.passed
    assert "could be compared" in str(next(c.value for c in result.report.budgets if c.name == "min_sqnr"))
    assert any("NOT COMPARED" in note for note in result.report.notes)


def test_loud_padding_does_not_drown_what_counts(tmp_path: Path) -> None:
    text = """g (float[B, S, 64] x, int64[B, S] attention_mask) => (float[B, 32] y) {
        a = MatMul(x, w) r = Relu(a) h = MatMul(r, v)
        f = Cast<to = 9>(attention_mask) m = Unsqueeze(f, last) k = Where(m, h, zero)
        y = ReduceSum<keepdims = 0>(k, one) }"""
    stored = {"w": normal(64, 64), "v": normal(64, 32, seed=1), "last": np.array([2]), "zero": np.zeros(1, np.float32),
              "one": np.array([1])}  # fmt: skip
    path = write(proto(text, stored), tmp_path)
    (tmp_path / "data").mkdir()
    for i in range(6):
        mask = (np.arange(20)[None] < np.array([[20], [7], [3]])).astype(np.int64)
        x = normal(3, 20, 64, seed=i) * np.where(mask[:, :, None] != 0, 1, 1000).astype(np.float32)
        np.savez(tmp_path / "data" / f"{i}.npz", x=x, attention_mask=mask)
    result = onnxcompress.quantize(path, tmp_path / "made.onnx", data=tmp_path / "data", seconds=0.1)
    assert result.report.fidelity is not None
    assert result.report.fidelity.sqnr_db > 22


def test_initializers_that_old_models_declare_as_inputs_can_change_with_data(tmp_path: Path) -> None:
    text = "g (float[n, 64] x, float[64, 48] w) => (float[n, 48] y) { y = MatMul(x, w) }"
    path = write(proto(text, {"w": normal(64, 48)}, opset=9, ir=3), tmp_path)
    np.savez(tmp_path / "data.npz", x=normal(8, 64))
    assert onnxcompress.quantize(path, tmp_path / "made.onnx", data=tmp_path / "data.npz", seconds=0.1).passed


def test_weights_that_are_not_finite_are_named_whatever_is_asked(tmp_path: Path) -> None:
    w = normal(64, 48)
    w[3, 3] = np.nan
    text = "g (float[n, 64] x) => (float[n, 48] y) { y = MatMul(x, w) }"
    path = write(proto(text, {"w": w}), tmp_path)
    np.savez(tmp_path / "data.npz", x=normal(8, 64))
    with pytest.raises(ModelError, match="'w' holds NaN"):
        onnxcompress.quantize(path, tmp_path / "made.onnx", data=tmp_path / "data.npz", average_bits=4.5)


def test_a_metric_needs_labels(tmp_path: Path) -> None:
    path = write(proto("g (float[n, 64] x) => (float[n, 48] y) { y = MatMul(x, w) }", {"w": normal(64, 48)}), tmp_path)
    np.savez(tmp_path / "data.npz", x=normal(8, 64))
    with pytest.raises(UsageError, match="no labels to compute accuracy"):
        onnxcompress.quantize(path, tmp_path / "made.onnx", data=tmp_path / "data.npz", metric="accuracy")
