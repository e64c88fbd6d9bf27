"""Models of ONNX's backend tests through weight pruning: pruned and running, or refused in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from onnxcompress.compress import RunOptions, compress
from onnxcompress.errors import OnnxCompressError
from onnxcompress.passes.prune import Prune
from onnxcompress.recipe import Recipe
from onnxcompress.runtime.session import Session
from tests.backend_models import examples
from tests.backend_variants import frozen

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", ["simple", "pytorch-converted", "pytorch-operator"])
def test_all_are_pruned_or_refused(kind: str, tmp_path: Path) -> None:
    pruned = refused = total = 0
    for example in examples(kind):
        total += 1
        path, target = tmp_path / "model.onnx", tmp_path / "made.onnx"
        path.write_bytes(frozen(example.model))
        options = RunOptions(output=target, force=True, verify=False)
        try:
            compress(path, Recipe.of((Prune(sparsity=0.5, allocation="uniform"),)), options)
        except OnnxCompressError as error:
            refused += bool(error.hint)
            continue
        before, after = (Session(file.read_bytes(), threads=1).run(example.feeds) for file in (path, target))
        pruned += 1
        for name, value in before.items():
            assert np.shape(after[name]) == np.shape(value), example.name
            assert np.isfinite(np.asarray(after[name], np.float64)).all() or not np.isfinite(value).all()
    assert pruned + refused == total > 10
