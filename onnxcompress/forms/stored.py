"""How a quantized weight is stored: once, as codes, scales and zero points, whatever reads it.

Every form reads these same tensors. What a runtime operator wants otherwise (another layout, another packing) is
made from them by constant nodes, which are folded when the model is loaded; so a weight that an embedding and an
output layer share stays one tensor in the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.forms import residual, sparse
from onnxcompress.forms.packing import pack, packed_length
from onnxcompress.graph import payload
from onnxcompress.solvers.grid import Quantized

if TYPE_CHECKING:
    from onnxcompress.forms.base import Codes, Writing
    from onnxcompress.forms.supports import Support
    from onnxcompress.graph.edit import NewTensor


@dataclass(frozen=True)
class Stored:
    """The tensors of a quantized weight. ``by_row``: codes are packed within rows, else over the whole tensor.

    ``factors``: those of a residual; ``places``: where codes stand, if only some are stored.
    """

    codes: NewTensor
    scale: NewTensor
    zero_point: NewTensor | None
    by_row: bool
    factors: tuple[NewTensor, ...] = ()
    places: NewTensor | None = None

    @property
    def tensors(self) -> tuple[NewTensor, ...]:
        """All of them."""
        return tuple(t for t in (self.codes, self.scale, self.zero_point, *self.factors, self.places) if t is not None)

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(payload.stored_bytes(t.data_type, t.dims) for t in self.tensors)


def store(writing: Writing, codes: Codes, scale_dtype: np.dtype, *, by_row: bool) -> Stored:
    """The tensors that hold codes, scales and zero points."""
    grid, groups, stem, namer = writing.grid, writing.groups, writing.weight.name, writing.namer
    name = namer(f"{stem}.q")
    where = None
    if writing.sparse is not None:
        where = sparse.store_places(writing, codes, writing.sparse, lambda q: q.codes.ravel())
        stored = _kept(writing, codes, name, writing.sparse)
    elif grid.bits == 8:
        stored = codes.stored(name, grid.dtype, groups.shape, lambda q: q.codes)
    else:
        rows, last = (groups.shape[:-1], groups.shape[-1]) if by_row else ((), math.prod(groups.shape))
        bits = grid.stored_bits
        dims = (*rows, packed_length(last, bits))
        offset = np.int16(grid.offset)
        stored = codes.stored(
            name, np.dtype(np.uint8), dims, lambda q: pack((q.codes + offset).reshape(*rows, last), bits)
        )
    scale = codes.stored(namer(f"{stem}.s"), scale_dtype, groups.scale_shape, lambda q: q.scale)
    zero = None
    if not grid.symmetric:
        kind = scale_dtype if grid.bits == 1 else np.dtype(np.uint8)
        zero = codes.stored(namer(f"{stem}.z"), kind, groups.scale_shape, Quantized.zeros)
    return Stored(stored, scale, zero, by_row, residual.store(writing), where)


def _kept(writing: Writing, codes: Codes, name: str, support: Support) -> NewTensor:
    """The codes that are stored of a weight with zeros, packed where they have few bits."""
    grid, count = writing.grid, support.stored
    if grid.bits == 8:
        return codes.stored(name, grid.dtype, (count,), lambda q: support.values(q.codes.ravel()))
    dims, offset = (packed_length(count, grid.stored_bits),), grid.offset
    return codes.stored(
        name, np.dtype(np.uint8), dims,
        lambda q: pack(support.values(q.codes.ravel().astype(np.int16), offset), grid.stored_bits),
    )  # fmt: skip
