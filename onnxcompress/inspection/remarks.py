"""What a reader of an inspection should know that no table says, a sentence each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from onnxcompress.forms.sparse import PLACES, VALUES
from onnxcompress.graph.scopes import Scopes, subgraphs
from onnxcompress.inspection.prospects import FLOATS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

    from onnxcompress.inspection.facts import Activations, FunctionFacts, StoredFacts

_ZEROS = 0.05  # share of all weights from which zeros are worth a word
_NAMED = 3
_QUANTIZED = frozenset(
    {
        "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv",
        "QLinearMatMul", "MatMulNBits", "GatherBlockQuantized", "DynamicQuantizeMatMul", "MatMulIntegerToFloat",
        "QGemm", "QAttention", "DynamicQuantizeLSTM", "QEmbedLayerNormalization", "MatMulBnb4",
    }
)  # fmt: skip


def quantized_operators(proto: onnx.ModelProto, scopes: Scopes) -> list[str]:
    """The operators that work on integers in place of floats; what this tool has stored counts as one."""
    ops = sorted({node.op_type for scope in scopes.all for node in scope.body.node} & _QUANTIZED)
    done = any(entry.key == "onnxcompress.quantize" for entry in proto.metadata_props)
    return ops or (["weights coded by onnxcompress"] if done else [])


def structure(scopes: Scopes, functions: Sequence[FunctionFacts], domains: dict[str, int]) -> Iterator[str]:
    """Notes on what is more than nodes of standard operators in one graph."""
    holders = Counter(n.op_type for s in scopes.all for n in s.body.node if any(True for _ in subgraphs(n)))
    if holders:
        listed = ", ".join(f"{count} {op}" for op, count in holders.most_common())
        yield f"subgraphs in {listed}: the peak of activations is without what is alive within them"
    if holders["Loop"] or holders["Scan"]:
        yield "bodies of loops count once, however often they run"
    if functions:
        yield f"functions of its own: {_some(f'{f.name} ({f.nodes} nodes)' for f in functions)}"
    if domains:
        yield f"operators that are no standard ones: {_some(f'{d} ({_nodes(n)})' for d, n in domains.items())}"


def contents(tensors: Sequence[StoredFacts], quantized: Sequence[str]) -> Iterator[str]:
    """Notes on what is stored."""
    tied = [t for t in tensors if t.layers > 1]
    if tied:
        yield f"tied weights, read by more than one layer: {_some(f'{t.name} ({t.layers})' for t in tied)}"
    stored = {t.name for t in tensors}
    packed = [name for t in tensors if (name := t.name.removesuffix(VALUES)) != t.name and name + PLACES in stored]
    if packed:
        yield (
            f"weights packed for their zeros: {_some(packed)}; of these, parameters and zeros are counted as stored, "
            "without the zeros that the runtime puts back when it loads them"
        )
    if quantized:
        yield f"quantized already: it holds {_some(quantized)}"
    floats = [t for t in tensors if t.dtype in FLOATS and t.statistics is not None]
    count = sum(t.values for t in floats)
    zeros = sum(t.statistics.zeros for t in floats if t.statistics is not None)
    if count and zeros > _ZEROS * count:
        yield f"{zeros / count:.1%} of the float values are zero: prune --sparsity stores only the others"
    wrong = [t for t in floats if t.statistics is not None and t.statistics.nonfinite]
    if wrong:
        yield f"NaN or infinity is stored in {_some(t.name for t in wrong)}"


def counting(uncounted: int, activations: Activations | None, *, ran: bool) -> Iterator[str]:
    """Notes on what could not be counted."""
    unless = "" if ran else " without running the model"
    if uncounted:
        yield f"multiply-adds without those of {uncounted} layers, whose shapes are not known{unless}"
    if activations is not None and activations.unknown:
        yield f"peak of activations without {activations.unknown} values, whose shapes are not known{unless}"


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"


def _some(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return ", ".join(every[:_NAMED]) + more
