"""What each verb would leave of a model, from the shapes of its weights alone: estimates, nothing is solved or written.

quantize   bits · values, and a scale for each output channel (8 bits) or for each 32 values (4 bits)
prune      one bit for each value, and half of the values
factorize  three quarters of the values of matrices and kernels
simplify   what nobody reads goes
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from onnxcompress.graph.layers import LAYER_INPUTS
from onnxcompress.inspection.facts import Prospect, StoredFacts

if TYPE_CHECKING:
    from collections.abc import Iterator

FLOATS = frozenset({"float32", "float16", "bfloat16", "float64"})
_WORTH = 0.75  # part of its bytes below which a weight has to shrink
_NODE_BYTES = 200  # of what decodes a weight, roughly
_BLOCK = 32
Left = Callable[[StoredFacts], float]  # bytes of a weight afterwards


def prospects(tensors: Sequence[StoredFacts], size_bytes: int, *, folded: int, integers: bool) -> tuple[Prospect, ...]:
    """One estimate a verb.

    Args:
        tensors: everything that is stored.
        size_bytes: of the file, external data included.
        folded: nodes that compute from stored tensors alone.
        integers: whether the model is quantized already.
    """
    return tuple(_all(tensors, size_bytes, folded, integers))


def _all(tensors: Sequence[StoredFacts], size: int, folded: int, integers: bool) -> Iterator[Prospect]:
    unread = [t for t in tensors if t.operator == "unread"]
    yield _prospect("simplify", size - sum(t.size_bytes for t in unread), size, 0, _simplified(folded, len(unread)))
    weights = [t for t in tensors if t.layers and t.dtype in FLOATS and len(t.shape) > 1 and t.values]
    done = "it is quantized already; --requantize takes what is still float" if integers else ""
    yield _shrunk("quantize", weights, size, _eight_bits, _WORTH, done)
    yield _shrunk("quantize --bits 4", weights, size, _four_bits, _WORTH, done)
    yield _shrunk("prune --sparsity 0.5", weights, size, _half, 1.0, "")
    matrices = [t for t in weights if _divisible(t)]
    yield _shrunk("factorize --params 0.75", matrices, size, lambda t: 0.75 * t.size_bytes, 1.0, "")


def _simplified(folded: int, unread: int) -> str:
    parts = [f"{_number(folded, 'node')} computed from constants alone"] if folded else []
    parts += [f"{_number(unread, 'stored tensor')} read by nothing"] if unread else []
    return ", ".join(parts) or "nothing is unread or constant; fusions and duplicates were not looked for"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _shrunk(verb: str, weights: Sequence[StoredFacts], size: int, left: Left, worth: float, refusal: str) -> Prospect:
    gains = [t.size_bytes - left(t) for t in weights if left(t) < worth * t.size_bytes]
    if refusal or not gains:
        return Prospect(verb, None, None, 0, refusal or "no float weight of a layer is large enough")
    return _prospect(verb, size - round(sum(gains)), size, len(gains), "")


def _prospect(verb: str, left: int, size: int, layers: int, remark: str) -> Prospect:
    left = max(left, 0)
    return Prospect(verb, left, left / size if size else None, layers, remark)


def _eight_bits(tensor: StoredFacts) -> float:
    return tensor.values + 4 * _channels(tensor) + _NODE_BYTES


def _four_bits(tensor: StoredFacts) -> float:
    return tensor.values / 2 + 2 * math.ceil(tensor.values / _BLOCK) + _NODE_BYTES


def _half(tensor: StoredFacts) -> float:
    return tensor.size_bytes / 2 + tensor.values / 8 + _NODE_BYTES


def _channels(tensor: StoredFacts) -> int:
    """Channels with a scale of their own."""
    if tensor.operator.startswith(("Conv", "Gather")):
        return tensor.shape[1 if tensor.operator == "ConvTranspose" else 0]
    return tensor.shape[-1]


def _divisible(tensor: StoredFacts) -> bool:
    """A matrix, or kernels over several channels, of an operator that can be a product."""
    ops = set(tensor.operator.split("+"))
    return bool(ops & (set(LAYER_INPUTS) - {"LSTM", "GRU", "RNN", "Attention"})) and min(tensor.shape[:2]) >= 16
