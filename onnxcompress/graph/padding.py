"""Padding by zero goes into the convolution behind it, which pads by itself.

    Conv(Pad(x, p), W) = Conv(x, W)  with p added to its pads

where the padding is constant, by zero, of spatial axes alone, and everything that reads it is a convolution with
explicit pads. It saves a copy of the value, and on integers a node that no runtime fuses. Wide pads stay: outputs at
an edge are computed one by one, and a convolution that pads 64 weights by 32 has hardly any others (1.5 times as slow
in ONNX Runtime; with pads of up to 2 it is a fifth faster).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import helper

from onnxcompress.graph.bodies import is_standard
from onnxcompress.graph.scopes import Scopes, attribute_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from onnxcompress.graph.model import Model
    from onnxcompress.graph.scopes import Scope, Use

Pads = tuple[list[int], list[int]]  # before and after, for each spatial axis
_WIDEST = 4  # zeros on one side
_INPUTS = 11  # opset from which on pads are an input


def fold_padding(model: Model) -> int:
    """Let convolutions pad by themselves; the Pad nodes are left for the removal of dead code. Returns how many."""
    scopes = Scopes(model.proto)
    folded = 0
    for scope in scopes.all:
        for node in scope.body.node:
            if is_standard(node, "Pad"):
                pads = _pads(model, scopes, scope, node)
                readers = _convolutions(scopes.uses(scope, node.output[0]), scope)
                if pads is not None and readers and all(_can_take(r, pads) for r in readers):
                    for reader in readers:
                        _take(reader, node.input[0], pads)
                    folded += 1
    return folded


def _convolutions(uses: Sequence[Use], scope: Scope) -> list[onnx.NodeProto]:
    """The readers, if all of them are convolutions of the same graph."""
    found = [use.node for use in uses if use.node is not None and use.scope is scope and use.index == 0]
    if len(found) < len(uses) or not all(is_standard(node, "Conv") for node in found):
        return []
    return found


def _pads(model: Model, scopes: Scopes, scope: Scope, node: onnx.NodeProto) -> Pads | None:
    """Zeros put around each spatial axis; None where something else is done."""
    if attribute_value(node, "mode", b"constant") != b"constant":
        return None
    if model.opset < _INPUTS:
        listed, value = attribute_value(node, "pads"), attribute_value(node, "value", 0.0)
        numbers = np.array(listed if listed is not None else [], np.int64)
        filled = np.array(value)
    else:
        given = _constant(model, scopes, scope, node.input[1]) if len(node.input) > 1 else None
        numbers = np.zeros(0, np.int64) if given is None else given
        named = len(node.input) > 2 and node.input[2]
        fill = _constant(model, scopes, scope, node.input[2]) if named else np.zeros(1)
        if fill is None or (len(node.input) > 3 and node.input[3]):
            return None
        filled = fill
    rank = numbers.size // 2
    wrong = (numbers < 0).any() or (numbers > _WIDEST).any()
    if rank < 3 or filled.any() or wrong or numbers[[0, 1, rank, rank + 1]].any():
        return None
    return [int(n) for n in numbers[2:rank]], [int(n) for n in numbers[rank + 2 :]]


def _constant(model: Model, scopes: Scopes, scope: Scope, name: str) -> np.ndarray | None:
    owner = scope.resolve(name)
    tensor = owner.initializers.get(name) if owner is not None else None
    if tensor is None or (owner is scopes.main and any(i.name == name for i in model.proto.graph.input)):
        return None
    return model.array(tensor)


def _can_take(reader: onnx.NodeProto, pads: Pads) -> bool:
    own = attribute_value(reader, "pads")
    explicit = attribute_value(reader, "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    return explicit and (own is None or len(own) == 2 * len(pads[0]))  # type: ignore[arg-type]


def _take(reader: onnx.NodeProto, x: str, pads: Pads) -> None:
    before, after = pads
    own: list[int] = list(attribute_value(reader, "pads") or [0] * (2 * len(before)))  # type: ignore[call-overload]
    wanted = [a + b for a, b in zip(own, [*before, *after], strict=True)]
    kept = [a for a in reader.attribute if a.name not in ("pads", "auto_pad")]
    attributes = [*kept, helper.make_attribute("pads", wanted)]
    copies = [type(a).FromString(a.SerializeToString()) for a in attributes]
    del reader.attribute[:]
    reader.attribute.extend(copies)
    reader.input[0] = x
