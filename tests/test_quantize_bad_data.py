"""Data that say little, too much or nothing: the result holds, or one sentence says why there is none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

import onnxcompress
from onnxcompress.data.dataset import Dataset
from onnxcompress.errors import DataError
from onnxcompress.stats.extremes import Extremes, extremes
from tests.small_models import Arrays, check_words, normal, opened, outputs, proto, sqnr, write

CONV = "Conv<pads = [1, 1, 1, 1]>"
TEXT = f"g (float[n, 8, p, q] x) => (float[a, b, c, d] y) {{ h = {CONV}(x, w, k) r = Relu(h) y = {CONV}(r, v) }}"
WEIGHTS = {
    "w": normal(16, 8, 3, 3, seed=1, scale=0.2), "k": normal(16, seed=2), "v": normal(16, 16, 3, 3, seed=3, scale=0.1),
}  # fmt: skip
SHAPE = (2, 8, 9, 9)
GOOD = [{"x": normal(*SHAPE, seed=i)} for i in range(4)]


def folder_of(calls: Sequence[Arrays], folder: Path) -> Path:
    data = folder / "data"
    data.mkdir()
    for i, call in enumerate(calls):
        np.savez(data / f"call{i}.npz", allow_pickle=False, **call)
    return data


def quantized(
    calls: Sequence[Arrays], folder: Path, text: str = TEXT, weights: Arrays = WEIGHTS
) -> onnxcompress.Result:
    path = write(proto(text, weights), folder)
    return onnxcompress.quantize(path, data=folder_of(calls, folder), scheme="static", seconds=0.02, threads=1)


def like(call: Arrays, factor: float, plus: float = 0.0) -> Arrays:
    return {"x": (call["x"].astype(np.float64) * factor + plus).astype(np.float32)}


def spoilt(value: float) -> list[Arrays]:
    calls = [{"x": call["x"].copy()} for call in GOOD]
    calls[2]["x"][1, 3, 3, 3] = value
    return list(calls)


WORKS: Mapping[str, Sequence[Arrays]] = {
    "all of it zero": [like(c, 0) for c in GOOD],
    "all of it one number": [like(c, 0, 3) for c in GOOD],
    "all of it a negative number": [like(c, 0, -1e-3) for c in GOOD],
    "zero but for one call": [*(like(c, 0) for c in GOOD[:3]), GOOD[3]],
    "never negative": [{"x": np.abs(c["x"])} for c in GOOD],
    "one call": GOOD[:1],
    "one call of one sample": [{"x": GOOD[0]["x"][:1]}],
    "one call of one value in each channel": [{"x": normal(1, 8, 1, 1)}],
    "other sizes in each call": [{"x": normal(1 + i, 8, 1 + 7 * i, 17 - 5 * i, seed=i)} for i in range(4)],
    "a call of nothing among others": [*GOOD[:2], {"x": normal(0, 8, 9, 9)}, GOOD[2]],
    "a call of nothing first": [{"x": normal(0, 8, 9, 9)}, *GOOD[:2]],
    "subnormal": [like(c, 1e-40) for c in GOOD],
    "tiny": [like(c, 1e-33) for c in GOOD],
    "small": [like(c, 1e-12) for c in GOOD],
    "large": [like(c, 1e12) for c in GOOD],
    "of unlike size from call to call": [like(c, 10.0 ** (3 * i - 6)) for i, c in enumerate(GOOD)],
}


@pytest.mark.parametrize("calls", WORKS.values(), ids=WORKS)
def test_whatever_the_data_say_the_result_holds_on_them(tmp_path: Path, calls: Sequence[Arrays]) -> None:
    result = quantized(calls, tmp_path)
    assert result.passed
    assert result.path is not None
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx", "model.int8.onnx", "data"}
    found = [(outputs(tmp_path / "model.onnx", c)["y"], outputs(result.path, c)["y"]) for c in calls]
    expected, given = (np.concatenate([pair[i].ravel() for pair in found]) for i in (0, 1))
    assert expected.size
    assert sqnr(expected, given) > 20


def test_a_layer_that_the_data_never_exercise_is_named(tmp_path: Path) -> None:
    result = quantized(WORKS["all of it zero"], tmp_path)
    assert any("never exercise" in note and "h" in note for note in result.report.steps[-1].notes)


@pytest.mark.parametrize("name", ["w", "v"])
@pytest.mark.parametrize("channels", [slice(3, 7), slice(None)], ids=["some", "all"])
def test_weights_with_channels_of_zeros(tmp_path: Path, name: str, channels: slice) -> None:
    weight = WEIGHTS[name].copy()
    weight[channels] = 0
    result = quantized(GOOD, tmp_path, weights={**WEIGHTS, name: weight})
    assert result.passed
    assert result.path is not None
    made, expected = (outputs(p, GOOD[0])["y"] for p in (result.path, tmp_path / "model.onnx"))
    if name == "v":
        assert not made[:, channels].any()
    assert sqnr(expected, made) > 20 or not expected.any()


OTHER_INPUTS = {
    "the first axis is no batch": (
        "g (float[t, 64] x) => (float[64, 32] y) { u = Transpose<perm = [1, 0]>(x) g0 = MatMul(x, w) "
        "r = Relu(g0) z = MatMul(u, r) y = MatMul(z, v) }",
        {"w": normal(64, 64, scale=0.1), "v": normal(64, 32, scale=0.1)},
        [{"x": normal(7 + i, 64, seed=i)} for i in range(3)],
    ),
    "integers alone": (
        "g (int64[n] i) => (float[n, 32] y) { e = Gather(w, i) h = MatMul(e, v) r = Relu(h) y = MatMul(r, u) }",
        {"w": normal(200, 64), "v": normal(64, 64, scale=0.1), "u": normal(64, 32, scale=0.1)},
        [{"i": np.arange(6) + i} for i in range(3)],
    ),
    "a scalar beside": (
        TEXT.replace("x)", "x, float s)").replace("(x, w", "(e, w").replace("h =", "e = Mul(x, s) h ="), WEIGHTS,
        [{**c, "s": np.array(0.5 + i, np.float32)} for i, c in enumerate(GOOD)],
    ),
    "a switch beside": (
        TEXT.replace("x)", "x, bool s)").replace("y =", "o =").replace(" }", " z = Neg(o) y = Where(s, o, z) }"),
        WEIGHTS, [{**c, "s": np.array(i % 2 == 0)} for i, c in enumerate(GOOD)],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "weights", "calls"), OTHER_INPUTS.values(), ids=OTHER_INPUTS)
def test_inputs_of_other_kinds(
    tmp_path: Path, text: str, weights: Arrays, calls: Sequence[Arrays]
) -> None:  # fmt: skip
    result = quantized(calls, tmp_path, text, weights)
    assert result.passed
    assert result.path is not None
    for call in calls:
        expected = outputs(tmp_path / "model.onnx", call)["y"]
        assert sqnr(expected, outputs(result.path, call)["y"]) > 20


# ------------------------------------------------------------------------- refused

REFUSED: Mapping[str, tuple[Sequence[Arrays], str, str]] = {
    "NaN": (spoilt(np.nan), TEXT, r"call2\.npz.*'x'.*NaN"),
    "infinity": (spoilt(np.inf), TEXT, r"call2\.npz.*'x'.*infinite"),
    "minus infinity": (spoilt(-np.inf), TEXT, r"call2\.npz.*'x'.*infinite"),
    "NaN that the model makes before a layer": (GOOD, TEXT.replace("Relu", "Sqrt"), r"'r'.*NaN.*sample"),
    "another input": ([{"z": c["x"]} for c in GOOD], TEXT, "z"),
    "too few axes": ([{"x": normal(8, 9, 9)}], TEXT, "x"),
    "another number of channels": ([{"x": normal(2, 7, 9, 9)}], TEXT, "x"),
    "words": ([{"x": np.array(["a", "b"])}], TEXT, "x"),
    "no call": ([], TEXT, "data"),
}


@pytest.mark.parametrize(("calls", "text", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_used_is_refused_in_a_sentence(
    tmp_path: Path, calls: Sequence[Arrays], text: str, said: str
) -> None:
    with pytest.raises(DataError, match=said) as caught:
        quantized(calls, tmp_path, text)
    check_words(caught.value)
    assert caught.value.exit_code == 3
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx", "data"}


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_values_whose_squares_overflow_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too large") as caught:
        quantized([like(c, 1e37) for c in GOOD], tmp_path)
    check_words(caught.value)
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx", "data"}


def test_the_command_line_tells_it_without_a_traceback(tmp_path: Path) -> None:
    path = write(proto(TEXT, WEIGHTS), tmp_path)
    data = folder_of(spoilt(np.nan), tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "onnxcompress", "quantize", str(path), "--data", str(data)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert done.returncode == 3
    assert "Traceback" not in done.stdout + done.stderr
    assert "call2.npz" in done.stderr
    assert "hint:" in done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx", "data"}


# ------------------------------------------------------------------------- what is seen of a value


def seen(calls: Sequence[np.ndarray], folder: Path, shape: tuple[int, ...] | None = None) -> Extremes:
    axes = ", ".join("abcd"[: calls[0].ndim])
    kind = f"float[{axes}]"
    model = opened(proto(f"g ({kind} x) => ({kind} y) {{ y = Neg(x) }}"), folder)
    data = Dataset("given", len(calls), lambda i: {"x": calls[i]})
    return extremes(model, {"x": shape or calls[0].shape}, data, len(calls), threads=1)["x"]


def test_extremes_are_those_of_all_calls(tmp_path: Path) -> None:
    calls = [normal(3, 5, 7, seed=i) for i in range(6)]
    found = seen(calls, tmp_path)
    whole = np.concatenate(calls)
    assert (found.low, found.high) == (whole.min(), whole.max())
    assert set(found.sample.tolist()) <= set(whole.ravel().tolist())
    assert found.sample.size == whole.size  # few enough to be kept


def test_a_sample_of_much_is_small_and_spread(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 1 << 21, dtype=np.float32).reshape(1, 64, 32, 1024)
    found = seen([ramp, ramp], tmp_path)
    assert found.sample.size < 1 << 14
    assert found.sample.mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("place", [0, 1, 777, 1919, -1])
@pytest.mark.parametrize(
    ("value", "ends"), [(np.inf, (False, True)), (-np.inf, (True, False)), (np.nan, (True, True))], ids=str
)
def test_what_is_not_finite_is_noticed_wherever_it_stands(
    tmp_path: Path, place: int, value: float, ends: tuple[bool, bool]
) -> None:
    calls = [normal(2, 8, 120, seed=i) for i in range(2)]
    calls[1].reshape(-1)[place] = value
    found = seen(calls, tmp_path)
    assert (found.low == -np.inf, found.high == np.inf) == ends
    assert np.isfinite(found.sample).all()
    assert found.sample.size >= 2 * 8 * 120


def test_nothing_at_all_has_no_extent(tmp_path: Path) -> None:
    found = seen([normal(0, 4), normal(0, 4)], tmp_path)
    assert (found.low, found.high, found.sample.size) == (0, 0, 0)


@pytest.mark.parametrize("first", [0, 1])
def test_calls_of_nothing_do_not_count(tmp_path: Path, first: int) -> None:
    calls = [normal(0, 4), normal(3, 4) + 5]
    found = seen(calls if first == 0 else calls[::-1], tmp_path)
    assert found.low == calls[1].min() > 0
    assert found.high == calls[1].max()


@pytest.mark.parametrize("spoil", [1e30, np.nan, np.inf])
def test_padded_positions_do_not_count(tmp_path: Path, spoil: float) -> None:
    text = "g (int64[B, S] attention_mask, float[B, S, 4] x) => (float[B, S, 4] y) { y = Neg(x) }"
    masks = [np.array([[1, 1, 1], [1, 1, 0]]), np.array([[1, 0], [0, 0]]), np.array([[0, 0]])]
    calls = [normal(*mask.shape, 4, seed=i) for i, mask in enumerate(masks)]
    pairs = list(zip(masks, calls, strict=True))
    spoilt = [np.where(mask[:, :, None] != 0, x, spoil).astype(np.float32) for mask, x in pairs]
    data = [{"attention_mask": mask, "x": x} for mask, x in zip(masks, spoilt, strict=True)]
    model = opened(proto(text), tmp_path)
    found = extremes(model, {"x": (2, 3, 4)}, data, len(data), threads=1, mask="attention_mask")["x"]
    kept = np.concatenate([x[mask != 0] for mask, x in pairs])
    assert (found.low, found.high) == (kept.min(), kept.max())
    assert sorted(found.sample.tolist()) == sorted(kept.ravel().tolist())
    plain = extremes(model, {"x": (2, 3, 4)}, data, len(data), threads=1)["x"]
    assert plain.high > 1e29
