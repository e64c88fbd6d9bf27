"""Which weights of a tensor share a scale, and in what order they are stored."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from onnxcompress.forms.base import Writing
from onnxcompress.forms.product import product
from onnxcompress.graph.edit import Namer
from onnxcompress.graph.layers import Leaf, Weight, is_layer, output_axes
from onnxcompress.graph.model import Model
from onnxcompress.passes.choosing import Chooser, stored_only
from onnxcompress.solvers.grid import Grid, Groups, expected_error, per_block, per_channel

_DEFAULT_BLOCK = {8: 0, 4: 32, 2: 16}
_FINER_BLOCKS = (128, 64, 32)  # tried in turn where a scale for a whole channel loses too much
_LOST = 10**-4.3  # of the energy of a weight: 43 dB, what well-behaved weights keep at 8 bits
_FEW_MEMBERS = 256  # groups below this have scales that count, which are stored as float16


@dataclass(frozen=True)
class Draft:
    """How a weight is to be written, before it is."""

    writing: Writing
    choice: dict[Leaf, str]
    scale_dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points."""
        writing = self.writing
        elements, grid = writing.weight.elements, writing.grid
        scales = elements // max(writing.groups.members, 1)
        zeros = 0 if grid.symmetric else scales
        return (elements * grid.bits + 7) // 8 + scales * self.scale_dtype.itemsize + zeros


@dataclass(frozen=True)
class Grouping:
    """What options say of groups. ``block_size`` None: as needed; 0: whole channels."""

    grid: Grid
    block_size: int | None
    per_tensor: bool

    def draft(self, model: Model, weight: Weight, namer: Namer, chooser: Chooser) -> Draft:
        """Groups, order and forms of one weight."""
        own: tuple[int, ...] | None = () if self.per_tensor else _own_axes(weight)
        if own is None:
            own = _best_axis(model.array(weight.tensor))
        flipped = _only_transposed_products(weight)
        if flipped:
            own = tuple(1 - axis for axis in own)
        dims = weight.dims[::-1] if flipped else weight.dims
        writing = Writing(model, weight, self.grid, self._groups(dims, own), namer, flipped, _convolves(weight))
        choice = chooser.choose(writing)
        if self.block_size is None and self.grid.bits == 8 and not self.per_tensor and stored_only(choice):
            writing = _refined(writing, own)
            choice = chooser.choose(writing)
        return Draft(writing, choice, _scale_dtype(writing))

    def _groups(self, dims: tuple[int, ...], own: tuple[int, ...]) -> Groups:
        size = _DEFAULT_BLOCK[self.grid.bits] if self.block_size is None else self.block_size
        return per_block(dims, own, size) if size and not self.per_tensor else per_channel(dims, own)


def _refined(writing: Writing, own: tuple[int, ...]) -> Writing:
    """The same weight with the largest blocks that lose little enough, for forms that decode any blocks."""
    values = writing.values()
    groups = writing.groups
    for size in _FINER_BLOCKS:
        if not expected_error(values, writing.grid, groups) > _LOST:
            break
        groups = per_block(writing.dims, own, size)
    return dataclasses.replace(writing, groups=groups)


def _own_axes(weight: Weight) -> tuple[int, ...] | None:
    """The axes whose indices keep own scales: those of the lookup if there is one, else of the first layer."""
    known: list[tuple[Leaf, tuple[int, ...]]] = []
    for leaf in weight.leaves:
        axes = output_axes(leaf)
        if axes is not None and is_layer(leaf):
            known.append((leaf, axes))
    known.sort(key=lambda pair: pair[0].op != "Gather")
    return known[0][1] if known else None


def _convolves(weight: Weight) -> bool:
    """True where each layer that reads the weight is a convolution, whose inputs are nearly constant over a kernel."""
    return all(leaf.op in ("Conv", "ConvTranspose", "FusedConv") for leaf in weight.leaves)


def _only_transposed_products(weight: Weight) -> bool:
    """True where each reader multiplies by the transpose: stored that way it needs no operator in between."""
    found = [product(leaf, weight.dims, weight.tensor.data_type) for leaf in weight.leaves]
    return all(p is not None and p.transposed for p in found)


def _best_axis(values: np.ndarray) -> tuple[int, ...]:
    """The axis along which own scales leave the least rounding noise, which is the mean of squared maxima."""

    def noise(axis: int) -> float:
        others = tuple(i for i in range(values.ndim) if i != axis)
        peak = np.abs(values.astype(np.float32)).max(others)
        return float(np.square(peak, dtype=np.float64).mean())

    return (min(range(values.ndim), key=noise),)


def _scale_dtype(writing: Writing) -> np.dtype:
    """float16 where scales count and float16 holds them as normal numbers, else float32."""
    if writing.groups.members >= _FEW_MEMBERS:
        return np.dtype(np.float32)
    largest = float(np.abs(writing.values()).max(initial=0)) / max(writing.grid.high, 1)
    safe = 1e-3 < largest < 6e4
    return np.dtype(np.float16 if safe else np.float32)
