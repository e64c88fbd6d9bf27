"""Outliers of activations: moved into weights, left in float, or given a second pass, as the outputs need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import onnxcompress
from onnxcompress.data.dataset import Dataset
from onnxcompress.graph import writer
from onnxcompress.graph.model import Model
from onnxcompress.passes.equalizing import equalized
from onnxcompress.progress import Silent
from onnxcompress.stats.probe import Probe
from onnxcompress.stats.whatif import Treated, WhatIf
from tests.small_models import normal, operators, outputs, proto, sqnr, write

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

TEXT = "g (float[n, 256] x) => (float[n, 64] y) { h = MatMul(x, w) t = Tanh(h) y = MatMul(t, v) }"
WEIGHTS = {"w": normal(256, 512, seed=1, scale=0.06), "v": normal(512, 64, seed=2, scale=0.05)}
NORMALIZED = "g (float[n, 256] x) => (float[n, 64] y) { h = Mul(x, gain) y = MatMul(h, w) }"


def inputs(seed: int, widest: float = 60.0, features: int = 2) -> np.ndarray:
    """Rows of 256 features, the first few of which are far wider than the rest."""
    x = normal(16, 256, seed=seed)
    x[:, :features] *= widest
    return x


def calls(folder: Path, **options: Any) -> Path:
    data = folder / "data"
    data.mkdir()
    for i in range(8):
        np.savez(data / f"{i}.npz", allow_pickle=False, x=inputs(i, **options))
    return data


def quantized(folder: Path, model: onnx.ModelProto, data: Path, **options: Any) -> tuple[set[str], float]:
    """The forms in the result, and its SQNR on other inputs."""
    path = write(model, folder)
    result = onnxcompress.quantize(
        path, data=data, scheme="dynamic", simplify=False, force=True, seconds=0.02, threads=1, **options
    )
    assert result.path is not None
    feeds = {"x": inputs(99)}
    forms = {r.form for r in result.report.steps[-1].layers if r.form}
    return forms, sqnr(outputs(model, feeds)["y"], outputs(result.path, feeds)["y"])


@pytest.mark.parametrize(
    ("options", "form", "least"),
    [({"activation_bits": 8}, "dynamic8", 5), ({}, "migrated8", 25), ({"min_sqnr": 40.0}, "split8", 38)],
    ids=["one pass", "as is", "faithful"],
)
def test_outliers_get_what_the_outputs_need(
    tmp_path: Path, options: dict[str, Any], form: str, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxcompress.attempts._NOISE", 0.0)  # whatever the machine is busy with
    forms, found = quantized(tmp_path, proto(TEXT, WEIGHTS), calls(tmp_path), **options)
    assert form in forms
    assert found > least


def test_without_outliers_nothing_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxcompress.attempts._NOISE", 0.0)
    forms, _ = quantized(tmp_path, proto(TEXT, WEIGHTS), calls(tmp_path, widest=1.0))
    assert forms <= {"dynamic8", "dynamic16"}


def data_of(count: int = 6) -> Dataset:
    return Dataset("here", count, lambda i: {"x": inputs(i)})


def test_a_gain_takes_factors_up_for_nothing() -> None:
    original = proto(NORMALIZED, {"gain": np.ones(256, np.float32), "w": WEIGHTS["w"][:, :64]})
    model = Model(original)
    changed, told = equalized(model, Probe(data_of(), threads=1), Silent())
    assert any("1 values" in sentence for sentence in told)
    assert operators(changed.proto) == operators(original)
    feeds = {"x": inputs(50)}
    expected = outputs(original, feeds)["y"]
    np.testing.assert_allclose(outputs(writer.to_bytes(changed), feeds)["y"], expected, rtol=1e-3, atol=1e-3)

    def one_pass(of: Model) -> float:
        return WhatIf(of, [], [], [feeds], 1, {"h": Treated()}).noise({}, {}, ["h"])

    assert one_pass(changed) < one_pass(model) / 10


def test_where_nothing_takes_factors_up_the_model_stays() -> None:
    model = Model(proto(TEXT, WEIGHTS))
    changed, told = equalized(model, Probe(data_of(), threads=1), Silent())
    assert changed is model
    assert told == ()


def test_trials_tell_what_rounding_a_value_does() -> None:
    original = proto(TEXT, WEIGHTS)
    feeds = {"x": inputs(3)}
    kept = np.ones(256)
    kept[:2] = 0
    treated = {"plain": Treated(), "moved": Treated(np.abs(feeds["x"]).max(0)), "split": Treated(kept=kept)}
    noises = {}
    for name, how in treated.items():
        session = WhatIf(Model(original), [], [], [feeds], 1, {"x": how})
        assert session.noise({}, {}) == 0
        noises[name] = session.noise({}, {}, ["x"])
    x = feeds["x"]
    scale = np.float32((x.max() - min(x.min(), 0)) / 255)
    zero = np.rint(-min(x.min(), 0) / scale)
    rounded = (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale
    expected = outputs(original, feeds)["y"]
    real = 10 ** (-sqnr(expected, outputs(original, {"x": rounded})["y"]) / 10)
    assert noises["plain"] == pytest.approx(real, rel=0.05)
    assert noises["split"] < noises["plain"] / 20
    assert noises["moved"] < noises["plain"] / 5
