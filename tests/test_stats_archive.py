"""What layers see, kept on disk: read one at a time, remembered between runs, gone with the archive."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import numpy as np
import pytest

from onnxcompress.data.dataset import Dataset
from onnxcompress.graph.model import Model
from onnxcompress.stats import archive as module
from onnxcompress.stats import probe as probes
from onnxcompress.stats.archive import Archive, collected
from onnxcompress.stats.probe import Probe
from onnxcompress.stats.tally import Gram
from tests.small_models import normal, proto

if TYPE_CHECKING:
    from pathlib import Path

    from onnxcompress.stats.extremes import Extremes

TEXT = "g (float[n, 24] x) => (float[n, 8] y) { a = MatMul(x, w) b = MatMul(x, v) c = Add(a, b) y = MatMul(c, u) }"
WEIGHTS = {"w": normal(24, 16, seed=1), "v": normal(24, 16, seed=2), "u": normal(16, 8, seed=3)}


def model() -> Model:
    return Model(proto(TEXT, WEIGHTS))


def data(count: int = 3) -> Dataset:
    return Dataset("here", count, lambda i: {"x": normal(5 + i, 24, seed=i)})


def seen(count: int = 3) -> np.ndarray:
    x = np.concatenate([data().read(i)["x"] for i in range(count)]).astype(np.float64)
    found: np.ndarray = x.T @ x / len(x)
    return found


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def layers(of: Model) -> list[str]:
    return [n.output[0] for n in of.proto.graph.node if n.op_type == "MatMul"]


@pytest.mark.parametrize("memory", [1 << 30, 40_000])
def test_it_holds_what_layers_see_in_however_many_passes(memory: int) -> None:
    one = model()
    nodes = [n for n in one.proto.graph.node if n.op_type == "MatMul"]
    found = collected(one, nodes, data(), None, max_memory=memory)
    assert all(name in found for name in layers(one))
    for name in ("a", "b"):
        np.testing.assert_allclose(found.gram(name).matrix, seen(), rtol=1e-4, atol=1e-5)
    assert found.gram("a").positions == 5 + 6 + 7
    assert found.nbytes == 4 * (24 * 24 + 16 * 16)  # layers that see the same value share it


def test_it_is_remembered_by_what_it_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    one = model()
    nodes = [n for n in one.proto.graph.node if n.op_type == "MatMul"]
    first = collected(one, nodes, data(), "this model")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured anew")

    monkeypatch.setattr(module, "grams", refuse)
    again = collected(one, nodes, data(), "this model")
    np.testing.assert_array_equal(again.gram("y").matrix, first.gram("y").matrix)
    assert again.gram("y").positions == first.gram("y").positions
    for other in ("that model", None):
        with pytest.raises(AssertionError, match="anew"):
            collected(one, nodes, data(), other)
    with pytest.raises(AssertionError, match="anew"):
        collected(one, nodes, data(2), "this model")


def test_ranges_are_remembered_likewise(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(identity: str | None, calls: int = 10, values: tuple[str, ...] = ("c", "x")) -> dict[str, Extremes]:
        there = Dataset("here", calls, lambda i: {"x": normal(4, 24, seed=i)})
        probe = Probe(there, threads=1, identity=identity)
        return probe.extremes(model(), dict.fromkeys(values, (4, 16)))

    first = seen("this model")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("watched anew")

    monkeypatch.setattr(probes, "extremes", refuse)
    again = seen("this model")
    for name, found in first.items():
        assert (again[name].low, again[name].high) == (found.low, found.high)
        np.testing.assert_array_equal(again[name].sample, found.sample)
    for other in (("that model", 10, ("c", "x")), (None, 10, ("c", "x")), ("this model", 9, ("c", "x")),
                  ("this model", 10, ("c",))):  # fmt: skip
        with pytest.raises(AssertionError, match="anew"):
            seen(*other)


def test_its_folder_goes_with_it() -> None:
    made = Archive()
    made.add({"layer": Gram(np.eye(3), np.zeros(3), 4)})
    folder = made._folder.path
    assert list(folder.iterdir())
    del made
    gc.collect()
    assert not folder.exists()


def test_layers_that_saw_nothing_are_told() -> None:
    made = Archive()
    made.add({"dead": Gram(np.zeros((3, 3)), np.zeros(3), 4), "alive": Gram(np.eye(3), np.zeros(3), 4)})
    assert made.dead == ("dead",)


def test_trials_run_on_calls_that_nothing_was_learned_from() -> None:
    reads: list[int] = []

    def read(i: int) -> dict[str, np.ndarray]:
        reads.append(i)
        return {"x": normal(4, 24, seed=i)}

    probe = Probe(Dataset("here", 10, read), threads=1)
    one = model()
    probe.extremes(one, {"c": (4, 16)})
    learned = set(reads)
    reads.clear()
    probe.whatif(one, ["c"], [])
    assert set(reads)
    assert not set(reads) & learned
