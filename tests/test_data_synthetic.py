"""Synthetic inputs are plausible, deterministic, and run."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import parser

from onnxcompress.data import Feeds, content, synthetic, synthetic_candidates
from onnxcompress.data.fit import fit
from onnxcompress.errors import DataError
from onnxcompress.graph.interface import interface
from onnxcompress.graph.model import Model

CORPUS = Path.home() / ".cache" / "onnx-corpus" / "models"
NAMES = (
    "crepe-full", "ddddocr-det", "dnsmos", "efficientnet-lite0", "lac-gru", "magika", "minilm-l3",
    "mnist-cnn", "ppocrv4-det", "ppocrv4-rec", "silero-vad", "silero-vad-16k-seq", "smollm2-135m-instruct",
)  # fmt: skip


def model(graph: str) -> Model:
    """A model from text; what is declared after the outputs without a value becomes a random weight."""
    proto = parser.parse_model(f'<ir_version: 9, opset_import: ["": 18]> {graph}')
    rng = np.random.default_rng(0)
    for info in proto.graph.value_info:
        tensor = info.type.tensor_type
        dims = [d.dim_value for d in tensor.shape.dim]
        values = rng.standard_normal(dims).astype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, info.name))
    del proto.graph.value_info[:]
    return Model(proto)


def feeds(graph: str, call: int = 0) -> Feeds:
    return synthetic(model(graph)).read(call)


def session(source: bytes | str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 2
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def runs(running: ort.InferenceSession, call: Feeds) -> bool:
    try:
        running.run(None, call)
    except Exception as error:  # the runtime raises classes of its own that it does not export
        if "ONNXRuntimeError" not in str(error):
            raise
        return False
    return True


def place_of_first_that_runs(made: Model) -> int:
    running = session(made.proto.SerializeToString())
    for place, dataset in enumerate(islice(synthetic_candidates(made, calls=3), 30)):
        if all(runs(running, call) for call in dataset):
            return place
    raise AssertionError("no candidate runs")


# ------------------------------------------------------------------------------- what is made


def test_token_ids_stay_below_the_table_and_lengths_agree() -> None:
    graph = """g (int64[b, s] ids, int64[b, s] attention_mask, int64[b, s] position_ids, int64[b] ids_len)
        => (float y) <float[9, 2] table> { y = Gather(table, ids) }"""
    dataset = synthetic(model(graph), calls=6)
    lengths = set()
    for call in dataset:
        assert 0 <= call["ids"].min() <= call["ids"].max() < 9
        n = call["ids"].shape[1]
        assert call["attention_mask"].tolist() == [[1] * n]
        assert call["position_ids"].tolist() == [list(range(n))]
        assert call["ids_len"].tolist() == [n]
        lengths.add(n)
    assert lengths == {16, 32, 64}


def test_the_padding_token_is_avoided() -> None:
    graph = """g (int64[1, 500] ids) => (float y, bool pad) <float[9, 2] table, int64 one = {1}>
        { y = Gather(table, ids) pad = Equal(ids, one) }"""
    assert set(feeds(graph)["ids"].ravel().tolist()) == {0, 2, 3, 4, 5, 6, 7, 8}


def test_values_of_a_one_hot_code_are_those_compared_with() -> None:
    graph = """g (int32[1, 300] data) => (bool y) <int32[1, 4] codes = {3, 5, 7, 9}, int64[1] two = {2}>
        { u = Unsqueeze(data, two) y = Equal(u, codes) }"""
    assert set(feeds(graph)["data"].ravel().tolist()) == {3, 5, 7, 9}


def test_a_streaming_model_gets_frames_states_of_zeros_and_a_known_rate() -> None:
    graph = """g (float[n, t] input, float[2, m, 4] state, int64 sr) => (float y, bool c)
        <float[3, 1, 9] w, int64[1] one = {1}, int64 rate = {8000}>
        { u = Unsqueeze(input, one) y = Conv(u, w) c = Equal(sr, rate) }"""
    made = feeds(graph)
    assert made["input"].shape == (1, 576)
    assert made["state"].shape == (2, 1, 4)
    assert not made["state"].any()
    assert int(made["sr"]) == 8000


@pytest.mark.parametrize("name", [None, "past_sequence_length + sequence_length"])
def test_a_cache_starts_empty_and_sums_of_dimensions_are_computed(name: str | None) -> None:
    graph = """g (int64[batch, sequence_length] input_ids, int64[batch, total] attention_mask,
        int64[batch, sequence_length] position_ids, float[batch, 2, past_sequence_length, 4] past_key,
        bool use_cache_branch) => (float y) <float[9, 2] table> { y = Gather(table, input_ids) }"""
    made = model(graph)
    if name is not None:
        made.proto.graph.input[1].type.tensor_type.shape.dim[1].dim_param = name
    for call, length in zip(synthetic(made), (64, 16, 32), strict=False):
        assert call["past_key"].shape == (1, 2, 0, 4)
        assert call["attention_mask"].shape == (1, length)
        assert not call["use_cache_branch"]
    filled = [d.first() for d in synthetic_candidates(made) if d.first()["past_key"].shape[2] == 16]
    assert filled[0]["attention_mask"].shape[1] == filled[0]["input_ids"].shape[1] + 16
    assert filled[0]["position_ids"][0, 0] == 16


@pytest.mark.parametrize(
    ("dims", "body", "shape"),
    [
        ("[n, 3, h, w]", "c = Conv(x, w) p = GlobalAveragePool(c) y = Flatten(p)", (1, 3, 224, 224)),
        ("[n, 3, h, w]", "y = Conv(x, w)", (1, 3, 320, 320)),
        (
            "[n, 3, h, w]",
            "c = Conv(x, w) p = ReduceMean(c, two) y = Squeeze(p, two)",
            (1, 3, 48, 320),
        ),
        ("[n, 3, 32, w]", "y = Conv(x, w)", (1, 3, 32, 320)),
        ("[n, c, 96, w]", "y = Conv(x, w)", (1, 3, 96, 96)),
        ("[n, h, w, 3]", "t = Transpose<perm=[0, 3, 1, 2]>(x) y = Conv(t, w)", (1, 320, 320, 3)),
        ("[2, 3, 64, 64]", "y = Conv(x, w)", (2, 3, 64, 64)),
    ],
)
def test_sizes_of_images(dims: str, body: str, shape: tuple[int, ...]) -> None:
    out = "float[n, 4]" if "Flatten" in body else "float[n, 4, h, w]"
    graph = f"g (float{dims} x) => ({out} y) <float[4, 3, 3, 3] w, int64[1] two = {{2}}> {{ {body} }}"
    assert feeds(graph)["x"].shape == shape


@pytest.mark.parametrize(
    ("entrance", "low", "high"),
    [
        ("a = Identity(x)", -6, 6),
        ("a = Div(x, k255)", 0, 255),
        ("a = Sub(x, k127)", 0, 255),
        ("a = Sub(x, k05)", 0, 1),
    ],
)
def test_the_scale_of_images_follows_the_arithmetic(entrance: str, low: float, high: float) -> None:
    graph = f"""g (float[1, 3, 64, 64] x) => (float y) <float k255 = {{255}}, float k127 = {{127.5}},
        float k05 = {{0.5}}, float[4, 3, 3, 3] w> {{ {entrance} y = Conv(a, w) }}"""
    x = feeds(graph)["x"]
    assert low <= x.min() <= x.max() <= high
    assert x.max() - x.min() > 0.3 * (high - low)


def test_filters_that_are_tiny_beside_their_biases_take_raw_pixels() -> None:
    made = model("g (float[1, 3, 64, 64] x) => (float y) <float[4, 3, 3, 3] w, float[4] b> { y = Conv(x, w, b) }")
    assert synthetic(made).first()["x"].max() < 10
    weight = onnx.numpy_helper.to_array(made.proto.graph.initializer[0])
    made.set_array(made.proto.graph.initializer[0], weight / np.float32(500))
    assert synthetic(made).first()["x"].max() > 100


def test_integer_images_are_pixels() -> None:
    x = feeds("g (uint8[1, 32, 32, 3] x) => (float y) { y = Cast<to=1>(x) }")["x"]
    assert x.dtype == np.uint8
    assert x.max() - x.min() > 100


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(24, 70), st.integers(24, 70))
def test_pictures_are_standardized_and_smooth(seed: int, channels: int, height: int, width: int) -> None:
    made = content.picture(np.random.default_rng(seed), channels, height, width)
    assert made.shape == (channels, height, width)
    assert abs(made.mean()) < 1e-6
    assert abs(made.std() - 1) < 1e-6
    neighbours = np.diff(made, axis=-1)
    assert neighbours.std() < 1  # white noise has sqrt(2)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(200, 20000))
def test_sound_is_within_range(seed: int, samples: int) -> None:
    made = content.sound(np.random.default_rng(seed), samples)
    assert made.shape == (samples,)
    assert np.abs(made).max() <= 1
    assert 0.05 < np.sqrt((made**2).mean()) < 0.15


GRAPH = """g (int64[b, s] ids, float[b, 3, h, w] x) => (float y, float z)
    <float[90, 2] table, float[4, 3, 3, 3] w> { y = Gather(table, ids) z = Conv(x, w) }"""


def test_the_same_seed_gives_the_same_calls_in_any_order() -> None:
    first, second = synthetic(model(GRAPH), seed=3), synthetic(model(GRAPH), seed=3)
    for i in (2, 0, 2):
        assert all(np.array_equal(first.read(i)[k], second.read(i)[k]) for k in ("ids", "x"))


def test_calls_and_seeds_differ() -> None:
    dataset = synthetic(model(GRAPH), calls=4)
    assert len({call["x"].tobytes() for call in dataset}) == 4
    other = synthetic(model(GRAPH), calls=4, seed=1)
    assert not np.array_equal(dataset.first()["x"], other.first()["x"])
    assert dataset.source == "synthetic"
    assert dataset.labels is None


def test_candidates_are_few_different_and_fit_the_declared_inputs() -> None:
    made = model(GRAPH)
    shapes = []
    for dataset in synthetic_candidates(made, calls=1):
        call = dataset.first()
        fit(call, interface(made.proto).inputs, "candidate")
        shapes.append(tuple(sorted((k, v.shape) for k, v in call.items())))
    assert 10 <= len(shapes) <= 80
    assert len(set(shapes)) > 10


def test_a_contradiction_in_the_graph_comes_last() -> None:
    graph = """g (float[n, f] x) => (float[n, m] y) <float[32, 4] w>
        { a = Concat<axis=1>(x, x) y = MatMul(a, w) }"""
    assert place_of_first_that_runs(model(graph)) == 0
    assert synthetic(model(graph)).first()["x"].shape == (1, 16)
    baked = """g (int64[b, s] ids) => (float[b, s, d] y) <float[9, 2] table, float[1, 32, 2] positions>
        { e = Gather(table, ids) y = Add(e, positions) }"""
    assert synthetic(model(baked)).first()["ids"].shape == (1, 32)


def test_a_sequence_input_is_refused() -> None:
    with pytest.raises(DataError, match="'q' is no tensor"):
        synthetic(model("g (seq(float[n]) q) => (float y) { y = ConcatFromSequence<axis=0>(q) }"))


def test_a_model_without_inputs() -> None:
    assert feeds("g () => (float y) <float[2] w> { y = Identity(w) }") == {}


# ------------------------------------------------------------------------------- what runs


@pytest.mark.parametrize(
    "graph",
    [
        "g (float[n, c, l] x) => (float y) <float[4, 6, 3] w> { y = Conv(x, w) }",
        "g (float[n, c, d, h, w] x) => (float y) <float[4, 6, 3, 3, 3] w> { y = Conv(x, w) }",
        """g (float[s, n, f] x, float[1, n, 4] h0, float[1, n, 4] c0) => (float y)
            <float[1, 16, 3] w, float[1, 16, 4] r> { y = LSTM<hidden_size=4>(x, w, r, , , h0, c0) }""",
        """g (float[n, 3, h, w] a) => (float y) <float[3, 3, 1, 1] k, float[4] scales = {1, 1, 2, 2}> {
            p = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(a)
            q = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(p)
            u = Resize(q, , scales) v = Resize(u, , scales) y = Add(v, a) }""",
        """g (float[n, 1, h, w] a) => (float y) <float[4096, 2] k> {
            f = Flatten(a) y = MatMul(f, k) }""",
        "g (float[n, k] a, float[k, m] b) => (float y) { y = MatMul(a, b) }",
        """g (int64[b, s] ids, float[b, l, 6] encoder_hidden_states) => (float y) <float[9, 6] t> {
            q = Gather(t, ids) k = Transpose<perm=[0, 2, 1]>(encoder_hidden_states) y = MatMul(q, k) }""",
        "g (float[a, b] x, int64[3] shape) => (float y) { y = Reshape(x, shape) }",
    ],
)
def test_an_early_candidate_runs(graph: str) -> None:
    assert place_of_first_that_runs(model(graph)) <= 20


@pytest.mark.corpus
@pytest.mark.parametrize("name", NAMES)
def test_real_models_run_on_the_first_candidate(name: str) -> None:
    path = CORPUS / name / "model.onnx"
    running = session(str(path))
    made = Model.open(path)
    for call in synthetic(made):
        fit(call, interface(made.proto).inputs, name)
        for output in running.run(None, call):
            assert output.dtype.kind != "f" or np.isfinite(output).all()
