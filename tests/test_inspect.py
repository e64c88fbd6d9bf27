"""`onnxcompress inspect`: its facts against numpy and arithmetic by hand, and the verb as a script meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxcompress
from onnxcompress.inspection.facts import Inspection, Options, StoredFacts
from onnxcompress.inspection.look import inspect
from onnxcompress.inspection.stand_ins import without_weights
from tests.test_cli_subprocess import EVIL, FAILED, PASSED, SAMPLE, cli, files, last, perceptron, refused, write

RNG = np.random.default_rng(0)


def values(name: str, *shape: int | str, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    stored: dict[str, np.ndarray] | None = None,
    **more: Any,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in (stored or {}).items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, tensors)
    imports = [helper.make_opsetid("", 18), *more.pop("imports", ())]
    return helper.make_model(graph, opset_imports=imports, ir_version=9, **more)


def looked_at(model: onnx.ModelProto, folder: Path, *, run: bool = True) -> Inspection:
    return inspect(write(model, folder / "model.onnx"), Options(run=run, threads=1))


def named(found: Inspection, name: str) -> StoredFacts:
    (tensor,) = [t for t in found.tensors if t.name == name]
    return tensor


def random(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def product(W: np.ndarray, name: str = "W") -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", name], ["y"], "product")]
    return model_of(nodes, [values("x", "rows", W.shape[0])], [values("y", "rows", W.shape[1])], {name: W})


# ------------------------------------------------------------------------- values


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int8, ml_dtypes.int4])
def test_statistics_are_those_of_numpy(kind: Any, tmp_path: Path) -> None:
    array = (RNG.normal(size=(70, 33)) * 2.5).astype(kind)
    array[:7] = 0
    nodes = [helper.make_node("Cast", ["W"], ["c"], to=TensorProto.FLOAT), helper.make_node("Add", ["x", "c"], ["y"])]
    model = model_of(nodes, [values("x", 70, 33)], [values("y", 70, 33)], {"W": array})
    model.opset_import[0].version = 21
    found = named(looked_at(model, tmp_path, run=False), "W")
    x = array.astype(np.float64)
    assert found.statistics is not None
    assert found.statistics.zeros == int((x == 0).sum())
    assert found.shape == (70, 33)
    assert found.operator == "Add"
    short = (found.statistics.minimum, found.statistics.maximum, found.statistics.mean, found.statistics.std)
    assert short == pytest.approx((x.min(), x.max(), x.mean(), x.std()), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("kind", [np.float32, ml_dtypes.int4])
def test_blocks_add_up(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxcompress.inspection.statistics._BLOCK_VALUES", 64)
    array = (RNG.normal(size=(61, 67)) + 100 * (kind is np.float32)).astype(kind)
    nodes = [helper.make_node("Cast", ["W"], ["y"], to=TensorProto.FLOAT)]
    model = model_of(nodes, [values("x", 1)], [values("y", 61, 67)], {"W": array})
    model.opset_import[0].version = 21
    found = named(looked_at(model, tmp_path, run=False), "W").statistics
    x = array.astype(np.float64)
    assert found is not None
    assert found.zeros == int((x == 0).sum())
    assert (found.mean, found.std) == pytest.approx((x.mean(), x.std()), rel=1e-12)


def test_values_that_are_not_finite_words_and_nothing(tmp_path: Path) -> None:
    wrong = np.array([1.0, np.nan, -np.inf, 3.0, 0.0], np.float32)
    huge = np.array([1e308, 1.5e308, 0.0])
    stored = {"wrong": wrong, "huge": huge, "nothing": np.zeros((0, 3), np.float32)}
    model = model_of([helper.make_node("Identity", ["x"], ["y"])], [values("x", 1)], [values("y", 1)], stored)
    model.graph.initializer.append(numpy_helper.from_array(np.array(["one", "two"], object), "words"))
    found = looked_at(model, tmp_path)
    first, second = named(found, "wrong").statistics, named(found, "huge").statistics
    assert first is not None
    assert (first.minimum, first.maximum, first.zeros, first.nonfinite) == (0.0, 3.0, 1, 2)
    assert second is not None
    assert (second.maximum, second.mean, second.nonfinite) == (1.5e308, None, 0)
    assert named(found, "words").statistics is None
    assert named(found, "nothing").statistics is None
    assert any("NaN or infinity" in note and "wrong" in note for note in found.notes)
    json.dumps(found.to_json(), allow_nan=False)


def test_weights_packed_for_their_zeros_are_named(tmp_path: Path) -> None:
    onnx.save(product(random(64, 64)), tmp_path / "dense.onnx")
    onnxcompress.prune(tmp_path / "dense.onnx", tmp_path / "pruned.onnx", sparsity=0.7, verify=False)
    found = inspect(tmp_path / "pruned.onnx")
    assert found.model.parameters < 64 * 64 / 2
    assert any(note.startswith("weights packed for their zeros: W;") for note in found.notes)


def test_sizes_and_zeros(tmp_path: Path) -> None:
    W = random(40, 50)
    W[:, 10:] = 0
    model = product(W)
    found = looked_at(model, tmp_path)
    assert found.model.size_bytes == len(model.SerializeToString())
    assert sum(item.size_bytes for item in found.by_dtype) == found.model.size_bytes
    assert (found.model.parameters, found.model.nonzero) == (2000, 400)
    assert any("80.0% of the float values are zero" in note for note in found.notes)
    (row,) = [item for item in found.by_operator if item.name == "MatMul"]
    assert (row.nodes, row.tensors, row.size_bytes) == (1, 1, 8000)


# ------------------------------------------------------------------------- structure


def test_a_tied_weight_is_told(tmp_path: Path) -> None:
    W = random(30, 8)
    nodes = [
        helper.make_node("Gather", ["W", "ids"], ["e"]),
        helper.make_node("Transpose", ["W"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["e", "t"], ["y"]),
    ]
    ids = values("ids", "n", kind=TensorProto.INT64)
    found = looked_at(model_of(nodes, [ids], [values("y", "n", 30)], {"W": W}), tmp_path)
    weight = named(found, "W")
    rows = found.outputs[0].seen
    assert rows is not None
    assert (weight.layers, weight.operator, weight.macs) == (2, "Gather+MatMul", rows[0] * 240)
    assert any(note.startswith("tied weights") and "W (2)" in note for note in found.notes)


def test_subgraphs(tmp_path: Path) -> None:
    branches = []
    for name, size in (("then", 4), ("else", 6)):
        nodes = [
            helper.make_node("MatMul", ["x", f"A_{name}"], [f"a_{name}"]),
            helper.make_node("MatMul", [f"a_{name}", f"B_{name}"], [f"b_{name}"]),
        ]
        stored = [numpy_helper.from_array(random(*s), n) for n, s in
                  ((f"A_{name}", (5, size)), (f"B_{name}", (size, 3)))]  # fmt: skip
        branches.append(helper.make_graph(nodes, name, [], [values(f"b_{name}", 2, 3)], stored))
    choice = helper.make_node("If", ["c"], ["y"], "choice", then_branch=branches[0], else_branch=branches[1])
    inputs = [values("x", 2, 5), values("c", kind=TensorProto.BOOL)]
    found = looked_at(model_of([choice], inputs, [values("y", 2, 3)]), tmp_path)
    assert (found.subgraphs, found.nodes, found.uncounted) == (2, 5, 0)
    assert found.model.macs == 2 * 6 * (5 + 3), "the branch with more"
    assert named(found, "choice/A_else").operator == "MatMul"
    assert any("subgraphs in 1 If" in note for note in found.notes)


def test_functions_and_other_domains(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 18)]
    body = [helper.make_node("MatMul", ["a", "w"], ["m"]), helper.make_node("Relu", ["m"], ["b"])]
    layer = helper.make_function("mine", "Layer", ["a", "w"], ["b"], body, opsets)
    nodes = [
        helper.make_node("Layer", ["x", "W"], ["h"], "first", domain="mine"),
        helper.make_node("Gelu", ["h"], ["y"], domain="com.microsoft"),
    ]
    imports = [helper.make_opsetid("mine", 1), helper.make_opsetid("com.microsoft", 1)]
    model = model_of(nodes, [values("x", 3, 8)], [values("y", 3, 7)], {"W": random(8, 7)},
                     imports=imports, functions=[layer])  # fmt: skip
    found = looked_at(model, tmp_path)
    assert [(f.name, f.nodes) for f in found.functions] == [("mine::Layer", 2)]
    assert found.domains == {"com.microsoft": 1}
    weight = named(found, "W")
    assert (weight.operator, weight.macs, found.model.macs) == ("MatMul", 168, 168)


def test_sparse_and_attributes(tmp_path: Path) -> None:
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("s", TensorProto.FLOAT, [2], [1.0, 2.0]),
        helper.make_tensor("i", TensorProto.INT64, [2], [3, 5]),
        [4, 4],
    )
    nodes = [
        helper.make_node(
            "ConstantOfShape", ["n"], ["z"], "zeros", value=numpy_helper.from_array(np.ones(1, np.float32))
        ),
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(random(2, 2))),
        helper.make_node("MatMul", ["z", "k"], ["y"]),
    ]
    model = model_of(nodes, [values("n", 2, kind=TensorProto.INT64)], [values("y", "a", 2)])
    model.graph.sparse_initializer.append(sparse)
    found = looked_at(model, tmp_path, run=False)
    assert {"s", "s (indices)", "zeros.value", "k"} <= {t.name for t in found.tensors}
    assert named(found, "k").operator == "MatMul"
    assert named(found, "s").operator == "unread"


def test_a_quantized_model(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    stored: dict[str, np.ndarray] = {"q": RNG.integers(-9, 9, (8, 6)).astype(np.int8), "s": np.array(0.1, np.float32)}
    found = looked_at(model_of(nodes, [values("x", 4, 8)], [values("y", 4, 6)], stored), tmp_path)
    weight = named(found, "q")
    assert (weight.operator, weight.dtype, weight.macs) == ("MatMul", "int8", 4 * 48)
    assert any(note.startswith("quantized already") for note in found.notes)
    assert [p.size_bytes for p in found.prospects if p.verb.startswith("quantize")] == [None, None]


# ------------------------------------------------------------------------- work and memory


@pytest.mark.parametrize("run", [True, False])
def test_multiply_adds_by_hand(run: bool, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "K"], ["c"], "conv", strides=[2, 2], pads=[1, 1, 1, 1], group=2),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("Gemm", ["f", "G"], ["y"], "gemm", transB=1),
    ]
    stored = {"K": random(6, 2, 3, 3), "G": random(5, 6 * 4 * 4)}
    found = looked_at(model_of(nodes, [values("x", 1, 4, 8, 8)], [values("y", 1, 5)], stored), tmp_path, run=run)
    assert found.shapes_from == ("run" if run else "inferred")
    assert named(found, "K").macs == (6 * 4 * 4) * (2 * 3 * 3)
    assert named(found, "G").macs == 5 * 96
    assert found.model.macs == 96 * 18 + 480


def test_products_without_weights_and_recurrent_layers_count(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("LSTM", ["x", "W", "R"], ["h"], hidden_size=4),
        helper.make_node("Squeeze", ["h", "one"], ["s"]),
        helper.make_node("Transpose", ["s"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["s", "t"], ["y"]),
    ]
    stored = {"W": random(1, 16, 3), "R": random(1, 16, 4), "one": np.array([1])}
    found = looked_at(model_of(nodes, [values("x", 7, 2, 3)], [values("y", 7, 2, 2)], stored), tmp_path)
    assert found.model.macs == 7 * 2 * (48 + 64) + 7 * 2 * 2 * 4
    assert (named(found, "W").macs, named(found, "R").macs) == (7 * 2 * 48, 7 * 2 * 64)


def test_the_peak_of_a_chain_by_hand(tmp_path: Path) -> None:
    """Of x (2, 4), a (2, 100), its view v, b (100, 2) and y (100, 3): at ``b`` there are a and b, at ``y`` b and y."""
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["a"], "a"),
        helper.make_node("Reshape", ["a", "s"], ["v"], "v"),
        helper.make_node("Relu", ["v"], ["b"], "b"),
        helper.make_node("MatMul", ["b", "V"], ["y"], "y"),
    ]
    stored = {"W": random(4, 100), "V": random(2, 3), "s": np.array([100, 2])}
    live = looked_at(model_of(nodes, [values("x", 2, 4)], [values("y", 100, 3)], stored), tmp_path).activations
    assert live is not None
    assert (live.peak_bytes, live.node, live.unknown) == (4 * (200 + 300), "y", 0)


def test_what_waits_for_a_later_reader_stays_alive(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "a"),
        helper.make_node("Exp", ["a"], ["b"], "b"),
        helper.make_node("Sigmoid", ["b"], ["c"], "c"),
        helper.make_node("Add", ["a", "c"], ["y"], "y"),
    ]
    live = looked_at(model_of(nodes, [values("x", 10)], [values("y", 10)]), tmp_path).activations
    assert live is not None
    assert (live.peak_bytes, live.node) == (4 * 30, "c")


def test_a_model_that_cannot_run_is_inferred_and_told(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "W"], ["h"]), helper.make_node("Odd", ["h"], ["y"], domain="nobody")]
    model = model_of(nodes, [values("x", 2, 4)], [values("y", 2, 3)], {"W": random(4, 3)},
                     imports=[helper.make_opsetid("nobody", 1)])  # fmt: skip
    found = looked_at(model, tmp_path)
    assert (found.shapes_from, found.model.macs) == ("inferred", 24)
    assert any("was not run" in note for note in found.notes)
    assert not looked_at(model, tmp_path, run=False).notes[0].startswith("shapes are inferred")


def test_large_weights_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes with stand-ins for weights are those of the model itself."""
    nodes = [
        helper.make_node("Gather", ["E", "ids"], ["e"]),
        helper.make_node("MatMul", ["e", "W"], ["a"]),
        helper.make_node("Mul", ["a", "M"], ["m"]),
        helper.make_node("Transpose", ["E"], ["t"]),
        helper.make_node("MatMul", ["m", "t"], ["y"]),
    ]
    stored = {"E": random(600, 500), "W": random(500, 500), "M": random(500, 500)[:1]}
    stored["M"] = np.repeat(stored["M"], 600, 0)[:1]
    ids = values("ids", "batch", "length", kind=TensorProto.INT64)
    model = model_of(nodes, [ids], [values("y", "batch", "length", 600)], stored)
    whole = looked_at(model, tmp_path)
    monkeypatch.setattr("onnxcompress.inspection.stand_ins._WHOLE", 0)
    monkeypatch.setattr("onnxcompress.inspection.stand_ins._LARGE", 1000)
    light = looked_at(model, tmp_path)
    assert (light.shapes_from, light.model.macs) == ("run", whole.model.macs)
    assert light.activations == whole.activations
    from onnxcompress.graph.model import Model

    twin = without_weights(Model.open(tmp_path / "model.onnx"))
    onnx.checker.check_model(twin.proto)
    assert sum(twin.nbytes(t) for t in twin.tensors()) < 10_000


