"""The values of a stored tensor in short, read in blocks, so that memory does not depend on its size.

Mean and deviation are put together from those of the blocks (Chan, Golub & LeVeque 1979). With n values of mean μ and
sum of squared deviations M, and m, ν, N of the next block, δ = ν − μ:

    μ' = μ + δ·m/(n+m),   M' = M + N + δ²·n·m/(n+m)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnxcompress.graph.payload import FileRange, element_count, stored_bytes
from onnxcompress.inspection.facts import Statistics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxcompress.graph.model import Model, Tensor

BLOCK_BYTES = 16 << 20  # of float64
_BLOCK_VALUES = BLOCK_BYTES // 8  # a multiple of 8, so that packed types end at whole bytes
_NO_NUMBERS = frozenset({onnx.TensorProto.STRING, onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128})


@dataclass(frozen=True)
class _Sums:
    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # of deviations
    low: float = math.inf
    high: float = -math.inf

    def with_block(self, x: np.ndarray) -> _Sums:
        """The sums with the finite values of one more block."""
        if not x.size:
            return self
        mean = float(x.mean())
        delta, count = mean - self.mean, self.count + x.size
        low, high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        squares = self.squares + delta * delta * (self.count * x.size / count)
        x -= mean
        squares += float(np.dot(x, x))
        return _Sums(count, self.mean + delta * x.size / count, squares, low, high)


def statistics(model: Model, tensor: Tensor) -> Statistics | None:
    """The values of a tensor in short; None where it has none, or they are no numbers.

    Raises:
        ModelError: the stored data do not fit the declared shape.
    """
    if tensor.data_type in _NO_NUMBERS or not element_count(list(tensor.dims)):
        return None
    sums, zeros, nonfinite = _Sums(), 0, 0
    with np.errstate(all="ignore"):
        for block in blocks(model, tensor):
            x = block.astype(np.float64)
            zeros += x.size - int(np.count_nonzero(x))
            if not math.isfinite(float(x.sum())):  # cheaper than a look at each value
                finite = np.isfinite(x)
                nonfinite += x.size - int(np.count_nonzero(finite))
                x = x[finite]
            sums = sums.with_block(x)
    return _short(sums, zeros, nonfinite)


def _short(sums: _Sums, zeros: int, nonfinite: int) -> Statistics:
    if not sums.count:
        return Statistics(None, None, None, None, zeros, nonfinite)
    std = math.sqrt(sums.squares / sums.count) if sums.squares >= 0 else math.nan
    found = Statistics(sums.low, sums.high, sums.mean, std, zeros, nonfinite)
    return replace(found, mean=_finite(sums.mean), std=_finite(std))


def _finite(value: float) -> float | None:
    """None for sums beyond what float64 holds."""
    return value if math.isfinite(value) else None


def blocks(model: Model, tensor: Tensor) -> Iterator[np.ndarray]:
    """The values of a tensor in order, in flat blocks; those of a file are read, not mapped, and then forgotten."""
    payload = model.payload(tensor)
    if not isinstance(payload, FileRange):
        flat = model.array(tensor).reshape(-1)
        yield from (flat[i : i + _BLOCK_VALUES] for i in range(0, flat.size, _BLOCK_VALUES))
        return
    total, offset = element_count(list(tensor.dims)), payload.offset
    for start in range(0, total, _BLOCK_VALUES):
        dims = (min(_BLOCK_VALUES, total - start),)
        length = stored_bytes(tensor.data_type, dims)
        yield FileRange(payload.path, offset, length).read(tensor.data_type, dims)
        offset += length
