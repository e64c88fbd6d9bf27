"""The model that learns: its weights as a gradient sees them, what values each may have, and the way back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, numpy_helper

from onnxcompress.errors import ModelError, RuntimeFailure, UsageError
from onnxcompress.graph.layers import weights
from onnxcompress.graph.model import Tensor
from onnxcompress.graph.scopes import Scopes
from onnxcompress.training.constraints import Constraint, Free, Half, Sparse
from onnxcompress.training.decoders import Coded, Decoder, understood
from onnxcompress.training.folding import folded
from onnxcompress.training.teacher import session_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.layers import Leaf, Weight
    from onnxcompress.graph.model import Model

Array = np.ndarray
# The inputs of operators that are learned.
_LEARNED: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "MatMul": (0, 1), "Gemm": (0, 1, 2), "Einsum": (0, 1, 2),
    "LSTM": (1, 2, 3), "GRU": (1, 2, 3), "RNN": (1, 2, 3), "PRelu": (1,), "BatchNormalization": (1, 2),
    "LayerNormalization": (1, 2), "InstanceNormalization": (1, 2), "GroupNormalization": (1, 2),
    "SkipLayerNormalization": (2, 3, 4), "RMSNormalization": (1,), "SimplifiedLayerNormalization": (1,),
}  # fmt: skip
_BY_CHANNEL = {"Add", "Sub", "Mul", "Div"}  # of a vector along one axis
_TABLES = "Gather"
_PRUNED = 0.01  # of a weight's values that are zero, from which on zeros are taken for pruned


@dataclass(frozen=True, eq=False)
class Variable:
    """A weight that is trained: the shadow to begin with, float32, and its constraint.

    ``source`` is what knows how it is stored; None for a stored float32 tensor.
    """

    name: str
    start: Array
    constraint: Constraint
    source: Coded | Tensor | None = None


@dataclass(frozen=True, eq=False)
class Student:
    """A model that learns.

    ``model`` computes the same on floats, with the variables as stored tensors; ``original`` is as it came; ``frozen``
    tells of weights that stay, and why.
    """

    original: Model
    model: Model
    variables: dict[str, Variable]
    frozen: dict[str, str]

    @classmethod
    def of(cls, model: Model, layers: Sequence[str] = (), guide: Model | None = None) -> Student:
        """The student that a model makes.

        Args:
            model: not changed; no weights that are packed for their zeros are in it.
            layers: patterns on weights and the nodes that read them; by default all but tables of embeddings.
            guide: a model whose weights of the same names tell between which values rounded ones are.

        Raises:
            UsageError: a pattern matches nothing.
            ModelError: nothing can be trained.
        """
        seen = folded(model)
        scopes = Scopes(seen.model.proto)
        chosen = _chosen(list(weights(seen.model, scopes)), layers)
        variables, frozen = dict[str, Variable](), dict[str, str]()
        known = {} if guide is None else {t.name: t for t in guide.proto.graph.initializer}
        for weight in chosen:
            reason = _unfit(weight, scopes, tables=bool(layers))
            if reason is None:
                like = known.get(weight.name)
                alike = like is not None and guide is not None and like.data_type == Tensor.FLOAT
                wanted = guide.array(like) if alike and guide is not None and like is not None else None
                found = _variable(model, seen.model, weight, seen.decoders.get(weight.name), wanted)
                if isinstance(found, Variable):
                    variables[weight.name] = found
                    continue
                reason = found
            frozen[weight.name] = reason
        return cls(model, seen.model, _apart(variables, frozen), frozen)

    def without(self, operator: str, reason: str) -> Student | None:
        """The student without the weights that an operator reads; None where it has none of these, or no others."""
        read = {name for n in self.model.proto.graph.node if n.op_type == operator for name in n.input}
        left = {name: v for name, v in self.variables.items() if name not in read}
        if not left or len(left) == len(self.variables):
            return None
        gone = dict.fromkeys(name for name in self.variables if name in read)
        return replace(self, variables=left, frozen=self.frozen | dict.fromkeys(gone, reason))

    def shown(self, calls: Sequence[Feeds], names: Sequence[str]) -> dict[str, Array]:
        """Values of the model before it learned, in the first call.

        Raises:
            RuntimeFailure: the model does not run.
        """
        return {n: np.asarray(v) for n, v in session_of(self.model, names).run(calls[0]).items()}

    def written(self, shadows: Mapping[str, Array]) -> Model:
        """The model as it came, with what was learned in it.

        Raises:
            ModelError: a weight does not decode to what was learned.
        """
        result = self.original.copy()
        stored = {t.name: t for t in result.proto.graph.initializer}
        for name, shadow in shadows.items():
            variable = self.variables[name]
            value = variable.constraint.projected(shadow)
            if isinstance(variable.source, Coded):
                _write_codes(result, stored, variable.source, shadow, value)
            elif variable.source is not None:
                result.set_array(stored[variable.source.name], value.astype(np.float16))
            else:
                result.set_array(stored[name], value.astype(np.float32))
        return result


def _write_codes(result: Model, stored: Mapping[str, Tensor], coded: Coded, shadow: Array, value: Array) -> None:
    raw = coded.stored(shadow)
    found = coded.decoder.decoded(coded.tensor.name, raw)
    reach = np.abs(coded.constraint.step).max(initial=0) / 4
    if np.abs(found - value).max(initial=0) > reach:
        raise ModelError(f"the codes of {coded.decoder.value!r} cannot be written", "Leave it out with --layers.")
    other = TensorProto(name=coded.tensor.name, data_type=coded.tensor.data_type, dims=coded.tensor.dims)
    other.raw_data = raw.tobytes()
    result.set_array(stored[other.name], numpy_helper.to_array(other))


def _chosen(found: list[Weight], layers: Sequence[str]) -> list[Weight]:
    """The weights of the main graph that patterns name.

    Raises:
        UsageError: a pattern matches nothing.
    """
    for pattern in layers:
        if not any(_matches(weight, pattern) for weight in found):
            raise UsageError(
                f"the pattern {pattern!r} of layers to train matches no weight and no node that reads one",
                "See the names with `onnxcompress inspect`; * and ? stand for any characters.",
            )
    return [w for w in found if w.elements > 1 and (not layers or any(_matches(w, p) for p in layers))]


def _matches(weight: Weight, pattern: str) -> bool:
    readers = {leaf.use.node.name for leaf in weight.leaves if leaf.use.node is not None}
    return any(fnmatchcase(name, pattern) for name in {weight.name, weight.label, *readers})


def _unfit(weight: Weight, scopes: Scopes, *, tables: bool) -> str | None:
    """Why a weight is not trained; None where it is."""
    if weight.tensor.data_type != Tensor.FLOAT:
        return "not stored in float32"
    if (
        weight.scope is not scopes.main
        or weight.overridable
        or any(x.use.scope is not scopes.main for x in weight.leaves)
    ):
        return "in a subgraph, a function, or given from outside"
    if weight.constant is not None:
        return "stored in a Constant node, which the simplifier would change"
    if not weight.leaves:
        return "read by nothing"
    for leaf in weight.leaves:
        node = leaf.use.node
        if node is not None and node.op_type == _TABLES and leaf.use.index == 0:
            if not tables:
                return "a table of embeddings, which stays unless a pattern of layers names it"
        elif not _learned(leaf, weight.dims):
            return f"read by {leaf.op}, which is not learned"
    return None


def _learned(leaf: Leaf, dims: tuple[int, ...]) -> bool:
    node = leaf.use.node
    if node is None:
        return False
    if node.op_type in _BY_CHANNEL:
        return sum(d > 1 for d in dims) == 1 and not leaf.chain
    return leaf.use.index in _LEARNED.get(node.op_type, ())


def _variable(
    model: Model, seen: Model, weight: Weight, decoder: Decoder | None, wanted: Array | None
) -> Variable | str:
    """The variable of a weight, or why there is none."""
    value = np.array(seen.array(weight.tensor), np.float32)
    if decoder is None:
        zeros = float(np.mean(value == 0))
        pruned = value.ndim > 1 and _PRUNED <= zeros < 1
        return Variable(weight.name, value, Sparse(value != 0) if pruned else Free())
    if [n.op_type for n in decoder.nodes] == ["Cast"] and decoder.tensors[0].data_type == TensorProto.FLOAT16:
        return Variable(weight.name, value, Half(), decoder.tensors[0])
    try:
        coded = understood(decoder)
    except RuntimeFailure as failure:
        return f"its codes are not understood: {failure.message}"
    if coded is None:
        return "its codes are no even grid"
    readers = [n for n in model.proto.graph.node if coded.tensor.name in n.input]
    if len(readers) != 1:
        return "its codes are read in several ways"
    fits = wanted is not None and wanted.shape == value.shape
    start = coded.constraint.started(wanted if fits and wanted is not None else value)
    return Variable(weight.name, start, coded.constraint, coded)


def _apart(variables: dict[str, Variable], frozen: dict[str, str]) -> dict[str, Variable]:
    """The variables of which no two are stored in the same tensor; not even one is a reason to refuse."""
    seen: dict[str, str] = {}
    for name, variable in list(variables.items()):
        source = variable.source
        stored = name if source is None else source.tensor.name if isinstance(source, Coded) else source.name
        if stored in seen:
            frozen[name] = f"it shares what is stored of it with {seen[stored]}"
            del variables[name]
        seen.setdefault(stored, name)
    if not variables:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(frozen.items())[:3])
        raise ModelError(f"no weight of the model can be trained ({why or 'it has none'})", "Leave out the training.")
    return variables
