"""Fewer bits than eight: grids, tables, thin residuals and mixed bits, from options to what ONNX Runtime computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

import onnxcompress
from onnxcompress.errors import UsageError
from onnxcompress.passes.quantize import Quantize
from tests.small_models import check_words, normal, operators, outputs, proto, sqnr, write
from tests.test_quantize_layers import Quantized, expect_done, layer, lookup, quantize

if TYPE_CHECKING:
    from collections.abc import Mapping

SAMPLES = Path(__file__).parent.parent / "sample_models"
DATA, TOKENIZER = SAMPLES / "language-id.calib.txt", SAMPLES / "language-id.tokenizer.json"
Languages = Callable[..., tuple[float, "Quantized"]]
FLOORS = {4: 15.0, 3: 11.0, 2: 4.0, 1: 2.0}
KINDS = ["matmul", "gemm transB", "conv 2-D", "convtranspose", "lstm"]


def language_id() -> dict[str, np.ndarray]:
    """The first sentences of the language identifier's evaluation set."""
    with np.load(SAMPLES / "language-id.eval.npz", allow_pickle=False) as arrays:
        return {n: arrays[n][:64] for n in arrays.files if n != "labels"}


@pytest.fixture(scope="module")
def languages(tmp_path_factory: pytest.TempPathFactory) -> Languages:
    """Puts the language identifier on few bits, and gives the SQNR of its logits; the same options run only once."""
    known: dict[str, tuple[float, Quantized]] = {}
    before = SAMPLES / "language-id.onnx"

    def run(*, data: bool, **options: Any) -> tuple[float, Quantized]:
        key = repr((data, options))
        if key not in known:
            more: dict[str, Any] = {"data": DATA, "tokenizer": TOKENIZER, "limit": 48} if data else {}
            path = tmp_path_factory.mktemp("languages") / "made.onnx"
            done = onnxcompress.quantize(before, path, verify=False, scheme="weight-only", **more, **options)
            step = done.report.steps[-1]
            made = Quantized(before, path, {r.name: r for r in step.layers}, step.notes)
            known[key] = made.sqnr(language_id()), made
        return known[key]

    return run


def stored(made: Quantized) -> tuple[int, int]:
    """Bytes of the weights that were quantized, and their number."""
    done = [r for r in made.layers.values() if r.status == "done"]
    return sum(r.bytes_after for r in done), sum(r.bytes_before for r in done) // 4


# ------------------------------------------------------------------------- grids


