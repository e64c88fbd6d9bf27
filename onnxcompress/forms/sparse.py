"""A weight with zeros: one bit for each weight tells whether it is stored, and what is stored follows in order.

Constant nodes, which a runtime folds once when it loads, put the weight together again. It is seen as columns of 128
consecutive weights. With b the bits, (128, columns), and v the values that are stored after a leading zero,

    place = b · (cumsum(b, along a column) + values in the columns before),      W = v[place].

Sums run along columns, for all of them at once: about 10 ms for a million weights. ONNX Runtime leaves the dense tensor
alone, so the model runs at the original's speed and takes the original's memory. Needs opset 11 for CumSum and
GatherElements; bits are taken apart by BitwiseAnd from opset 18 on, before by floor divisions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import helper

from onnxcompress.forms.base import Codes, Writing, edit_source
from onnxcompress.forms.decoding import Chain
from onnxcompress.graph.edit import Edit
from onnxcompress.graph.model import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from onnxcompress.graph.edit import NewTensor

NAME = "sparse"
MIN_OPSET = 11
_LANES = 128  # weights of a column
_BITWISE = 18  # opset of BitwiseAnd
_NODES, _OLD_NODES = 1000, 2500  # bytes of the nodes and small constants, roughly; before opset 18


@dataclass(frozen=True)
class Sparse:
    """The bits of a weight of ``count`` values."""

    mask: NewTensor
    count: int

    @property
    def columns(self) -> int:
        """Runs of weights, the last one filled up."""
        return -(-self.count // _LANES)


@dataclass(frozen=True)
class Kept:
    """Values of a weight, flat, with their error; those that are zero are not stored."""

    values: np.ndarray
    error: float | None = None


def nbytes(count: int, kept: int, bits: float, opset: int = _BITWISE) -> int:
    """Bytes of a weight of which so many values stay, of so many bits each, with its nodes."""
    nodes = _NODES if opset >= _BITWISE else _OLD_NODES
    return -(-count // _LANES) * (_LANES // 8) + math.ceil((kept + 1) * bits / 8) + nodes


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


def values_of(flat: np.ndarray, kept: int, zero: float = 0) -> np.ndarray:
    """What is stored: a zero, then the other values in order, filled up with zeros to ``kept`` of them.

    Raises:
        ValueError: more than ``kept`` are not zero.
    """
    stored = flat[flat != 0]
    if stored.size > kept:
        raise ValueError(f"{stored.size} values are not zero, and {kept} were expected")
    found = np.full(kept + 1, zero, flat.dtype)
    found[1 : stored.size + 1] = stored + np.asarray(zero, flat.dtype)
    return found


def store_mask(writing: Writing, codes: Codes, view: Callable[[Any], np.ndarray]) -> Sparse:
    """The bits of what is computed, seen through ``view`` as flat values."""
    count = math.prod(writing.dims)
    dims = (_LANES // 8, -(-count // _LANES))
    mask = codes.stored(
        writing.namer(f"{writing.weight.name}.m"), np.dtype(np.uint8), dims, lambda found: mask_of(view(found))
    )
    return Sparse(mask, count)


def expanded(chain: Chain, sparse: Sparse, values: str) -> str:
    """The flat weight, (count,), from the name of its stored values (at least kept + 1,)."""
    rows = _LANES // 8
    if chain.writing.model.opset >= _BITWISE:
        planes = chain.shaped(sparse.mask.name, (1, rows, sparse.columns))
        powers = chain.constant("powers", (1 << np.arange(8)).astype(np.uint8).reshape(8, 1, 1))
        bits = chain.add("Cast", [chain.add("BitwiseAnd", [planes, powers], "bits")], "set", to=Tensor.BOOL)
        bits = chain.shaped(bits, (_LANES, sparse.columns))
    else:
        bits = chain.planes(chain.add("Cast", [sparse.mask.name], "mf", to=Tensor.FLOAT), 1, 0)
    ones = chain.add("Cast", [bits], "ones", to=Tensor.INT32)
    first = chain.constant("axis", np.array(0, np.int64))
    within = chain.add("CumSum", [ones, first], "within")
    last = chain.constant("last", np.array([_LANES - 1], np.int64))
    counts = chain.shaped(chain.add("Gather", [within, last], "counts", axis=0), (sparse.columns,))
    before = chain.add("CumSum", [counts, first], "before", exclusive=1)
    place = chain.add("Mul", [chain.add("Add", [within, before], "upto"), ones], "place")
    place = chain.add("Transpose", [place], "turned", perm=[1, 0])
    found = chain.add("GatherElements", [values, chain.shaped(place, (sparse.columns * _LANES,))], "e", axis=0)
    if sparse.count % _LANES:
        bounds = [
            chain.constant(w, np.array([v], np.int64)) for w, v in (("from", 0), ("to", sparse.count), ("along", 0))
        ]
        found = chain.add("Slice", [found, *bounds], "cut")
    return found


def codes(chain: Chain, sparse: Sparse, stored: str) -> str:
    """Codes of few or of eight bits as floats, in the shape of the groups, from the name of those that are stored."""
    grid, shape = chain.writing.grid, chain.writing.groups.shape
    if grid.bits == 8:
        value = expanded(chain, sparse, stored)
        return chain.shaped(chain.add("Cast", [value], "i", to=Tensor.FLOAT), shape)
    values = chain.planes(chain.add("Cast", [stored], "i", to=Tensor.FLOAT), grid.stored_bits, 0)
    return chain.shaped(expanded(chain, sparse, values), shape)


def write(writing: Writing, kept: int, data_type: int, solve: Callable[[], Kept]) -> tuple[Edit, int, Codes]:
    """The edit that stores the values that stay of a weight as floats, the bytes of its tensors, and what is computed.

    Args:
        writing: the weight; its grid and groups do not count.
        kept: values that may be other than zero.
        data_type: in which values are stored, that of the weight or a shorter one.
        solve: the weight as it will be, in the order in which it is stored.
    """
    weight = writing.weight
    codes = Codes(solve)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(data_type))
    sparse = store_mask(writing, codes, lambda found: found.values.astype(dtype).ravel())
    values = codes.stored(
        writing.namer(f"{weight.name}.v"),
        dtype,
        (kept + 1,),
        lambda found: values_of(found.values.astype(dtype).ravel(), kept),
    )
    chain = Chain(writing)
    chain.shaped(expanded(chain, sparse, values.name), weight.dims)
    if data_type != weight.tensor.data_type:
        chain.add("Cast", [chain.nodes[-1].output[0]], "w", to=weight.tensor.data_type)
    chain.nodes[-1].output[0] = weight.name  # so that no reader has to change
    tensors = (sparse.mask, values, *chain.tensors)
    edit = Edit(weight.scope, tensors, tuple(chain.nodes), min_opset=MIN_OPSET, **edit_source(weight))  # type: ignore[arg-type]
    stored = sparse.mask.dims[0] * sparse.mask.dims[1] + (kept + 1) * dtype.itemsize
    return edit, stored, codes
