"""Several codes in a byte, such that operators of any opset can take them apart.

Codes are packed in planes: of ``n`` codes with ``p`` to a byte, byte ``i`` holds code ``i`` in its low bits, code
``i + n/p`` above it, and so on. Taking apart is then floor division, and one Concat puts the planes in order:

    t₀ = byte,  tᵢ₊₁ = ⌊tᵢ / 2^b⌋,  planeᵢ = tᵢ − 2^b · tᵢ₊₁

All values are integers below 256, exact in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.forms.base import node, small

if TYPE_CHECKING:
    import onnx

    from onnxcompress.graph.edit import Namer, NewTensor


def packed_length(count: int, bits: int) -> int:
    """Bytes for that many codes."""
    planes = 8 // bits
    return -(-count // planes)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack unsigned codes along their last axis; the axis is filled up with zeros to whole bytes."""
    planes = 8 // bits
    length = packed_length(codes.shape[-1], bits)
    padding = [(0, 0)] * (codes.ndim - 1) + [(0, length * planes - codes.shape[-1])]
    split = np.pad(codes.astype(np.uint8), padding).reshape(*codes.shape[:-1], planes, length)
    packed = np.zeros((*codes.shape[:-1], length), np.uint8)
    for plane in range(planes):
        packed |= split[..., plane, :] << (bits * plane)
    return packed


def unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The inverse of `pack`."""
    planes = [(packed >> (bits * p)) & ((1 << bits) - 1) for p in range(8 // bits)]
    return np.concatenate(planes, -1)[..., :count]


def unpacking_nodes(
    value: str, bits: int, axis: int, stem: str, namer: Namer
) -> tuple[list[onnx.NodeProto], list[NewTensor], str]:
    """Nodes that turn packed bytes, already cast to float32, into codes along ``axis``.

    Returns:
        The nodes, the constants that they need, and the name of the unpacked value (whole bytes: it may be
        longer than the codes were).
    """
    base = 1 << bits
    inverse, factor = namer(f"{stem}_plane_inverse"), namer(f"{stem}_plane_base")
    tensors = [small(inverse, np.array(1 / base, np.float32)), small(factor, np.array(base, np.float32))]
    nodes: list[onnx.NodeProto] = []
    planes: list[str] = []
    for _ in range(8 // bits - 1):
        shifted, above, whole, plane = (namer(f"{stem}_{w}") for w in ("shifted", "above", "whole", "plane"))
        nodes += [
            node("Mul", [value, inverse], shifted),
            node("Floor", [shifted], above),
            node("Mul", [above, factor], whole),
            node("Sub", [value, whole], plane),
        ]
        planes.append(plane)
        value = above
    planes.append(value)
    joined = namer(f"{stem}_codes")
    nodes.append(node("Concat", planes, joined, axis=axis))
    return nodes, tensors, joined
