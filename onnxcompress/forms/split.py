"""The split form: a dynamic integer product beside a thin float one, for the few inputs that are far larger.

    Y = s_x s_w · ((q − z) · Q) + x[:, O] · W[O, :],   q the codes of x with the features O set to zero

Transformer activations have a few features that are many times larger than the rest, always the same ones. One scale
for a whole activation tensor is set by them, and little is left for the others. Here they are multiplied in float, and
the integer product sees zeros in their places, which are exact: so its weight may hold anything there, and holds what
it held. It takes about a quarter more time than the integer product alone, where the second pass of `dynamic`
takes more than twice as much.

The zeros come from a product with a vector of ones and zeros, which is faster than Where. DynamicQuantizeLinear and
MatMulInteger are fused as ever, and the runtime makes one Gemm of the thin product and the sum where the activation
has two axes.

After T. Dettmers et al., "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale", NeurIPS 2022,
https://arxiv.org/abs/2208.07339; there outliers are found on every call, here they are known.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
from onnx import helper, numpy_helper

from onnxcompress.forms.base import Reading, Writing, node
from onnxcompress.forms.dynamic import WORDS, quantized_activations, term
from onnxcompress.forms.product import Product, features, right_hand_side
from onnxcompress.graph.edit import NewTensor, Replacement
from onnxcompress.graph.model import Tensor
from onnxcompress.graph.payload import stored_bytes

if TYPE_CHECKING:
    import onnx

    from onnxcompress.forms.stored import Stored

NAME = "split8"
MIN_OPSET = 11
_SAFE = 6e4  # magnitude that float16 holds


def product_form(writing: Writing, stored: Stored, found: Product) -> Reading:
    """The nodes in place of one product."""
    chain, codes, scale = right_hand_side(writing, stored, found)
    inputs, outputs = features(writing.dims, found)
    wide = np.array(writing.outliers, np.int64)
    if len(wide) == 0 or wide[0] < 0 or wide[-1] >= inputs or (np.diff(wide) <= 0).any():
        raise ValueError(f"the outliers of {writing.weight.name} are not ascending inputs")
    place = "/".join((*found.leaf.use.scope.path, found.x))
    shared, picked, rest = _parts(found.x, place, inputs, wide)
    quantizing, (activation,) = quantized_activations(rest, rest, 1)
    stem, namer = found.node.output[0], writing.namer
    nodes = term(activation, codes, scale, [namer(f"{stem}_{word}") for word in WORDS])
    if found.bias is not None:  # here it becomes a part of the fused operator
        nodes.append(node("Add", [nodes[-1].output[0], found.bias], namer(f"{stem}_biased")))
    thin = _thin(writing, found, wide, outputs)
    floats = thin.name
    if thin.data_type != Tensor.FLOAT:
        floats = chain.add("Cast", [floats], "outlier_cast", to=Tensor.FLOAT)
    integer, product = nodes[-1].output[0], namer(f"{stem}_outliers")
    nodes += [
        node("MatMul", [picked, floats], product),
        node("Add", [integer, product], namer(f"{stem}_sum")),
    ]
    nodes[-1].output[0] = stem
    if found.node.name:
        nodes[-1].name = found.node.name
    replacement = Replacement(found.leaf.use.scope, found.node, tuple(nodes), (*shared, *quantizing))
    nbytes = stored_bytes(thin.data_type, thin.dims)
    return Reading((thin, *chain.tensors), tuple(chain.nodes), (replacement,), nbytes=nbytes)


def _parts(x: str, place: str, inputs: int, wide: np.ndarray) -> tuple[list[onnx.NodeProto], str, str]:
    """Nodes that pick the wide features of an activation and that set them to zero.

    They have the same names at the same place for the same features, so that the readers of an activation share them.

    Returns:
        The nodes, the name of the picked features and that of the rest.
    """
    stem = f"{place}_split{zlib.crc32(wide.tobytes()):08x}"
    names = [f"{stem}_{word}" for word in ("places", "bits", "mask", "picked", "rest")]
    places, bits, mask, picked, rest = names
    kept = np.ones(inputs, np.uint8)
    kept[wide] = 0

    def constant(name: str, values: np.ndarray) -> onnx.NodeProto:
        return helper.make_node("Constant", [], [name], name=name, value=numpy_helper.from_array(values))

    nodes = [
        constant(places, wide),
        constant(bits, kept),
        node("Cast", [bits], mask, to=Tensor.FLOAT),
        node("Gather", [x, places], picked, axis=-1),
        node("Mul", [x, mask], rest),
    ]
    return nodes, picked, rest


def _thin(writing: Writing, found: Product, wide: np.ndarray, outputs: int) -> NewTensor:
    """The rows of the wide features, (features, out), as float16 where it holds them."""

    def rows() -> np.ndarray:
        values = writing.values()
        part = values[:, wide].T if found.transposed else values[wide]
        return np.ascontiguousarray(part, np.float32)

    # a reading of a few rows decides the type, which has to be known before the values are written
    half = float(np.abs(rows()).max(initial=0)) < _SAFE
    kind = Tensor.FLOAT16 if half else Tensor.FLOAT
    dtype = np.float16 if half else np.float32
    name = writing.namer(f"{writing.weight.name}.o")
    return NewTensor(name, kind, (len(wide), outputs), lambda: rows().astype(dtype))
