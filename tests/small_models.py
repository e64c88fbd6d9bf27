"""Small models as text with random weights: what the tests of graphs, forms, passes and whole runs share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx
from hypothesis import HealthCheck, settings
from onnx import numpy_helper, parser

from onnxcompress.graph.model import Model
from onnxcompress.graph.scopes import Scopes
from onnxcompress.runtime.session import Session

if TYPE_CHECKING:
    from pathlib import Path

    from onnxcompress.errors import OnnxCompressError

Arrays = Mapping[str, np.ndarray]


def proto(text: str, weights: Arrays | None = None, *, opset: int = 17, ir: int = 8) -> onnx.ModelProto:
    """A model from ONNX text without its head; ``weights`` become initializers with raw data."""
    head = f'<ir_version: {ir}, opset_import: ["": {opset}, "local": 1, "com.microsoft": 1]>\n'
    made = parser.parse_model(head + text)
    used = {n.domain for n in made.graph.node} | {"", *(["local"] if made.functions else [])}
    for index in reversed([i for i, o in enumerate(made.opset_import) if o.domain not in used]):
        del made.opset_import[index]
    for name, array in (weights or {}).items():
        made.graph.initializer.append(numpy_helper.from_array(array, name))
    return made


def write(model: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    """The model as a file."""
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def opened(model: onnx.ModelProto, folder: Path) -> Model:
    """The model as the product sees it: read from a file, in which its large tensors stay."""
    return Model.open(write(model, folder))


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Gaussian float32 values."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def outputs(model: Path | bytes | onnx.ModelProto, feeds: Arrays) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes."""
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    return Session(source, threads=1).run(feeds)


def optimized(model: bytes, folder: Path) -> Counter[str]:
    """Operators that are left in the main graph once ONNX Runtime has loaded and optimized a model."""
    path = folder / "optimized.onnx"
    Session(model, threads=1, optimized_path=path)
    return Counter(n.op_type for n in onnx.load(path).graph.node)


def operators(model: onnx.ModelProto) -> Counter[str]:
    """Operators at every depth."""
    return Counter(n.op_type for s in Scopes(model).all for n in s.body.node)


def sqnr(expected: np.ndarray, given: np.ndarray) -> float:
    """Signal to noise in dB."""
    signal = np.asarray(expected, np.float64)
    noise = float(np.square(signal - np.asarray(given, np.float64)).sum())
    return float("inf") if noise == 0 else 10 * float(np.log10(np.square(signal).sum() / noise))


def check_words(error: OnnxCompressError) -> None:
    """An intended error says what is wrong and how to mend it."""
    assert error.message
    assert error.hint


def examples(count: int) -> settings:
    """Settings of property tests that read and write files or run models."""
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
