from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxcompress.data.dataset import Dataset, Feeds
from onnxcompress.errors import DataError, RuntimeFailure, UsageError
from onnxcompress.verify.budgets import Budgets
from onnxcompress.verify.preflight import preflight
from onnxcompress.verify.verify import Verification, VerifyOptions, verify

if TYPE_CHECKING:
    from pathlib import Path

    from onnxcompress.report import BudgetResult

HEAD = '<ir_version: 8, opset_import: ["" : 17, "my.domain" : 1]> '
CLASSIFIER = "g (float[N, 32] x) => (float[N, 10] logits) { logits = MatMul(x, w) }"
FEATURES = "g (float[N, 32] x) => (float[N, 10] embedding) { embedding = MatMul(x, w) }"
QUICK = 0.05
WEIGHT = np.random.default_rng(0).standard_normal((32, 10)).astype(np.float32)


def save(path: Path, body: str, weight: np.ndarray = WEIGHT) -> Path:
    model = parser.parse_model(HEAD + body)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    onnx.save(model, path)
    return path


def data(calls: int = 6, rows: int = 4, source: str = "there", labels: np.ndarray | None = None) -> Dataset:
    random = np.random.default_rng(1)
    made: list[Feeds] = [{"x": random.standard_normal((rows, 32)).astype(np.float32)} for _ in range(calls)]
    return Dataset(source, calls, made.__getitem__, labels, (rows,) * calls)


def best(calls: int = 6, weight: np.ndarray = WEIGHT) -> np.ndarray:
    return np.concatenate([(feeds["x"] @ weight).argmax(axis=-1) for feeds in data(calls)])


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return save(tmp_path / "original.onnx", CLASSIFIER)


@pytest.fixture
def rounded(tmp_path: Path) -> Path:
    scale = np.float32(np.abs(WEIGHT).max() / 20)
    return save(tmp_path / "rounded.onnx", CLASSIFIER, np.round(WEIGHT / scale) * scale)


def check(found: Verification, name: str) -> BudgetResult:
    return next(c for c in found.checks if c.name == name)


def test_a_model_equals_itself(original: Path) -> None:
    found = verify(original, original, data(), VerifyOptions(latency_seconds=0.2))
    assert found.passed
    assert found.fidelity is not None
    assert (found.fidelity.sqnr_db, found.fidelity.agreement, found.fidelity.samples) == (200, 1, 6)
    assert found.latency is not None
    assert found.latency.speedup_low < 1.05
    assert found.latency.speedup_high > 0.95
    assert found.latency.batch == 4
    assert [note for note in found.notes if "other processes" not in note] == []


def test_a_rounded_model(original: Path, rounded: Path) -> None:
    found = verify(original, rounded, data(), VerifyOptions(latency_seconds=QUICK))
    assert found.passed
    assert found.fidelity is not None
    assert 20 < found.fidelity.sqnr_db < 40
    assert [c.name for c in found.checks] == [
        "checker", "interface", "metadata", "size", "loads", "runs", "finite",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("budgets", "passed"),
    [
        (Budgets(min_sqnr=10, min_cosine=0.9, min_agreement=0.5, max_drop=0.5, max_size=1.0), True),
        (Budgets(min_sqnr=100), False),
        (Budgets(min_cosine=1.0), False),
        (Budgets(max_size=0.5), False),
        (Budgets(min_speedup=900), False),
    ],
)
def test_budgets(original: Path, rounded: Path, budgets: Budgets, passed: bool) -> None:
    found = verify(original, rounded, data(), VerifyOptions(budgets=budgets, latency_seconds=QUICK))
    assert found.passed is passed
    assert {c.name for c in found.checks} >= set(budgets.asked)


