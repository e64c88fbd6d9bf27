"""What is left alone and why, what is refused, and the ways in which other tools fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxcompress
from onnxcompress.errors import ModelError, UsageError
from onnxcompress.forms import remembered
from onnxcompress.forms.costs import shipped
from onnxcompress.passes.quantize import Quantize
from onnxcompress.progress import Silent
from onnxcompress.report import LayerRecord, Report  # noqa: TC001
from tests.small_models import Arrays, check_words, normal, operators, outputs, proto, sqnr, write

if TYPE_CHECKING:
    from pathlib import Path

TWO = "g (float[5, 64] x) => (float[5, 32] y) { h = MatMul(x, first) r = Relu(h) y = MatMul(r, second) }"


def two(**options: Any) -> onnx.ModelProto:
    model = proto(TWO, {"first": normal(64, 48, seed=1), "second": normal(48, 32, seed=2)}, **options)
    model.graph.node[0].name, model.graph.node[2].name = "encoder/dense", "decoder/dense"
    return model


def quantized(model: onnx.ModelProto, folder: Path, **options: Any) -> tuple[onnx.ModelProto, dict[str, LayerRecord]]:
    """The quantized model, not verified, and its records."""
    path = write(model, folder)
    result = onnxcompress.quantize(path, simplify=False, verify=False, force=True, **options)
    assert result.path is not None
    return onnx.load(result.path), records(result.report)


def records(report: Report) -> dict[str, LayerRecord]:
    return {r.name: r for r in report.steps[-1].layers}


def stored(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


# ------------------------------------------------------------------------- left alone, with a reason


@pytest.mark.parametrize(
    ("body", "weight", "reason"),
    [
        ("u = Add(x, k)", normal(5, 64), "read by Add"),
        ("u = Add(x, k)", np.full((1, 64), -1e38, np.float32), "read by Add"),  # an attention mask
        ("u = Where(m, x, k)", normal(5, 64), "read by Where"),
        ("u = LayerNormalization(x, k)", normal(64), "read by LayerNormalization"),
        ("e = Unsqueeze(x, axes) u = Conv(e, c, k)", normal(2048), "bias or state of Conv"),  # its bias
        ("u = Gemm(x, v, k)", normal(1, 2048), "bias or state of Gemm"),
        ("u = MatMul(x, k)", normal(64, 8), "tiny"),
        ("u = Identity(x)", normal(64, 48), "nothing reads it"),
        ("u = MatMul(x, k) v = Shape(k)", normal(64, 48), "override"),
    ],
)
def test_what_is_left_alone_has_a_reason(tmp_path: Path, body: str, weight: np.ndarray, reason: str) -> None:
    more = {"v": normal(64, 2048), "c": normal(2048, 5, 1), "axes": np.array([0]), "m": np.ones((5, 64), np.bool_)}
    more = {n: a for n, a in more.items() if f" {n}," in body or f"({n}," in body or f" {n})" in body}
    model = proto(
        TWO.replace("{", "{ " + body), {"first": normal(64, 48), "second": normal(48, 32), "k": weight, **more}
    )
    if reason == "override":
        model.graph.input.append(helper.make_tensor_value_info("k", TensorProto.FLOAT, weight.shape))
    made, found = quantized(model, tmp_path)
    assert found["k"].status == "skipped"
    assert reason in (found["k"].reason or "")
    np.testing.assert_array_equal(stored(made)["k"], weight)
    assert found["first"].status == "done"


@pytest.mark.parametrize(
    ("include", "exclude", "done"),
    [
        ((), (), {"first", "second"}),
        (("first",), (), {"first"}),
        (("encoder/*",), (), {"first"}),
        (("*dense",), ("decoder*",), {"first"}),
        ((), ("s?cond",), {"first"}),
        (("first", "second"), ("first",), {"second"}),
    ],
)
def test_patterns_on_weights_and_on_their_readers(
    tmp_path: Path, include: tuple[str, ...], exclude: tuple[str, ...], done: set[str]
) -> None:
    made, found = quantized(two(), tmp_path, include=include, exclude=exclude)
    assert {n for n, r in found.items() if r.status == "done"} == done
    for name in {"first", "second"} - done:
        assert "included" in (found[name].reason or "") or "excluded" in (found[name].reason or "")
        assert name in stored(made)


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_wrong_usage(tmp_path: Path, option: str) -> None:
    with pytest.raises(UsageError, match="matches no") as caught:
        quantized(two(), tmp_path, **{option: ("first", "third*")})
    assert "third*" in caught.value.message
    check_words(caught.value)


# ------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    "options",
    [
        {"block_size": 4},
        {"block_size": 32, "per_tensor": True},
        {"scheme": "dynamic", "bits": 4},
        {"scheme": "dynamic", "symmetric": False},
        {"scheme": "dynamic", "block_size": 32},
        {"block_size": 10**6},
    ],
    ids=str,
)
def test_options_that_contradict_each_other_are_wrong_usage(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        Quantize(**options)
    check_words(caught.value)


@pytest.mark.parametrize("options", [{}, {"bits": 4}, {"scheme": "dynamic"}, {"scheme": "float16"}], ids=str)
def test_a_result_is_not_quantized_again_unless_asked_for(tmp_path: Path, options: dict[str, Any]) -> None:
    made, _ = quantized(two(), tmp_path, **options)
    with pytest.raises(ModelError, match="quantized already") as caught:
        quantized(made, tmp_path)
    assert "--requantize" in caught.value.hint
    if options.get("scheme") != "float16":  # nothing is left in float
        with pytest.raises(ModelError, match=r"can be compressed|no weights"):
            quantized(made, tmp_path, requantize=True)


def test_shorter_floats_are_quantized_further_where_asked_for(tmp_path: Path) -> None:
    made, _ = quantized(two(), tmp_path, scheme="float16")
    again, found = quantized(made, tmp_path, requantize=True)
    assert {r.status for r in found.values()} == {"done"}
    feeds = {"x": normal(5, 64)}
    assert sqnr(outputs(two(), feeds)["y"], outputs(again, feeds)["y"]) > 36


def test_what_is_still_float_is_quantized_where_asked_for(tmp_path: Path) -> None:
    made, _ = quantized(two(), tmp_path, include=("first",))
    again, found = quantized(made, tmp_path, requantize=True)
    assert found["second"].status == "done"
    feeds = {"x": normal(5, 64)}
    assert sqnr(outputs(two(), feeds)["y"], outputs(again, feeds)["y"]) > 36


@pytest.mark.parametrize(
    "op", ["QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv"]
)
def test_models_that_others_quantized_are_refused(tmp_path: Path, op: str) -> None:
    model = two()
    model.graph.node.append(helper.make_node(op, ["x"], ["unused"]))
    with pytest.raises(ModelError, match=op):
        quantized(model, tmp_path)


def test_a_quantized_body_is_noticed(tmp_path: Path) -> None:
    model = proto(
        """g (float[5, 64] x, bool c) => (float[5, 64] y) { y = If(c) <
            then_branch = t () => (float[5, 64] a) { q = QuantizeLinear(x, s) a = DequantizeLinear(q, s) },
            else_branch = e () => (float[5, 64] b) { b = MatMul(x, w) }> }""",
        {"w": normal(64, 64), "s": np.array(0.1, np.float32)},
    )
    with pytest.raises(ModelError, match="QuantizeLinear"):
        quantized(model, tmp_path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("options", [{}, {"bits": 4}, {"scheme": "dynamic"}, {"block_size": 16}], ids=str)
def test_weights_that_are_not_finite_are_named_and_nothing_is_left_behind(
    tmp_path: Path, bad: float, options: dict[str, Any]
) -> None:
    broken = normal(48, 32)
    broken[3, 5] = bad
    model = proto(TWO, {"first": normal(64, 48), "second": broken})
    with pytest.raises(ModelError, match="second") as caught:
        quantized(model, tmp_path, **options)
    assert "--exclude" in caught.value.hint
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx"}
    made, found = quantized(model, tmp_path, exclude=("second",), **options)
    assert found["first"].status == "done"
    np.testing.assert_array_equal(stored(made)["second"], broken)


@pytest.mark.parametrize(
    ("text", "weights", "said"),
    [
        ("g (float[5, 64] x) => (float[5, 64] y) { y = Relu(x) }", {}, "no weights"),
        ("g (float[5, 64] x) => (float[5, 64] y) { y = Add(x, w) }", {"w": normal(64)}, "read by Add"),
        ("g (float[5, 8] x) => (float[5, 8] y) { y = MatMul(x, w) }", {"w": normal(8, 8)}, "tiny"),
        ("g (int64[5] x) => (int64[5] y) { y = Gather(w, x) }", {"w": np.arange(9999)}, "no weights"),
    ],
)
def test_a_model_without_anything_to_quantize_is_refused(tmp_path: Path, text: str, weights: Arrays, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        quantized(proto(text, weights), tmp_path)
    check_words(caught.value)
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx"}


# ------------------------------------------------------------------------- how others fail


def verified(model: onnx.ModelProto, folder: Path, **options: Any) -> onnxcompress.Result:
    return onnxcompress.quantize(write(model, folder), seconds=0.05, force=True, **options)


def test_the_constant_of_an_attention_mask_does_no_harm(tmp_path: Path) -> None:
    """Elsewhere it drives a scale to 1e36."""
    model = proto(
        """g (float[2, 9, 64] x, float[2, 1, 9] mask) => (float[2, 9, 64] y) {
            q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)
            t = Transpose<perm = [0, 2, 1]>(k) s = MatMul(q, t)
            inverse = Sub(one, mask) bias = Mul(inverse, lowest) masked = Add(s, bias)
            p = Softmax<axis = -1>(masked) o = MatMul(p, v) y = MatMul(o, wo)
        }""",
        {n: normal(64, 64, seed=i, scale=0.1) for i, n in enumerate(("wq", "wk", "wv", "wo"))}
        | {"one": np.array(1, np.float32), "lowest": np.array(-1e38, np.float32)},
    )
    mask = np.ones((2, 1, 9), np.float32)
    mask[1, 0, 5:] = 0
    feeds = {"x": normal(2, 9, 64), "mask": mask}
    for options in ({}, {"scheme": "dynamic"}, {"bits": 4}):
        made, found = quantized(model, tmp_path, **options)
        assert sum(r.status == "done" for r in found.values()) == 4
        assert sqnr(outputs(model, feeds)["y"], outputs(made, feeds)["y"]) > (12 if "bits" in options else 32)


def test_scores_beside_boxes_keep_their_own_fidelity(tmp_path: Path) -> None:
    """Coordinates in hundreds and scores below one in a single tensor: the scores must not drown."""
    model = proto(
        """g (float[1, 32, 8, 8] x) => (float[1, 12, 64] y) {
            b = Conv(x, wb) s = Conv(x, ws) boxes = Mul(b, large) scores = Sigmoid(s)
            fb = Reshape(boxes, four) fs = Reshape(scores, eight) y = Concat<axis = 1>(fb, fs)
        }""",
        {
            "wb": normal(4, 32, 3, 3, scale=0.05), "ws": normal(8, 32, 3, 3, scale=0.05),
            "large": np.array(300, np.float32), "four": np.array([1, 4, 36]), "eight": np.array([1, 8, 36]),
        },
    )  # fmt: skip
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 36
    feeds = {"x": normal(1, 32, 8, 8)}
    made, found = quantized(model, tmp_path)
    assert {n for n, r in found.items() if r.status == "done"} == {"wb", "ws"}
    expected, given = outputs(model, feeds)["y"], outputs(made, feeds)["y"]
    assert min(sqnr(expected[:, :4], given[:, :4]), sqnr(expected[:, 4:], given[:, 4:])) > 36
    result = verified(model, tmp_path)
    assert result.report.fidelity is not None
    assert len({o.group for o in result.report.fidelity.outputs}) > 1


def test_a_table_tied_to_the_output_layer_is_not_doubled(tmp_path: Path) -> None:
    model = proto(
        """g (int64[n] i) => (float[n, 500] y) {
            e = Gather(w, i) h = Tanh(e) t = Transpose<perm = [1, 0]>(w) y = MatMul(h, t) }""",
        {"w": normal(500, 64)},
    )
    path = write(model, tmp_path)
    for options in ({}, {"simplify": False}, {"scheme": "dynamic"}, {"target": "portable"}):
        result = onnxcompress.quantize(path, force=True, seconds=0.05, **options)
        assert result.passed
        assert result.report.compressed is not None
        assert result.report.compressed.size_bytes < 500 * 64 * 1.2
        assert result.report.fidelity is not None
        assert result.report.fidelity.sqnr_db > 36


@pytest.mark.parametrize("simplify", [True, False])
def test_weights_in_constant_nodes_are_quantized(tmp_path: Path, simplify: bool) -> None:
    model = proto(TWO)
    for name, values in (("second", normal(48, 32)), ("first", normal(64, 48))):
        model.graph.node.insert(0, helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values)))
    result = verified(model, tmp_path, simplify=simplify)
    assert result.passed
    assert {r.status for r in records(result.report).values()} == {"done"}
    assert result.report.compressed is not None
    assert result.report.compressed.size_bytes < 0.45 * result.report.original.size_bytes


def test_an_embedding_stays_a_lookup_and_shrinks(tmp_path: Path) -> None:
    model = proto("g (int64[n] i) => (float[n, 32] y) { e = Gather(w, i) y = MatMul(e, v) }",
                  {"w": normal(2000, 64), "v": normal(64, 32)})  # fmt: skip
    made, found = quantized(model, tmp_path)
    assert found["w"].form == "gather"
    assert found["w"].bytes_after < 0.27 * found["w"].bytes_before
    assert operators(made)["Gather"] >= 1


def test_no_layer_that_runs_slower_on_codes_does(tmp_path: Path) -> None:
    """Integer convolutions and DequantizeLinear before a Conv are slower than float: neither is written."""
    model = proto(
        "g (float[1, 64, 9, 9] x) => (float[1, 64, 5, 5] y) { h = Conv<group = 64>(x, d) y = Conv(h, w) }",
        {"d": normal(64, 1, 3, 3), "w": normal(64, 64, 3, 3)},
    )
    for options in ({}, {"scheme": "dynamic"}, {"bits": 4}):
        made, _ = quantized(model, tmp_path, **options)
        found = operators(made)
        assert not {o for o in found if "Integer" in o or "Quantize" in o}
        assert found["Conv"] == 2


def test_custom_operators_are_worked_around(tmp_path: Path) -> None:
    model = two()
    model.graph.node[1].domain, model.graph.node[1].op_type = "mine", "Secret"
    model.opset_import.append(helper.make_opsetid("mine", 1))
    result = verified(model, tmp_path)
    assert {r.status for r in records(result.report).values()} == {"done"}
    assert result.report.fidelity is None
    assert any("structure" in note or "run" in note for note in result.report.notes)


@pytest.mark.parametrize(
    ("version", "lacking"),
    [("1.22.0", {"fused-w8", "blockwise_other-w2"}), ("1.31.1", {"blockwise_other-w2"}), ("1.32.0", set())],
)
def test_forms_that_the_runtime_is_too_old_for_are_no_choice(
    monkeypatch: pytest.MonkeyPatch, version: str, lacking: set[str]
) -> None:
    monkeypatch.setattr(remembered, "runtime_version", lambda: version)
    offered, known = remembered.costs("vnni", [], Silent()), shipped("vnni")
    assert {form.split("-b")[0] for form in set(known) - set(offered)} == lacking
    assert {"blockwise-w4-b32", "blockwise-w8-b32"} <= set(offered)
