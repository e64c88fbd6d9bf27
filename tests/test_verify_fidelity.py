from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import parser

from onnxcompress.runtime.session import Port
from onnxcompress.stats import scores
from onnxcompress.stats.masks import kept_positions
from onnxcompress.verify.fidelity import FidelityMeter, OutputMeter, identical

RANDOM = np.random.default_rng(0)


def meter(x: object, y: object, name: str = "y", dims: tuple[int | str | None, ...] | None = None) -> OutputMeter:
    made = OutputMeter(name, dims)
    made.add(x, y)
    return made


def test_collapsed_scores_are_exposed() -> None:
    """A detector whose boxes survive and whose scores become zero: 30 dB overall, 0 dB in its scores."""
    boxes = RANDOM.uniform(20, 600, (1, 4, 2000))
    x = np.concatenate([boxes, RANDOM.uniform(0, 1, (1, 80, 2000)) ** 8], axis=1).astype(np.float32)
    y = x + np.concatenate([RANDOM.normal(0, 10, boxes.shape), -x[:, 4:]], axis=1).astype(np.float32)
    whole, large, small = meter(x, y, dims=(1, 84, 2000)).rows()
    assert 28 < whole.sqnr_db < 33
    assert whole.cosine > 0.99
    assert large.sqnr_db == pytest.approx(whole.sqnr_db, abs=0.5)
    assert small.sqnr_db == pytest.approx(0, abs=0.1)
    assert small.group is not None
    assert "4-83" in small.group


def test_what_is_kept_to_be_looked_at() -> None:
    found = FidelityMeter([Port("logits", "tensor(float)", ("N", 5))], {"logits": "Gemm"})
    rng = np.random.default_rng(1)
    for call in range(200):
        x = rng.standard_normal((4, 5)).astype(np.float32)
        y = x + np.float32(0.001 * (call + 1))
        if call == 42:
            y = np.roll(x, 1, axis=1)
        found.add({}, {"logits": x}, {"logits": y})
    made = found.result("here")
    output = made.outputs[0]
    assert 100 < len(output.points) <= 384
    assert all(abs(a - b) < 4 for a, b in output.points)
    assert made.worst_calls[0].call == 43
    assert [c.sqnr_db for c in made.worst_calls] == sorted(c.sqnr_db for c in made.worst_calls)
    assert sum(c.count for c in output.confusions) == round((1 - (output.agreement or 0)) * 800) == 4
    assert all((c.original + 1) % 5 == c.compressed for c in output.confusions)
    (one,) = [FidelityMeter([Port("y", "tensor(float)", (3,))], {})]
    one.add({}, {"y": np.ones(3)}, {"y": np.ones(3)})
    assert one.result("here").worst_calls == ()


def test_the_worst_output_is_at_the_top() -> None:
    ports = [Port("a", "tensor(float)", ("N", 3)), Port("b", "tensor(float)", ("N", 3))]
    both = FidelityMeter(ports, {})
    x = RANDOM.standard_normal((4, 3))
    both.add({}, {"a": x, "b": x}, {"a": x, "b": x + 0.1})
    found = both.result("here")
    assert found.sqnr_db == found.outputs[1].sqnr_db < 30 < found.outputs[0].sqnr_db
    assert found.max_abs_error == pytest.approx(0.1)
    assert (found.data, found.samples) == ("here", 1)


@given(share=st.integers(0, 20))
@settings(deadline=None)
def test_agreement_counts_rows(share: int) -> None:
    x = RANDOM.standard_normal((20, 10)).astype(np.float32)
    y = x.copy()
    y[:share] = -x[:share]
    assert meter(x, y, "logits").rows()[0].agreement == pytest.approx(1 - share / 20)


def test_small_calls_are_gathered_but_none_is_lost() -> None:
    made, calls = OutputMeter("logits"), RANDOM.standard_normal((300, 2, 3, 10)).astype(np.float32)
    for i, x in enumerate(calls):
        made.add(x, x + 0.1 if i == 299 else x)
    row = made.rows()[0]
    assert row.max_abs_error == pytest.approx(0.1, rel=1e-4)
    assert row.sqnr_db == pytest.approx(10 * math.log10(np.square(calls).sum() / (60 * 0.01)), abs=0.01)
    assert row.agreement == 1


def test_shapes_may_differ_from_call_to_call() -> None:
    made = OutputMeter("y", (None, 5, None))
    for n in (3, 7, 2):
        x = RANDOM.standard_normal((1, 5, n)) * np.array([1000, 1, 1, 1, 1])[:, None]
        made.add(x, x * 1.01)
        made.add(x[0], x[0] * 1.01)
    assert made.rows()[0].sqnr_db == pytest.approx(40, abs=0.01)


def test_another_shape_counts_as_error() -> None:
    made = meter(np.ones((4, 6)), np.ones((3, 6)))
    assert made.rows()[0].sqnr_db < 0
    assert made.mismatches == 1


def test_padding_does_not_count() -> None:
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0]])
    x = RANDOM.standard_normal((2, 4, 8)).astype(np.float32)
    y = np.where(mask[..., None] == 0, 99, x).astype(np.float32)
    both = FidelityMeter([Port("hidden", "tensor(float)", ("B", "T", 8))], {})
    both.add({"attention_mask": mask}, {"hidden": x}, {"hidden": y})
    assert both.result("").sqnr_db == 200


