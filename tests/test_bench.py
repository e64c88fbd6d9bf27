"""`onnxcompress bench`: statistics on machines that are made up, small models measured, the command line."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxcompress.benching.facts import Options
from onnxcompress.benching.measuring import labels
from onnxcompress.data.sized import Word, sized_candidates
from onnxcompress.errors import RuntimeFailure, UsageError
from onnxcompress.graph.model import Model
from onnxcompress.render.bench import COLUMNS
from onnxcompress.runtime.interleaving import Lineup, Series, interleaved
from onnxcompress.runtime.layer_times import layer_of, producers
from onnxcompress.runtime.profiling import node_times
from onnxcompress.runtime.weighing import weigh
from tests.benchmarks import copies
from tests.test_cli_subprocess import EVIL, FAILED, PASSED, SAMPLE, Done, cli, files, last, perceptron, refused, write
from tests.test_runtime_timing import Machine

DATA = SAMPLE.with_name("digits-cnn.calib.npz")
TOP = {"schema_version", "tool", "machine", "data", "seed", "seconds", "models", "rows", "profiles", "notes"}
ROW = {
    "model", "setting", "calls", "units", "latency_ms", "speedup", "items_per_call", "throughput_per_s", "load_ms",
    "peak_bytes", "base_bytes",
}  # fmt: skip


def timed(machine: Machine, *ms: float, rounds: int = 1, seconds: float = 1.0) -> tuple[Series, ...]:
    """Models that take so many milliseconds on a machine that is made up."""
    lineup = [machine.call(str(i), cost) for i, cost in enumerate(ms)]
    return interleaved([lambda: [lineup]] * rounds, seconds, machine.clock)


class Three(Machine):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.calls = dict.fromkeys("012", 0)


# ------------------------------------------------------------------------- statistics


@pytest.mark.parametrize("base_ms", [0.2, 5.0, 40.0])
def test_copies_cover_one_in_at_least_90_of_100_runs(base_ms: float) -> None:
    covered, narrow = 0, 0
    for seed in range(100):
        machine = Three(seed, noise=0.05)
        found = timed(machine, base_ms, base_ms, base_ms, seconds=0.5 if base_ms < 20 else 3.0)
        intervals = [series.speedup for series in found[1:] if series.speedup is not None]
        covered += all(i.low <= 1 <= i.high for i in intervals)
        narrow += all(i.high / i.low < 1.25 for i in intervals)
    assert covered >= 90
    assert narrow >= 90


def test_copies_whose_sessions_differ_cover_one() -> None:
    """Each session of a model is a little faster or slower than another, which fresh sessions average in part."""
    covered = 0
    for seed in range(100):
        machine, random = Three(seed, noise=0.05), np.random.default_rng(1000 + seed)

        def fresh(machine: Machine = machine, random: np.random.Generator = random) -> list[Lineup]:
            return [[machine.call(name, 1.0 + 0.015 * random.standard_normal()) for name in "01"]]

        _, copy = interleaved([fresh] * 3, 0.6, machine.clock)
        assert copy.speedup is not None
        covered += copy.speedup.low <= 1 <= copy.speedup.high
    assert covered >= 90


@pytest.mark.parametrize("base_ms", [1.0, 30.0])
def test_every_rival_is_compared_with_the_first(base_ms: float) -> None:
    reference, slow, fast = timed(Three(), base_ms, 2 * base_ms, base_ms / 4)
    assert reference.speedup is None
    assert slow.speedup is not None
    assert fast.speedup is not None
    assert (slow.speedup.ratio, fast.speedup.ratio) == pytest.approx((0.5, 4.0), rel=1e-6)
    assert slow.speedup.low < 0.5 < slow.speedup.high
    assert reference.latency_ms.p50 == pytest.approx(base_ms)
    assert len({series.units for series in (reference, slow, fast)}) == 1


def test_drift_and_the_price_of_going_first_cancel() -> None:
    for series in timed(Three(drift=0.5, first=1.2), 1.0, 1.0, 1.0, seconds=2.0)[1:]:
        assert series.speedup is not None
        assert series.speedup.ratio == pytest.approx(1, abs=0.01)


def test_one_model_alone_has_percentiles_and_no_speedup() -> None:
    (alone,) = timed(Three(noise=0.05), 2.0)
    assert alone.speedup is None
    assert alone.latency_ms.p50 == pytest.approx(2.0, rel=0.1)
    assert alone.latency_ms.p95 >= alone.latency_ms.p50


# ------------------------------------------------------------------------- profile


def event(name: str, op: str, ts: int, dur: int) -> dict[str, Any]:
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": {"op_name": op}}


def test_what_runs_within_a_loop_is_not_counted_twice() -> None:
    events: list[dict[str, Any]] = []
    for start, factor in ((0, 9), (1000, 1), (2000, 3), (3000, 2)):  # the first is the warm-up
        events.append({"cat": "Session", "name": "model_run", "ts": start, "dur": 900})
        events.append(event("loop", "Loop", start + 10, 50 * factor))
        events += [event("body", "MatMul", start + 11 + 20 * i * factor, 15 * factor) for i in range(2)]
    found = node_times(events, skip=1)
    assert found.runs == 3
    assert {n.name: n.ms for n in found.nodes} == pytest.approx({"body": 0.060, "loop": 0.040})


@pytest.mark.parametrize(
    ("name", "op", "layer"),
    [
        ("/fc/Gemm", "Gemm", "/fc/Gemm"),
        ("fused /fc/Gemm", "FusedGemm", "/fc/Gemm"),
        ("/c/Relu_output_0_nchwc", "Conv", "/c/Conv"),
        ("/c/Relu_output_0_nchwc", "MaxPool", "/c/Relu"),
        ("/c/Conv_token_12", "QLinearConv", "/c/Conv"),
        ("/a/MatMul_output_0_integer1", "MatMulIntegerToFloat", "/a/MatMul"),
        ("/a/MatMul/MatMulScaleFusion/", "FusedMatMul", "/a/MatMul"),
        ("/p/MaxPool_output_0.q", "QuantizeLinear", "/p/MaxPool"),
        ("_output_0", "Add", "_output_0"),
    ],
)
def test_a_node_finds_its_layer_again(name: str, op: str, layer: str) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["/c/Conv_output_0"], "/c/Conv"),
        helper.make_node("Relu", ["/c/Conv_output_0"], ["/c/Relu_output_0"], "/c/Relu"),
    ]
    graph = helper.make_graph(nodes, "g", [], [])
    assert layer_of(name, op, producers(graph)) == layer


# ------------------------------------------------------------------------- memory, sizes, names


def test_peak_memory_is_that_of_a_child(tmp_path: Path) -> None:
    ballast = np.ones(300 << 20, np.uint8)
    path = write(perceptron(), tmp_path / "model.onnx")
    small, large = (weigh(path, {"x": np.ones((rows, 64), np.float32)}, threads=1) for rows in (1, 200_000))
    assert small.peak_bytes is not None
    assert large.peak_bytes is not None
    assert small.base_bytes is not None
    assert small.base_bytes < small.peak_bytes < ballast.nbytes
    assert large.peak_bytes - small.peak_bytes > 200_000 * 64 * 4
    assert small.load_ms > 0


def test_words_reach_the_child(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.STRING, [2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "words", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert weigh(write(model, tmp_path / "words.onnx"), {"x": np.array(["a", "ü"], object)}).load_ms > 0


def test_a_model_that_does_not_run_in_the_child_is_an_error_here(tmp_path: Path) -> None:
    path = write(perceptron(), tmp_path / "model.onnx")
    with pytest.raises(RuntimeFailure, match="does not run"):
        weigh(path, {"x": np.ones((1, 63), np.float32)})


def tokens(*shape: str | int | None) -> Model:
    """Rows of a table, looked up."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["y"])],
        "tokens",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.ones((50, 4), np.float32), "table")],
    )
    return Model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


