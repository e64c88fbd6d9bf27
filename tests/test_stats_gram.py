"""Gram matrices against brute force in numpy."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from onnxcompress.errors import DataError
from onnxcompress.stats import unrolled
from onnxcompress.stats.gram import Grams, grams
from onnxcompress.stats.masks import padding_mask
from onnxcompress.stats.unrolled import thinned
from tests.small_models import Arrays, check_words, normal, opened, proto

if TYPE_CHECKING:
    from onnxcompress.graph.model import Model

Calls = Sequence[dict[str, np.ndarray]]
LAYERS = ("MatMul", "Gemm", "Conv", "ConvTranspose", "LSTM")


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No position of a convolution is thinned out."""
    monkeypatch.setattr(unrolled, "_FEW", 10**9)


def model(folder: Path, text: str, weights: Arrays, opset: int = 17) -> Model:
    return opened(proto(text, weights, opset=opset), folder)


def measured(model: Model, calls: Calls, max_memory: int = 1 << 30) -> Grams:
    nodes = [n for n in model.proto.graph.node if n.op_type in LAYERS]
    return grams(model, nodes, calls, threads=1, max_memory=max_memory)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.float64
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def check_rows(grams: Grams, layer: str, rows: np.ndarray) -> None:
    """``rows``: (positions, in)."""
    gram, wide = grams.layers[layer], rows.astype(np.float64)
    assert gram.positions == len(rows)
    close(gram.matrix, wide.T @ wide / len(rows))
    close(gram.mean, wide.mean(axis=0))


# ------------------------------------------------------------------------- products

PRODUCTS = """g (float[B, S, 6] x) => (float[B, S, 4] y, float[B, S, 5] z, float[N, 3] v) {
    y = MatMul(x, w) z = MatMul(x, u) f = Flatten<axis=2>(y) v = Gemm<transB=1>(f, t, b) }"""


def products(folder: Path, opset: int = 17) -> tuple[Model, dict[str, np.ndarray]]:
    weights = {"w": normal(6, 4, seed=1), "u": normal(6, 5, seed=2), "t": normal(3, 4, seed=3), "b": normal(3)}
    return model(folder, PRODUCTS, weights, opset), weights


@pytest.mark.parametrize("opset", [7, 11, 13, 18])
def test_rows_of_products(tmp_path: Path, opset: int) -> None:
    made, weights = products(tmp_path, opset)
    calls = [{"x": normal(2, 7, 6, seed=s)} for s in range(3)]
    rows = np.concatenate([c["x"].reshape(-1, 6) for c in calls])
    found = measured(made, calls)
    assert list(found.layers) == ["y", "z", "v"]
    check_rows(found, "y", rows)
    check_rows(found, "v", rows @ weights["w"])
    assert found.layers["y"] is found.layers["z"]  # one view, measured once
    assert found.passes == 1
    assert not found.left_out


def test_the_columns_of_wide_layers_are_gathered(tmp_path: Path) -> None:
    made = model(tmp_path, "g (float[B, 300] x) => (float[B, 2] y) { y = MatMul(x, w) }", {"w": normal(300, 2)})
    calls = [{"x": normal(n, 300, seed=n)} for n in (1, 5, 40, 90, 3, 200, 7)]
    check_rows(measured(made, calls), "y", np.concatenate([c["x"] for c in calls]))


def test_samples_may_be_split_over_calls_in_any_way(tmp_path: Path) -> None:
    made, _ = products(tmp_path)
    data = normal(12, 7, 6, seed=5)
    whole = measured(made, [{"x": data}])
    parts = measured(made, [{"x": part} for part in np.split(data, [1, 2, 7])])
    for name, gram in whole.layers.items():
        close(parts.layers[name].matrix, gram.matrix)
        close(parts.layers[name].mean, gram.mean)
        assert parts.layers[name].positions == gram.positions


