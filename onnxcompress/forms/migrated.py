"""The migrated form: the dynamic product of an activation whose outliers have moved into the weight.

    x·W = (x / s)·(diag(s)·W),   x' = x · (1/s),   Y = s_x s_w · ((q − z) · Q),   q: codes of x', Q: of diag(s)·W

One scale for a whole activation is set by its widest features; divided by s they are all about as wide. Where nothing
before the activation can take up 1/s (see `absorb`), it is multiplied here, once for all products that read it with
the same s: a pass over the activation, in place of the second integer product of `dynamic`.

The weight has to be written with ``migration`` set to s, and is of no use to any other form.

After G. Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", ICML
2023, https://arxiv.org/abs/2211.10438.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
from onnx import helper, numpy_helper

from onnxcompress.forms import dynamic
from onnxcompress.forms.base import Reading, Writing, node
from onnxcompress.forms.dynamic import WORDS, quantized_activations, term
from onnxcompress.forms.product import Product, features, right_hand_side
from onnxcompress.graph.edit import Replacement

if TYPE_CHECKING:
    import onnx

    from onnxcompress.forms.stored import Stored

NAME = "migrated8"
MIN_OPSET = 11


def fits(writing: Writing, found: Product) -> bool:
    """True for weights of the dynamic form with a factor for each input of this product."""
    s = writing.migration
    if s is None or writing.outliers or not dynamic.fits(writing, found):
        return False
    inputs, _ = features(writing.dims, found)
    return s.shape == ((1, inputs) if found.transposed else (inputs, 1))


def product_form(writing: Writing, stored: Stored, found: Product) -> Reading:
    """The nodes in place of one product.

    Raises:
        ValueError: there is nothing to migrate, or a factor is not positive and finite.
    """
    if writing.migration is None:
        raise ValueError(f"{writing.weight.name} has no migration")
    chain, codes, scale = right_hand_side(writing, stored, found)
    place = "/".join((*found.leaf.use.scope.path, found.x))
    shared, flat = _divided(found.x, place, writing.migration.reshape(-1))
    quantizing, (activation,) = quantized_activations(flat, flat, 1)
    stem, namer = found.node.output[0], writing.namer
    nodes = term(activation, codes, scale, [namer(f"{stem}_{word}1") for word in WORDS])
    if found.bias is not None:
        nodes.append(node("Add", [nodes[-1].output[0], found.bias], namer(f"{stem}_biased")))
    nodes[-1].output[0] = stem
    if found.node.name:
        nodes[-1].name = found.node.name
    replacement = Replacement(found.leaf.use.scope, found.node, tuple(nodes), (*shared, *quantizing))
    return Reading(tuple(chain.tensors), tuple(chain.nodes), (replacement,))


def _divided(x: str, place: str, s: np.ndarray) -> tuple[list[onnx.NodeProto], str]:
    """Nodes that divide an activation by s (in,), and the name of what comes out.

    They have the same names at the same place for the same s, so that the readers of an activation share them.
    """
    factors = s.astype(np.float32)
    if not (np.isfinite(factors).all() and (factors > 0).all()):
        raise ValueError(f"what {x} is to be divided by is not positive and finite")
    stem = f"{place}_migrated{zlib.crc32(factors.tobytes()):08x}"
    inverse, flat = f"{stem}_inverse", f"{stem}_flat"
    values = (1 / factors.astype(np.float64)).astype(np.float32)
    constant = helper.make_node("Constant", [], [inverse], name=inverse, value=numpy_helper.from_array(values))
    return [constant, node("Mul", [x, inverse], flat)], flat
