"""Training: optimizers against loops and closed forms, what constraints hold, codes found in files, checkpoints."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from onnxcompress.data.dataset import Dataset
from onnxcompress.errors import ModelError, UsageError
from onnxcompress.graph.model import Model
from onnxcompress.progress import Silent
from onnxcompress.training.batches import Batches
from onnxcompress.training.checkpoints import Checkpoints
from onnxcompress.training.constraints import Codes, Free, Half, Sparse
from onnxcompress.training.objective import Asked
from onnxcompress.training.optimizers import clipped, optimizer
from onnxcompress.training.schedules import Schedule
from onnxcompress.training.settings import Settings
from onnxcompress.training.student import Student
from onnxcompress.training.teacher import stackable
from onnxcompress.training.teaching import Lesson, taught
from tests.small_models import normal, opened, outputs, proto, write

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from onnxcompress.training.optimizers import Kind

MLP = "m (float[N,6] x) => (float[N,4] hidden) { a = MatMul(x, U)  b = Add(a, c)  h = Relu(b)  hidden = MatMul(h, V) }"
WEIGHTS = {"U": normal(6, 16, seed=1), "c": normal(16, seed=2), "V": normal(16, 4, seed=3)}


def calls(count: int = 24, seed: int = 0) -> Dataset:
    values = normal(count, 6, seed=seed)
    return Dataset("made", count, lambda i: {"x": values[i : i + 1]})


# ------------------------------------------------------------------------------------------- optimizers, schedules


def steps(kind: Kind, decay: float, count: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """A weight after steps on ½‖w‖²_A, and the gradients' matrix A."""
    made, w, a = optimizer(kind, decay), {"w": normal(5, seed=4)}, np.diag(np.arange(1.0, 6)).astype(np.float32)
    for _ in range(count):
        made.step(w, {"w": a @ w["w"]}, {"w": 0.01})
    return w["w"], a


