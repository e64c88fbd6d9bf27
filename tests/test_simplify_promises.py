"""What the simplifier never does to a model, whatever there is to gain."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from onnxcompress.graph import riders, writer
from onnxcompress.graph.interface import interface
from onnxcompress.passes import simplify
from onnxcompress.stats import equivalence
from tests.simplifying import operators, parsed, rewritten, same_structure, saved, simplified, stored

if TYPE_CHECKING:
    from pathlib import Path

    from onnxcompress.graph.model import Model

TIED = """g (int64[1,N] ids) => (float[1,N,512] y) {
    e = Gather(table, ids) i = Identity(e) t = Transpose<perm = [1, 0]>(table) y = MatMul(i, t) }"""
TABLE = np.random.default_rng(0).normal(size=(512, 64)).astype(np.float32)


def test_a_tied_embedding_is_not_doubled(tmp_path: Path) -> None:
    model = saved(parsed(TIED, {"table": TABLE}), tmp_path / "tied.onnx")
    result = rewritten(model).model
    assert operators(result) == {"Gather": 1, "Transpose": 1, "MatMul": 1}
    assert writer.serialized_size(result) < TABLE.nbytes + 1000


def test_large_tensors_do_not_pass_through_the_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only little may pass, weights ride along, and the result refers to the file that was read."""
    monkeypatch.setattr(riders, "MODEST", 1000)
    model = saved(parsed(TIED, {"table": TABLE}), tmp_path / "tied.onnx")
    result = rewritten(model).model
    assert "Identity" not in operators(result)
    table = next(t for t in result.proto.graph.initializer if t.name == "table")
    assert result.payload(table) == model.payload(model.proto.graph.initializer[0])


def test_a_rider_returns_into_its_branch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(riders, "MODEST", 1000)
    text = """g (float[N,64] x, bool c) => (float[N,512] y) { y = If(c) <
        then_branch = t () => (float[N,512] p) { p = MatMul(x, w) },
        else_branch = e () => (float[N,512] q) { a = Identity(x) b = MatMul(a, w) q = Neg(b) }> }"""
    model = parsed(text)
    for branch, scale in zip(model.proto.graph.node[0].attribute, (1, 2), strict=True):
        model.set_array(branch.g.initializer.add(name="w"), TABLE.T * np.float32(scale))
    result = rewritten(model).model
    assert "Identity" not in operators(result)
    assert not stored(result)
    assert [len(a.g.initializer) for a in result.proto.graph.node[0].attribute] == [1, 1]


