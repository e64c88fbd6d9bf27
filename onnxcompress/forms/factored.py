"""The factored forms: a layer in two or three smaller ones, each an ordinary layer that any runtime runs fast.

    low-rank   Y = (X Rᵀ) Lᵀ + b          for Y = X Wᵀ + b,  W ≈ L R
    low-rank   Y = L[i] R                  for rows i of a table W
    output     1×1 ∘ k×k                   fewer outputs, then all of them
    spatial    1×k ∘ k×1                   along columns, then along rows
    tucker     1×1 ∘ k×k ∘ 1×1             to fewer inputs, to fewer outputs, to all of them

Strides, padding and dilation go to the parts that have the axis; a bias goes to the last one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from onnxcompress.graph.edit import NewTensor, Replacement
from onnxcompress.graph.scopes import attribute_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxcompress.forms.base import Codes
    from onnxcompress.forms.product import Product
    from onnxcompress.graph.edit import Namer
    from onnxcompress.graph.layers import Leaf

LOW_RANK, OUTPUT, SPATIAL, TUCKER = "low-rank", "output", "spatial", "tucker"
FACTORED = frozenset({LOW_RANK, OUTPUT, SPATIAL, TUCKER})
_FLOAT = np.dtype(np.float32)


@dataclass(frozen=True, eq=False)
class Parts:
    """The factors of a weight, in the order in which they are applied, what the bias is to get, and the error.

    Of a matrix the right factor (rank, in) and the left one (out, rank); of a kernel kernels (O, I, kh, kw). ``shift``
    (out,): (W − Ŵ) E[x], or None.
    """

    factors: tuple[np.ndarray, ...]
    error: float
    shift: np.ndarray | None = None


@dataclass(eq=False)
class Stored:
    """The factors as stored tensors, each in the orientation in which it is read first.

    ``shapes`` are those of the parts; ``axes`` is the number of a convolution's spatial axes.
    """

    codes: Codes
    namer: Namer
    stem: str
    shapes: tuple[tuple[int, ...], ...]
    axes: int = 0
    tensors: list[NewTensor] = field(default_factory=list)
    prelude: list[onnx.NodeProto] = field(default_factory=list)
    _names: dict[tuple[int, bool], str] = field(default_factory=dict)

    def matrix(self, which: int, *, turned: bool) -> str:
        """The name of a factor of a matrix, ``turned``: of its transpose."""
        known = self._names.get((which, turned))
        if known is not None:
            return known
        other = self._names.get((which, not turned))
        name = self.namer(f"{self.stem}.f{which}")
        if other is None:
            dims = self.shapes[which][::-1] if turned else self.shapes[which]

            def view(found: Parts) -> np.ndarray:
                return found.factors[which].T if turned else found.factors[which]

            self.tensors.append(self.codes.stored(name, _FLOAT, dims, view))
        else:
            self.prelude.append(helper.make_node("Transpose", [other], [name], perm=[1, 0]))
        self._names[which, turned] = name
        return name

    def kernel(self, which: int, dims: tuple[int, ...]) -> str:
        """The name of a factor of a kernel, stored with these dimensions."""
        known = self._names.get((which, False))
        if known is None:
            known = self._names[which, False] = self.namer(f"{self.stem}.f{which}")
            self.tensors.append(self.codes.stored(known, _FLOAT, dims, lambda found: found.factors[which]))
        return known

    @property
    def nbytes(self) -> int:
        """Bytes of all factors."""
        return sum(4 * math.prod(t.dims) for t in self.tensors)


def product(stored: Stored, leaf: Leaf, found: Product, bias: str | None) -> Replacement:
    """The nodes in place of a matrix product."""
    node = found.node
    inner = stored.namer(f"{node.output[0]}.inner")
    right, left = stored.matrix(0, turned=True), stored.matrix(1, turned=True)
    first = helper.make_node("MatMul", [node.input[0], right], [inner], name=inner)
    if bias is not None:
        last = helper.make_node("Gemm", [inner, left, bias], [node.output[0]], name=node.name)
    else:
        last = helper.make_node("MatMul", [inner, left], [node.output[0]], name=node.name)
    return Replacement(leaf.use.scope, node, (first, last))


def lookup(stored: Stored, leaf: Leaf) -> Replacement:
    """The nodes in place of a Gather of rows."""
    node = leaf.use.node
    if node is None:
        raise ValueError("an output looks nothing up")
    inner = stored.namer(f"{node.output[0]}.inner")
    first = helper.make_node("Gather", [stored.matrix(1, turned=False), node.input[1]], [inner], name=inner, axis=0)
    last = helper.make_node("MatMul", [inner, stored.matrix(0, turned=False)], [node.output[0]], name=node.name)
    return Replacement(leaf.use.scope, node, (first, last))


def convolution(stored: Stored, leaf: Leaf, kind: str, bias: str | None) -> Replacement:
    """The nodes in place of a convolution of one group."""
    node = leaf.use.node
    if node is None:
        raise ValueError("an output is no convolution")
    last = len(stored.shapes) - 1
    value, nodes = node.input[0], []
    for which, shape in enumerate(stored.shapes):
        attributes = _attributes(node, shape[2:], which, kind, stored.axes)
        dims = (*shape[:2], *attributes["kernel_shape"])
        inputs = [value, stored.kernel(which, dims)]
        if which == last and bias is not None:
            inputs.append(bias)
        value = node.output[0] if which == last else stored.namer(f"{node.output[0]}.inner{which}")
        nodes.append(
            helper.make_node("Conv", inputs, [value], name=node.name if which == last else value, **attributes)
        )
    return Replacement(leaf.use.scope, node, tuple(nodes))


def spatial_attributes(node: onnx.NodeProto, rank: int) -> tuple[list[int], list[int], list[int]] | None:
    """Strides, pads and dilations of a convolution over so many axes; None where padding is automatic."""
    if attribute_value(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return None
    strides, pads, dilations = (
        [int(n) for n in attribute_value(node, name, [default] * length)]  # type: ignore[attr-defined]
        for name, default, length in (("strides", 1, rank), ("pads", 0, 2 * rank), ("dilations", 1, rank))
    )
    return strides, pads, dilations


def _attributes(node: onnx.NodeProto, kernel: Sequence[int], which: int, kind: str, rank: int) -> dict[str, Any]:
    """The attributes of one part: each axis keeps its stride, padding and dilation where the part works along it."""
    plain = spatial_attributes(node, rank)
    if plain is None:
        raise ValueError(f"{node.name} pads by itself")
    strides, pads, dilations = plain
    if kind == SPATIAL:
        works = [axis == which for axis in range(rank)]
    else:
        works = [which == (1 if kind == TUCKER else 0)] * rank
    return {
        "kernel_shape": [int(kernel[a]) if a < len(kernel) else 1 for a in range(rank)],
        "strides": [s if on else 1 for s, on in zip(strides, works, strict=True)],
        "pads": [p if works[i % rank] else 0 for i, p in enumerate(pads)],
        "dilations": [d if on else 1 for d, on in zip(dilations, works, strict=True)],
    }
