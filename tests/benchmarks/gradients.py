"""Gradients of the real models against differences in float64 along random directions."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from onnxcompress.data.synthetic import synthetic
from onnxcompress.errors import OnnxCompressError
from onnxcompress.graph import writer
from onnxcompress.graph.model import Model
from onnxcompress.passes.base import Context
from onnxcompress.passes.simplify import Simplify
from onnxcompress.runtime.session import Session
from onnxcompress.training.gradients import GradientGraph
from onnxcompress.training.losses import Loss
from tests.benchmarks.measure import ROOT
from tests.benchmarks.tables import number, table, verdict
from tests.gradient_check import float64_error, float64_loss

if TYPE_CHECKING:
    from pathlib import Path

    from tests.benchmarks.settings import Settings

TITLE = "gradients: of the simplified models, against differences in float64"
LIMIT, _DIRECTIONS = 1e-2, 3
TARGET = f"relative error below {LIMIT:g} along {_DIRECTIONS} random directions, or what stops it is named"

_HEADER = ["model", "weights", "worst error", "one gradient, s", "target", "remark"]


def measure(settings: Settings) -> None:
    """Measure and print, a row as soon as it is there."""
    paths = {name: settings.corpus / name / "model.onnx" for name in settings.real_models()}
    rows = []
    for name, path in (paths or {"digits-cnn": ROOT / "sample_models" / "digits-cnn.onnx"}).items():
        rows.append(_row(name, path, settings.rounds or _DIRECTIONS))
        print(f"  {' | '.join(rows[-1])}", flush=True)
    print(f"\n{table(_HEADER, rows)}")


def _row(name: str, path: Path, directions: int) -> list[str]:
    try:
        model = Simplify().rewrite(Model.open(path), Context()).model
        feeds = dict(synthetic(model, calls=1, seed=0).first())
        losses, targets = _losses(model, feeds)
        graph = GradientGraph(model, losses, threads=1, shapes={k: v.shape for k, v in feeds.items()})
        started = time.perf_counter()
        graph.run(graph.weights, feeds, targets)
        seconds = time.perf_counter() - started
        loss = float64_loss(model, losses, list(graph.weights), targets, feeds)
        worst = max(float64_error(graph, loss, feeds, targets, seed) for seed in range(directions))
    except OnnxCompressError as error:
        return [name, "-", "-", "-", verdict(False), error.message[:150]]
    return [name, str(len(graph.weights)), f"{worst:.1e}", number(seconds), verdict(worst < LIMIT), ""]


def _losses(model: Model, feeds: dict[str, np.ndarray]) -> tuple[list[Loss], dict[str, np.ndarray]]:
    """The squared error of every float output against its value with noise of a third of its deviation."""
    generator = np.random.default_rng(0)
    found = Session(writer.to_bytes(model), threads=1).run(feeds)
    names = [o.name for o in model.proto.graph.output if o.type.tensor_type.elem_type == TensorProto.FLOAT]
    targets = {}
    for name in names:
        noise = generator.standard_normal(found[name].shape) * (found[name].std() / 3 or 0.1)
        targets[name] = (found[name] + noise).astype(np.float32)
    return [Loss("mse", name) for name in names], targets
