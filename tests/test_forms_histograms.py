"""How values of weights are spread before and after."""

from __future__ import annotations

import numpy as np
import pytest

from onnxcompress.forms.histograms import histogram
from onnxcompress.forms.sparse import Kept
from onnxcompress.solvers.grid import quantize
from onnxcompress.solvers.groups import Grid, per_block, per_channel
from tests.small_models import normal


@pytest.mark.parametrize("shape", [(64, 96), (4096, 128), (8, 3, 3, 3)])
def test_codes_and_values_are_counted(shape: tuple[int, ...]) -> None:
    weight = normal(*shape)
    for groups in (per_channel(shape, (0,)), *([per_block(shape, (1,), 16)] if len(shape) == 2 else [])):
        found = histogram(weight, quantize(weight, Grid(2), groups))
        assert found is not None
        assert weight.min() - 3 < found.low < 0 < found.high < weight.max() + 3
        assert sum(found.before) == pytest.approx(sum(found.after), rel=0.3)
        assert np.count_nonzero(found.after) <= np.count_nonzero(found.before)


def test_zeros_stand_out() -> None:
    weight = normal(100, 100)
    pruned = np.where(np.abs(weight) < 1, 0, weight)
    found = histogram(weight, Kept(pruned))
    assert found is not None
    assert sum(found.before) == sum(found.after)
    assert max(found.after) > 2 * max(found.before)


def test_where_there_is_nothing_to_see() -> None:
    assert histogram(np.zeros((4, 4), np.float32), Kept(np.zeros((4, 4), np.float32))) is None
    assert histogram(np.full((4, 4), np.nan, np.float32), Kept(np.zeros((4, 4), np.float32))) is None
    assert histogram(np.ones((4, 4), np.float32), object()) is None
    assert histogram(np.zeros((0, 4), np.float32), Kept(np.zeros((0, 4), np.float32))) is None