def test_sizes_may_change_from_call_to_call(tmp_path: Path) -> None:
    made, _ = products(tmp_path)
    calls = [{"x": normal(b, s, 6, seed=s)} for b, s in ((1, 3), (4, 1), (2, 50), (3, 0), (0, 4), (1, 1))]
    check_rows(measured(made, calls), "y", np.concatenate([c["x"].reshape(-1, 6) for c in calls]))


def test_a_half_precision_model(tmp_path: Path) -> None:
    text = "g (float16[B, 6] x) => (float16[B, 2] y) { y = MatMul(x, w) }"
    made = model(tmp_path, text, {"w": normal(6, 2).astype(np.float16)})
    x = normal(9, 6).astype(np.float16)
    check_rows(measured(made, [{"x": x}]), "y", x)


# ------------------------------------------------------------------------- convolutions


@dataclass(frozen=True)
class Case:
    """A convolution: attributes as text, the shape of its weight, and of one sample of its input."""

    attributes: str
    weight: tuple[int, ...]
    sample: tuple[int, ...]
    pads: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int = 1

    def model(self, folder: Path, opset: int = 17) -> Model:
        space = ", ".join("ABC"[: len(self.sample) - 1])
        text = f"""g (float[N, {self.sample[0]}, {space}] x) => (float[N, {self.weight[0]}, {space.lower()}] y) {{
            y = Conv<{self.attributes}>(x, w) }}"""
        return model(folder, text, {"w": normal(*self.weight)}, opset)

    def columns(self, x: np.ndarray, steps: tuple[int, ...]) -> np.ndarray:
        """(groups, positions, in) of one call, every ``steps``-th position on each axis."""
        kernel, rank = self.weight[2:], x.ndim - 2
        around = [(0, 0), (0, 0), *zip(self.pads[:rank], self.pads[rank:], strict=True)]
        wide = np.pad(x, around).astype(np.float64)
        reach = [d * (k - 1) + 1 for k, d in zip(kernel, self.dilations, strict=True)]
        counts = [(n - r) // s + 1 for n, r, s in zip(wide.shape[2:], reach, self.strides, strict=True)]
        found = []
        for sample in wide:
            for place in np.ndindex(*counts):
                if any(p % s for p, s in zip(place, steps, strict=True)):
                    continue
                cut = tuple(
                    slice(p * s, p * s + r, d)
                    for p, s, r, d in zip(place, self.strides, reach, self.dilations, strict=True)
                )
                found.append(sample[(slice(None), *cut)].reshape(self.groups, -1))
        inputs = self.weight[1] * math.prod(kernel)
        return np.array(found).reshape(-1, self.groups, inputs).transpose(1, 0, 2)

    def check(self, found: Grams, calls: Calls, steps: tuple[int, ...]) -> None:
        columns = np.concatenate([self.columns(c["x"], steps) for c in calls], axis=1)
        gram = found.layers["y"]
        assert gram.positions == columns.shape[1]
        matrix, mean = columns.transpose(0, 2, 1) @ columns / gram.positions, columns.mean(axis=1)
        close(gram.matrix, matrix if self.groups > 1 else matrix[0])
        close(gram.mean, mean if self.groups > 1 else mean[0])


CASES = {
    "plain": Case("kernel_shape=[3, 3]", (4, 3, 3, 3), (3, 8, 9), (0, 0, 0, 0), (1, 1), (1, 1)),
    "pads, strides": Case("pads=[1, 0, 2, 1], strides=[2, 3]", (4, 3, 3, 2), (3, 8, 9), (1, 0, 2, 1), (2, 3), (1, 1)),
    "dilations": Case("dilations=[2, 1], pads=[2, 1, 2, 1]", (4, 2, 3, 3), (2, 8, 7), (2, 1, 2, 1), (1, 1), (2, 1)),
    "groups": Case("group=2, pads=[1, 1, 1, 1]", (6, 2, 3, 3), (4, 7, 7), (1, 1, 1, 1), (1, 1), (1, 1), 2),
    "depthwise": Case("group=4, strides=[2, 2]", (8, 1, 3, 3), (4, 9, 9), (0, 0, 0, 0), (2, 2), (1, 1), 4),
    "one by one": Case("kernel_shape=[1, 1]", (4, 5, 1, 1), (5, 6, 7), (0, 0, 0, 0), (1, 1), (1, 1)),
    "same": Case('auto_pad="SAME_UPPER"', (4, 2, 4, 3), (2, 8, 9), (1, 1, 2, 1), (1, 1), (1, 1)),
    "same, lower": Case('auto_pad="SAME_LOWER"', (4, 2, 4, 3), (2, 8, 9), (2, 1, 1, 1), (1, 1), (1, 1)),
    "same, strides": Case(
        'auto_pad="SAME_UPPER", strides=[2, 2]', (4, 2, 3, 3), (2, 20, 9), (0, 1, 1, 1), (2, 2), (1, 1)
    ),
    "valid": Case('auto_pad="VALID", strides=[2, 1]', (4, 2, 3, 3), (2, 8, 9), (0, 0, 0, 0), (2, 1), (1, 1)),
    "one axis": Case("strides=[2], pads=[1, 2]", (4, 3, 5), (3, 30), (1, 2), (2,), (1,)),
    "one axis, depthwise": Case("group=3, pads=[1, 1]", (3, 1, 3), (3, 30), (1, 1), (1,), (1,), 3),
}


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("opset", [7, 17])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_windows_of_convolutions(tmp_path: Path, case: Case, opset: int) -> None:
    calls = [{"x": normal(n, *case.sample, seed=n)} for n in (1, 3)]
    case.check(measured(case.model(tmp_path, opset), calls), calls, (1,) * (len(case.sample) - 1))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_positions_are_thinned_out_evenly(tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = (3, 1)[: len(case.sample) - 1]
    monkeypatch.setattr(unrolled, "thinned", lambda *_: steps)
    calls = [{"x": normal(n, *case.sample, seed=n)} for n in (1, 3)]
    case.check(measured(case.model(tmp_path), calls), calls, steps)


@pytest.mark.usefixtures("everywhere")
def test_images_may_change_their_size(tmp_path: Path) -> None:
    case = CASES["groups"]
    calls = [{"x": normal(n, 4, h, w, seed=h)} for n, h, w in ((1, 7, 7), (2, 5, 11), (0, 5, 5), (1, 1, 1))]
    case.check(measured(case.model(tmp_path), calls), calls, (1, 1))


def test_thinning_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    case = Case("group=4, pads=[1, 1, 1, 1]", (4, 1, 3, 3), (4, 40, 40), (1, 1, 1, 1), (1, 1), (1, 1), 4)
    data = normal(6, *case.sample)
    made = case.model(tmp_path)
    whole, parts = (measured(made, [{"x": p} for p in np.split(data, cuts)]) for cuts in ([], [1, 2, 3]))
    close(parts.layers["y"].matrix, whole.layers["y"].matrix)
    assert parts.layers["y"].positions == whole.layers["y"].positions < 6 * 1600


@pytest.mark.parametrize("space", [(7, 7), (48, 320), (1, 2000), (640, 640), (16000,)])
def test_steps_are_odd_and_leave_enough(space: tuple[int, ...]) -> None:
    steps = thinned(space, 64 * 9, 0.2)
    left = math.prod(-(-n // s) for n, s in zip(space, steps, strict=True))
    assert all(s % 2 for s in steps)
    assert 5 <= left <= max(16, min(1024, 0.2 * math.prod(space)))


# ------------------------------------------------------------------------- padding

MASKED = """g (int64[B, S] attention_mask, float[B, S, 4] x, float[B, P, 4] other) =>
    (float[B, S, 2] y, float[B, P, 2] z, float[B, 4] v, int64[B, S] same) {
    same = Identity(attention_mask)
    y = MatMul(x, w) z = MatMul(other, u) m = Gather<axis=1>(x, zero) v = MatMul(m, t) }"""


def masked_model(folder: Path, kind: str = "int64") -> Model:
    weights = {"w": normal(4, 2, seed=1), "u": normal(4, 2, seed=2), "t": normal(4, 4, seed=3), "zero": np.array(0)}
    return model(folder, MASKED.replace("int64", kind), weights)


def masked_calls(mask: np.ndarray) -> list[dict[str, np.ndarray]]:
    batch, length = mask.shape
    x, other = normal(batch, length, 4, seed=7), normal(batch, length + 2, 4, seed=8)
    return [{"attention_mask": mask, "x": x, "other": other}]


@pytest.mark.parametrize(("kind", "dtype"), [("int64", np.int64), ("int32", np.int32), ("bool", np.bool_)])
def test_padding_does_not_count(tmp_path: Path, kind: str, dtype: type[np.generic]) -> None:
    made = masked_model(tmp_path, kind)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 1]]).astype(dtype)
    calls = masked_calls(mask)
    calls[0]["x"][1, 4] = np.nan  # what stands at padded positions means nothing
    calls[0]["x"][1, 3] = 1e30
    assert padding_mask(made) == "attention_mask"
    found = measured(made, calls)
    check_rows(found, "y", calls[0]["x"][mask.astype(bool)])
    check_rows(found, "z", calls[0]["other"].reshape(-1, 4))  # another axis than that of the mask
    check_rows(found, "v", calls[0]["x"][:, 0])


def test_a_mask_of_ones_changes_nothing(tmp_path: Path) -> None:
    made = masked_model(tmp_path)
    calls = masked_calls(np.ones((3, 5), np.int64))
    found = measured(made, calls)
    renamed = onnx.ModelProto.FromString(
        made.proto.SerializeToString().replace(b"attention_mask", b"attention_tags")  # of the same length
    )
    calls[0]["attention_tags"] = calls[0].pop("attention_mask")
    plain = measured(opened(renamed, tmp_path), calls)
    assert padding_mask(opened(renamed, tmp_path)) is None
    for name, gram in plain.layers.items():
        assert np.array_equal(found.layers[name].matrix, gram.matrix)
        assert np.array_equal(found.layers[name].mean, gram.mean)
        assert found.layers[name].positions == gram.positions


def test_what_holds_more_than_zeros_and_ones_is_no_mask(tmp_path: Path) -> None:
    calls = masked_calls(np.array([[1, 2, 0], [1, 0, 0]], np.int64))
    check_rows(measured(masked_model(tmp_path), calls), "y", calls[0]["x"].reshape(-1, 4))


@pytest.mark.parametrize("name", ["key_padding_mask", "bool_masked_pos", "lengths"])
def test_other_inputs_are_no_padding_masks(tmp_path: Path, name: str) -> None:
    text = f"""g (bool[B, S] {name}, float[B, S, 4] x) => (float[B, S, 2] y, bool[B, S] z) {{
        z = Not({name}) y = MatMul(x, w) }}"""
    assert padding_mask(model(tmp_path, text, {"w": normal(4, 2)})) is None


# ------------------------------------------------------------------------- what is left out, and limits


def test_what_is_left_out_has_a_reason(tmp_path: Path) -> None:
    text = """g (float[4, 4] x, float[1, 2, 5, 5] i, bool c) =>
        (float[4, 4] own, float[4, 3] turned, float[2, 4, 4] many, float[1, 2, 7, 7] up, float[4, 3] inner,
         float[4, 3] y) {
        own = MatMul(x, x) turned = Gemm<transA=1>(x, w) many = MatMul(x, stack) up = ConvTranspose(i, k)
        inner = If(c) <then_branch = t () => (float[4, 3] a) { a = MatMul(x, w) },
                       else_branch = e () => (float[4, 3] b) { b = MatMul(x, w) }>
        y = MatMul(x, w) }"""
    weights = {"w": normal(4, 3), "stack": normal(2, 4, 4), "k": normal(2, 2, 3, 3)}
    made = model(tmp_path, text, weights)
    graph = made.proto.graph
    branch = next(n for n in graph.node if n.op_type == "If").attribute[0].g
    nodes = [*(n for n in graph.node if n.op_type in LAYERS), branch.node[0]]
    calls = [{"x": normal(4, 4), "i": normal(1, 2, 5, 5), "c": np.array(True)}]
    found = grams(made, nodes, calls, threads=1)
    assert found.left_out == {
        "own": "its weight is not constant",
        "turned": "its input is transposed",
        "many": "its weight has more than two axes",
        "up": "what ConvTranspose sees is not measured",
        branch.node[0].output[0]: "in a subgraph",
    }
    assert list(found.layers) == ["y"]


def test_weights_may_come_out_of_constant_nodes(tmp_path: Path) -> None:
    text = """g (float[B, 2] x) => (float[B, 3] y) {
        c = Constant<value = float[3, 2] {1, 2, 3, 4, 5, 6}>() w = Transpose(c) y = MatMul(x, w) }"""
    x = normal(5, 2)
    check_rows(measured(model(tmp_path, text, {}), [{"x": x}]), "y", x)


def test_several_passes_give_what_one_gives(tmp_path: Path) -> None:
    made, _ = products(tmp_path)
    calls = [{"x": normal(2, 7, 6, seed=s)} for s in range(3)]
    whole, parts = measured(made, calls), measured(made, calls, max_memory=16 * 36 + 100)
    assert (whole.passes, parts.passes) == (1, 2)
    for name, gram in whole.layers.items():
        assert np.array_equal(parts.layers[name].matrix, gram.matrix)
    small = measured(made, calls, max_memory=16 * 35)
    assert list(small.layers) == ["v"]
    assert set(small.left_out) == {"y", "z"}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("inputs", [4, 400])
def test_nan_is_named(tmp_path: Path, bad: float, inputs: int) -> None:
    text = f"g (float[B, {inputs}] x) => (float[B, 2] y) {{ h = Abs(x) n = Neg(h) y = MatMul(n, w) }}"
    made = model(tmp_path, text, {"w": normal(inputs, 2)})
    calls = [{"x": normal(3, inputs)} for _ in range(3)]
    calls[2]["x"][1, 1] = bad
    with pytest.raises(DataError, match=r"'n' that the layer 'y' reads .* sample 2") as caught:
        measured(made, calls)
    check_words(caught.value)


@pytest.mark.parametrize("inputs", [4, 400])
def test_squares_that_overflow_are_named(tmp_path: Path, inputs: int) -> None:
    text = f"g (float[B, {inputs}] x) => (float[B, 2] y) {{ y = MatMul(x, w) }}"
    made = model(tmp_path, text, {"w": normal(inputs, 2)})
    with pytest.raises(DataError, match="too large"):
        measured(made, [{"x": np.full((3, inputs), 1e25, np.float32)}])


def test_layers_that_see_nothing_are_listed(tmp_path: Path) -> None:
    text = """g (float[B, 4] x) => (float[B, 2] y, float[B, 2] z) {
        n = Neg(x) h = Relu(n) y = MatMul(h, w) z = MatMul(x, w) }"""
    found = measured(model(tmp_path, text, {"w": normal(4, 2)}), [{"x": np.abs(normal(5, 4))}])
    assert found.dead == ("y",)
    assert found.layers["y"].positions == 5
    assert not found.layers["y"].matrix.any()


def test_no_calls(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        measured(products(tmp_path)[0], [])
    check_words(caught.value)
    with pytest.raises(ValueError, match="several times"):
        grams(products(tmp_path)[0], [], iter([]))


class Endless:
    """Calls that are made when they are asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return ({"x": normal(20, 300, seed=i)} for i in range(self.count))


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    made = model(tmp_path, "g (float[B, 300] x) => (float[B, 2] y) { y = MatMul(x, w) }", {"w": normal(300, 2)})
    peaks = []
    tracemalloc.start()
    for count in (20, 20, 120):
        tracemalloc.reset_peak()
        grams(made, list(made.proto.graph.node), Endless(count), threads=1)
        peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert peaks[2] < peaks[1] + 200_000
