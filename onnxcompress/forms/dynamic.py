"""The dynamic form: activations are quantized on every call, and integers are multiplied.

    x ≈ s₁(q₁ − z₁),   Y = s₁ s_w · ((q₁ − z₁) · Q)

One scale for a whole activation tensor loses what is small in it, and transformer activations have features a hundred
times larger than the rest. So by default what the first rounding left is quantized once more,

    r = x − s₁(q₁ − z₁) ≈ s₂(q₂ − z₂),   Y = s₁ s_w · ((q₁ − z₁) · Q) + s₂ s_w · ((q₂ − z₂) · Q)

which is about sixteen bits of activation from two eight-bit products, without calibration and whatever the outliers;
the error left is that of the weight. Integer products are several times faster than float ones where the processor has
instructions for them (VNNI, AMX, i8mm), so two of them are still faster than one float product.

Standard operators: DynamicQuantizeLinear (opset 11), MatMulInteger and DequantizeLinear (opset 10). ONNX Runtime fuses
each chain into DynamicQuantizeMatMul or MatMulIntegerToFloat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
from onnx import helper

from onnxcompress.forms.base import Reading, Writing, node
from onnxcompress.forms.product import Product, right_hand_side
from onnxcompress.graph.edit import Replacement
from onnxcompress.graph.model import Tensor

if TYPE_CHECKING:
    from onnxcompress.forms.stored import Stored

ONE_PASS = "dynamic8"  # noqa: S105 - of quantization
TWO_PASSES = "dynamic16"
MIN_OPSET = 11
WORDS = ("integer", "cast", "scale", "term")


def fits(writing: Writing, found: Product) -> bool:
    """True for eight-bit symmetric weights with one scale per output channel of this product, or one in all."""
    grid, groups = writing.grid, writing.groups
    if writing.residual is not None or writing.codebook is not None:
        return False
    own = (1,) if found.transposed else (0,)
    return grid.bits == 8 and grid.symmetric and groups.shape == writing.dims and groups.shared in (own, (0, 1))


@dataclass(frozen=True)
class Activation:
    """Names of one quantized activation."""

    codes: str
    scale: str
    zero_point: str


def product_form(writing: Writing, stored: Stored, found: Product, passes: int) -> Reading:
    """The nodes in place of one product, its activation quantized in one or two passes."""
    chain, codes, scale = right_hand_side(writing, stored, found)
    place = "/".join((*found.leaf.use.scope.path, found.x))
    shared, activations = quantized_activations(found.x, place, passes)
    nodes: list[onnx.NodeProto] = []
    terms = []
    stem = found.node.output[0]
    for number, activation in enumerate(activations, 1):
        nodes += term(activation, codes, scale, [writing.namer(f"{stem}_{w}{number}") for w in WORDS])
        terms.append(nodes[-1].output[0])
    if found.bias is not None:
        biased = writing.namer(f"{stem}_biased")
        nodes.append(node("Add", [terms[0], found.bias], biased))
        terms[0] = biased
    if len(terms) == 2:
        nodes.append(node("Add", terms, writing.namer(f"{stem}_sum")))
    nodes[-1].output[0] = stem
    if found.node.name:
        nodes[-1].name = found.node.name
    replacement = Replacement(found.leaf.use.scope, found.node, tuple(nodes), tuple(shared))
    return Reading(tuple(chain.tensors), tuple(chain.nodes), (replacement,))


def term(activation: Activation, codes: str, scale: str, names: list[str]) -> list[onnx.NodeProto]:
    """One product of integers, s s_w · ((q − z) · Q); ``names`` of the four values, for `WORDS`."""
    return [
        node("MatMulInteger", [activation.codes, codes, activation.zero_point], names[0]),
        node("Cast", [names[0]], names[1], to=Tensor.FLOAT),
        node("Mul", [activation.scale, scale], names[2]),
        node("Mul", [names[1], names[2]], names[3]),
    ]


def quantized_activations(x: str, place: str, passes: int) -> tuple[list[onnx.NodeProto], list[Activation]]:
    """Nodes that quantize an activation; the same names at the same place, so that its readers share them."""

    def quantized(value: str, word: str) -> tuple[onnx.NodeProto, Activation]:
        names = Activation(*(f"{place}_{word}_{part}" for part in ("uint8", "scale", "zero_point")))
        outputs = [names.codes, names.scale, names.zero_point]
        return helper.make_node("DynamicQuantizeLinear", [value], outputs, name=f"{place}_{word}"), names

    first, coarse = quantized(x, "coarse")
    if passes == 1:
        return [first], [coarse]
    rounded, rest = f"{place}_rounded", f"{place}_rest"
    second, fine = quantized(rest, "fine")
    nodes = [
        first,
        node("DequantizeLinear", [coarse.codes, coarse.scale, coarse.zero_point], rounded),
        node("Sub", [x, rounded], rest),
        second,
    ]
    return nodes, [coarse, fine]
