"""Which weights of a tensor share a scale, and in what order they are stored."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.forms import decode, migrated, sparse, split, supports
from onnxcompress.forms.base import Writing, quantized
from onnxcompress.forms.product import product
from onnxcompress.graph.edit import Namer
from onnxcompress.graph.layers import Leaf, Weight, is_layer, output_axes
from onnxcompress.passes.choosing import Chooser, stored_only
from onnxcompress.passes.enriching import Enriching, any_rows, coded_bytes
from onnxcompress.solvers.groups import Grid, Groups, per_block, per_channel

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnxcompress.forms.base import Solve
    from onnxcompress.forms.supports import Support
    from onnxcompress.graph.model import Model
    from onnxcompress.solvers.grid import Quantized

DEFAULT_BLOCK = {8: 0, 4: 32, 3: 32, 2: 16, 1: 32}
_MANY_MEMBERS = 4096  # groups from this on have scales that do not count
_MANY_ZEROS = 0.05  # of a weight, that hardly come of chance
_SPARSE = 0.85  # of the bytes of all codes, that those of the values which are not zero may take with their places
_FEW_SCALES = 50  # below, the Cast that float16 takes costs more than it saves


@dataclass(frozen=True)
class Draft:
    """How a weight is to be written, before it is."""

    writing: Writing
    own: tuple[int, ...]
    choice: dict[Leaf, str]
    scale_dtype: np.dtype

    @property
    def original_nbytes(self) -> int:
        """Bytes of the weight as it is."""
        return self.writing.model.nbytes(self.writing.weight.tensor)

    @property
    def stored_only(self) -> bool:
        """True where no reader computes with codes, so that any blocks will do."""
        return stored_only(self.choice)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points."""
        writing, itemsize = self.writing, self.scale_dtype.itemsize
        known = coded_bytes(writing, itemsize)
        if known is not None:
            return known
        elements, grid = writing.weight.elements, writing.grid
        scales = elements // max(writing.groups.members, 1)
        if writing.sparse is not None:
            return writing.sparse.nbytes(grid.stored_bits) + scales * itemsize
        zeros = 0 if grid.symmetric else scales * (itemsize if grid.bits == 1 else 1)
        factors = 0
        if writing.residual is not None:
            factors = 2 * writing.residual.rank * (writing.residual.rows + elements // writing.residual.rows)
        if writing.migration is not None:
            factors += 2 * writing.migration.size
        return (elements * grid.stored_bits + 7) // 8 + scales * itemsize + zeros + factors

    @property
    def bits(self) -> float:
        """Bits of a code for each weight."""
        coding = self.writing.codebook
        return self.writing.grid.bits if coding is None else coding.bits / coding.length


def magnitude(values: np.ndarray) -> float:
    """The largest magnitude, without a copy of the values; NaN where one of them is."""
    return float(max(values.max(initial=0), -values.min(initial=0)))


def fits_float16(peak: float) -> bool:
    """True where values up to that magnitude are within the range of float16."""
    return peak <= float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Kept:
    """A solver that gives what it found on trial once more. ``memory``: codes found on trial, by what they are of."""

    found: Solve
    memory: dict[object, Quantized]

    def __call__(self, writing: Writing, values: np.ndarray, dtype: np.dtype | None) -> Quantized | None:
        """The codes of a weight."""
        known = self.memory.pop(_key(writing, dtype), None)
        return self.found(writing, values, dtype) if known is None else known

    def keep(self, writing: Writing, dtype: np.dtype, codes: Quantized) -> None:
        """Have these codes when they are asked for next."""
        self.memory[_key(writing, dtype)] = codes


def _key(writing: Writing, dtype: np.dtype | None) -> object:
    return writing.weight.label, writing.grid, writing.groups, dtype


def quantized_values(draft: Draft) -> np.ndarray:
    """The weight as it would come out of its codes, in the shape and type that it has now."""
    writing = draft.writing
    codes = quantized(writing, draft.scale_dtype)
    if isinstance(writing.solve, Kept):
        writing.solve.keep(writing, draft.scale_dtype, codes)
    values = codes.dequantize().reshape(writing.dims)
    if writing.migration is not None:
        values = (values / writing.migration).astype(np.float32)
    return np.ascontiguousarray(values.T if writing.flipped else values)


@dataclass(frozen=True)
class Grouping:
    """What options say of groups. ``block_size`` None: as needed; 0: whole channels. ``solve``: as for `Writing`.

    ``enriching``: what a weight gets besides codes, or in their place. ``favour``: factors for the inputs of a weight
    of few bits, as for ``Writing.migration``, or None where they gain nothing. ``zeros`` remembers how many values of
    a weight are none.
    """

    grid: Grid
    block_size: int | None
    per_tensor: bool
    chooser: Chooser
    solve: Solve | None = None
    enriching: Enriching = field(default_factory=functools.partial(Enriching, 8))
    favour: Callable[[Writing], np.ndarray | None] | None = None
    zeros: dict[str, int] = field(default_factory=dict)

    @property
    def open(self) -> bool:
        """True where the options leave it open how finely eight-bit weights are stored."""
        plain = not self.per_tensor and not self.enriching.asked
        return self.grid.bits == 8 and self.block_size is None and plain

    def draft(self, model: Model, weight: Weight, namer: Namer) -> Draft:
        """Groups, order and forms of one weight."""
        own: tuple[int, ...] | None = () if self.per_tensor else _own_axes(weight)
        if own is None:
            own = _best_axis(model.array(weight.tensor))
        flipped = _only_transposed_products(weight)
        if flipped:
            own = tuple(1 - axis for axis in own)
        dims = weight.dims[::-1] if flipped else weight.dims
        writing = Writing(
            model, weight, self.grid, self._groups(dims, own), namer, flipped, _convolves(weight), solve=self.solve
        )
        return self.redrafted(Draft(writing, own, {}, np.dtype(np.float32)), writing, None)

    def redrafted(self, draft: Draft, writing: Writing, peak: float | None) -> Draft:
        """The same weight written otherwise; ``peak`` is its largest magnitude."""
        writing = self._with_zeros(self.enriching(writing))
        if writing.sparse is not None:
            return Draft(
                writing, draft.own, dict.fromkeys(writing.weight.leaves, decode.NAME), _scale_dtype(writing, peak)
            )
        choice = self.chooser.choose(writing)
        factors = self.chooser.migration(writing, choice)
        if factors is not None:
            writing, peak = dataclasses.replace(writing, migration=factors), None
            choice = dict.fromkeys(choice, migrated.NAME)
        elif self.favour is not None and writing.grid.bits < 8 and set(choice.values()) == {decode.NAME}:
            writing = dataclasses.replace(writing, migration=self._favoured(writing))
        wide = self.chooser.outliers(writing, choice)
        if wide:
            writing, choice = dataclasses.replace(writing, outliers=wide), dict.fromkeys(choice, split.NAME)
        return Draft(writing, draft.own, choice, _scale_dtype(writing, peak))

    def _with_zeros(self, writing: Writing) -> Writing:
        """A weight with zeros, which stay zeros; codes of the others alone are stored, if that takes fewer bytes."""
        grid, elements, limit = writing.grid, writing.weight.elements, self.chooser.context.opset_limit
        if grid.bits == 1 or self.enriching.asked or writing.keep_zeros:
            return writing
        left = not_zero(writing.model, writing.weight, self.zeros)
        if left > (1 - _MANY_ZEROS) * elements:
            return writing
        writing = dataclasses.replace(writing, keep_zeros=True, keep_sums=False)
        if not grid.symmetric or (limit is not None and limit < sparse.MIN_OPSET):
            return writing
        support = support_of(writing.model, writing.weight, grid.stored_bits, flipped=writing.flipped)
        small = support.nbytes(grid.stored_bits) < _SPARSE * elements * grid.stored_bits / 8
        return dataclasses.replace(writing, sparse=support) if small else writing

    def _favoured(self, writing: Writing) -> np.ndarray | None:
        if self.favour is None or writing.residual is not None or writing.codebook is not None:
            return None
        found = self.favour(writing)
        return None if found is None else decode.exact(found)

    def _groups(self, dims: tuple[int, ...], own: tuple[int, ...]) -> Groups:
        size = block_of(self.grid, 0 if self.block_size is None and self.enriching.length else self.block_size)
        return per_block(dims, own, size) if size and not self.per_tensor else per_channel(dims, own)


def not_zero(model: Model, weight: Weight, zeros: dict[str, int]) -> int:
    """Values of a weight that are other than zero; ``zeros`` remembers."""
    if weight.label not in zeros:
        zeros[weight.label] = weight.elements - int(np.count_nonzero(model.view(weight.tensor)))
    return weight.elements - zeros[weight.label]


def pays(model: Model, weight: Weight, left: int, bits: int) -> bool:
    """Whether codes of the values that are left take far fewer bytes than those of all."""
    if sparse.nbytes(weight.elements, left, bits) < _SPARSE * weight.elements * bits / 8:
        return True
    if left > (1 - _MANY_ZEROS) * weight.elements:
        return False
    return support_of(model, weight, bits).nbytes(bits) < _SPARSE * weight.elements * bits / 8


def support_of(model: Model, weight: Weight, bits: int, *, flipped: bool = False) -> Support:
    """The cheapest code for where a weight is other than zero; ``flipped``: stored as its transpose."""
    values, dims, own = model.view(weight.tensor), weight.dims, _own_axes(weight) or (0,)
    if flipped:
        values, dims, own = values.T, dims[::-1], tuple(1 - axis for axis in own)
    rows = any_rows(Writing(model, weight, Grid(8), per_channel(dims, own), Namer(set()), flipped))
    return supports.recognised(None if rows is None else supports.layout_of(rows), values, bits)


def block_of(grid: Grid, block_size: int | None) -> int:
    """Inputs that share a scale, 0: all of a channel; ``block_size`` None: as is usual for these codes."""
    return DEFAULT_BLOCK[grid.bits] if block_size is None else block_size


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


def _scale_dtype(writing: Writing, peak: float | None = None) -> np.dtype:
    """float16 where scales count and float16 holds them as normal numbers, else float32."""
    groups = writing.groups
    few = groups.members >= _MANY_MEMBERS or math.prod(groups.scale_shape) < _FEW_SCALES
    if few and writing.codebook is None:
        return np.dtype(np.float32)
    largest = (magnitude(writing.values()) if peak is None else peak) / max(writing.grid.high, 1)
    safe = 1e-3 < largest < 6e4
    return np.dtype(np.float16 if safe else np.float32)