@pytest.mark.slow
def test_memory_is_bounded(tmp_path: Path) -> None:
    W = np.zeros((5000, 10_000), np.float32)
    W[:, ::2] = 1
    model = product(W)
    onnx.save_model(model, str(tmp_path / "large.onnx"), save_as_external_data=True, location="large.data")
    write(product(random(8, 8)), tmp_path / "small.onnx")
    script = (
        "from pathlib import Path; from onnxcompress.inspection.look import inspect;"
        "from onnxcompress.inspection.facts import Options; from onnxcompress.runtime.memory import peak_bytes;"
        "inspect(Path('small.onnx'), Options(threads=1)); before = peak_bytes();"
        "found = inspect(Path('large.onnx'), Options(threads=1));"
        "assert found.shapes_from == 'run' and found.tensors[0].zeros == 0.5 and found.model.macs % 50_000_000 == 0;"
        "print(peak_bytes() - before)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100e6


# ------------------------------------------------------------------------- the verb


def test_the_page() -> None:
    done = cli("inspect", SAMPLE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    for word in ("parameters", "multiply-adds", "at once", "inputs and outputs", "bytes by type", "bytes by operator",
                 "largest layers", "what could be done", "quantize --bits 4"):  # fmt: skip
        assert word in done.stdout
    assert last(done.stdout).startswith(f"{PASSED} ")
    assert "opset" in last(done.stdout)


def test_json_alone_on_standard_output(tmp_path: Path) -> None:
    path = write(perceptron(), tmp_path / "model.onnx")
    done = cli("inspect", path, "--json", "-", "--no-run")
    data = json.loads(done.stdout)
    assert done.returncode == 0
    assert (data["schema_version"], data["shapes_from"]) == ("1.0", "inferred")
    assert [t["shape"] for t in data["tensors"]] == [[64, 128], [128, 16]]
    assert data["inputs"][0]["shape"] == ["batch", 64]
    assert len(data["model"]["sha256"]) == 64
    assert last(done.stderr).startswith(PASSED)
    assert files(tmp_path) == {"model.onnx"}


def test_layers_in_order(tmp_path: Path) -> None:
    path = write(perceptron(), tmp_path / "model.onnx")
    by_bytes = cli("inspect", path, "--layers", "--no-run").stdout.splitlines()
    by_name = cli("inspect", path, "--layers", "--no-run", "--sort", "name", "--top", "1").stdout
    assert [line.split()[0] for line in by_bytes[1:3]] == ["first", "second"]
    assert by_bytes[0].split()[:4] == ["tensor", "operator", "type", "shape"]
    assert "and 1 more tensor" in by_name
    assert cli("inspect", path, "--layers", "--no-run", "--quiet").stdout.count("\n") == 1


def test_names_with_escapes_are_never_printed_raw(tmp_path: Path) -> None:
    model = perceptron(EVIL)
    model.producer_name = EVIL
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = EVIL
    path = write(model, tmp_path / "model.onnx")
    for arguments in ((), ("--layers",), ("--verbose",)):
        done = cli("inspect", path, *arguments)
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout + done.stderr
        assert sum(line.startswith("onnxcompress: ") for line in done.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nowhere.onnx"], 2),
        (["model.onnx", "--top", "3"], 2),
        (["model.onnx", "--sort", "bytes"], 2),
        (["model.onnx", "--layers", "--sort", "weight"], 2),
        (["model.onnx", "--layers", "--top", "0"], 2),
        (["model.onnx", "--json", "model.onnx"], 2),
        (["model.onnx", "--quiet", "--verbose"], 2),
        (["empty.onnx"], 3),
        (["words.onnx"], 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_wrong_usage_and_what_cannot_be_used(tmp_path: Path, arguments: list[str], code: int) -> None:
    write(perceptron(), tmp_path / "model.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "words.onnx").write_text("This is not a model.")
    done = cli("inspect", *arguments, cwd=tmp_path)
    refused(done, code)
    assert last(done.stdout).startswith(FAILED)
