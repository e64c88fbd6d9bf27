"""A report with everything in it, for the tests of whatever shows or stores reports."""

from __future__ import annotations

import dataclasses
from typing import Any

from onnxcompress import report as r


def layer(name: str = "encoder/0", **changes: Any) -> r.LayerRecord:
    """A MatMul that became 8-bit."""
    done = r.LayerRecord(name, "MatMul", "done", None, "decode", 8, 4_000_000, 1_000_000, 0.0001)
    return dataclasses.replace(done, **changes)


def skipped(name: str = "embedding", reason: str = "tiny", **changes: Any) -> r.LayerRecord:
    """A weight that was left alone."""
    left = layer(name, op="Gather", status="skipped", reason=reason, form=None, bits=None)
    return dataclasses.replace(left, bytes_after=left.bytes_before, error=None, **changes)


def step(*layers: r.LayerRecord, notes: tuple[str, ...] = ()) -> r.Step:
    """A quantization step with these layers."""
    return r.Step("quantize", {"bits": 8}, 1.5, 90_000_000, layers, notes)


def latency(speedup: float = 1.5, low: float = 1.4, high: float = 1.6) -> r.Latency:
    """Paired latencies with this interval."""
    before, after = r.Percentiles(12.0, 13.5), r.Percentiles(8.0, 8.7)
    return r.Latency("cpu", 1, 4, 120, before, after, speedup, low, high, 80.0, 95.0)


def fidelity(*names: str, data: str = "synthetic") -> r.Fidelity:
    """The fidelity of these outputs."""
    outputs = tuple(r.OutputFidelity(name, 31.25, 0.99987, 0.0125, 0.998) for name in names or ("logits",))
    return r.Fidelity(data, 8, 31.25, 0.99987, 0.0125, 0.998, outputs)


def report(**changes: Any) -> r.Report:
    """A run that passed, with these fields changed."""
    facts = r.ModelFacts("model.onnx", "0" * 64, 90_810_000, 22_713_216, 22_713_000, 10**9, 11)
    made = r.Report(
        tool=r.Tool("onnxcompress", "0.1.0", "1.23.2", "1.31.1"),
        machine={"cpu": "a processor"},
        recipe={"steps": [{"pass": "quantize"}]},
        seed=0,
        original=facts,
        compressed=dataclasses.replace(facts, path="model.int8.onnx", size_bytes=24_117_248, opset=13),
        fidelity=fidelity(),
        latency=latency(),
        metrics={"accuracy": r.Metric(0.9825, 0.981)},
        steps=(step(layer(), skipped(), notes=("opset raised from 11 to 13",)),),
        budgets=(
            r.BudgetResult("loads", None, None, ok=True),
            r.BudgetResult("min_sqnr", 30.0, 31.25, ok=True),
        ),
        notes=("a note",),
        verdict="passed",
    )
    return dataclasses.replace(made, **changes)