@pytest.mark.parametrize(
    "shape", [("batch", "sequence"), (None, None), ("rows", "columns"), (3, "seq_len"), ("N", 7), (3, 7)]
)
def test_axes_are_found_by_name_or_place(shape: tuple[Any, ...]) -> None:
    sizes: dict[Word, int] = {"batch": 3, "sequence": 7}
    assert next(sized_candidates(tokens(*shape), sizes)).first()["input_ids"].shape == (3, 7)


def test_a_state_has_a_row_for_each_sample() -> None:
    nodes = [helper.make_node("ReduceSum", ["state"], ["s"], keepdims=0), helper.make_node("Add", ["x", "s"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])
    state = helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, None, 16])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "streamed", [x, state], [y])
    model = Model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    found = next(sized_candidates(model, {"batch": 3})).first()
    assert {name: array.shape for name, array in found.items()} == {"x": (3, 8), "state": (2, 3, 16)}


@pytest.mark.parametrize(("word", "size"), [("batch", 2), ("sequence", 9)])
def test_a_fixed_axis_keeps_its_size(word: Word, size: int) -> None:
    with pytest.raises(UsageError, match=f"the {word} axis of the input 'input_ids' is fixed at"):
        next(sized_candidates(tokens(3, 7), {word: size}))


def test_models_have_distinct_names() -> None:
    assert labels([Path("a/m.onnx"), Path("n.onnx")]) == ("m.onnx", "n.onnx")
    assert labels([Path("a/m.onnx"), Path("b/m.onnx")]) == ("a/m.onnx", "b/m.onnx")
    assert labels([Path("m.onnx"), Path("m.onnx")]) == ("m.onnx #1", "m.onnx #2")


