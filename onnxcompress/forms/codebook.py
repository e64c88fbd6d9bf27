"""The codebook form: a weight as places in a table, which decodes itself when the model is loaded.

    W = reshape(T[i]),   or   W = s · reshape(T[i])

T has a row for each entry, of one weight or of a few neighbouring ones; the indices i take few bits each. Gather is
folded over constants like the arithmetic of `decode`: in memory and at run time there is the tensor that was there
before. Tables are shared by all weights of a tensor, and a scale for each group may stand beside them.

Indices of 3, 5, 6 or 7 bits do not fill bytes, so their bits are stored in parts of 4, 2 and 1 bits, each packed for
itself: i = Σ partₖ · 2^shiftₖ. The last indices, fewer than eight, are stored as they are, so nothing has to be cut.

After Y. Gong et al., "Compressing Deep Convolutional Networks using Vector Quantization", 2014,
https://arxiv.org/abs/1412.6115, and S. Han et al., "Deep Compression", ICLR 2016, https://arxiv.org/abs/1510.00149.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.forms.base import Codebook, Codes, Coding, Writing, not_finite
from onnxcompress.forms.decode import finished
from onnxcompress.forms.decoding import Chain
from onnxcompress.forms.packing import pack
from onnxcompress.graph import payload
from onnxcompress.graph.model import Tensor

if TYPE_CHECKING:
    import onnx

    from onnxcompress.graph.edit import NewTensor

_TAIL = 8  # indices that fill whole bytes in every part


@dataclass(frozen=True)
class StoredCodebook:
    """The tensors of a codebook: parts of the indices with their bits, those that are left over, table and scales."""

    parts: tuple[tuple[int, NewTensor], ...]
    tail: NewTensor | None
    table: NewTensor
    scale: NewTensor | None

    @property
    def tensors(self) -> tuple[NewTensor, ...]:
        """All of them."""
        parts = (part for _, part in self.parts)
        return tuple(t for t in (*parts, self.tail, self.table, self.scale) if t is not None)

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(payload.stored_bytes(t.data_type, t.dims) for t in self.tensors)


def widths(bits: int) -> tuple[int, ...]:
    """The parts into which that many bits are cut, largest first: powers of two, which fill bytes."""
    return tuple(width for width in (8, 4, 2, 1) if bits & width)


def solved(writing: Writing, coding: Coding) -> Codebook:
    """The codebook of a writing.

    Raises:
        ModelError: the weight holds NaN or infinity.
        ValueError: the solution is not what the coding says.
    """
    values = writing.values()
    if not np.isfinite(np.asarray(values, np.float32)).all():
        raise not_finite(writing.weight)
    found = coding.solve(values.transpose(coding.order))
    wanted = (coding.entries, coding.length)
    if found.table.shape != wanted or found.indices.max(initial=0) >= coding.entries:
        raise ValueError(f"the codebook of {writing.weight.name} does not have {wanted[0]} entries of {wanted[1]}")
    return found


def store(writing: Writing, coding: Coding, codes: Codes, dtype: np.dtype) -> StoredCodebook:
    """The tensors that hold a codebook; ``dtype`` is that of the table and of scales.

    Raises:
        ValueError: the entries do not have so few bits, or vectors do not fill the weight.
    """
    count, odd = divmod(math.prod(writing.dims), coding.length)
    if odd or not 1 <= coding.bits <= 8 or coding.entries > 1 << coding.bits:
        raise ValueError(f"the codebook of {writing.weight.name} does not fit it")
    stem, namer, byte = writing.weight.name, writing.namer, np.dtype(np.uint8)
    whole = count - count % _TAIL
    parts, shift = [], coding.bits
    for width in widths(coding.bits):
        shift -= width

        def packed(found: Codebook, width: int = width, shift: int = shift) -> np.ndarray:
            part = (found.indices.reshape(-1)[:whole] >> shift) & ((1 << width) - 1)
            return pack(part, width)

        parts.append((width, codes.stored(namer(f"{stem}.i"), byte, (whole * width // 8,), packed)))
    tail = None
    if whole < count:
        left = (count - whole,)
        tail = codes.stored(namer(f"{stem}.l"), byte, left, lambda f: f.indices.reshape(-1)[whole:])
    table = codes.stored(namer(f"{stem}.t"), dtype, (coding.entries, coding.length), lambda f: f.table)
    scale = None
    if coding.groups is not None:
        scale = codes.stored(namer(f"{stem}.s"), dtype, coding.groups.scale_shape, lambda f: f.scale)
    return StoredCodebook(tuple(parts), tail, table, scale)


def decoding(writing: Writing, coding: Coding, stored: StoredCodebook) -> tuple[list[onnx.NodeProto], list[NewTensor]]:
    """The nodes that look the weight up under its old name, and the constants that they need."""
    chain = Chain(writing)
    places = chain.add("Cast", [_indices(chain, stored)], "places", to=Tensor.INT32)
    value = chain.add("Gather", [_float(chain, stored.table), places], "looked_up", axis=0)
    if stored.scale is not None and coding.groups is not None:
        value = chain.shaped(value, coding.groups.shape)
        value = chain.add("Mul", [value, _float(chain, stored.scale)], "w")
    value = chain.shaped(value, tuple(writing.dims[axis] for axis in coding.order))
    if coding.order != tuple(range(len(coding.order))):
        value = chain.add("Transpose", [value], "turned", perm=[int(a) for a in np.argsort(coding.order)])
    finished(chain, value)
    return chain.nodes, chain.tensors


def _float(chain: Chain, tensor: NewTensor) -> str:
    if tensor.data_type == Tensor.FLOAT:
        return tensor.name
    return chain.add("Cast", [tensor.name], "f", to=Tensor.FLOAT)


def _indices(chain: Chain, stored: StoredCodebook) -> str:
    """The indices as floats, put together from their parts: Horner's rule over the widths."""
    total = ""
    for width, part in stored.parts:
        if width < 8:
            value = chain.apart(part.name, tuple(part.dims), width, Tensor.FLOAT)
        else:
            value = chain.add("Cast", [part.name], "part", to=Tensor.FLOAT)
        if total:
            base = chain.constant("base", np.array(1 << width, np.float32))
            value = chain.add("Add", [chain.add("Mul", [total, base], "above"), value], "index")
        total = value
    if stored.tail is not None:
        left = chain.add("Cast", [stored.tail.name], "left", to=Tensor.FLOAT)
        total = chain.add("Concat", [total, left], "all", axis=0)
    return total
