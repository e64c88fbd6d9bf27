"""Real models against themselves, and against what they become when their weights are rounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxcompress.data.synthetic import synthetic
from onnxcompress.graph.model import Model
from onnxcompress.verify.verify import VerifyOptions, verify

CORPUS = Path.home() / ".cache" / "onnx-corpus" / "models"
MODELS = ["mnist-cnn", "silero-vad", "magika", "lac-gru", "ppocrv4-det", "dnsmos", "efficientnet-lite0"]


@pytest.mark.corpus
@pytest.mark.parametrize("name", MODELS)
def test_a_real_model_equals_itself(name: str) -> None:
    path = CORPUS / name / "model.onnx"
    found = verify(path, path, synthetic(Model.open(path), calls=2), VerifyOptions(latency_seconds=0.5))
    assert found.passed
    assert found.fidelity is not None
    assert found.fidelity.sqnr_db == 200
    assert found.latency is not None
    assert found.latency.speedup_low < 1.1
    assert found.latency.speedup_high > 0.9