def test_an_overridable_initializer_stays_one() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,4] x, float[4] w, float[4] unread) => (float[N,4] y)
        <float[4] w = {1, 2, 3, 4}, float[4] unread = {1, 1, 1, 1}> {
        a = Identity(w) b = Mul(a, a) c = Identity(x) y = Add(c, b) }"""
    result = rewritten(parsed(text)).model
    assert [i.name for i in result.proto.graph.input] == ["x", "w", "unread"]
    assert set(stored(result)) == {"w", "unread"}
    assert operators(result) == {"Mul": 1, "Add": 1}


def test_an_input_that_nothing_reads_stays() -> None:
    result = simplified("g (float[N,4] x, float[N,4] z) => (float[N,4] y) { a = Identity(x) y = Neg(a) }")
    assert [i.name for i in result.proto.graph.input] == ["x", "z"]


@pytest.mark.parametrize("op", ["RandomNormal<shape = [4]>()", "RandomUniform<shape = [4]>()"])
def test_random_values_are_not_frozen(op: str) -> None:
    model = parsed(f"g (float[N,4] x) => (float[N,4] y) {{ r = {op} a = Identity(x) y = Add(a, r) }}")
    result = rewritten(model)
    assert operators(result.model) == {op.partition("<")[0]: 1, "Add": 1}
    assert not [n for n in result.notes if "discarded" in n]


DESCRIBED = """<ir_version: 8, opset_import: ["" : 17], producer_name: "p", producer_version: "1",
    domain: "d", model_version: 7, doc_string: "of use", metadata_props: ["names": "a,b", "author": "me"]>
    g (float[batch,4] x) => (float[batch,4] y) { a = Identity(x) y = Neg(a) }"""


def test_head_and_interface_are_kept() -> None:
    model = parsed(DESCRIBED)
    model.proto.graph.doc_string = "a graph"
    model.proto.graph.input[0].doc_string = "pixels"
    after = rewritten(model).model.proto
    before = onnx.ModelProto()
    before.CopyFrom(model.proto)
    for proto in (before, after):
        del proto.graph.node[:]
    assert same_structure(before, after)


def test_nodes_that_do_not_change_keep_every_word() -> None:
    model = parsed(
        """g (float[1,3,8,8] x) => (float[1,3,8,8] y) {
        a = Identity(x) b = Relu(a) y = MaxPool<kernel_shape = [1, 1]>(b) }"""
    )
    pool = model.proto.graph.node[2]
    pool.name, pool.doc_string = "pool", "keeps the size"
    assert rewritten(model).model.proto.graph.node[1] == pool


UNKNOWN = '<ir_version: 8, opset_import: ["" : 17, "my.own" : 1]>'


def test_a_model_with_unknown_operators_is_left_alone() -> None:
    model = parsed(UNKNOWN + "g (float[N] x) => (float[N] y) { a = Identity(x) y = my.own.Op(a) }")
    result = rewritten(model)
    assert result.model is model
    assert "my.own" in " ".join(result.notes)


def test_sparse_tensors_are_not_made_dense() -> None:
    model = parsed("g (float[100] x) => (float[100] y) { a = Identity(x) y = Add(a, s) }")
    values = onnx.helper.make_tensor("s", onnx.TensorProto.FLOAT, [1], [2.0])
    indices = onnx.helper.make_tensor("i", onnx.TensorProto.INT64, [1], [5])
    model.proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [100]))
    result = rewritten(model).model
    assert operators(result) == {"Add": 1}
    assert len(result.proto.graph.sparse_initializer) == 1


FUNCTION = """<ir_version: 9, opset_import: ["" : 17, "own" : 1]>
    g (float[N,4] x) => (float[N,4] y) { a = own.twice(x) b = Identity(a) y = own.twice(b) }
    <domain: "own", opset_import: ["" : 17]> twice (p) => (q) {
        two = Constant<value = float {2}>() dead = Neg(p) q = Mul(p, two) }
    <domain: "own", opset_import: ["" : 17]> unused (p) => (q) { q = Neg(p) }"""


def test_local_functions_leave_nothing_unused() -> None:
    result = simplified(FUNCTION).proto
    called = {n.op_type for n in result.graph.node}
    assert {f.name for f in result.functions} <= called
    assert "Identity" not in called
    assert [o.domain for o in result.opset_import if o.domain == "own"] == ["own"] * bool(result.functions)


def test_imports_are_not_added() -> None:
    result = simplified("g (float[N,4] x) => (float[N,4] y) { a = Identity(x) y = Neg(a) }").proto
    assert [(o.domain, o.version) for o in result.opset_import] == [("", 17)]


@pytest.mark.parametrize("nested", [False, True])
def test_models_from_before_ir_version_4(nested: bool) -> None:
    body = """y = If(c) < then_branch = t () => (float[4] p) { k = Constant<value = float[4] {1, 2, 3, 4}>()
        kk = Mul(k, k) p = Add(x, kk) },
        else_branch = e () => (float[4] q) { i = Identity(w) q = Add(x, i) }>"""
    flat = "n = Not(c) i = Identity(w) k = Mul(i, i) y = Add(x, k)"
    text = f"""<ir_version: 3, opset_import: ["" : 11]> g (float[4] x, bool c, float[4] w) => (float[4] y)
        <float[4] w = {{1, 2, 3, 4}}> {{ {body if nested else flat} }}"""
    result = rewritten(parsed(text)).model
    assert "Identity" not in operators(result)
    onnx.checker.check_model(result.proto)
    assert [i.name for i in interface(result.proto).inputs] == ["x", "c"]


HALF = {
    "a product": ("y = MatMul(i, w)", {"MatMul": 1}),
    "a function of the standard": ("m = MatMul(i, w) y = Softmax(m)", {"MatMul": 1, "Softmax": 1}),
    "casts of its own": (
        "a = Cast<to = 1>(i) b = Exp(a) c = Cast<to = 10>(b) y = MatMul(c, w)",
        {"Cast": 2, "Exp": 1, "MatMul": 1},
    ),
}


@pytest.mark.parametrize(("body", "left"), HALF.values(), ids=HALF)
def test_half_precision_stays_as_written(body: str, left: dict[str, int]) -> None:
    model = parsed(f"g (float16[2,4] x) => (float16[2,4] y) {{ i = Identity(x) {body} }}")
    model.set_array(model.proto.graph.initializer.add(name="w"), np.eye(4, dtype=np.float16))
    assert operators(rewritten(model).model) == left


def test_operators_without_a_kernel_stay_as_written() -> None:
    text = """<ir_version: 9, opset_import: ["" : 18]> g (float[2,4,3,3] x) => (float[2,4,3,3] y)
        <float[2] s = {1, 2}, float[2] b = {0, 1}> {
        i = Identity(x) n = GroupNormalization<num_groups = 2>(i, s, b) y = Neg(n) }"""
    assert operators(simplified(text)) == {"GroupNormalization": 1, "Neg": 1}


def test_a_result_that_computes_something_else_is_discarded(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: Model) -> int:
        for node in model.proto.graph.node:
            if node.op_type == "Exp":
                node.op_type = "Neg"
        return 1

    monkeypatch.setattr(simplify, "fold_batchnorm", broken)
    model = parsed("g (float[N,4] x) => (float[N,4] y) { a = Identity(x) y = Exp(a) }")
    result = rewritten(model)
    assert result.model is model
    assert any("differs" in note for note in result.notes)


def test_what_is_too_large_to_run_twice_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equivalence, "TOO_LARGE", 10)
    model = parsed(TIED, {"table": TABLE})
    result = rewritten(model)
    assert "Identity" not in operators(result.model)
    assert any("not compared" in note for note in result.notes)


SCRIPT = """
import sys, hashlib, pathlib
from onnxcompress.graph import writer
from onnxcompress.graph.model import Model
from onnxcompress.passes.base import Context
from onnxcompress.passes.simplify import Simplify
model = Model.open(pathlib.Path(sys.argv[1]))
print(hashlib.sha256(writer.to_bytes(Simplify().rewrite(model, Context()).model)).hexdigest())
"""


def test_equal_bytes_in_every_process(tmp_path: Path) -> None:
    """Names and order that the runtime makes up must not depend on addresses or hash seeds."""
    text = """g (float[N,4] x) => (float[N,4] y) <float[4] k = {1, 2, 3, 4}, float[4] l = {1, 2, 3, 4}> {
        a = Mul(k, k) b = Add(k, l) c = MatMul(x, w) d = Add(c, a) e = Shape(d) f = Reshape(d, e)
        h = Mul(f, b) i = Add(h, l) y = Identity(i) }"""
    path = tmp_path / "model.onnx"
    writer.save(parsed(text, {"w": np.eye(4, dtype=np.float32)}), path)
    command = [sys.executable, "-c", SCRIPT, str(path)]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(3)]
    assert len(set(runs)) == 1


def test_twice_is_once() -> None:
    once = simplified(TIED, {"table": TABLE})
    assert same_structure(rewritten(once).model.proto, once.proto)