def test_labels_give_a_metric_and_its_drop(original: Path, tmp_path: Path) -> None:
    shuffled = save(tmp_path / "worse.onnx", CLASSIFIER, WEIGHT[:, ::-1].copy())
    options = VerifyOptions(budgets=Budgets(max_drop=0.01), latency=False)
    found = verify(original, shuffled, data(labels=best()), options)
    assert found.metrics["accuracy"].original == 1
    assert check(found, "max_drop").value == pytest.approx(1 - found.metrics["accuracy"].compressed)
    assert not found.passed
    assert found.latency is None


def test_labels_of_another_number_are_refused(original: Path) -> None:
    with pytest.raises(DataError, match="labels"):
        verify(original, original, data(labels=best()[:-1]), VerifyOptions(latency_seconds=QUICK))


def test_a_drop_without_labels_or_scores_is_refused(tmp_path: Path) -> None:
    model = save(tmp_path / "m.onnx", FEATURES)
    with pytest.raises(UsageError, match="--max-drop"):
        verify(model, model, data(), VerifyOptions(budgets=Budgets(max_drop=0.1), latency_seconds=QUICK))


def test_values_that_are_not_finite_fail(original: Path, tmp_path: Path) -> None:
    broken = WEIGHT.copy()
    broken[0, 3] = np.nan
    found = verify(
        original, save(tmp_path / "b.onnx", CLASSIFIER, broken), data(), VerifyOptions(latency_seconds=QUICK)
    )
    assert check(found, "finite").value == 24
    assert not found.passed
    same = verify(tmp_path / "b.onnx", tmp_path / "b.onnx", data(), VerifyOptions(latency_seconds=QUICK))
    assert check(same, "finite").ok


def test_without_data_only_structure(original: Path, rounded: Path) -> None:
    found = verify(original, rounded, None, VerifyOptions(budgets=Budgets(min_sqnr=10)))
    assert found.fidelity is None
    assert check(found, "min_sqnr").value == "not measured: no data were given"
    assert not found.passed
    assert verify(original, rounded, None).passed


def test_custom_operators_leave_the_structure(tmp_path: Path) -> None:
    body = "g (float[N, 32] x) => (float[N, 10] logits) { a = my.domain.Foo(x) logits = MatMul(a, w) }"
    model = save(tmp_path / "m.onnx", body)
    found = verify(model, model, data(), VerifyOptions())
    assert found.passed
    assert found.fidelity is None
    assert "only the structure was verified" in found.notes[0]
    assert "Foo" in found.notes[0]
    assert not verify(model, model, data(), VerifyOptions(budgets=Budgets(min_speedup=1))).passed


def test_a_compressed_model_that_does_not_load_fails(original: Path, tmp_path: Path) -> None:
    bad = save(tmp_path / "bad.onnx", CLASSIFIER, np.ones((31, 10), np.float32))
    found = verify(original, bad, data(), VerifyOptions())
    assert not found.passed
    assert "does not load" in str(check(found, "loads").value)


def test_a_compressed_model_that_does_not_run_fails(tmp_path: Path) -> None:
    body = (
        "g (float[N, 32] x) => (float[N, 10] logits) "
        "{{ h = Constant<value_ints = [{0}, 32]>() r = Reshape(x, h) logits = MatMul(r, w) }}"
    )
    good, bad = save(tmp_path / "a.onnx", body.format(4)), save(tmp_path / "b.onnx", body.format(5))
    found = verify(good, bad, data(), VerifyOptions())
    assert "does not run" in str(check(found, "runs").value)
    assert not found.passed
    with pytest.raises(RuntimeFailure, match="does not run"):
        verify(bad, good, data(), VerifyOptions())
    made_up = verify(bad, good, data(source="synthetic"), VerifyOptions())
    assert made_up.passed
    assert "give data" in made_up.notes[0]


def test_another_interface_is_not_run(original: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "o.onnx", CLASSIFIER.replace("logits", "scores"))
    found = verify(original, other, data(), VerifyOptions())
    assert "scores instead of logits" in str(check(found, "interface").value)
    assert found.fidelity is None


