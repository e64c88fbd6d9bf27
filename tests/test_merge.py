from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxcompress.errors import ModelError
from onnxcompress.graph.model import Model
from onnxcompress.merging.agreement import pairs
from onnxcompress.merging.ensemble import ensemble
from onnxcompress.merging.mixing import Mixture
from onnxcompress.merging.soup import searched
from tests.small_models import normal, proto, write
from tests.test_cli_subprocess import FAILED, PASSED, SAMPLE, cli, last

TEXT = (
    "g (float[n, 16] x) => (float[n, 4] y) { h = MatMul(x, first) r = Relu(h) z = MatMul(r, second) y = Add(z, bias) }"
)
RENAMED = "g (float[n, 16] x) => (float[n, 4] y) { a = MatMul(x, u) b = Relu(a) c = MatMul(b, v) y = Add(c, w) }"


def weights(names: tuple[str, str, str], seed: int, dtype: str = "float32") -> dict[str, np.ndarray]:
    shapes = ((16, 32), (32, 4), (4,))
    return {n: normal(*s, seed=seed + i).astype(dtype) for i, (n, s) in enumerate(zip(names, shapes, strict=True))}


@pytest.fixture
def models(tmp_path: Path) -> list[Model]:
    first = write(proto(TEXT, weights(("first", "second", "bias"), 1)), tmp_path, "a")
    second = write(proto(RENAMED, weights(("u", "v", "w"), 5)), tmp_path, "b")
    return [Model.open(first), Model.open(second)]


def output(model: Model, path: Path) -> np.ndarray:
    from onnxcompress.graph import writer

    writer.save(model, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"x": normal(3, 16, seed=9)})[0]
    return result


def test_tensors_are_the_same_by_their_places(models: list[Model]) -> None:
    assert [(a.name, b.name) for a, b in pairs(*models)] == [("first", "u"), ("second", "v"), ("bias", "w")]


def test_weights_are_mixed_and_the_models_stay(models: list[Model]) -> None:
    mixed = Mixture(models).mixed((0.25, 0.75))
    for (own, other), (_, first) in zip(pairs(mixed, models[1]), pairs(mixed, models[0]), strict=True):
        expected = 0.25 * models[0].array(first).astype(np.float64) + 0.75 * models[1].array(other).astype(np.float64)
        np.testing.assert_array_equal(mixed.array(own), expected.astype(np.float32))
    np.testing.assert_array_equal(models[0].array(pairs(*models)[0][0]), normal(16, 32, seed=1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TEXT.replace("Relu", "Sigmoid"), "is Relu in one and Sigmoid in the other"),
        (TEXT.replace("MatMul(x, first)", "MatMul(x, first) q = Neg(h)"), "4 nodes and the other 5"),
        (TEXT.replace("MatMul(r, second)", "MatMul(h, second)"), "reads other values"),
    ],
)
def test_graphs_that_differ_are_refused(models: list[Model], tmp_path: Path, text: str, expected: str) -> None:
    other = write(proto(text, weights(("first", "second", "bias"), 2)), tmp_path, "other")
    with pytest.raises(ModelError, match=expected):
        Mixture([models[0], Model.open(other)])


def test_other_shapes_and_integers_are_refused(models: list[Model], tmp_path: Path) -> None:
    wide = weights(("first", "second", "bias"), 2) | {"first": normal(16, 48), "second": normal(48, 4)}
    with pytest.raises(ModelError, match="other types or shapes"):
        Mixture([models[0], Model.open(write(proto(TEXT, wide), tmp_path, "wide"))])
    text = "g (float[n, 16] x) => (float[n, 4] y) { w = Cast<to = 1>(codes) y = MatMul(x, w) }"
    coded = [
        Model.open(write(proto(text, {"codes": np.full((16, 4), value, np.int8)}), tmp_path, f"c{value}"))
        for value in (1, 2)
    ]
    with pytest.raises(ModelError, match="integers that differ"):
        Mixture(coded)
    same = Mixture([coded[0], coded[0]]).mixed((0.5, 0.5))
    assert [same.array(t).max() for t in same.proto.graph.initializer] == [1]


