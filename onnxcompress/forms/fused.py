"""The fused form: DequantizeLinear before a MatMul, which ONNX Runtime turns into one operator over codes.

When it loads the model, the runtime replaces DequantizeLinear(codes) → MatMul by MatMulNBits, which multiplies by the
codes themselves, in blocks along the inputs. Few rows are bound by reading the weights, and codes are a quarter of the
bytes. Per-channel scales take opset 13. A Gemm is written as MatMul and
Sum: with transB, or before an activation, it is not fused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.forms.base import Reading, Writing, node
from onnxcompress.forms.product import Product, right_hand_side
from onnxcompress.graph.edit import Replacement

if TYPE_CHECKING:
    from onnxcompress.forms.stored import Stored

NAME = "fused"
MIN_OPSET = 13
FUSED_SINCE = (1, 25)  # version of ONNX Runtime


def fits(writing: Writing, found: Product) -> bool:
    """True for weights that fit an integer product, with a scale for each channel and stored beside their reader.

    The runtime does not find codes that lie in a graph around the reader's.
    """
    return len(writing.groups.shared) == 1 and found.leaf.use.scope is writing.weight.scope


def product_form(writing: Writing, stored: Stored, found: Product) -> Reading:
    """The nodes in place of one product."""
    chain, codes, scale = right_hand_side(writing, stored, found)
    stem, namer = found.node.output[0], writing.namer
    inputs = [codes, scale]
    decoded = node("DequantizeLinear", inputs, namer(f"{writing.weight.name}_dequantized"), axis=1)
    product = node("MatMul", [found.x, decoded.output[0]], namer(f"{stem}_product"))
    nodes = [decoded, product]
    if found.bias is not None:
        # Sum, not Add: the runtime would make MatMul and Add a Gemm first, which it does not always fuse
        nodes.append(node("Sum", [product.output[0], found.bias], namer(f"{stem}_biased")))
    nodes[-1].output[0] = stem
    if found.node.name:
        nodes[-1].name = found.node.name
    replacement = Replacement(found.leaf.use.scope, found.node, tuple(nodes))
    return Reading(tuple(chain.tensors), tuple(chain.nodes), (replacement,))