def test_cuda_is_refused(original: Path) -> None:
    with pytest.raises(RuntimeFailure, match="CUDA") as caught:
        verify(original, original, data(), VerifyOptions(device="cuda"))
    assert caught.value.exit_code == 4


def test_synthetic_inputs_are_said_so(original: Path) -> None:
    found = verify(original, original, data(source="synthetic"), VerifyOptions(latency_seconds=QUICK))
    assert "fidelity was measured on synthetic inputs" in found.notes


def test_slower_is_said_first_and_no_failure(tmp_path: Path) -> None:
    slow = "a0 = MatMul(x, w) " + " ".join(f"a{i + 1} = Softmax(a{i})" for i in range(200))
    model = save(tmp_path / "slow.onnx", f"g (float[N, 32] x) => (float[N, 10] logits) {{ {slow} logits = Neg(a200) }}")
    path = save(tmp_path / "fat.onnx", CLASSIFIER)
    fat = onnx.load(path)
    fat.doc_string = "x" * 20_000
    onnx.save(fat, path)
    found = verify(path, model, data(), VerifyOptions(latency_seconds=0.2))
    assert found.notes[0].startswith("SLOWER")
    assert found.passed


def test_random_models_are_noted(tmp_path: Path) -> None:
    body = "g (float[N, 32] x) => (float[N, 10] logits) { y = MatMul(x, w) n = RandomNormalLike(y) logits = Add(y, n) }"
    model = save(tmp_path / "m.onnx", body)
    found = verify(model, model, data(), VerifyOptions(latency_seconds=QUICK))
    assert any("different outputs for the same inputs" in note for note in found.notes)


def test_too_many_calls_are_thinned_out_and_said(original: Path) -> None:
    found = verify(original, original, data(50), VerifyOptions(fidelity_seconds=0.0, latency_seconds=QUICK))
    assert found.fidelity is not None
    assert found.fidelity.samples == 4
    assert "4 of 50 calls" in found.notes[0]


def test_no_calls_at_all(original: Path) -> None:
    with pytest.raises(DataError, match="no samples"):
        verify(original, original, data(0), VerifyOptions())


def test_preflight_lets_through_what_can_be_verified(original: Path) -> None:
    preflight(original, data(labels=best()), VerifyOptions(budgets=Budgets(max_drop=0.1)))
    preflight(original, None, VerifyOptions())


def test_preflight_refuses_what_cannot(original: Path, tmp_path: Path) -> None:
    features = save(tmp_path / "f.onnx", FEATURES)
    with pytest.raises(UsageError, match="--min-agreement"):
        preflight(features, data(), VerifyOptions(budgets=Budgets(min_agreement=0.9)))
    with pytest.raises(DataError, match="no output"):
        preflight(original, data(labels=best() + 10), VerifyOptions())
    with pytest.raises(RuntimeFailure, match="CUDA"):
        preflight(original, data(), VerifyOptions(device="cuda"))
    with pytest.raises(UsageError, match="no metric"):
        preflight(original, data(labels=best()), VerifyOptions(metric="f1"))


def test_memory_of_the_loaded_models(original: Path, tmp_path: Path) -> None:
    fat = np.random.default_rng(0).standard_normal((4096, 4096)).astype(np.float32)
    body = "g (float[N, 4096] x) => (float[N, 4096] y) { y = MatMul(x, w) }"
    found = verify(save(tmp_path / "fat.onnx", body, fat), original, None, VerifyOptions())
    assert found.resident_bytes is None or found.resident_bytes[0] > 60e6 > found.resident_bytes[1]


def test_layers_are_timed_where_that_is_asked_for(original: Path, rounded: Path) -> None:
    assert verify(original, rounded, data(), VerifyOptions(latency_seconds=QUICK)).layer_times == ()
    found = verify(original, rounded, data(), VerifyOptions(latency_seconds=QUICK, profile=True))
    (layer,) = found.layer_times
    assert layer.ops[0] in ("MatMul", "Gemm")
    assert layer.original_ms is not None
    assert layer.compressed_ms is not None
