"""The constant weights of a model and the layers that read them.

A weight is a stored float tensor: an initializer or the value of a Constant node, in any scope. Between it and a
layer there may stand operators that only move or convert values (Transpose, Identity, Cast, Slice, ...); they are
followed, so that every weight knows its final readers and which of its axes is which at each of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.payload import element_count
from onnxcompress.graph.scopes import Scope, Scopes, Use, attribute_value, constant_tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

FLOAT_TYPES = (Tensor.FLOAT, Tensor.FLOAT16, Tensor.BFLOAT16, Tensor.DOUBLE)
RECURRENT = ("LSTM", "GRU", "RNN")
# operator -> the inputs that hold a weight
LAYER_INPUTS: dict[str, tuple[int, ...]] = {
    "MatMul": (0, 1),
    "Gemm": (0, 1),
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gather": (0,),
    "Einsum": (0, 1, 2),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
    "FusedMatMul": (0, 1),
    "FusedGemm": (0, 1),
    "FusedConv": (1,),
    "Attention": (1,),
}
_MOVING = frozenset(
    {
        "Identity",
        "Transpose",
        "Cast",
        "Slice",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Split",
        "Concat",
        "Pad",
    }
)

Axes = tuple[int, ...] | None  # for each axis at the reader, the axis of the stored tensor; None: not known


@dataclass(frozen=True, eq=False)
class Leaf:
    """A final reader of a weight.

    ``axes`` maps the reader's view to the stored tensor; ``plain`` is true when the view is the stored tensor with
    its axes permuted and nothing else; ``chain`` are the nodes in between.
    """

    use: Use
    axes: Axes
    plain: bool
    chain: tuple[onnx.NodeProto, ...]

    @property
    def op(self) -> str:
        """Operator of the reader; ``output`` for an output of the graph."""
        return self.use.node.op_type if self.use.node is not None else "output"


@dataclass(eq=False)
class Weight:
    """A stored float tensor with everything that reads it in the end."""

    name: str
    tensor: Tensor
    scope: Scope
    constant: onnx.NodeProto | None
    leaves: list[Leaf] = field(default_factory=list)
    overridable: bool = False

    @property
    def dims(self) -> tuple[int, ...]:
        """Shape of the stored tensor."""
        return tuple(self.tensor.dims)

    @property
    def elements(self) -> int:
        """Number of values."""
        return element_count(self.dims)

    @property
    def op(self) -> str:
        """Operators that read it, as one label."""
        return "+".join(sorted({leaf.op for leaf in self.leaves})) or "unread"

    @property
    def label(self) -> str:
        """Name for people, with the nodes that enclose it."""
        return "/".join((*self.scope.path, self.name))


def weights(model: Model, scopes: Scopes) -> Iterator[Weight]:
    """Every stored float tensor of the model, in the order in which it is stored."""
    overridable = _overridable(model.proto)
    for scope in scopes.all:
        stored: list[tuple[str, Tensor, onnx.NodeProto | None]] = [(n, t, None) for n, t in scope.initializers.items()]
        for name, node in scope.constants.items():
            tensor = constant_tensor(node)
            if tensor is not None:
                stored.append((name, tensor, node))
        for name, tensor, constant in stored:
            if tensor.data_type not in FLOAT_TYPES:
                continue
            weight = Weight(name, tensor, scope, constant)
            weight.overridable = scope is scopes.main and name in overridable
            weight.leaves = list(_leaves(scopes, scope, name, tuple(range(len(tensor.dims))), True, ()))
            yield weight


def _overridable(proto: onnx.ModelProto) -> set[str]:
    """Initializers that a caller may replace: from IR 4 on those that are inputs as well."""
    return {i.name for i in proto.graph.input} if proto.ir_version >= 4 else set()


def _leaves(
    scopes: Scopes, scope: Scope, name: str, axes: Axes, plain: bool, chain: tuple[onnx.NodeProto, ...]
) -> Iterator[Leaf]:
    for use in scopes.uses(scope, name):
        node = use.node
        if node is None or not _moves(use):
            yield Leaf(use, axes, plain, chain)
            continue
        moved, still_plain = _moved_axes(node, axes)
        still_plain = still_plain and use.scope is scope  # forms change the scope of the weight alone
        for output in node.output:
            yield from _leaves(scopes, use.scope, output, moved, plain and still_plain, (*chain, node))


def _moves(use: Use) -> bool:
    """True for nodes whose output holds the values of that input again, in another place or type."""
    node = use.node
    if node is None or node.domain not in ("", "ai.onnx") or node.op_type not in _MOVING:
        return False
    return node.op_type == "Concat" or use.index == 0


def _moved_axes(node: onnx.NodeProto, axes: Axes) -> tuple[Axes, bool]:
    if node.op_type == "Identity":
        return axes, True
    if axes is None:
        return None, False
    if node.op_type == "Transpose":
        places = list(range(len(axes)))
        order: Any = attribute_value(node, "perm") or places[::-1]
        return (tuple(axes[i] for i in order), True) if sorted(order) == places else (None, False)
    if node.op_type in ("Cast", "Slice", "Split", "Concat", "Pad"):
        return axes, False
    return None, False


def output_axes(leaf: Leaf) -> tuple[int, ...] | None:
    """The axes of the stored tensor along which the reader has separate outputs (channels), which keep own scales.

    None where that is not known: a reader that is no layer, or a view whose axes cannot be followed.
    """
    node, axes = leaf.use.node, leaf.axes
    if node is None or axes is None:
        return None
    seen = _output_axes_at(node, leaf.use.index, len(axes))
    return None if seen is None else tuple(axes[i] for i in seen)


def _output_axes_at(node: onnx.NodeProto, index: int, rank: int) -> tuple[int, ...] | None:
    op = node.op_type
    if op in ("Conv", "FusedConv"):
        return (0,)
    if op == "ConvTranspose":
        return (1,)
    if op in RECURRENT:
        return (0, 1)
    if op == "Gather":
        return (int(attribute_value(node, "axis", 0)) % rank,)  # type: ignore[call-overload]
    if op in ("Gemm", "FusedGemm"):
        flipped = bool(attribute_value(node, "transB" if index == 1 else "transA", 0))
        return (0,) if flipped == (index == 1) else (1,)
    if op == "MatMul" and rank >= 2:
        return (*range(rank - 2), rank - 1 if index == 1 else rank - 2)
    if op == "Attention":
        return (rank - 1,)
    return None


def is_layer(leaf: Leaf) -> bool:
    """True where the reader is a layer and reads the value as its weight."""
    node = leaf.use.node
    return node is not None and leaf.use.index in LAYER_INPUTS.get(node.op_type, ())
