"""Weights that are decoded by constant nodes: what they come to, and where in the file each of their codes lies.

The nodes are run, never interpreted, so that any way of storing codes is understood that obeys

    ŵᵢ = oᵢ + sᵢ · codeᵢ,   codeᵢ a run of bits of one byte of the stored tensor.

o is what all zero bytes decode to; each bit set alone in all bytes tells which bits an element hangs on, and its s; and
bytes that are set where a bit of their own number is set tell, bit by bit, in which byte the code of each element is.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxcompress.errors import RuntimeFailure
from onnxcompress.runtime.session import Session
from onnxcompress.training.constraints import Codes

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = np.ndarray
_INTEGERS = (TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT4, TensorProto.INT4)
_TOLERANCE = 2e-3  # of a step: what sums of float32 may be off


@dataclass(frozen=True, eq=False)
class Decoder:
    """Constant nodes, in order, from stored tensors (with their data) to a float32 value.

    ``opsets`` are the model's.
    """

    nodes: Sequence[onnx.NodeProto]
    tensors: Sequence[TensorProto]
    value: str
    opsets: Sequence[onnx.OperatorSetIdProto]
    ir_version: int

    def decoded(self, name: str | None = None, stored: Array | None = None) -> Array:
        """The value; with other bytes in a tensor.

        Raises:
            RuntimeFailure: the nodes do not run.
        """
        tensors = []
        for tensor in self.tensors:
            if tensor.name == name and stored is not None:
                other = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
                other.raw_data = stored.tobytes()
                tensor = other
            tensors.append(tensor)
        output = helper.make_tensor_value_info(self.value, TensorProto.FLOAT, None)
        graph = helper.make_graph(list(self.nodes), "weight", [], [output], tensors)
        proto = helper.make_model(graph, opset_imports=list(self.opsets), ir_version=self.ir_version)
        found = Session(proto.SerializeToString(), threads=1, level="none").run({})[self.value]
        return np.asarray(found, np.float32)

    def candidates(self) -> list[TensorProto]:
        """Stored tensors that may hold the codes, the largest first."""
        whole = [t for t in self.tensors if t.data_type in _INTEGERS and t.HasField("raw_data")]
        return sorted(whole, key=lambda t: -len(t.raw_data))


@dataclass(frozen=True, eq=False)
class Coded:
    """A value with its codes understood: the grid, and where each code lies (byte, lowest bit) in a stored tensor."""

    decoder: Decoder
    tensor: TensorProto
    constraint: Codes
    place: Array
    lowest: Array
    bits: int

    def stored(self, shadow: Array) -> Array:
        """The bytes of the tensor for the projection of a shadow."""
        raw = np.frombuffer(self.tensor.raw_data, np.uint8).copy()
        codes, mask = self.constraint.coded(shadow), (1 << self.bits) - 1
        for low in np.unique(self.lowest[self.constraint.free]):
            here = self.constraint.free & (self.lowest == low)
            place = self.place[here]
            raw[place] &= np.uint8(~(mask << int(low)) & 0xFF)
            raw[place] |= ((codes[here].astype(np.int64) & mask) << int(low)).astype(np.uint8)
        return raw


def understood(decoder: Decoder) -> Coded | None:
    """The codes of a value; None where no stored tensor is of that kind.

    Raises:
        RuntimeFailure: the nodes do not run.
    """
    value = decoder.decoded()
    for tensor in decoder.candidates():
        with contextlib.suppress(RuntimeFailure):  # other bytes in what holds no codes may make no sense
            found = _codes(decoder, tensor, value)
            if found is not None:
                return found
    return None


def _codes(decoder: Decoder, tensor: TensorProto, value: Array) -> Coded | None:
    raw = np.frombuffer(tensor.raw_data, np.uint8)
    origin = decoder.decoded(tensor.name, np.zeros_like(raw))
    if origin.shape != value.shape:
        return None
    gains = np.stack([decoder.decoded(tensor.name, np.full_like(raw, 1 << bit)) - origin for bit in range(8)])
    hangs = gains != 0
    live = hangs.any(axis=0)
    widths = np.unique(hangs.sum(axis=0)[live])
    if len(widths) != 1 or int(widths[0]) not in (1, 2, 4, 8):
        return None
    bits, lowest = int(widths[0]), hangs.argmax(axis=0)
    if np.any(lowest[live] % bits):
        return None
    run = np.stack([np.take_along_axis(gains, (lowest - lowest % bits + k)[None], 0)[0] for k in range(bits)])
    signed = bits > 1 and bool(np.any(run[-1][live] * run[0][live] < 0))
    factors = [1 << k for k in range(bits - 1)] + [-(1 << (bits - 1)) if signed else 1 << (bits - 1)]
    step = np.where(live, run[-1] / np.float32(factors[-1]), np.float32(0))  # of the highest bit: least rounded
    if any(
        np.any(np.abs(run[k] - f * step)[live] > _slack(step, origin)[live] * abs(f)) for k, f in enumerate(factors)
    ):
        return None  # no even grid: a codebook
    place = _places(decoder, tensor.name, raw, origin, step, bits)
    byte = raw[np.clip(place, 0, len(raw) - 1)].astype(np.int64)
    codes = (byte >> lowest) & ((1 << bits) - 1)
    codes = np.where(signed & (codes >= 1 << (bits - 1)), codes - (1 << bits), codes).astype(np.int16)
    codes = np.where(live, codes, 0).astype(np.int16)
    free = live & _alone(place, lowest, live)
    if not free.any() or np.any(np.abs(origin + step * codes - value) > _slack(step, origin)):
        return None
    kept = codes[free]
    constraint = Codes(origin, step, codes, free, int(kept.min()), int(kept.max()))
    return Coded(decoder, tensor, constraint, place, lowest, bits)


def _places(decoder: Decoder, name: str, raw: Array, origin: Array, step: Array, bits: int) -> Array:
    """The number of the byte that each element hangs on."""
    ones = np.uint8(sum(1 << low for low in range(0, 8, bits)))
    numbers = np.arange(len(raw))
    place = np.zeros(origin.shape, np.int64)
    for bit in range(max(len(raw) - 1, 1).bit_length()):
        found = decoder.decoded(name, np.where(numbers >> bit & 1, ones, np.uint8(0)))
        place |= (np.abs(found - origin) > np.abs(step) / 2).astype(np.int64) << bit
    return place


def _alone(place: Array, lowest: Array, live: Array) -> Array:
    """Elements whose code is that of no other one; the zeros of a sparse weight share one."""
    address = np.where(live, place * 8 + lowest, -1)
    _, first, counts = np.unique(address, return_inverse=True, return_counts=True)
    alone: Array = (counts == 1)[first.reshape(address.shape)]
    return alone


def _slack(step: Array, origin: Array) -> Array:
    return np.asarray(np.abs(step) * np.float32(_TOLERANCE) + np.abs(origin) * np.float32(1e-5) + np.float32(1e-12))
