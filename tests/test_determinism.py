"""The same bytes on any number of threads, in any process, whatever is in the cache."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxcompress
from onnxcompress.runtime import blas
from onnxcompress.stats.work import PER_SECOND, call_seconds
from tests.conftest import CORPUS
from tests.small_models import normal, opened, proto

SAMPLES = Path(__file__).parent.parent / "sample_models"
DIGITS: dict[str, Any] = {"data": SAMPLES / "digits-cnn.calib.npz", "limit": 8}
LANGUAGE: dict[str, Any] = {
    "data": SAMPLES / "language-id.calib.txt",
    "tokenizer": SAMPLES / "language-id.tokenizer.json",
    "limit": 4,
}
CASES = [
    ("digits-cnn", "quantize", {}),
    ("digits-cnn", "quantize", DIGITS),
    ("language-id", "quantize", {"bits": 4, **LANGUAGE}),
    ("digits-cnn", "prune", {}),
    ("digits-cnn", "prune", DIGITS),
    ("digits-cnn", "prune", {"structure": "channels", **DIGITS}),
    ("digits-cnn", "factorize", {}),
    ("language-id", "factorize", {"rank_ratio": 0.3, **LANGUAGE}),
    ("language-id", "simplify", {}),
]


@pytest.fixture(autouse=True)
def one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is faster is measured, and not what is asked here."""
    monkeypatch.setattr(import_module("onnxcompress.compress"), "following", lambda _: None)


def settings(tmp_path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Threads, each with a cache of its own; then once more, with what the last one left there."""
    for name, threads, cache in (("one", 1, "first"), ("two", 2, "second"), ("again", 1, "second")):
        os.environ["XDG_CACHE_HOME"] = str(tmp_path / cache)
        yield name, {"threads": threads, "seconds": 0.02}


@pytest.mark.parametrize(("name", "verb", "options"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_threads_and_caches_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, verb: str, options: dict[str, Any]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # is set back afterwards
    made = []
    for run, given in settings(tmp_path):
        output = tmp_path / f"{run}.onnx"
        result = getattr(onnxcompress, verb)(SAMPLES / f"{name}.onnx", output, **options, **given)
        assert result.path is not None
        made.append(result.path.read_bytes())
    assert made[0] == made[1]
    assert made[0] == made[2]


def in_processes(tmp_path: Path, arguments: Sequence[object]) -> list[bytes]:
    """What two processes make of the same words, the one on one thread and the other on two of everything."""
    made = []
    for threads in ("1", "2"):
        output = tmp_path / f"{threads}.onnx"
        words = [*arguments, "--no-verify", "--threads", threads, "-o", output, "--quiet"]
        subprocess.run(
            [sys.executable, "-m", "onnxcompress", *map(str, words)],
            check=True,
            capture_output=True,
            env={
                **os.environ,
                "PYTHONHASHSEED": threads,
                "OPENBLAS_NUM_THREADS": threads,
                "XDG_CACHE_HOME": str(tmp_path / threads),
            },
        )
        made.append(output.read_bytes())
    return made


def test_processes_and_threads_of_linear_algebra_change_nothing(tmp_path: Path) -> None:
    data = ["--data", SAMPLES / "digits-cnn.calib.npz"]
    first, second = in_processes(tmp_path, ["prune", SAMPLES / "digits-cnn.onnx", *data])
    assert first == second


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("name", "verb"),
    [
        ("mnist-cnn", "quantize"),
        ("mnist-cnn", "prune"),
        ("magika", "quantize"),
        ("magika", "factorize"),
        ("minilm-l3", "quantize"),
        ("minilm-l3", "prune"),
    ],
)
def test_real_models_come_out_the_same_in_other_processes(tmp_path: Path, name: str, verb: str) -> None:
    model = CORPUS / name / "model.onnx"
    calls: dict[str, Any] = synthetic(model)
    np.savez(tmp_path / "calls.npz", **calls)
    words: list[object] = [verb, model, "--data", tmp_path / "calls.npz", "--limit", 4]
    first, second = in_processes(tmp_path, words)
    assert first == second


def synthetic(model: Path) -> dict[str, np.ndarray]:
    """Six samples for a model, stacked."""
    rng = np.random.default_rng(0)
    found = {}
    for value in onnx.load(model, load_external_data=False).graph.input:
        shape = [6, *(d.dim_value or 32 for d in value.type.tensor_type.shape.dim[1:])]
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        small = {"attention_mask": 2, "token_type_ids": 1}.get(value.name, 100)
        found[value.name] = (rng.normal(size=shape) if kind.kind == "f" else rng.integers(0, small, shape)).astype(kind)
        if value.name == "attention_mask":
            found[value.name][:] = 1
    return found


# ------------------------------------------------------------------------- what that stands on


def test_linear_algebra_has_one_thread_within_and_the_old_number_afterwards() -> None:
    known = blas._openblas()
    if known is None:
        pytest.skip("numpy has another library")
    count, use = known
    before = count()
    use(2)
    try:
        at_most = count()  # as many as there are processors
        with blas.one_thread():
            assert count() == 1
            with blas.one_thread():
                assert count() == 1
            assert count() == 1
        assert count() == at_most
    finally:
        use(before)


def test_how_many_calls_are_bearable_is_counted(tmp_path: Path) -> None:
    text = "g (float[n, 64] x) => (float[n, 32] y) { h = MatMul(x, first) r = Relu(h) y = MatMul(r, second) }"
    model = opened(proto(text, {"first": normal(64, 48), "second": normal(48, 32)}), tmp_path)
    found = call_seconds(model, {"x": normal(10, 64)})
    assert found == 10 * (64 * 48 + 48 * 32) / PER_SECOND
    assert call_seconds(model, {"x": normal(10, 64)}, threads=2) == found


@pytest.mark.parametrize(
    ("node", "shapes", "count"),
    [
        (helper.make_node("Conv", ["x", "w"], ["y"]), {"x": (1, 8, 6, 6), "w": (4, 2, 3, 3), "y": (1, 4, 4, 4)}, 1152),
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"]), {"x": (1, 2, 3, 3), "w": (2, 4, 2, 2), "y": ()}, 288),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transA=1), {"x": (5, 2), "w": (5, 3), "y": (2, 3)}, 30),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), {"x": (4, 2, 5), "w": (5, 3), "y": (4, 2, 3)}, 120),
        (helper.make_node("GRU", ["x", "w", "r"], ["y"]), {"x": (7, 1, 3), "w": (1, 6, 3), "r": (1, 6, 2)}, 210),
        (helper.make_node("Relu", ["x"], ["y"]), {"x": (9,), "y": (9,)}, 0),
    ],
    ids=lambda v: v.op_type if isinstance(v, onnx.NodeProto) else "",
)
def test_multiply_adds_of_a_node(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]], count: int) -> None:
    assert import_module("onnxcompress.stats.work").multiply_adds(node, shapes) == count
