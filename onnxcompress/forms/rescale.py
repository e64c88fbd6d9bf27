"""Features rescaled between layers: constants before a value are divided, weights behind it multiplied.

    producers / s,   consumers · s

The model computes the same function, with features that are easier to quantize. Large constants stay where they are
until they are written, and one that takes several scales (the weight between two rescaled values) takes all at once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from onnx import helper

from onnxcompress.graph.constants import declare_initializers
from onnxcompress.graph.edit import Namer
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.scopes import Scopes, constant_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxcompress.graph.absorb import Site
    from onnxcompress.graph.absorb_rules import Operand

Array = np.ndarray
_SMALL = 64  # values that are stored at once, as an ordinary tensor


def rescaled(model: Model, sites: Sequence[tuple[Site, Array]]) -> Model:
    """A copy of a model with features rescaled.

    Args:
        model: the model from which the sites are.
        sites: each with a positive s (features,); what its consumers read is divided by it.

    Raises:
        ValueError: an s does not fit its site, or is not positive and finite.
    """
    wanted: dict[tuple[str, int], list[tuple[Operand, Array]]] = {}
    for site, s in sites:
        factors = np.asarray(s, np.float64)
        if factors.shape != (site.features,) or not (np.isfinite(factors).all() and (factors > 0).all()):
            raise ValueError(f"{site.features} positive scales are wanted, and not {factors.shape}")
        for operand in site.producers:
            wanted.setdefault((operand.reader, operand.index), []).append((operand, 1 / factors))
        for operand in site.consumers:
            wanted.setdefault((operand.reader, operand.index), []).append((operand, factors))
    twin = model.copy()
    scopes = Scopes(twin.proto)
    namer = Namer(scopes.names())
    for scales in wanted.values():
        _scale(model, twin, scopes, scales, namer)
    _drop_unread(twin, {scales[0][0].name for scales in wanted.values()})
    declare_initializers(twin.proto)
    return twin


def _scale(
    model: Model, twin: Model, scopes: Scopes, scales: list[tuple[Operand, Array]], namer: Namer
) -> None:  # fmt: skip
    """Give one reader its constant times some factors; in place where nobody else reads it."""
    operand = scales[0][0]
    tensor = _stored(scopes, operand.name)
    source = Tensor()
    source.CopyFrom(tensor)  # the tensor itself is about to change
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))

    def values() -> Array:
        array = np.array(model.view(source), np.float64)
        for one, factors in scales:
            array *= spread(one, factors)
        return array.astype(dtype)

    if len(scopes.uses(scopes.main, operand.name)) > 1:
        tensor = twin.proto.graph.initializer.add(name=namer(f"{operand.name}_rescaled"))
        scopes.main.producers[operand.reader].input[operand.index] = tensor.name
    if math.prod(operand.dims) <= _SMALL:
        twin.set_array(tensor, values())
    else:
        twin.set_lazy(tensor, source.data_type, operand.dims, values)


def _stored(scopes: Scopes, name: str) -> Tensor:
    main = scopes.main
    tensor = main.initializers[name] if name in main.initializers else constant_tensor(main.constants[name])
    if tensor is None:
        raise ValueError(f"{name} is not a stored tensor")
    return tensor


def spread(operand: Operand, factors: Array) -> Array:
    """Factors (features,) in a shape that broadcasts against the constant of an operand."""
    rank, axis, groups = len(operand.dims), operand.axis, operand.groups
    if groups == 1 or axis != 1:
        return factors.reshape([-1 if i == axis else 1 for i in range(rank)])
    rows = operand.dims[0] // groups
    return np.repeat(factors.reshape(groups, -1), rows, axis=0).reshape(*operand.dims[:2], *([1] * (rank - 2)))


def _drop_unread(twin: Model, names: set[str]) -> None:
    """Remove constants of which every reader has its own copy."""
    scopes = Scopes(twin.proto)
    graph = twin.proto.graph
    unread = {name for name in names if not scopes.uses(scopes.main, name)}
    for index in reversed([i for i, t in enumerate(graph.initializer) if t.name in unread]):
        del graph.initializer[index]
    for index in reversed([i for i, v in enumerate(graph.input) if v.name in unread]):
        del graph.input[index]
    for index in reversed([i for i, n in enumerate(graph.node) if n.op_type == "Constant" and n.output[0] in unread]):
        del graph.node[index]