@pytest.mark.parametrize(
    "wrong", [{"seconds": 0.0}, {"seconds": float("nan")}, {"threads": (0,)}, {"batches": (2_000_000,)}]
)
def test_options_that_mean_nothing(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Options(**wrong)


def test_copies_are_judged_by_what_intervals_cover() -> None:
    good, off = copies.Interval(1.0, 0.98, 1.02), copies.Interval(1.1, 1.05, 1.15)
    lines = copies.report({"good": [good] * 20, "once": [off, *[good] * 19], "apart": [good, off] * 10}).splitlines()[
        2:
    ]
    assert [line.split()[-1] for line in lines] == ["PASS", "MISS", "MISS"]
    assert "19 of 20" in lines[1]


# ------------------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A model and its copy, two numbers of threads, two batches."""
    folder = tmp_path_factory.mktemp("bench")
    write(perceptron(), folder / "model.onnx")
    shutil.copy(folder / "model.onnx", folder / "copy.onnx")
    matrix = ("--threads", "1,2", "--batch", "1,8", "--seconds", "0.2", "--profile")
    return folder, cli(
        "bench", "model.onnx", "copy.onnx", *matrix, "--json", "found.json", "--csv", "found.csv", cwd=folder
    )


def test_the_page(finished: tuple[Path, Done]) -> None:
    folder, done = finished
    assert (done.returncode, done.stderr) == (0, "")
    assert files(folder) == {"model.onnx", "copy.onnx", "found.json", "found.csv"}
    assert "\x1b" not in done.stdout
    for word in (
        "threads",
        "batch",
        "p50",
        "p95",
        "speed-up over model.onnx, with its 95 % interval",
        "items/s",
        "load",
        "peak",
        "reference",
    ):
        assert word in done.stdout
    assert last(done.stdout).startswith(f"{PASSED} 2 models, 4 settings on synthetic inputs: copy.onnx ")


def test_the_json(finished: tuple[Path, Done]) -> None:
    data = json.loads((finished[0] / "found.json").read_text(), parse_constant=pytest.fail)
    assert set(data) == TOP
    assert [(m["name"], m["parameters"]) for m in data["models"]] == [("model.onnx", 10240), ("copy.onnx", 10240)]
    assert len(data["rows"]) == 8
    for row in data["rows"]:
        assert set(row) == ROW
        setting = row["setting"]
        assert setting["shapes"] == {"x": [setting["batch"], 64]}
        assert row["items_per_call"] == setting["batch"]
        assert row["throughput_per_s"] == pytest.approx(1000 / row["latency_ms"]["p50"] * setting["batch"])
        assert 0 < row["base_bytes"] < row["peak_bytes"]
        if row["model"] == "model.onnx":
            assert row["speedup"] is None
        else:
            assert 0 < row["speedup"]["low"] <= row["speedup"]["ratio"] <= row["speedup"]["high"]
    wanted = [(t, b) for b in (1, 8) for t in (1, 2) for _ in range(2)]
    assert [(r["setting"]["threads"], r["setting"]["batch"]) for r in data["rows"]] == wanted


def test_the_csv(finished: tuple[Path, Done]) -> None:
    folder, _ = finished
    rows = list(csv.DictReader(io.StringIO((folder / "found.csv").read_text())))
    found = json.loads((folder / "found.json").read_text())["rows"]
    assert list(rows[0]) == list(COLUMNS)
    assert [float(r["p50_ms"]) for r in rows] == [r["latency_ms"]["p50"] for r in found]
    assert [r["speedup"] == "" for r in rows] == [True, False] * 4
    assert {r["size_bytes"] for r in rows} == {str((folder / "model.onnx").stat().st_size)}


def test_the_profile_names_operators_and_layers(finished: tuple[Path, Done]) -> None:
    folder, done = finished
    for word in ("operators, 1 thread, batch 1: ms of a run", "MatMul", "Relu", "layers, 1 thread", "node of first"):
        assert word in done.stdout
    profiles = json.loads((folder / "found.json").read_text())["profiles"]
    assert len(profiles) == 8
    for profile in profiles:
        assert {share["name"]: share["nodes"] for share in profile["operators"]} == {"MatMul": 2, "Relu": 1}
        assert {share["name"] for share in profile["layers"]} >= {"node of first", "node of second"}
        assert sum(share["ms"] for share in profile["operators"]) == pytest.approx(profile["total_ms"])
        assert profile["runs"] >= 3


def test_json_alone_on_standard_output(tmp_path: Path) -> None:
    model = write(perceptron(), tmp_path / "model.onnx")
    done = cli("bench", model, "--json", "-", "--seconds", "0.05", "--no-memory", "--threads", "1")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert (row["speedup"], row["load_ms"], row["peak_bytes"]) == (None, None, None)
    assert last(done.stderr).startswith(f"{PASSED} 1 model, 1 setting")


def test_csv_alone_on_standard_output_and_calls_that_are_given() -> None:
    done = cli("bench", SAMPLE, SAMPLE, "--data", DATA, "--csv", "-", "--seconds", "0.05", "--no-memory")
    assert done.returncode == 0, done.stderr
    assert [r["model"] for r in csv.DictReader(io.StringIO(done.stdout))] == [f"{SAMPLE.name} #1", f"{SAMPLE.name} #2"]
    assert f"calls from {DATA}" in done.stderr


def test_names_with_escapes_are_never_printed_raw(tmp_path: Path) -> None:
    path = write(perceptron(EVIL), tmp_path / "mo\x1b[31mdel.onnx")
    done = cli("bench", path, "--profile", "--seconds", "0.05", "--csv", "out.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr + (tmp_path / "out.csv").read_text()
    assert sum(line.startswith("onnxcompress: ") for line in done.stdout.splitlines()) == 1
    assert len(cli("bench", path, "--quiet", "--seconds", "0.05", "--no-memory").stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["nowhere.onnx"], 2),
        (["model.onnx", "nowhere.onnx"], 2),
        (["model.onnx", "--threads", "0"], 2),
        (["model.onnx", "--threads", "1,,2"], 2),
        (["model.onnx", "--batch", "-1"], 2),
        (["model.onnx", "--batch", "1e3"], 2),
        (["model.onnx", "--sequence", "16"], 2),
        (["fixed.onnx", "--batch", "8"], 2),
        (["model.onnx", "fixed.onnx", "--batch", "8"], 2),
        (["model.onnx", "--seconds", "0"], 2),
        (["model.onnx", "--labels", "y.npy"], 2),
        (["model.onnx", "--data", "nowhere"], 2),
        (["model.onnx", "--data", "names.npz", "--batch", "2"], 2),
        (["model.onnx", "--csv", "model.onnx"], 2),
        (["model.onnx", "--csv", "nowhere/out.csv"], 2),
        (["model.onnx", "--json", "model.onnx"], 2),
        (["model.onnx", "--json", "-", "--csv", "-"], 2),
        (["model.onnx", "--data", "names.npz"], 3),
        (["model.onnx", "other.onnx"], 3),
        (["empty.onnx"], 3),
        (["model.onnx", "--device", "cuda"], 4),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_wrong_usage_and_what_cannot_be_used(tmp_path: Path, arguments: list[str], code: int) -> None:
    write(perceptron(), tmp_path / "model.onnx")
    fixed, other = perceptron(), perceptron()
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    other.graph.input[0].name = other.graph.node[0].input[0] = "z"
    write(fixed, tmp_path / "fixed.onnx")
    write(other, tmp_path / "other.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    np.savez(tmp_path / "names.npz", wrong=np.zeros((2, 64), np.float32))
    before = files(tmp_path)
    done = cli("bench", *arguments, cwd=tmp_path)
    if "-" in arguments:  # then standard output is for values alone
        assert (done.returncode, done.stdout) == (code, "")
        assert last(done.stderr).startswith(FAILED)
    else:
        refused(done, code)
    assert files(tmp_path) == before