@pytest.mark.parametrize("bits", FLOORS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block", [None, 0])
@pytest.mark.parametrize("kind", KINDS)
def test_grids_of_few_bits(tmp_path: Path, kind: str, bits: int, symmetric: bool, block: int | None) -> None:
    model, feeds = layer(kind)
    made = quantize(model, tmp_path, bits=bits, symmetric=symmetric, block_size=block)
    expect_done(made, {"w", "r"} if kind == "lstm" else {"w"})
    slack = 4.0 if block == 0 or (kind, bits) == ("lstm", 1) else 0.0
    assert made.sqnr(feeds) > FLOORS[bits] - slack
    record = made.layers["w"]
    assert record.bits == bits
    assert record.bytes_after == sum(a.nbytes for n, a in _arrays(made.proto).items() if n in ("w.q", "w.s", "w.z"))


def _arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


@pytest.mark.parametrize("bits", FLOORS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_lookups_of_few_bits(tmp_path: Path, bits: int, symmetric: bool) -> None:
    model, feeds = lookup("tied")
    made = quantize(model, tmp_path, bits=bits, symmetric=symmetric)
    expect_done(made, {"w"})
    assert "gather" in (made.layers["w"].form or "")
    assert made.sqnr(feeds) > FLOORS[bits] - 5


@pytest.mark.parametrize(("bits", "scales"), [(4, 1 / 32), (3, 1 / 32), (2, 1 / 16), (1, 1 / 32)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_file_is_as_large_as_predicted(tmp_path: Path, bits: int, scales: float, symmetric: bool) -> None:
    model = proto("g (float[5, 512] x) => (float[5, 256] y) { y = MatMul(x, w) }", {"w": normal(512, 256, scale=0.2)})
    made = quantize(model, tmp_path, bits=bits, symmetric=symmetric)
    zero = 0 if symmetric else 2 if bits == 1 else 1
    wanted = 512 * 256 * ({3: 4}.get(bits, bits) / 8 + scales * (2 + zero))
    assert made.layers["w"].bytes_after == wanted
    assert wanted < made.after.stat().st_size < wanted + 2700


def test_ternary_weights_have_three_values_in_a_block(tmp_path: Path) -> None:
    weight = normal(64, 48, scale=0.2)
    model = proto("g (float[64, 64] x) => (float[64, 48] y) { y = MatMul(x, w) }", {"w": weight})
    made = quantize(model, tmp_path, bits=2, ternary=True)
    values = outputs(made.after, {"x": np.eye(64, dtype=np.float32)})["y"]
    block = values[:16, 0]
    assert len(np.unique(np.abs(block[block != 0]))) == 1
    assert (block == 0).any()
    assert sqnr(weight, values) > 5


def test_weights_of_one_bit_are_plus_or_minus_their_mean_magnitude(tmp_path: Path) -> None:
    weight = normal(64, 48, scale=0.2)
    model = proto("g (float[64, 64] x) => (float[64, 48] y) { y = MatMul(x, w) }", {"w": weight})
    made = quantize(model, tmp_path, bits=1, block_size=0)
    values = outputs(made.after, {"x": np.eye(64, dtype=np.float32)})["y"]
    np.testing.assert_allclose(values, np.sign(weight) * np.abs(weight).mean(0), rtol=2e-3)


# ------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("bits", "length", "floor"), [(2, 1, 7), (3, 1, 12), (5, 1, 22), (8, 1, 32), (4, 2, 7), (8, 4, 7)]
)
@pytest.mark.parametrize("kind", ["matmul", "gemm transB", "conv 2-D", "convtranspose", "lstm"])
def test_places_in_a_table(tmp_path: Path, kind: str, bits: int, length: int, floor: float) -> None:
    model, feeds = layer(kind)
    made = quantize(model, tmp_path, bits=bits, codebook_length=length)
    record = made.layers["w"]
    if record.status == "done":
        assert record.form == "decode"
        assert record.bits == bits / length
        assert made.sqnr(feeds) > floor
        assert record.error is not None
    else:
        assert "too small" in (record.reason or "") or "divide" in (record.reason or "")


def test_weights_that_vectors_do_not_fill_are_left_with_a_reason(tmp_path: Path) -> None:
    text = "g (float[5, 63] x) => (float[5, 32] y) { h = MatMul(x, w) y = MatMul(h, v) }"
    model = proto(text, {"w": normal(63, 48), "v": normal(48, 32)})
    made = quantize(model, tmp_path, bits=4, codebook_length=2)
    assert "do not divide into vectors of 2" in (made.layers["w"].reason or "")


# ------------------------------------------------------------------------- residuals


@pytest.mark.parametrize("kind", ["matmul", "gemm transB", "conv 2-D"])
@pytest.mark.parametrize("bits", [4, 2])
def test_a_residual_makes_the_error_smaller_and_its_bytes_count(tmp_path: Path, kind: str, bits: int) -> None:
    model, feeds = layer(kind)
    plain = quantize(model, tmp_path, bits=bits)
    before = plain.sqnr(feeds)
    made = quantize(model, tmp_path, bits=bits, residual_rank=4)
    one, other = made.layers["w"], plain.layers["w"]
    assert (one.error or 1) < (other.error or 0)
    assert made.sqnr(feeds) > before
    inputs = layer(kind)[1]["x"].shape[1] * (9 if "conv" in kind else 1)
    assert one.bytes_after - other.bytes_after == 2 * 4 * (inputs + other.bytes_before // 4 // inputs)


@pytest.mark.parametrize("kind", ["convtranspose", "conv depthwise", "lstm"])
def test_layers_without_a_residual_are_named(tmp_path: Path, kind: str) -> None:
    made = quantize(layer(kind)[0], tmp_path, bits=4, residual_rank=4)
    assert any(note.startswith("no residual for w") for note in made.notes)
    assert made.layers["w"].status == "done"


# ------------------------------------------------------------------------- on what layers see


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 4},
        {"bits": 2, "exclude": ("tokens.weight",)},
        {"bits": 1, "exclude": ("tokens.weight", "onnx::MatMul_252")},
        {"bits": 2, "codebook_length": 1},
    ],
    ids=str,
)
def test_data_make_few_bits_better(languages: Languages, options: dict[str, Any]) -> None:
    plain, one = languages(data=False, **options)
    better, other = languages(data=True, **options)
    assert stored(other)[0] <= stored(one)[0] * (1.0 if options["bits"] == 4 or "codebook_length" in options else 1.25)
    assert better > plain + 0.5


@pytest.mark.parametrize(("others", "bits"), [(12, 8), (3, 2)])
def test_a_weight_that_breaks_the_output_has_eight_bits_if_it_is_small(tmp_path: Path, others: int, bits: int) -> None:
    names = ["w", *(f"v{i}" for i in range(others))]
    products = " ".join(f"y_{n} = MatMul(x, {n})" for n in names)
    text = f"g (float[5, 64] x) => (float[5, 48] y) {{ {products} y = Sum({', '.join(f'y_{n}' for n in names)}) }}"
    model = proto(text, {n: normal(64, 48, seed=i, scale=0.01 if i else 1.0) for i, n in enumerate(names)})
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "0.npz", x=normal(5, 64))
    made = quantize(model, tmp_path, bits=2, data=tmp_path / "data")
    assert made.layers["w"].bits == bits
    assert {made.layers[n].bits for n in names[1:]} == {2}
    told = "8 bits where 2 break the output: w" if bits == 8 else "too large for 8 bits in so small a file: w"
    assert any(told in note for note in made.notes)