@pytest.mark.parametrize(
    ("name", "mask", "found"),
    [
        ("attention_mask", [[1, 0], [1, 1]], True),
        ("input_mask", [[1.0, 0.0]], True),
        ("attention_mask", [[1, 1]], False),
        ("attention_mask", [[0.0, -1e38]], False),
        ("input_ids", [[1, 0]], False),
        ("attention_mask", [1, 0], False),
    ],
)
def test_which_input_is_a_mask(name: str, mask: list[object], found: bool) -> None:
    assert (kept_positions({name: np.array(mask)}) is not None) is found


@pytest.mark.parametrize(
    ("x", "y", "agreement", "error"),
    [
        (np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]), 0.75, 1.0),
        (np.array([True, False]), np.array([True, True]), 0.5, 1.0),
        (np.array(["a", "b"], object), np.array(["a", "c"], object), 0.5, math.nan),
        (np.array(["a", "b"], object), np.array(["a", "b"], object), 1.0, 0.0),
    ],
)
def test_exact_outputs(x: np.ndarray, y: np.ndarray, agreement: float, error: float) -> None:
    row = meter(x, y).rows()[0]
    assert row.agreement == agreement
    assert row.max_abs_error == pytest.approx(error, nan_ok=True)
    assert row.sqnr_db == (200 if agreement == 1 else pytest.approx(math.nan, nan_ok=True))


def test_sequences_maps_and_nothing() -> None:
    pair = [np.ones(3), np.ones((2, 2))]
    assert meter(pair, [p * 1.01 for p in pair]).rows()[0].sqnr_db == pytest.approx(40, abs=0.01)
    maps = [{0: 0.2, 1: 0.8}, {0: 0.6, 1: 0.4}]
    swapped = [{1: 0.8, 0: 0.2}, {1: 0.6, 0: 0.4}]
    assert meter(maps, swapped, "output_probability").rows()[0].agreement == 0.5
    assert meter(None, None).rows()[0].max_abs_error != meter(None, None).rows()[0].sqnr_db
    assert meter(pair, pair[:1]).mismatches == 1


def test_bad_values_are_counted() -> None:
    x, y = np.ones((2, 3), np.float32), np.full((2, 3), np.nan, np.float32)
    assert meter(x, y).bad == 6
    assert meter(y, y).bad == 0


def test_zero_dimensional_and_empty_outputs() -> None:
    assert meter(np.float32(2), np.float32(2)).rows()[0].sqnr_db == 200
    assert meter(np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32)).rows()[0].agreement is None


def test_identical_runs() -> None:
    x: dict[str, object] = {"a": np.array([1.0, np.nan]), "b": [np.ones(2)], "c": np.array(["s"], object)}
    assert identical(x, {"a": np.array([1.0, np.nan]), "b": [np.ones(2)], "c": np.array(["s"], object)})
    assert not identical(x, {**x, "b": [np.zeros(2)]})


def rows(kind: str, shape: tuple[int, ...]) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal(shape)
    if kind == "probabilities":
        x = np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
    if kind == "unit":
        x /= np.linalg.norm(x, axis=-1, keepdims=True)
    return x.astype(np.float32) if kind != "constant" else np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("name", "kind", "shape", "producer", "wanted"),
    [
        ("logits", "normal", (4, 1000), "Gemm", True),
        ("logits", "normal", (2, 7, 49152), "MatMul", True),
        ("output", "normal", (4, 10), "Gemm", True),
        ("output", "probabilities", (2, 40, 97), None, True),
        ("softmax_11.tmp_0", "probabilities", (97,), "Softmax", True),
        ("output", "normal", (4, 384), "Gemm", False),
        ("output", "unit", (4, 100), "Div", False),
        ("sentence_embedding", "normal", (4, 10), None, False),
        ("last_hidden_state", "normal", (2, 7, 30), None, False),
        ("output", "normal", (4, 30), "LayerNormalization", False),
        ("boxes", "normal", (4, 4), None, False),
        ("output0", "normal", (1, 84, 8400), "Concat", False),
        ("logits", "normal", (4, 1), None, False),
        ("logits", "constant", (4, 10), None, False),
        ("mask", "normal", (1, 2, 8, 8), None, False),
    ],
)
def test_which_outputs_are_scores(
    name: str, kind: str, shape: tuple[int, ...], producer: str | None, wanted: bool
) -> None:
    assert scores.class_like(name, rows(kind, shape), producer) is wanted


def test_the_operator_behind_an_output() -> None:
    graph = parser.parse_graph(
        "g (float[2, 3] x) => (float[2, 3] a, float[6] b, float[2, 3] x2) "
        "{ s = Softmax(x) a = Identity(s) t = Tanh(x) n = Constant<value_ints = [6]>() "
        "b = Reshape(t, n) x2 = Identity(x) }"
    )
    assert scores.producers(graph) == {"a": "Softmax", "b": "Tanh"}


def test_rows_without_a_best_class_do_not_count() -> None:
    x = np.array([[0, 0, 0], [1, 2, 3], [np.nan, 1, 2]], np.float32)
    assert [len(best) for best in scores.best_classes(x, x)] == [1, 1]
