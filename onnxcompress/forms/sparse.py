"""A weight with zeros: one bit for each block of weights tells whether it is stored; what is stored follows in order.

Constant nodes, which a runtime folds once when it loads, put the weight together again. Single weights are the general
case, in the order in which they are stored; blocks of R outputs times C inputs are cut from rows (out, in). The bits b
are seen as columns of 128 consecutive blocks, (128, columns). With v (kept + 1, R · C) the blocks that are stored after
one of zeros,

    place = b · (cumsum(b, along a column) + blocks in the columns before),      W = v[place].

Sums run along columns, for all of them at once: about 10 ms for a million weights. ONNX Runtime leaves the dense tensor
alone, so the model runs at the original's speed and takes the original's memory. Needs opset 11 for CumSum,
GatherElements and BitShift.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import helper

from onnxcompress.forms.base import Codes, Writing, edit_source
from onnxcompress.forms.decoding import Chain
from onnxcompress.forms.packing import packed_length
from onnxcompress.graph import payload
from onnxcompress.graph.edit import Edit
from onnxcompress.graph.model import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from onnxcompress.forms.supports import Support
    from onnxcompress.graph.edit import NewTensor

NAME = "sparse"
MIN_OPSET = 11
VALUES, PLACES = ".v", ".m"  # what is stored of a weight is named so
_LANES = 128  # blocks of a column
_NODES = 1000  # bytes of the nodes and small constants, roughly
_BLOCKS = 200  # and so many more where blocks are put in their places
_FACTORS = 500  # and where a product is added


@dataclass(frozen=True)
class Layout:
    """A weight of ``dims`` as rows (out, in): its axes in another ``order``, those of the outputs first."""

    dims: tuple[int, ...]
    order: tuple[int, ...]
    out: int

    @property
    def inputs(self) -> int:
        """Weights of a row."""
        return math.prod(self.dims) // self.out

    def rows(self, flat: np.ndarray) -> np.ndarray:
        """The rows (out, in) of a flat weight."""
        return flat.reshape(self.dims).transpose(self.order).reshape(self.out, self.inputs)

    def restored(self, chain: Chain, value: str, block: tuple[int, int] = (1, 1)) -> str:
        """The weight in its stored order, from rows cut in blocks: (out / R, in / C, R, C), in whatever shape."""
        rows, columns = block
        cut = (self.out // rows, self.inputs // columns, rows, columns)
        if self.order == (1, 0) and rows > 1:  # a matrix takes one transposition in place of two
            return chain.add("Transpose", [chain.shaped(value, cut)], "turned", perm=[1, 3, 0, 2])
        if rows > 1:
            value = chain.add("Transpose", [chain.shaped(value, cut)], "rows", perm=[0, 2, 1, 3])
        if self.order != tuple(range(len(self.order))):
            value = chain.shaped(value, tuple(self.dims[a] for a in self.order))
            value = chain.add("Transpose", [value], "turned", perm=[int(a) for a in np.argsort(self.order)])
        return value


@dataclass(frozen=True)
class Blocks:
    """A bit for each block (R, C) of a weight; of ``kept`` blocks values may be other than zero."""

    layout: Layout
    block: tuple[int, int]
    kept: int

    @classmethod
    def single(cls, count: int, kept: int) -> Blocks:
        """A bit for each weight."""
        return cls(Layout((count,), (0,), 1), (1, 1), kept)

    @property
    def size(self) -> int:
        """Weights of a block."""
        return self.block[0] * self.block[1]

    @property
    def count(self) -> int:
        """Blocks."""
        return math.prod(self.layout.dims) // self.size

    @property
    def columns(self) -> int:
        """Runs of blocks, the last one filled up."""
        return -(-self.count // _LANES)

    @property
    def stored(self) -> int:
        """Values that are stored, with the zeros before them."""
        return (self.kept + 1) * self.size

    @property
    def placing(self) -> tuple[np.dtype, tuple[int, ...]]:
        """Type and shape of the bits, packed."""
        return np.dtype(np.uint8), (_LANES // 8, self.columns)

    def nbytes(self, bits: float) -> int:
        """Bytes of a weight of so many bits a value, with its nodes."""
        nodes = _NODES + (_BLOCKS if self.size > 1 else 0)
        return self.columns * (_LANES // 8) + math.ceil(self.stored * bits / 8) + nodes

    def _cells(self, flat: np.ndarray) -> np.ndarray:
        """The weights (count, R · C), block by block."""
        if self.size == 1:
            return flat.reshape(-1, 1)
        (rows, columns), layout = self.block, self.layout
        cut = layout.rows(flat).reshape(layout.out // rows, rows, layout.inputs // columns, columns)
        return cut.transpose(0, 2, 1, 3).reshape(-1, self.size)

    def places(self, flat: np.ndarray) -> np.ndarray:
        """The bits of a flat weight, packed."""
        return mask_of((self._cells(flat) != 0).any(axis=1))

    def values(self, flat: np.ndarray, zero: float = 0) -> np.ndarray:
        """What is stored of a flat weight, (stored,), with ``zero`` added to it."""
        return values_of(self._cells(flat), self.kept, zero).ravel()

    def expanded(self, chain: Chain, places: str, values: str, length: int, zero: np.ndarray) -> str:  # noqa: ARG002
        """The weight in its stored order from the names of its bits and of its stored values, (length,)."""
        place = self._place(chain, places)
        if self.size == 1:
            return chain.cut(chain.add("GatherElements", [values, place], "e", axis=0), self.padded, self.count)
        table = chain.shaped(chain.cut(values, length, self.stored), (self.kept + 1, self.size))
        found = chain.add("Gather", [table, chain.cut(place, self.padded, self.count)], "e", axis=0)
        return self.layout.restored(chain, found, self.block)

    @property
    def padded(self) -> int:
        """Bits that are stored."""
        return self.columns * _LANES

    def _place(self, chain: Chain, mask: str) -> str:
        """Which of the stored blocks each of them is, (padded,), 0 for one of zeros."""
        ones = chain.apart(mask, (_LANES // 8, self.columns), 1, Tensor.INT32)
        first = chain.constant("axis", np.array(0, np.int64))
        within = chain.add("CumSum", [ones, first], "within")
        last = chain.constant("last", np.array(_LANES - 1, np.int64))
        counts = chain.add("Gather", [within, last], "counts", axis=0)
        before = chain.add("CumSum", [counts, first], "before", exclusive=1)
        place = chain.add("Mul", [chain.add("Add", [within, before], "upto"), ones], "place")
        return chain.shaped(chain.add("Transpose", [place], "across", perm=[1, 0]), (self.padded,))


@dataclass(frozen=True)
class Kept:
    """Values of a weight, flat, with their error; those that are zero are not stored.

    ``factors``: (out, rank) and (rank, in), whose product is added to them.
    """

    values: np.ndarray
    error: float | None = None
    factors: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class Beside:
    """A product of a rank that is added to a weight seen as rows in a layout; its factors are stored as float16."""

    layout: Layout
    rank: int

    @property
    def nbytes(self) -> int:
        """Bytes of the factors, with their nodes."""
        return 2 * self.rank * (self.layout.out + self.layout.inputs) + _FACTORS

    def stored(self, writing: Writing, codes: Codes) -> tuple[NewTensor, NewTensor]:
        """The factors of what is computed."""
        name, half = writing.weight.name, np.dtype(np.float16)
        return (
            codes.stored(
                writing.namer(f"{name}.a"), half, (self.layout.out, self.rank), lambda found: found.factors[0]
            ),
            codes.stored(writing.namer(f"{name}.b"), half, (self.rank, self.layout.inputs), lambda f: f.factors[1]),
        )

    def added(self, chain: Chain, value: str, factors: tuple[NewTensor, NewTensor]) -> None:
        """The product added to a value in the shape of the weight."""
        weight = chain.writing.weight
        a, b = (chain.add("Cast", [f.name], "factor", to=weight.tensor.data_type) for f in factors)
        product = self.layout.restored(chain, chain.add("MatMul", [a, b], "product"))
        chain.add("Add", [value, chain.shaped(product, weight.dims)], "sum")


def nbytes(count: int, kept: int, bits: float) -> int:
    """Bytes of a weight of which so many values stay, of so many bits each, anywhere, with its nodes."""
    return Blocks.single(count, kept).nbytes(bits)


def mask_of(flat: np.ndarray) -> np.ndarray:
    """The bits of values, packed: plane p of byte (i, column) stands for lane 16 p + i, uint8 (16, columns)."""
    columns = -(-flat.size // _LANES)
    bits = np.zeros(columns * _LANES, np.uint8)
    bits[: flat.size] = flat != 0
    planes = bits.reshape(columns, 8, _LANES // 8).transpose(1, 2, 0)
    packed = np.zeros(planes.shape[1:], np.uint8)
    for place, plane in enumerate(planes):
        packed |= plane << place
    return packed


def values_of(cells: np.ndarray, kept: int, zero: float = 0) -> np.ndarray:
    """What is stored of blocks (count, size) or of single values (count,): zeros, then the others, (kept + 1, ...).

    Raises:
        ValueError: more than ``kept`` are not zero.
    """
    stored = cells[(cells != 0).reshape(len(cells), -1).any(axis=1)]
    if len(stored) > kept:
        raise ValueError(f"{len(stored)} values are not zero, and {kept} were expected")
    found = np.full((kept + 1, *cells.shape[1:]), zero, cells.dtype)
    found[1 : len(stored) + 1] = stored + np.asarray(zero, cells.dtype)
    return found


def store_places(writing: Writing, codes: Codes, support: Support, view: Callable[[Any], np.ndarray]) -> NewTensor:
    """Where values stand of what is computed, seen through ``view`` as flat values."""
    dtype, dims = support.placing
    return codes.stored(
        writing.namer(f"{writing.weight.name}{PLACES}"), dtype, dims, lambda found: support.places(view(found))
    )


def codes(chain: Chain, support: Support, places: str, stored: str) -> str:
    """Codes of few or of eight bits as floats, in the shape of the groups, from the name of those that are stored."""
    grid, shape = chain.writing.grid, chain.writing.groups.shape
    if grid.bits == 8:
        value = support.expanded(chain, places, stored, support.stored, np.zeros(1, grid.dtype))
        return chain.shaped(chain.add("Cast", [value], "i", to=Tensor.FLOAT), shape)
    bits = grid.stored_bits
    packed = packed_length(support.stored, bits)
    values = chain.apart(stored, (packed,), bits, Tensor.FLOAT)
    length, zero = packed * (8 // bits), np.full(1, grid.offset, np.float32)
    return chain.shaped(support.expanded(chain, places, values, length, zero), shape)


def write(
    writing: Writing, kept: int | Support, data_type: int, solve: Callable[[], Kept], beside: Beside | None = None
) -> tuple[Edit, int, Codes]:
    """The edit that stores the values that stay of a weight as floats, the bytes of its tensors, and what is computed.

    Args:
        writing: the weight; its grid and groups do not count.
        kept: where values may be other than zero, or how many of them anywhere.
        data_type: in which values are stored, that of the weight or a shorter one.
        solve: the weight as it will be, in the order in which it is stored.
        beside: a product that is added to it, of which ``solve`` gives the factors; with values in the weight's type.
    """
    weight = writing.weight
    support = Blocks.single(weight.elements, kept) if isinstance(kept, int) else kept
    codes = Codes(solve, writing.values if beside is None else None)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(data_type))
    places = store_places(writing, codes, support, lambda found: found.values.astype(dtype).ravel())
    values = codes.stored(
        writing.namer(f"{weight.name}{VALUES}"),
        dtype,
        (support.stored,),
        lambda found: support.values(found.values.astype(dtype).ravel()),
    )
    chain = Chain(writing)
    found = support.expanded(chain, places.name, values.name, support.stored, np.zeros(1, dtype))
    found = chain.shaped(found, weight.dims)
    factors = () if beside is None else beside.stored(writing, codes)
    if beside is not None and factors:
        beside.added(chain, found, factors)
    if data_type != weight.tensor.data_type:
        chain.add("Cast", [chain.nodes[-1].output[0]], "w", to=weight.tensor.data_type)
    chain.nodes[-1].output[0] = weight.name  # so that no reader has to change
    tensors = (places, values, *factors, *chain.tensors)
    edit = Edit(weight.scope, tensors, tuple(chain.nodes), min_opset=MIN_OPSET, **edit_source(weight))  # type: ignore[arg-type]
    stored = sum(payload.stored_bytes(t.data_type, t.dims) for t in (places, values, *factors))
    return edit, stored, codes