def test_the_search_finds_what_trying_all_shares_finds() -> None:
    """A concave score: greedy selection comes within a step of the best point on its grid."""
    best = np.array([0.2, 0.5, 0.3])

    def score(shares: tuple[float, ...]) -> float:
        return -float(np.square(np.asarray(shares) - best).sum())

    shares, value = searched(3, score, lambda known, other: other > known)
    every = [
        score((a / 10, b / 10, (10 - a - b) / 10)) for a, b in itertools.product(range(11), repeat=2) if a + b <= 10
    ]
    assert sum(shares) == pytest.approx(1)
    assert value == score(shares) >= max(every) - 0.01
    alone, _ = searched(3, lambda s: s[1], lambda known, other: other > known)
    assert alone == (0, 1, 0)


@pytest.mark.parametrize("kind", ["outputs", "probabilities"])
def test_an_ensemble_gives_the_mean(models: list[Model], tmp_path: Path, kind: str) -> None:
    single = [output(model, tmp_path / f"{i}.onnx") for i, model in enumerate(models)]
    joined = ensemble(models, (0.3, 0.7), kind)  # type: ignore[arg-type]
    if kind == "probabilities":
        single = [np.exp(y) / np.exp(y).sum(axis=-1, keepdims=True) for y in single]
    np.testing.assert_allclose(
        output(joined, tmp_path / "e.onnx"), 0.3 * single[0] + 0.7 * single[1], rtol=2e-5, atol=1e-6
    )


def test_a_shared_stem_is_computed_once(models: list[Model], tmp_path: Path) -> None:
    own = weights(("first", "second", "bias"), 1)
    head = own | {"second": normal(32, 4, seed=40)}
    twin = Model.open(write(proto(TEXT, head), tmp_path, "twin"))
    joined = ensemble([models[0], twin], (0.5, 0.5), "outputs")
    assert [node.op_type for node in joined.proto.graph.node].count("Relu") == 1
    assert sum(t.dims[:] == [16, 32] for t in joined.proto.graph.initializer) == 1


def test_outputs_that_have_no_mean_are_refused(tmp_path: Path) -> None:
    text = "g (float[n, 16] x) => (int64[n, 1] y) { y = ArgMax<axis = 1>(x) }"
    model = Model.open(write(proto(text, {}), tmp_path, "best"))
    with pytest.raises(ModelError, match="no mean"):
        ensemble([model, model], (0.5, 0.5), "outputs")
    both = "g (float[n, 16] x) => (int64[n, 1] i, float[n, 16] y) { i = ArgMax<axis = 1>(x) y = Relu(x) }"
    joined = ensemble([Model.open(write(proto(both, {}), tmp_path, "both"))] * 2, (0.5, 0.5), "outputs")
    assert [o.name for o in joined.proto.graph.output] == ["i", "y"]


def test_from_the_shell(tmp_path: Path) -> None:
    twin = onnx.load(SAMPLE)
    for tensor in twin.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.size > 500:
            noise = 0.05 * array.std() * normal(*array.shape, seed=3)
            tensor.CopyFrom(onnx.numpy_helper.from_array((array + noise).astype(np.float32), tensor.name))
    onnx.save(twin, tmp_path / "twin.onnx")
    done = cli("merge", SAMPLE, "twin.onnx", "-o", "soup.onnx", "--json", "report.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert last(done.stdout).startswith(PASSED)
    assert "weights merged" in done.stdout
    assert (tmp_path / "soup.onnx").exists()
    assert cli("merge", SAMPLE, "twin.onnx", "-o", "soup.onnx", cwd=tmp_path).returncode == 2  # it exists
    for words, code in (
        ((SAMPLE, "twin.onnx", "--coefficients", "1,2,3"), 2),
        ((SAMPLE, "twin.onnx", "--search"), 2),
        ((SAMPLE, SAMPLE.with_name("language-id.onnx")), 3),
        ((SAMPLE, "twin.onnx", "--min-sqnr", "150"), 1),
    ):
        failed = cli("merge", *words, "-o", "other.onnx", cwd=tmp_path)
        assert failed.returncode == code, failed.stderr
        assert last(failed.stdout).startswith(FAILED)
        assert not (tmp_path / "other.onnx").exists()
