"""A product of thin matrices beside a quantized weight, which makes up for what rounding loses.

    W ≈ Ŵ + A·B,   A (out, rank), B (rank, in)

A weight that decodes itself has the product multiplied out and added when the model is loaded: one tensor is left,
and the original's speed. A form that multiplies by codes keeps the factors, Y = x·Ŵᵀ + (x·Bᵀ)·Aᵀ, which cost
2 · rank · (in + out) operations a row. The factors are stored as float16.

After Z. Yao et al., "ZeroQuant-V2", 2023, https://arxiv.org/abs/2303.08302 (low-rank compensation), and C. Zhang et
al., "LQER: Low-Rank Quantization Error Reconstruction for LLMs", ICML 2024, https://arxiv.org/abs/2402.02446.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.forms.base import Codes, node
from onnxcompress.graph.model import Tensor

if TYPE_CHECKING:
    import onnx

    from onnxcompress.forms.base import Writing
    from onnxcompress.forms.decoding import Chain
    from onnxcompress.forms.stored import Stored
    from onnxcompress.graph.edit import NewTensor


@dataclass(frozen=True)
class _Factors:
    a: np.ndarray
    b: np.ndarray
    error: float = 0.0  # of the whole weight is told by its codes


def store(writing: Writing) -> tuple[NewTensor, ...]:
    """The factors of a writing's residual as tensors, none where it has none."""
    residual = writing.residual
    if residual is None:
        return ()
    inputs = math.prod(writing.dims) // residual.rows
    codes = Codes(lambda: _Factors(*residual.factors()))
    half, stem = np.dtype(np.float16), writing.weight.name
    return (
        codes.stored(writing.namer(f"{stem}.a"), half, (residual.rows, residual.rank), lambda f: f.a),
        codes.stored(writing.namer(f"{stem}.b"), half, (residual.rank, inputs), lambda f: f.b),
    )


def added(chain: Chain, stored: Stored, value: str) -> str:
    """The decoded weight, in the shape in which it is stored, with the product of the factors added."""
    writing = chain.writing
    residual = writing.residual
    if residual is None:
        return value
    a, b = (chain.add("Cast", [t.name], "factor", to=Tensor.FLOAT) for t in stored.factors)
    product = chain.add("MatMul", [a, b], "residual")
    product = chain.shaped(product, tuple(writing.dims[axis] for axis in residual.order))
    if residual.order != tuple(range(len(residual.order))):
        perm = [int(axis) for axis in np.argsort(residual.order)]
        product = chain.add("Transpose", [product], "residual_turned", perm=perm)
    return chain.add("Add", [value, product], "corrected")


def thin_products(chain: Chain, stored: Stored, x: str, value: str, stem: str) -> list[onnx.NodeProto]:
    """The nodes that add (x·Bᵀ)·Aᵀ to the product of codes; the transposes are folded when the model is loaded."""
    namer = chain.writing.namer
    a, b = (
        chain.add("Transpose", [chain.add("Cast", [t.name], "factor", to=Tensor.FLOAT)], "factor_turned", perm=[1, 0])
        for t in stored.factors
    )
    inner, outer = namer(f"{stem}_inner"), namer(f"{stem}_outer")
    return [
        node("MatMul", [x, b], inner),
        node("MatMul", [inner, a], outer),
        node("Add", [value, outer], namer(f"{stem}_corrected")),
    ]
