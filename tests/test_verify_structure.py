from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxcompress.graph.model import Model
from onnxcompress.verify.facts import model_facts, model_files
from onnxcompress.verify.structure import (
    checker_fault,
    interface_difference,
    metadata_difference,
    structure_checks,
)

if TYPE_CHECKING:
    from pathlib import Path

HEAD = '<ir_version: 8, opset_import: ["" : 17]> '


def model(inputs: str = "float[N, 4] x", outputs: str = "float[N, 4] y") -> onnx.ModelProto:
    return parser.parse_model(f"{HEAD} g ({inputs}) => ({outputs}) {{ y = Relu(x) }}")


@pytest.mark.parametrize(
    ("inputs", "outputs", "found"),
    [
        ("float[N, 4] x", "float[N, 4] y", None),
        ("float[M, 4] x", "float[M, 4] y", None),
        ("float[N, 4] x", "float[2, 4] y", None),
        ("float[2, 4] x", "float[N, 4] y", "input 'x' has the shape [2, 4] instead of [N, 4]"),
        ("float[N, K] x", "float[N, 4] y", "input 'x' has the shape [N, K] instead of [N, 4]"),
        ("float[N, 4] x", "float[N, K] y", "output 'y' has the shape [N, K] instead of [N, 4]"),
        ("float[N, 5] x", "float[N, 5] y", "input 'x' has the shape [N, 5] instead of [N, 4]"),
        ("float16[N, 4] x", "float[N, 4] y", "input 'x' has the type FLOAT16 instead of FLOAT"),
        ("float[N, 4] x, float z", "float[N, 4] y", "the inputs are x, z instead of x"),
        ("float[N, 4] x", "float[N, 4] x", "the outputs are x instead of y"),
    ],
)
def test_interfaces(inputs: str, outputs: str, found: str | None) -> None:
    assert interface_difference(model(), model(inputs, outputs)) == found


def test_metadata_has_to_stay_except_our_own() -> None:
    before, after = model(), model()
    for key, value in (("author", "me"), ("onnxcompress.version", "1"), ("labels", "a,b")):
        before.metadata_props.add(key=key, value=value)
    after.metadata_props.add(key="author", value="you")
    assert metadata_difference(before, after) == "lost or changed: author, labels"
    assert metadata_difference(after, after) is None


def saved(proto: onnx.ModelProto, path: Path, external: bool = False) -> Model:
    onnx.save(proto, path, save_as_external_data=external, location=path.name + ".data", size_threshold=0)
    return Model.open(path)


def weighted(values: np.ndarray) -> onnx.ModelProto:
    made = parser.parse_model(f"{HEAD} g (float[N, 64] x) => (float[N, 64] y) {{ y = MatMul(x, w) }}")
    made.graph.initializer.append(numpy_helper.from_array(values, "w"))
    return made


def test_the_checker_sees_new_faults_only(tmp_path: Path) -> None:
    good = saved(weighted(np.ones((64, 64), np.float32)), tmp_path / "good.onnx")
    broken = weighted(np.ones((64, 64), np.float32))
    broken.graph.node[0].op_type = "Nowhere"
    bad = saved(broken, tmp_path / "bad.onnx")
    assert checker_fault(good) is None
    assert "Nowhere" in str(checker_fault(bad))
    assert not next(c.ok for c in structure_checks(good, bad) if c.name == "checker")
    assert next(c.ok for c in structure_checks(bad, bad) if c.name == "checker")


def test_larger_is_a_failure(tmp_path: Path) -> None:
    small = saved(weighted(np.ones((64, 64), np.float32)), tmp_path / "small.onnx")
    padded = weighted(np.ones((64, 64), np.float32))
    padded.doc_string = "x" * 1000
    large = saved(padded, tmp_path / "large.onnx")
    assert next(c.ok for c in structure_checks(large, small) if c.name == "size")
    assert not next(c.ok for c in structure_checks(small, large) if c.name == "size")


@pytest.mark.parametrize("external", [False, True])
def test_facts(tmp_path: Path, external: bool) -> None:
    values = np.ones((64, 64), np.float32)
    values[:16] = 0
    path = tmp_path / "m.onnx"
    opened = saved(weighted(values), path, external)
    facts = model_facts(path, macs=7, nonzero=True)
    assert len(model_files(opened)) == 1 + external
    assert facts.size_bytes == sum(f.stat().st_size for f in tmp_path.iterdir())
    assert (facts.parameters, facts.nonzero, facts.macs, facts.opset) == (4096, 3072, 7, 17)
    content = b"".join(f.read_bytes() for f in sorted(tmp_path.iterdir()))
    assert facts.sha256 == hashlib.sha256(content).hexdigest()
    assert model_facts(opened).nonzero is None