def test_momentum_against_its_recurrence() -> None:
    found, a = steps("sgd", 0.1)
    w, v = normal(5, seed=4).astype(np.float64), np.zeros(5)
    for _ in range(25):
        v = 0.9 * v + a @ w + 0.1 * w
        w = w - 0.01 * v
    np.testing.assert_allclose(found, w, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_adam_against_the_formulas_of_the_papers(kind: Kind) -> None:
    found, a = steps(kind, 0.1)
    w, m, s = normal(5, seed=4).astype(np.float64), np.zeros(5), np.zeros(5)
    for t in range(1, 26):
        g = a @ w + (0.1 * w if kind == "adam" else 0)
        m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g**2
        w = w * (1 - 0.01 * 0.1) if kind == "adamw" else w
        w = w - 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(s / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(found, w, rtol=1e-4, atol=1e-5)


def test_an_optimizer_goes_on_from_its_state() -> None:
    for kind in ("sgd", "adamw"):
        one, two = optimizer(kind, 0.0), optimizer(kind, 0.0)
        w = {"w": normal(5, seed=4)}
        one.step(w, {"w": normal(5, seed=5)}, {"w": 0.1})
        two.restore({k: v.copy() for k, v in one.state().items()})
        twin = {"w": w["w"].copy()}
        for made, weights in ((one, w), (two, twin)):
            made.step(weights, {"w": normal(5, seed=6)}, {"w": 0.1})
        assert np.array_equal(w["w"], twin["w"])


def test_gradients_are_shortened_together() -> None:
    found, norm = clipped({"a": np.full(3, 2, np.float32), "b": np.full(1, 2, np.float32)}, 1.0)
    assert norm == pytest.approx(4)
    assert math.hypot(*found["a"], *found["b"]) == pytest.approx(1, rel=1e-6)
    assert np.array_equal(clipped({"a": np.array([0.5], np.float32)}, 1.0)[0]["a"], np.array([0.5], np.float32))
    assert not clipped({"a": np.array([np.nan], np.float32)}, 1.0)[0]["a"].any()


def test_schedules() -> None:
    cosine = Schedule("cosine", 0.2)
    assert [cosine.factor(k, 10) for k in (0, 1, 2, 6)] == pytest.approx([0.5, 1, 1, 0.5])
    assert Schedule("linear", 0).factor(3, 4) == pytest.approx(0.25)
    assert Schedule("constant", 0).factor(9, 10) == 1
    with pytest.raises(UsageError, match="warm-up"):
        Schedule("cosine", 1)


# ---------------------------------------------------------------------------------------------------------- batches


def test_an_epoch_sees_each_call_once_in_an_order_of_its_own() -> None:
    made = Batches(calls(24), 8, stacked=True, seed=1)
    epochs = [made.epoch(k) for k in range(2)]
    assert [sorted(c for batch in epoch for c in batch) for epoch in epochs] == [list(range(24))] * 2
    assert epochs[0] != epochs[1]
    assert epochs[0] == Batches(calls(24), 8, stacked=True, seed=1).epoch(0)
    assert made.epoch(0) != Batches(calls(24), 8, stacked=True, seed=2).epoch(0)
    (part,) = made.parts(epochs[0][0])
    assert part.feeds["x"].shape == (8, 6)


def test_calls_that_cannot_be_stacked_run_one_by_one(tmp_path: Path) -> None:
    text = "m (float[N,6] x) => (float[N,6] y) { s = ReduceMean<axes=[0]>(x)  y = Sub(x, s) }"
    assert not stackable(opened(proto(text), tmp_path), list(calls(2)))
    assert stackable(opened(proto(MLP, WEIGHTS), tmp_path), list(calls(2)))
    parts = list(Batches(calls(4), 2, stacked=False, seed=0).parts((0, 1)))
    assert [p.calls for p in parts] == [(0,), (1,)]


def test_gradients_of_calls_one_by_one_are_those_of_the_stack(tmp_path: Path) -> None:
    pytest.importorskip("onnx_ad")
    student, teacher = pair(tmp_path)
    settings = Settings(epochs=1, patience=0, batch_size=8)
    data = calls(8)
    fixed = proto(MLP.replace("N", "1"), changed())
    apart = Lesson(opened(fixed, tmp_path), teacher, data, settings, Asked(features=0))
    found = [taught(lesson, Silent(), Checkpoints(None)).model for lesson in (
        Lesson(student, teacher, data, settings, Asked(features=0)), apart
    )]  # fmt: skip
    one, two = (weights_of(m) for m in found)
    for name, value in one.items():
        np.testing.assert_allclose(value, two[name], rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------ constraints


def test_constraints_project_onto_their_sets() -> None:
    w = normal(40, seed=7)
    assert Free().projected(w) is w
    support = w > 0
    assert not Sparse(support).projected(w)[~support].any()
    assert np.array_equal(Half().projected(w), w.astype(np.float16).astype(np.float32))
    step, codes = np.full(40, 0.5, np.float32), np.zeros(40, np.int16)
    free = np.arange(40) != 3
    grid = Codes(np.zeros(40, np.float32), step, codes, free, -2, 1)
    found = grid.projected(w)
    levels = np.arange(-2, 2) * 0.5
    brute = levels[np.abs(w[:, None] - levels).argmin(axis=1)]
    assert np.array_equal(found[free], brute[free].astype(np.float32))
    assert found[3] == 0
    assert np.array_equal(grid.projected(grid.started(w)), grid.values(codes))
    assert np.array_equal(grid.projected(grid.held(100 * w)), grid.projected(100 * w))


# ---------------------------------------------------------------------------------------------------- codes in files


def coded(folder: Path, nodes: str, stored: Mapping[str, np.ndarray], opset: int = 17) -> Student:
    text = f"m (float[N,8] x) => (float[N,6] y) {{ {nodes}  y = MatMul(x, W) }}"
    return Student.of(opened(proto(text, stored, opset=opset), folder))


def random_codes(*shape: int, high: int = 256) -> np.ndarray:
    return np.random.default_rng(5).integers(0, high, shape).astype(np.uint8)


SCALE = np.linspace(0.1, 0.4, 6).astype(np.float32)
FORMS: dict[str, tuple[str, dict[str, Any], int]] = {
    "cast": ("f = Cast<to=1>(Q)  W = Mul(f, S)", {"Q": random_codes(8, 6).astype(np.int8), "S": SCALE}, 17),
    "linear": (
        "W = DequantizeLinear<axis=1>(Q, S, Z)",
        {"Q": random_codes(8, 6), "S": SCALE, "Z": np.full(6, 99, np.uint8)}, 17,
    ),
    "planes": (
        "b = BitShift<direction=\"RIGHT\">(Q, K)  m = Mod(b, B)  f = Cast<to=1>(m)  d = Sub(f, O)"
        "  r = Reshape(d, D)  t = Transpose<perm=[1,0]>(r)  W = Mul(t, S)",
        {"Q": random_codes(1, 12), "K": np.array([[0], [2], [4], [6]], np.uint8), "B": np.uint8(4),
         "O": np.float32(1.5), "D": np.array([6, 8], np.int64), "S": SCALE}, 17,
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_codes_are_found_and_written_where_they_lie(tmp_path: Path, form: str) -> None:
    nodes, stored, opset = FORMS[form]
    student = coded(tmp_path, nodes, stored, opset)
    (variable,) = student.variables.values()
    grid = variable.constraint
    assert isinstance(grid, Codes)
    assert grid.free.all()
    x = np.eye(8, dtype=np.float32)
    before = outputs(write(student.original.proto, tmp_path), {"x": x})["y"]
    np.testing.assert_allclose(grid.projected(variable.start), before, rtol=1e-5, atol=1e-5)
    wanted = grid.projected(variable.start + normal(8, 6, seed=8) * 0.5)
    assert not np.array_equal(wanted, before)
    result = student.written({"W": wanted})
    assert [n.op_type for n in result.proto.graph.node] == [n.op_type for n in student.original.proto.graph.node]
    np.testing.assert_allclose(outputs(write(result.proto, tmp_path), {"x": x})["y"], wanted, rtol=1e-5, atol=1e-5)


def test_a_codebook_stays_as_it_is_and_that_is_told(tmp_path: Path) -> None:
    table = np.array([-1, -0.2, 0.1, 0.9] + [0.0] * 252, np.float32)
    nodes, stored = "i = Cast<to=7>(Q)  W = Gather(T, i)", {"Q": random_codes(8, 6, high=4), "T": table}
    with pytest.raises(ModelError, match="even grid"):
        coded(tmp_path, nodes, stored)


def test_layers_that_compute_with_integers_are_refused(tmp_path: Path) -> None:
    text = """m (float[N,8] x) => (float[N,6] y) {
        q, s, z = DynamicQuantizeLinear(x)  i = MatMulInteger(q, W, z)  f = Cast<to=1>(i)  y = Mul(f, s) }"""
    with pytest.raises(ModelError, match="computes with integers") as caught:
        Student.of(opened(proto(text, {"W": random_codes(8, 6)}), tmp_path))
    assert caught.value.exit_code == 3
    assert "weight-only" in caught.value.hint


def test_static_rounding_of_activations_lets_gradients_through(tmp_path: Path) -> None:
    pytest.importorskip("onnx_ad")
    text = """m (float[N,6] x) => (float[N,4] y) {
        q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  h = MatMul(d, U)  y = MatMul(h, V) }"""
    stored: dict[str, Any] = {"U": WEIGHTS["U"], "V": WEIGHTS["V"], "s": np.float32(0.03), "z": np.uint8(128)}
    student = opened(proto(text, stored), tmp_path)
    other = Model.open(write(proto(text, {**stored, "U": 1.2 * WEIGHTS["U"]}), tmp_path, "other.onnx"))
    settings = Settings(epochs=20, patience=0)
    found = taught(Lesson(student, other, calls(), settings, Asked()), Silent(), Checkpoints(None))
    assert found.model is not None
    assert not np.array_equal(weights_of(found.model)["U"], WEIGHTS["U"])


def test_patterns_choose_what_is_trained(tmp_path: Path) -> None:
    model = opened(proto(MLP, WEIGHTS), tmp_path)
    assert set(Student.of(model).variables) == {"U", "c", "V"}
    assert set(Student.of(model, ["U"]).variables) == {"U"}
    with pytest.raises(UsageError, match="matches no weight"):
        Student.of(model, ["nothing*"])


# ------------------------------------------------------------------------------------------------- a whole training


def changed() -> dict[str, np.ndarray]:
    u = np.where(np.abs(WEIGHTS["U"]) > 0.7, WEIGHTS["U"], 0).astype(np.float32)
    return {**WEIGHTS, "U": u}


def pair(folder: Path) -> tuple[Model, Model]:
    """A pruned model and its original."""
    teacher = Model.open(write(proto(MLP, WEIGHTS), folder, "teacher.onnx"))
    return Model.open(write(proto(MLP, changed()), folder, "student.onnx")), teacher


def weights_of(model: Model | None) -> dict[str, np.ndarray]:
    assert model is not None
    return {t.name: model.array(t) for t in model.proto.graph.initializer}


def test_zeros_stay_zero_and_the_outputs_come_closer(tmp_path: Path) -> None:
    pytest.importorskip("onnx_ad")
    student, teacher = pair(tmp_path)
    settings = Settings(epochs=60, learning_rate=0.02, batch_size=16)
    found = taught(Lesson(student, teacher, calls(128), settings, Asked()), Silent(), Checkpoints(None))
    result = weights_of(found.model)
    assert np.array_equal(result["U"] == 0, changed()["U"] == 0)
    x = {"x": normal(50, 6, seed=77)}
    expected, before, after = (outputs(proto(MLP, w), x)["hidden"] for w in (WEIGHTS, changed(), result))
    assert np.square(after - expected).sum() < 0.75 * np.square(before - expected).sum()


class Killed(Exception):
    pass


class Killing(Silent):
    """Ends a run after so many steps."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, item: str, amount: int = 1) -> None:  # noqa: ARG002
        self.left -= amount
        if self.left < 0:
            raise Killed


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_run_that_was_killed_comes_to_the_same_bytes(tmp_path: Path, kind: Kind) -> None:
    pytest.importorskip("onnx_ad")
    student, teacher = pair(tmp_path)
    rate = 0.01 if kind == "sgd" else None
    settings = Settings(epochs=6, batch_size=4, optimizer=kind, learning_rate=rate)
    lesson = Lesson(student, teacher, calls(), settings, Asked(), threads=1)
    whole = weights_of(taught(lesson, Silent(), Checkpoints(None)).model)
    kept = Checkpoints(tmp_path / "kept", every_seconds=0)
    for after in (7, 15):
        with pytest.raises(Killed):
            taught(lesson, Killing(after), kept)
    assert kept.load() is not None
    again = weights_of(taught(lesson, Silent(), kept).model)
    assert all(np.array_equal(value, again[name]) for name, value in whole.items())
    assert not kept.folder or not kept.folder.exists()


def test_a_damaged_checkpoint_is_as_good_as_none(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "kept", every_seconds=0)
    kept.store({"a": np.arange(3)}, {"done": 1})
    kept.store({"a": np.arange(4)}, {"done": 2})
    found = kept.load()
    assert found is not None
    assert (found[0]["a"].tolist(), found[1]) == ([0, 1, 2, 3], {"done": 2})
    (stored,) = (tmp_path / "kept").glob("*.npz")
    stored.write_bytes(stored.read_bytes()[:-9] + b"123456789")
    with pytest.warns(UserWarning, match="damaged"):
        assert kept.load() is None


def test_settings_out_of_range_are_refused() -> None:
    wrongs: list[dict[str, Any]] = [
        {"epochs": 0},
        {"learning_rate": -1.0},
        {"patience": -1},
        {"optimizer": "sgd"},
        {"minutes": 0},
    ]
    for wrong in wrongs:
        with pytest.raises(UsageError):
            Settings(**wrong)


def test_a_weight_without_gradient_stays_and_the_others_learn(tmp_path: Path) -> None:
    pytest.importorskip("onnx_ad")
    text = (
        "m (float[N,2,4,4] x) => (float[N,3,4,4] hidden) { h = ConvTranspose(x, A)  r = Relu(h)  hidden = Conv(r, B) }"
    )
    a, b = normal(2, 3, 1, 1, seed=1), normal(3, 3, 1, 1, seed=2)
    student = opened(proto(text, {"A": a, "B": b}), tmp_path)
    teacher = Model.open(write(proto(text, {"A": a, "B": 1.5 * b}), tmp_path, "teacher.onnx"))
    data = Dataset("made", 16, lambda i: {"x": normal(1, 2, 4, 4, seed=i)})
    found = taught(Lesson(student, teacher, data, Settings(epochs=20), Asked()), Silent(), Checkpoints(None))
    assert not np.array_equal(weights_of(found.model)["B"], b)
    known = " ".join(found.notes)
    assert ("it has no gradient: 1" in known) == np.array_equal(weights_of(found.model)["A"], a)
