"""`onnxcompress compare` as a library: where values part, on models in which that is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxcompress.comparing.compare import compare
from onnxcompress.comparing.facts import Comparison, Options, ValueRow
from onnxcompress.data.options import DataOptions
from onnxcompress.errors import ModelError, RuntimeFailure
from tests import comparing_models as made
from tests.small_models import check_words, normal, outputs, proto, sqnr, write

if TYPE_CHECKING:
    from pathlib import Path

CALLS = DataOptions(limit=3)


def compared(folder: Path, a: onnx.ModelProto, b: onnx.ModelProto, options: Options | None = None) -> Comparison:
    paths = write(a, folder, "a.onnx"), write(b, folder, "b.onnx")
    return compare(*paths, options or Options(threads=1))


def value(found: Comparison, name: str) -> ValueRow:
    (item,) = [v for v in found.values if v.name == name]
    return item


def on(data: Path, threshold: float = 20.0) -> Options:
    return Options(threshold=threshold, data=data, data_options=CALLS, threads=1)


# ------------------------------------------------------------------------- a model and itself


@pytest.mark.parametrize(
    ("model", "data"),
    [(made.DIGITS, made.DIGITS_DATA), (made.LANGUAGE, made.LANGUAGE_DATA)],
    ids=["digits", "language"],
)
def test_a_model_is_like_itself(model: Path, data: Path) -> None:
    found = compare(model, model, on(data))
    assert found.structure.identical
    assert found.values
    assert not found.unmatched
    assert all(v.sqnr_db in (None, 200.0) and v.agreement in (None, 1.0) for v in found.values)
    assert (found.first_below, found.first_bad, found.worst_step) == (None, None, None)
    assert found.passed


# ------------------------------------------------------------------------- one damaged layer


@pytest.mark.parametrize(
    ("model", "data"),
    [(made.DIGITS, made.DIGITS_DATA), (made.LANGUAGE, made.LANGUAGE_DATA)],
    ids=["digits", "language"],
)
def test_the_damaged_layer_is_named_first(model: Path, data: Path, tmp_path: Path) -> None:
    original = onnx.load(model)
    found = made.layers(original)
    assert len(found) >= 9
    for output in list(found)[1 :: len(found) // 2]:
        told = compare(model, write(made.scaled(original, found[output]), tmp_path), on(data))
        assert told.first_bad is not None
        assert told.first_bad == told.first_below == told.worst_step
        assert told.first_bad.name == output
        assert told.first_bad.sqnr_db == pytest.approx(-6.02, abs=0.6)  # 10 log10(1/4) where there is no bias
        assert [(t.name, t.change) for t in told.structure.tensors] == [(found[output], "values")]
        assert told.structure.tensors[0].sqnr_db == pytest.approx(-6.02, abs=0.01)


def test_a_damaged_layer_is_named_within_a_quantized_model(tmp_path: Path) -> None:
    """Each weight is rounded a little, one a lot: that one is told from errors that only went through."""
    original = onnx.load(made.LANGUAGE)
    rounded = onnx.ModelProto()
    rounded.CopyFrom(original)
    weights = made.layers(original)
    chosen = list(weights)[len(weights) // 2]
    for tensor in rounded.graph.initializer:
        if tensor.name in weights.values():
            array = numpy_helper.to_array(tensor)
            step = np.abs(array).max() / (3 if tensor.name == weights[chosen] else 127)
            tensor.CopyFrom(numpy_helper.from_array(np.round(array / step) * step, tensor.name))
    found = compare(made.LANGUAGE, write(rounded, tmp_path), on(made.LANGUAGE_DATA))
    assert found.worst_step is not None
    assert found.worst_step.name == chosen
    assert found.first_bad is not None
    assert found.first_bad.name == chosen


def test_figures_are_those_of_numpy(tmp_path: Path) -> None:
    x = {"x": normal(5, 8, seed=9)}
    np.savez(tmp_path / "calls.npz", x=x["x"])
    other = made.chain(second=made.stored(made.chain(), "second") + normal(16, 16, seed=5, scale=0.05))
    found = compared(tmp_path, made.chain(), other, Options(data=tmp_path / "calls.npz", threads=1))
    names = [v.name for v in found.values]
    assert names == ["a", "b", "c", "d", "y"]
    shown = [onnx.ModelProto(), onnx.ModelProto()]
    for twin, model in zip(shown, (made.chain(), other), strict=True):
        twin.CopyFrom(model)
        twin.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names[:-1])
    first, second = (outputs(twin, x) for twin in shown)
    for name in ("c", "d", "y"):
        assert value(found, name).sqnr_db == pytest.approx(sqnr(first[name], second[name]), abs=0.01)
        cosine = np.vdot(first[name], second[name]) / np.linalg.norm(first[name]) / np.linalg.norm(second[name])
        assert value(found, name).cosine == pytest.approx(cosine, abs=1e-6)
    assert value(found, "c").own_sqnr_db == pytest.approx(value(found, "c").sqnr_db or 0, abs=0.01)
    assert value(found, "y").own_sqnr_db == 200.0  # the same step on the same values


def test_errors_that_add_up_are_told_from_a_bad_layer(tmp_path: Path) -> None:
    small = {n: made.stored(made.chain(), n) + normal(*s, seed=i, scale=0.1) for i, (n, s) in enumerate(
        {"first": (8, 16), "second": (16, 16), "third": (16, 4)}.items(), 11)}  # fmt: skip
    found = compared(tmp_path, made.chain(), made.chain(**small))
    least = [v.sqnr_db for v in found.values if v.sqnr_db is not None]
    alone = [v.own_sqnr_db for v in found.values if v.own_sqnr_db is not None]
    assert min(least) < min(alone)
    between = Options(threshold=(min(least) + min(alone)) / 2, threads=1)
    found = compared(tmp_path, made.chain(), made.chain(**small), between)
    assert found.first_below is not None
    assert found.first_bad is None


def test_what_differs_on_purpose_is_no_bad_layer(tmp_path: Path) -> None:
    """Features divided by factors that the next weight takes back, as equalization does."""
    factors = np.exp(normal(16, seed=4)).astype(np.float32)
    first, second = made.stored(made.chain(), "first"), made.stored(made.chain(), "second")
    turned = made.chain(first=first / factors, second=second * factors[:, None])
    found = compared(tmp_path, made.chain(), turned)
    assert (value(found, "a").sqnr_db or 0) < 20
    assert {v.name for v in found.values if v.compensated} == {"a", "b"}
    assert (found.first_below, found.first_bad, found.worst_step) == (None, None, None)
    assert (value(found, "c").own_sqnr_db or 200) > 100  # measured with what makes its input
    damaged = compared(tmp_path, made.chain(), made.chain(first=first / factors))
    assert damaged.first_bad is not None
    assert damaged.first_bad.name == "a"


def test_nan_is_a_parting(tmp_path: Path) -> None:
    broken = made.stored(made.chain(), "second").copy()
    broken[0, 0] = np.nan
    found = compared(tmp_path, made.chain(), made.chain(second=broken), Options(min_sqnr=10, threads=1))
    assert found.first_bad is not None
    assert found.first_bad.name == "c"
    assert not found.passed


# ------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("model", "backwards"),
    [(made.DIGITS, True), (made.LANGUAGE, False)],
    ids=["numbers that mislead", "numbers in place of names"],
)
def test_lost_names_are_matched_by_place(model: Path, backwards: bool, tmp_path: Path) -> None:
    original = onnx.load(model)
    a = write(made.renumbered(original, backwards=not backwards), tmp_path, "a.onnx") if backwards else model
    b = write(made.renumbered(original, backwards=backwards, seed=3), tmp_path, "b.onnx")
    found = compare(a, b, Options(threads=1))
    assert found.matched_by == "place"
    assert any("names were lost" in note for note in found.notes)
    assert not found.unmatched
    assert all(v.sqnr_db in (None, 200.0) and v.agreement in (None, 1.0) for v in found.values)


def test_a_damaged_layer_is_named_without_names(tmp_path: Path) -> None:
    original = onnx.load(made.DIGITS)
    layers = made.layers(original)
    output = list(layers)[4]
    damaged = made.renumbered(made.scaled(original, layers[output]), seed=1)
    found = compare(made.DIGITS, write(damaged, tmp_path), on(made.DIGITS_DATA))
    assert found.matched_by == "place"
    assert found.first_bad is not None
    assert found.first_bad.name == output


QDQ = """
agraph (float[n, 8] x) => (float[n, 4] y) {
    a = MatMul(x, first)
    b = Relu(a)
    b_q = QuantizeLinear(b, scale, zero)
    b_dq = DequantizeLinear(b_q, scale, zero)
    c = MatMul(b_dq, second)
    d = Relu(c)
    y = MatMul(d, third)
}
"""


def test_the_dequantized_value_counts(tmp_path: Path) -> None:
    weights = {n: made.stored(made.chain(), n) for n in ("first", "second", "third")}
    grid: dict[str, np.ndarray] = {"scale": np.array(0.5, np.float32), "zero": np.array(0, np.uint8)}
    quantized = proto(QDQ, {**weights, **grid})
    found = compared(tmp_path, made.chain(), quantized)
    assert value(found, "b").other == "b_dq"
    assert found.worst_step is not None
    assert found.worst_step.name == "b"
    alike = compared(tmp_path, quantized, quantized)
    assert value(alike, "b").other == "b"
    assert alike.worst_step is None


def test_integers_of_another_tool_are_dequantized(tmp_path: Path) -> None:
    names = ("b_quantized", "b_scale", "b_zero_point")
    text = (
        QDQ.replace("b_q ", f"{names[0]} ")
        .replace("(b_q,", f"({names[0]},")
        .replace("scale, zero", ", ".join(names[1:]))
    )
    text = text.replace("b = Relu(a)", "b_float = Relu(a)").replace("QuantizeLinear(b,", "QuantizeLinear(b_float,")
    weights = {n: made.stored(made.chain(), n) for n in ("first", "second", "third")}
    grid: dict[str, np.ndarray] = {"b_scale": np.array(0.5, np.float32), "b_zero_point": np.array(0, np.uint8)}
    found = compared(tmp_path, made.chain(), proto(text, {**weights, **grid}))
    assert value(found, "b").other == "b_quantized"
    assert found.worst_step is not None
    assert found.worst_step.name == "b"
    assert (value(found, "c").own_sqnr_db or 0) < 60  # its input is rounded on the way in


def test_a_bound_that_went_into_the_layer_before(tmp_path: Path) -> None:
    """In the second model `a` holds what is `b` in the first, as integers cut off at zero do."""
    clipped = made.CHAIN.replace("a = MatMul(x, first)\n    b = Relu(a)", "m = MatMul(x, first)\n    a = Relu(m)")
    clipped = clipped.replace("MatMul(b, second)", "MatMul(a, second)")
    weights = {n: made.stored(made.chain(), n) for n in ("first", "second", "third")}
    found = compared(tmp_path, made.chain(), proto(clipped, weights))
    assert value(found, "b").other == "a"
    assert value(found, "b").sqnr_db == 200.0
    assert [u.name for u in found.unmatched] == ["a"]


# ------------------------------------------------------------------------- what cannot be compared


def test_values_of_another_shape_are_said(tmp_path: Path) -> None:
    cut = made.chain(first=made.stored(made.chain(), "first")[:, :8], second=made.stored(made.chain(), "second")[:8])
    found = compared(tmp_path, made.chain(), cut)
    assert {u.name: "shape" in u.reason for u in found.unmatched} == {"a": True, "b": True}
    assert [v.name for v in found.values] == ["c", "d", "y"]
    assert value(found, "c").segment[-1] == "c"
    assert len(value(found, "c").segment) == 3


def test_subgraphs_are_said_not_to_be_watched(tmp_path: Path) -> None:
    text = """
    agraph (float[n, 8] x, bool flag) => (float[n, 4] y) {
        a = MatMul(x, first)
        b = If (flag) <
            then_branch = yes () => (float[n, 16] t) { t = Mul(a, two) },
            else_branch = no () => (float[n, 16] e) { e = Relu(a) }
        >
        y = MatMul(b, last)
    }
    """
    weights = {"first": normal(8, 16, seed=1), "last": normal(16, 4, seed=2), "two": np.array(2, np.float32)}
    model = proto(text, weights)
    found = compared(tmp_path, model, made.scaled(model, "two", 1.5))
    assert any("subgraphs" in note for note in found.notes)
    assert [v.name for v in found.values] == ["a", "b", "y"]
    assert found.first_bad is None or found.first_bad.name == "b"
    (tmp_path / "calls").mkdir()
    np.savez(tmp_path / "calls" / "1.npz", x=normal(3, 8), flag=np.array(True))
    found = compared(tmp_path, model, made.scaled(model, "two", 1.5), Options(data=tmp_path / "calls", threads=1))
    assert found.first_bad is not None
    assert found.first_bad.name == "b"
    assert value(found, "y").own_sqnr_db == 200.0


@pytest.mark.parametrize(
    "change", ["x = name", "x = type", "x = size", "x = rank"], ids=["name", "type", "fixed size", "rank"]
)
def test_other_inputs_are_refused_with_what_differs(change: str, tmp_path: Path) -> None:
    other = made.chain()
    port = other.graph.input[0]
    if change == "x = name":
        other.graph.node[0].input[0] = port.name = "z"
    elif change == "x = type":
        port.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    else:
        shape: list[str | int | None] = ["n", 8, 2] if change == "x = rank" else ["n", 7]
        port.CopyFrom(helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape))
    with pytest.raises(ModelError, match="different inputs") as refusal:
        compared(tmp_path, made.chain(), other)
    check_words(refusal.value)
    assert refusal.value.exit_code == 3
    assert "'x'" in refusal.value.message


def test_a_second_model_that_does_not_run_is_named(tmp_path: Path) -> None:
    broken = made.chain(second=normal(15, 16))
    with pytest.raises(RuntimeFailure, match=r"b\.onnx") as failure:
        compared(tmp_path, made.chain(), broken)
    check_words(failure.value)


def test_a_model_that_cannot_run_has_its_structure_compared(tmp_path: Path) -> None:
    foreign = made.chain()
    foreign.graph.node[1].op_type, foreign.graph.node[1].domain = "Unknown", "nobody"
    foreign.opset_import.append(helper.make_opsetid("nobody", 1))
    found = compared(tmp_path, foreign, made.scaled(foreign, "third"), Options(min_sqnr=20, threads=1))
    assert found.data is None
    assert [t.name for t in found.structure.tensors] == ["third"]
    assert not found.passed


# ------------------------------------------------------------------------- limits


def test_a_limit_holds_for_outputs_and_for_values_within(tmp_path: Path) -> None:
    other = made.chain(second=made.stored(made.chain(), "second") + normal(16, 16, seed=5, scale=0.05))
    found = compared(tmp_path, made.chain(), other)
    least = min(v.sqnr_db for v in found.values if v.sqnr_db is not None)
    assert compared(tmp_path, made.chain(), other, Options(min_sqnr=least - 0.1, threads=1)).passed
    above = compared(tmp_path, made.chain(), other, Options(min_sqnr=least + 0.1, threads=1))
    assert not above.passed
    assert any(f"{least:.1f} dB" in failure for failure in above.failures)


def test_memory_is_bounded_by_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for hardly a value at a time, all figures are the same."""
    other = made.chain(second=made.stored(made.chain(), "second") + normal(16, 16, seed=5, scale=0.05))
    whole = compared(tmp_path, made.chain(), other)
    for module in ("walk", "grafting"):
        monkeypatch.setattr(f"onnxcompress.comparing.{module}.GROUP_BYTES", 64)
    assert compared(tmp_path, made.chain(), other).values == whole.values


def test_padding_does_not_count(tmp_path: Path) -> None:
    text = """
    agraph (float[b, t, 8] x, int64[b, t] attention_mask) => (float[b, t, 8] y) {
        m = Cast <to = 1> (attention_mask)
        u = Unsqueeze(m, axes)
        keep = Mul(u, left)
        z = Add(x, keep)
        y = Add(z, hidden)
    }
    """
    weights = {"axes": np.array([2]), "left": np.array(0, np.float32), "hidden": np.array(0, np.float32)}
    noisy = text.replace("y = Add(z, hidden)", "n = Sub(one, u)\n w = Mul(n, large)\n y = Add(z, w)")
    more = {"one": np.array(1, np.float32), "large": np.array(9, np.float32)}
    (tmp_path / "calls").mkdir()
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    np.savez(tmp_path / "calls" / "1.npz", x=normal(2, 3, 8), attention_mask=mask)
    options = Options(data=tmp_path / "calls", threads=1)
    found = compared(tmp_path, proto(text, weights), proto(noisy, {**weights, **more}), options)
    assert value(found, "y").sqnr_db == 200.0
