"""Every stored tensor of a model with what reads it in the end, behind operators that move or decode its values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxcompress.graph.bodies import is_standard
from onnxcompress.graph.layers import LAYER_INPUTS
from onnxcompress.graph.scopes import Scope, Scopes, Use

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

    from onnxcompress.graph.model import Tensor

# operator -> the inputs that hold a weight; layers of models that are quantized already included
WEIGHT_INPUTS: dict[str, tuple[int, ...]] = {
    **LAYER_INPUTS,
    "QLinearConv": (3,),
    "QLinearMatMul": (0, 3),
    "QGemm": (3,),
    "ConvInteger": (1,),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1),
    "DynamicQuantizeMatMul": (1,),
    "DynamicQuantizeLSTM": (1, 2),
    "MatMulNBits": (1,),
    "MatMulBnb4": (1,),
    "GatherBlockQuantized": (0,),
    "QAttention": (1,),
}
_PASSING = frozenset(
    {
        "Identity", "Transpose", "Cast", "Slice", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Split", "Pad",
        "Concat", "DequantizeLinear",
    }
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Stored:
    """A stored tensor: the name that people know it by, and its final readers."""

    name: str
    tensor: Tensor
    uses: tuple[Use, ...]

    @property
    def weight_uses(self) -> tuple[Use, ...]:
        """The readers that are layers, and read it as their weight; each node once."""
        found = {id(u.node): u for u in self.uses if is_weight(u)}
        return tuple(found.values())

    @property
    def operator(self) -> str:
        """The operators that read it; only layers, where it is the weight of any."""
        uses = self.weight_uses or self.uses
        ops = sorted({use.node.op_type if use.node is not None else "output" for use in uses})
        return "+".join(ops[:3]) + ("+..." if len(ops) > 3 else "") if ops else "unread"


def is_weight(use: Use) -> bool:
    """True where the reader is a layer that has its weight there."""
    return use.node is not None and use.index in WEIGHT_INPUTS.get(use.node.op_type, ())


def stored_tensors(scopes: Scopes, readers: Scopes) -> Iterator[Stored]:
    """Every stored tensor in the order of the scopes.

    Args:
        scopes: those of the model.
        readers: those of the model with its functions inlined, where initializers of the main graph are read.
    """
    for scope in scopes.all:
        for name, tensor in scope.initializers.items():
            where = readers if scope is scopes.main else scopes
            uses = final_uses(where, where.main if scope is scopes.main else scope, name)
            yield Stored(_label(scope, name), tensor, uses)
        for sparse in getattr(scope.body, "sparse_initializer", ()):
            uses = final_uses(scopes, scope, sparse.values.name)
            yield Stored(_label(scope, sparse.values.name), sparse.values, uses)
            yield Stored(_label(scope, f"{sparse.values.name} (indices)"), sparse.indices, uses)
        for node in scope.body.node:
            yield from _of_attributes(scopes, scope, node)


def _of_attributes(scopes: Scopes, scope: Scope, node: onnx.NodeProto) -> Iterator[Stored]:
    constant = is_standard(node, "Constant")
    output = next((name for name in node.output if name), "")
    uses = final_uses(scopes, scope, output) if constant else (Use(scope, node, -1),)
    for attribute in node.attribute:
        name = output if constant else f"{node.name or output}.{attribute.name}"
        if attribute.HasField("t"):
            yield Stored(_label(scope, name), attribute.t, uses)
        for index, tensor in enumerate(attribute.tensors):
            yield Stored(_label(scope, f"{name}[{index}]"), tensor, uses)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            if sparse.HasField("values"):
                yield Stored(_label(scope, name), sparse.values, uses)
                yield Stored(_label(scope, f"{name} (indices)"), sparse.indices, uses)


def _label(scope: Scope, name: str) -> str:
    return "/".join((*scope.path, name))


def final_uses(scopes: Scopes, scope: Scope, name: str) -> tuple[Use, ...]:
    """What reads a value in the end, and what it is called there; each value is followed once."""
    found: list[Use] = []
    waiting, seen = [(scope, name)], {(id(scope), name)}
    while waiting:
        owner, value = waiting.pop()
        for use in scopes.uses(owner, value):
            if use.node is None or not _passes(use):
                found.append(use)
                continue
            for output in use.node.output:
                if output and (id(use.scope), output) not in seen:
                    seen.add((id(use.scope), output))
                    waiting.append((use.scope, output))
    return tuple(found)


def _passes(use: Use) -> bool:
    node = use.node
    if node is None or node.domain not in ("", "ai.onnx", "com.microsoft") or node.op_type not in _PASSING:
        return False
    return node.op_type == "Concat" or use.index == 0