def test_an_average_is_kept_and_better_than_one_number_of_bits(languages: Languages) -> None:
    uniform, one = languages(data=True, bits=4)
    size, count = stored(one)
    mixed, other = languages(data=True, average_bits=4.5)
    assert stored(other) <= (size, count)
    assert stored(other)[0] > 4.2 / 8 * count
    assert {r.bits for r in other.layers.values() if r.status == "done"} > {4}
    assert mixed > uniform + 0.5


@pytest.mark.parametrize(
    "options", [{"average_bits": 3.2}, {"bits": 4, "codebook_length": 2}, {"bits": 2, "residual_rank": 4}]
)
def test_the_same_options_give_the_same_bytes(tmp_path: Path, options: Mapping[str, Any]) -> None:
    model, _ = layer("two")
    first = quantize(model, tmp_path, **options).after.read_bytes()
    assert quantize(model, tmp_path, **options).after.read_bytes() == first


# ------------------------------------------------------------------------- forms and refusals


def test_nothing_but_constants_stands_before_a_decoded_weight(tmp_path: Path) -> None:
    model, _ = layer("matmul")
    made = quantize(model, tmp_path, bits=2, residual_rank=2)
    assert operators(made.proto)["MatMul"] == 2  # the factors, which are folded, and the layer
    assert write(model, tmp_path).exists()


@pytest.mark.parametrize(
    "options",
    [
        {"ternary": True},
        {"ternary": True, "bits": 2, "symmetric": False},
        {"bits": 5},
        {"bits": 1, "codebook_length": 1},
        {"bits": 4, "codebook_length": 2, "symmetric": False},
        {"bits": 4, "codebook_length": 4, "block_size": 10},
        {"bits": 4, "codebook_length": 1, "residual_rank": 4},
        {"bits": 4, "codebook_length": 1, "scheme": "dynamic"},
        {"residual_rank": 0},
        {"residual_rank": 4, "scheme": "float16"},
        {"bits": 4, "scheme": "static"},
        {"average_bits": 2.0},
        {"average_bits": 9.0},
        {"average_bits": 3.2, "bits": 4},
        {"average_bits": 4.5, "bits": 3},
        {"average_bits": 4.5, "block_size": 32},
        {"average_bits": 4.5, "residual_rank": 4},
        {"average_bits": 4.5, "scheme": "dynamic"},
    ],
    ids=str,
)
def test_options_that_mean_nothing_together_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        Quantize(**options)
    check_words(caught.value)


def test_an_average_below_what_scales_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be kept") as caught:
        quantize(layer("matmul")[0], tmp_path, average_bits=2.05)
    check_words(caught.value)


def test_without_trials_an_average_does_not_take_its_bits_from_the_largest_weight(tmp_path: Path) -> None:
    text = "g (int64[n] i) => (float[n, 64] y) { e = Gather(w, i) h = MatMul(e, v) y = MatMul(h, u) }"
    weights = {"w": normal(2000, 64, scale=0.2), "v": normal(64, 64, seed=1), "u": normal(64, 64, seed=2)}
    made = quantize(proto(text, weights), tmp_path, average_bits=4.5)
    assert made.layers["w"].bits == 4
