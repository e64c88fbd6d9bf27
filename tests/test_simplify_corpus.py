"""Real models: fewer nodes, no more bytes, the same outputs."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from onnxcompress.data.synthetic import synthetic_candidates
from onnxcompress.errors import RuntimeFailure
from onnxcompress.graph import writer
from onnxcompress.graph.model import Model
from onnxcompress.passes.simplify import node_count, stored_bytes
from onnxcompress.runtime.session import Session
from tests.simplifying import rewritten

CORPUS = Path.home() / ".cache" / "onnx-corpus" / "models"
# model: how many of its nodes may be left (Constants not counted)
LEFT = {
    "crepe-full": 36,
    "ddddocr-det": 277,
    "dnsmos": 41,
    "efficientnet-lite0": 111,
    "lac-gru": 19,
    "magika": 94,
    "minilm-l3": 147,
    "mnist-cnn": 10,
    "ppocrv4-det": 328,
    "ppocrv4-rec": 407,
    "silero-vad": 224,
    "silero-vad-16k-seq": 27,
    "smollm2-135m-instruct": 1871,
}


@pytest.mark.corpus
@pytest.mark.parametrize("name", LEFT)
def test_real_model(name: str, tmp_path: Path) -> None:
    path = CORPUS / name / "model.onnx"
    model = Model.open(path)
    started = time.perf_counter()
    result = rewritten(model).model
    seconds = time.perf_counter() - started
    assert node_count(result.proto) <= LEFT[name]
    assert stored_bytes(result) <= stored_bytes(model)
    writer.save(result, tmp_path / "simplified.onnx", durable=False)
    worst = largest_difference(path, tmp_path / "simplified.onnx", model)
    before, after = (writer.serialized_size(m) for m in (model, result))
    print(
        f"{name}: {node_count(model.proto)} -> {node_count(result.proto)} nodes, {before} -> {after} bytes,"
        f" {seconds:.2f} s, {worst:.2g}"
    )
    assert worst < 1e-4


def largest_difference(original: Path, simplified: Path, model: Model) -> float:
    """Over the outputs of two calls, relative to the largest value of each."""
    one, two = (Session(path, level="basic") for path in (original, simplified))
    worst = 0.0
    for feeds in next(calls for calls in synthetic_candidates(model, calls=2) if runs(one, calls.first())):
        expected, given = one.run(feeds), two.run(feeds)
        for output, value in expected.items():
            scale = max(float(np.abs(value).max(initial=0)), 1e-2)
            worst = max(worst, float(np.abs(value - given[output]).max(initial=0)) / scale)
    return worst


def runs(session: Session, feeds: dict[str, np.ndarray]) -> bool:
    try:
        session.run(feeds)
    except RuntimeFailure:
        return False
    return True
