"""Gradients of a loss with respect to weights: against formulas in numpy and finite differences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from onnxcompress.data.synthetic import synthetic
from onnxcompress.errors import UsageError
from onnxcompress.graph.model import Model
from onnxcompress.training import gradients
from onnxcompress.training.gradients import GradientGraph
from onnxcompress.training.losses import Loss
from tests.benchmarks.measure import ROOT
from tests.gradient_check import float64_error, float64_loss, relative_error
from tests.small_models import check_words, normal, opened, outputs, proto

if TYPE_CHECKING:
    from pathlib import Path

LINEAR = "m (float[N,4] x) => (float[N,3] y) { y = MatMul(x, W) }"
X, W, T = normal(5, 4, seed=1), normal(4, 3, seed=2), normal(5, 3, seed=3)

needs_onnx_ad = pytest.mark.usefixtures("onnx_ad")


@pytest.fixture
def onnx_ad() -> None:
    pytest.importorskip("onnx_ad", reason="onnx-ad is not installed (pip install 'onnxcompress[train]')")


def linear(folder: Path) -> Model:
    return opened(proto(LINEAR, {"W": W}), folder)


def softmax(values: np.ndarray) -> np.ndarray:
    raised = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


@needs_onnx_ad
def test_squared_error(tmp_path: Path) -> None:
    found = GradientGraph(linear(tmp_path), [Loss("mse", "y")]).run({"W": W}, {"x": X}, {"y": T})
    gap = X @ W - T
    assert found.loss == pytest.approx(float(np.square(gap).mean()), rel=1e-5)
    np.testing.assert_allclose(found.gradients["W"], X.T @ gap * 2 / gap.size, rtol=1e-4, atol=1e-6)


@needs_onnx_ad
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_divergence_of_softened_classes(tmp_path: Path, temperature: float) -> None:
    graph = GradientGraph(linear(tmp_path), [Loss("kl", "y", temperature)])
    found = graph.run({"W": W}, {"x": X}, {"y": T})
    p, q = softmax(T / temperature), softmax(X @ W / temperature)
    assert found.loss == pytest.approx(float((p * np.log(p / q)).sum() / 5) * temperature**2, rel=1e-4)
    np.testing.assert_allclose(found.gradients["W"], X.T @ (q - p) * temperature / 5, rtol=1e-4, atol=1e-6)


@needs_onnx_ad
def test_cross_entropy_with_labels(tmp_path: Path) -> None:
    labels = np.array([0, 2, 1, 1, 0])
    found = GradientGraph(linear(tmp_path), [Loss("cross_entropy", "y")]).run({"W": W}, {"x": X}, {"y": labels})
    q = softmax(X @ W)
    assert found.loss == pytest.approx(float(-np.log(q[range(5), labels]).mean()), rel=1e-4)
    np.testing.assert_allclose(found.gradients["W"], X.T @ (q - np.eye(3)[labels]) / 5, rtol=1e-4, atol=1e-6)


@needs_onnx_ad
def test_cosine(tmp_path: Path) -> None:
    graph = GradientGraph(linear(tmp_path), [Loss("cosine", "y")])
    y = X @ W
    similarity = (y * T).sum(-1) / np.linalg.norm(y, axis=-1) / np.linalg.norm(T, axis=-1)
    assert graph.run({"W": W}, {"x": X}, {"y": T}).loss == pytest.approx(1 - similarity.mean(), rel=1e-4)
    assert relative_error(graph, {"x": X}, {"y": T}) < 1e-2


@needs_onnx_ad
def test_losses_are_summed_with_their_weights(tmp_path: Path) -> None:
    text = "m (float[N,4] x) => (float[N,3] y, float[N,3] z) { y = MatMul(x, W)  z = Tanh(y) }"
    model = opened(proto(text, {"W": W}), tmp_path)
    both = GradientGraph(model, [Loss("mse", "y", weight=2.0), Loss("mse", "z", weight=0.5)])
    found = both.run({"W": W}, {"x": X}, {"y": T, "z": T})
    y = X @ W
    expected = 2 * np.square(y - T).mean() + 0.5 * np.square(np.tanh(y) - T).mean()
    assert found.loss == pytest.approx(float(expected), rel=1e-4)
    assert relative_error(both, {"x": X}, {"y": T, "z": T}) < 1e-2


@needs_onnx_ad
@pytest.mark.parametrize("name", ["digits-cnn"])
def test_a_convolutional_network_against_finite_differences(name: str) -> None:
    path = ROOT / "sample_models" / f"{name}.onnx"
    model = Model.open(path)
    feeds = dict(synthetic(model, calls=1, seed=0).first())
    (output,) = (o.name for o in model.proto.graph.output)
    given = outputs(path, feeds)[output]
    shapes = {k: v.shape for k, v in feeds.items()}
    graph = GradientGraph(model, [Loss("mse", output)], threads=1, shapes=shapes)
    targets = {output: given + normal(*given.shape, scale=float(given.std()) / 3)}
    exact = float64_loss(model, [Loss("mse", output)], list(graph.weights), targets, feeds)
    assert float64_error(graph, exact, feeds, targets) < 1e-4
    assert all(np.abs(g).max() > 0 for g in graph.run(graph.weights, feeds, targets).gradients.values())
    assert relative_error(graph, feeds, targets) < 1e-2


@needs_onnx_ad
@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((4, 1, 3, 3), "group = 4, pads = [1, 0, 2, 1], strides = [2, 1]"),
        ((4, 1, 3, 2), "group = 4, dilations = [2, 3]"),
        ((6, 2, 3, 3), "group = 2, pads = [1, 1, 1, 1]"),
        ((8, 1, 1, 1), "group = 4"),
    ],
)
def test_grouped_convolutions(tmp_path: Path, shape: tuple[int, ...], attributes: str) -> None:
    text = f"m (float[2,4,8,7] x) => (float[n,c,h,w] y) {{ s = Mul(x, V)  y = Conv<{attributes}>(s, W, b) }}"
    model = proto(text, {"W": normal(*shape, seed=1), "b": normal(shape[0], seed=2), "V": normal(4, 1, 1, seed=5)})
    feeds = {"x": normal(2, 4, 8, 7, seed=3)}
    given = outputs(model, feeds)["y"]
    targets = {"y": given + normal(*given.shape, seed=4)}
    losses = [Loss("mse", "y")]
    graph = GradientGraph(opened(model, tmp_path), losses)
    loss = graph.run(graph.weights, feeds, targets).loss
    assert loss == pytest.approx(float(np.square(given - targets["y"]).mean()), rel=1e-4)
    exact = float64_loss(opened(model, tmp_path), losses, list(graph.weights), targets, feeds)
    assert float64_error(graph, exact, feeds, targets) < 1e-4


@needs_onnx_ad
def test_a_transposed_convolution_whose_windows_do_not_overlap(tmp_path: Path) -> None:
    text = "m (float[2,4,5,3] x) => (float[2,6,n,m] y) { s = Mul(x, V)  y = ConvTranspose<strides = [2, 2]>(s, W, b) }"
    model = proto(text, {"W": normal(4, 6, 2, 2, seed=1), "b": normal(6, seed=2), "V": normal(4, 1, 1, seed=5)})
    feeds = {"x": normal(2, 4, 5, 3, seed=3)}
    given = outputs(model, feeds)["y"]
    targets, losses = {"y": given + normal(*given.shape, seed=4)}, [Loss("mse", "y")]
    graph = GradientGraph(opened(model, tmp_path), losses)
    exact = float64_loss(opened(model, tmp_path), losses, list(graph.weights), targets, feeds)
    assert graph.run(graph.weights, feeds, targets).loss == pytest.approx(exact(graph.weights), rel=1e-4)
    assert float64_error(graph, exact, feeds, targets) < 1e-4


@needs_onnx_ad
def test_settings_of_operators_are_no_weights(tmp_path: Path) -> None:
    text = 'm (float[1,1,2,2] x) => (float[1,1,4,4] y) { s = Mul(x, W)  y = Resize<mode = "nearest">(s, none, scales) }'
    weights = {"W": normal(2, 2), "none": np.zeros(0, np.float32), "scales": np.array([1, 1, 2, 2], np.float32)}
    assert list(GradientGraph(opened(proto(text, weights), tmp_path), [Loss("mse", "y")]).weights) == ["W"]


@needs_onnx_ad
@pytest.mark.parametrize(("output", "names"), [("nothing", None), ("y", ["nothing"])])
def test_what_does_not_exist_is_refused(tmp_path: Path, output: str, names: list[str] | None) -> None:
    with pytest.raises(UsageError, match="nothing") as caught:
        GradientGraph(linear(tmp_path), [Loss("mse", output)], names)
    check_words(caught.value)


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="temperature") as caught:
        Loss("kl", "y", temperature=0)
    check_words(caught.value)


@pytest.mark.usefixtures("without_onnx_ad")
def test_without_onnx_ad_it_is_said_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="onnx-ad") as caught:
        GradientGraph(linear(tmp_path), [Loss("mse", "y")])
    assert caught.value.exit_code == 2
    assert "pip install 'onnxcompress[train]'" in caught.value.hint
    assert gradients.OPSET >= 16
