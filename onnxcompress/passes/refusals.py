"""Options of quantization that mean nothing together: one sentence of what is wrong, one of how to mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.errors import ModelError, UsageError
from onnxcompress.graph.scopes import Scopes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxcompress.graph.model import Model
    from onnxcompress.passes.quantize import Quantize

Refusal = tuple[bool, str, str]  # whether it holds, what is wrong, how to mend it
_FLOATS = ("float16", "bfloat16")
_QUANTIZED_OPS = frozenset(
    {
        "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv",
        "QLinearMatMul", "MatMulNBits", "GatherBlockQuantized", "DynamicQuantizeMatMul", "MatMulIntegerToFloat",
        "QGemm", "QAttention", "DynamicQuantizeLSTM", "QEmbedLayerNormalization", "MatMulBnb4",
    }
)  # fmt: skip


def refuse(options: Quantize) -> None:
    """Refuse combinations that mean nothing.

    Raises:
        UsageError: there is one.
    """
    for rules in (_schemes, _blocks, _grids, _tables, _averages):
        for holds, wrong, mend in rules(options):
            if holds:
                raise UsageError(wrong, mend)


def _schemes(o: Quantize) -> Iterator[Refusal]:
    special = o.ternary or o.codebook_length is not None or o.residual_rank is not None or o.average_bits is not None
    fewer = o.bits != 8 or not o.symmetric or bool(o.block_size) or special
    yield (
        o.scheme in _FLOATS and (fewer or o.per_tensor),
        f"{o.scheme} has no bits, blocks, scales or zero points to choose",
        "Leave those options out, or use --scheme weight-only.",
    )
    yield (
        o.scheme == "weight-only" and o.activation_bits is not None,
        "with --scheme weight-only activations are not quantized",
        "Leave --activation-bits out.",
    )
    yield (
        o.scheme == "dynamic" and fewer,
        "dynamic quantization needs symmetric weights of 8 bits with one scale per channel",
        "Leave options on bits, zero points, blocks, tables and residuals out, or use --scheme weight-only.",
    )
    yield (
        o.scheme == "static" and (fewer or o.per_tensor),
        "static quantization needs symmetric weights of 8 bits with one scale per channel",
        "Leave options on bits, zero points, blocks, tables and residuals out, or use --scheme weight-only.",
    )


def _blocks(o: Quantize) -> Iterator[Refusal]:
    yield (
        bool(o.block_size) and not 8 <= (o.block_size or 8) <= 65536,
        f"a block size of {o.block_size} is out of range",
        "Give 8 to 65536, or 0 for whole channels.",
    )
    yield (
        bool(o.block_size) and o.per_tensor,
        "blocks and one scale per tensor exclude each other",
        "Give one of the two options.",
    )
    rank = o.residual_rank
    yield rank is not None and rank < 1, f"there is no product of rank {rank}", "Give --residual-rank 1 or more."


def _grids(o: Quantize) -> Iterator[Refusal]:
    yield o.ternary and o.bits != 2, "ternary weights are stored in 2 bits", "Give --bits 2 with --ternary."
    yield o.ternary and not o.symmetric, "-1, 0 and 1 are symmetric about zero", "Leave --asymmetric out."
    yield (
        o.codebook_length is None and o.bits in (5, 6, 7),
        f"weights of {o.bits} bits are stored as places in a table only",
        "Give --codebook-length 1, or --bits 8, 4, 3, 2 or 1.",
    )


def _tables(o: Quantize) -> Iterator[Refusal]:
    length = o.codebook_length
    if length is None:
        return
    yield o.bits == 1, "a table of two entries is an asymmetric grid", "Give --bits 1 --asymmetric, or 2 to 8 bits."
    yield not o.symmetric, "a table has no zero points", "Leave --asymmetric out."
    yield o.ternary, "a table has entries of its own", "Leave --ternary or --codebook-length out."
    yield (
        bool(o.block_size) and (o.block_size or 0) % length > 0,
        f"blocks of {o.block_size} do not divide into vectors of {length}",
        f"Give a --block-size that is a multiple of {length}.",
    )
    yield (
        o.residual_rank is not None,
        "a residual is added to weights on a grid",
        "Leave --residual-rank or --codebook-length out.",
    )


def _averages(o: Quantize) -> Iterator[Refusal]:
    average = o.average_bits
    if average is None:
        return
    yield not 2 < average <= 8, f"an average of {average:g} bits is out of range", "Give more than 2, and 8 at most."
    yield o.bits not in (8, 4, 2), f"weights are mixed of 8, 4 and 2 bits, not {o.bits}", "Give --bits 2 or 4."
    yield (
        o.bits != 8 and o.bits >= average,
        f"at least {o.bits} bits with their scales are more than {average:g} on average",
        "Give fewer --bits, which are the lowest allowed, or more --average-bits.",
    )
    yield (
        bool(o.block_size) or o.block_size == 0 or o.per_tensor,
        "with --average-bits each weight gets blocks of its own",
        "Leave --block-size and --per-tensor out.",
    )
    yield (
        o.ternary or o.codebook_length is not None or o.residual_rank is not None,
        "bits are allotted to grids alone",
        "Leave --average-bits, or --ternary, --codebook-length and --residual-rank out.",
    )


def refuse_quantized(model: Model) -> None:
    """Refuse a model that holds integers already.

    Raises:
        ModelError: it does.
    """
    ops = sorted({n.op_type for s in Scopes(model.proto).all for n in s.body.node} & _QUANTIZED_OPS)
    done = any(p.key == "onnxcompress.quantize" for p in model.proto.metadata_props)
    if ops or done:
        what = f"it holds {', '.join(ops)}" if ops else "this tool has done so"
        raise ModelError(
            f"the model is quantized already: {what}",
            "Start from the float model, or give --requantize to quantize what is still float.",
        )
