"""The models of ONNX's backend tests give the same outputs after they were simplified."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from onnxcompress.errors import OnnxCompressError
from onnxcompress.graph import writer
from onnxcompress.graph.model import Model
from onnxcompress.runtime.session import Session
from onnxcompress.stats.equivalence import difference
from tests.backend_models import KINDS, Example, examples
from tests.simplifying import rewritten

if TYPE_CHECKING:
    from pathlib import Path


def outcome(example: Example, folder: Path) -> str:
    """What became of one model; raises AssertionError where its outputs changed."""
    path = folder / "model.onnx"
    path.write_bytes(example.model)
    try:
        session = Session(path, threads=1, level="none")
        expected = session.run(example.feeds)
    except OnnxCompressError:
        return "not run by ONNX Runtime"
    model = Model.open(path)
    result = rewritten(model).model
    given = Session(writer.to_bytes(result), threads=1, level="none").run(example.feeds)
    found = difference(expected, given, values=example.exact)
    assert found is None, f"{example.name}: {found}"
    return "equal, unchanged" if result is model else "equal, simplified"


def outcomes(kind: str, folder: Path, every: int) -> Counter[str]:
    return Counter(outcome(example, folder) for i, example in enumerate(examples(kind)) if i % every == 0)


@pytest.mark.parametrize(("kind", "every", "simplified"), [("node", 23, 5), ("pytorch-operator", 1, 1)])
def test_some(kind: str, every: int, simplified: int, tmp_path: Path) -> None:
    found = outcomes(kind, tmp_path, every)
    assert found["equal, simplified"] >= simplified
    assert found["equal, unchanged"] > found["not run by ONNX Runtime"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all(kind: str, tmp_path: Path) -> None:
    found = outcomes(kind, tmp_path, 1)
    print(kind, dict(found))
    assert found["equal, unchanged"] > found["not run by ONNX Runtime"]
