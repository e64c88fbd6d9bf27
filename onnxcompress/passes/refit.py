"""Linear layers fitted anew, once the layers before them have changed, to what the original model gives there.

Layer-wise solutions assume that a layer gets what it got in the original. Where it does not, its weights are no longer
the best: they are corrected by `solvers.refitting`, group after group in the order of the model, so that the later ones
see the earlier ones corrected. A correction stays only if calls that it was not fitted to say so, and all of them
only if the outputs of the model are closer to the original's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from onnxcompress.errors import RuntimeFailure
from onnxcompress.graph import writer
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.scopes import Scopes, attribute_value
from onnxcompress.passes.base import Context, Rewritten
from onnxcompress.solvers.refitting import refitted
from onnxcompress.stats.paired_values import Watched

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx

    from onnxcompress.graph.scopes import Scope
    from onnxcompress.solvers.refitting import Sums

Array = np.ndarray
_GROUPS = 4
_BYTES = 1 << 29  # of the sums of a group
_WIDEST = 4096


@dataclass(frozen=True, eq=False)
class _Layer:
    """A product with its own weight (in, out), ``turned`` (out, in) or (out, in, 1, 1), and with its bias."""

    watched: Watched
    weight: Tensor
    turned: bool
    bias: Tensor | None

    @property
    def nbytes(self) -> int:
        """Bytes of its sums."""
        rows, columns = int(self.weight.dims[0]), int(self.weight.dims[1])
        width, outputs = (columns, rows) if self.turned else (rows, columns)
        return 16 * width * (width + outputs)


@dataclass(frozen=True)
class Refit:
    """Fit linear layers to the outputs of the original, once the layers before them have changed."""

    name: ClassVar[str] = "refit"
    looks_back: ClassVar[bool] = True  # at the origin of its context, so that no run may begin with it

    @property
    def tag(self) -> str:
        """``refit``."""
        return "refit"

    def rewrite(self, model: Model, context: Context) -> Rewritten:
        """The model with corrected weights, or as it is where there are no data or nothing is gained."""
        probe, origin = context.probe, context.origin
        if probe is None or origin is None or probe.data.size < 2 * _GROUPS:
            return Rewritten(model, ())
        result = Model.scratch(lambda path: writer.save(model, path, durable=False))
        known = {name for node in origin.proto.graph.node for name in node.output}
        layers = [layer for layer in _layers(result) if layer.watched.gives in known]
        if not layers:
            return Rewritten(result, ())
        before = result.copy()
        changed = 0
        groups = _grouped(layers)
        context.progress.start("fitting layers to the original", len(groups))
        try:
            for group in groups:
                found = probe.paired(origin, result, [layer.watched for layer in group])
                changed += sum(_corrected(result, layer, found.get(layer.watched.gives)) for layer in group)
                context.progress.advance("")
            if not changed or not probe.closer(origin, before, result):
                return Rewritten(before, ())
        except RuntimeFailure as failure:
            return Rewritten(before, (f"layers were not fitted to the outputs of the original: {failure.message}",))
        finally:
            context.progress.finish()
        return Rewritten(result, (f"layers fitted to what the original gives there: {changed}",))


def _layers(model: Model) -> Iterator[_Layer]:
    scopes = Scopes(model.proto)
    for node in model.proto.graph.node:
        found = _product(scopes, node) if node.op_type in ("MatMul", "Gemm", "Conv") else None
        if found is not None and found.weight.dims[0] <= _WIDEST and found.weight.dims[1] <= _WIDEST:
            yield found


def _product(scopes: Scopes, node: onnx.NodeProto) -> _Layer | None:
    main = scopes.main
    weight = _own(scopes, node.input[1])
    if weight is None or node.input[0] in main.initializers:
        return None
    if node.op_type == "Conv":
        if len(weight.dims) != 4 or tuple(weight.dims[2:]) != (1, 1) or not _pointwise(node):
            return None
        return _biased(scopes, node, weight, True, 1)
    if len(weight.dims) != 2:
        return None
    if node.op_type == "Gemm":
        plain = attribute_value(node, "alpha", 1.0) == 1 and attribute_value(node, "beta", 1.0) == 1
        if not plain or attribute_value(node, "transA", 0):
            return None
        return _biased(scopes, node, weight, bool(attribute_value(node, "transB", 0)), -1)
    uses = scopes.uses(main, node.output[0])
    after = uses[0].node if len(uses) == 1 and uses[0].scope is main else None
    if after is not None and after.op_type == "Add":
        bias = _own(scopes, after.input[1 - uses[0].index])
        if bias is not None and tuple(bias.dims) == (weight.dims[1],):
            return _Layer(Watched(node.input[0], after.output[0], -1, True), weight, False, bias)
    return _Layer(Watched(node.input[0], node.output[0], -1, False), weight, False, None)


def _biased(scopes: Scopes, node: onnx.NodeProto, weight: Tensor, turned: bool, axis: int) -> _Layer | None:
    if len(node.input) < 3 or not node.input[2]:
        return _Layer(Watched(node.input[0], node.output[0], axis, False), weight, turned, None)
    bias = _own(scopes, node.input[2])
    outputs = weight.dims[0 if turned else 1]
    if bias is None or tuple(bias.dims) != (outputs,):
        return _Layer(Watched(node.input[0], node.output[0], axis, False), weight, turned, None)
    return _Layer(Watched(node.input[0], node.output[0], axis, True), weight, turned, bias)


def _pointwise(node: onnx.NodeProto) -> bool:
    ones, zeros = [1, 1], [0, 0, 0, 0]
    return (
        attribute_value(node, "group", 1) == 1
        and list(attribute_value(node, "strides", ones)) == ones  # type: ignore[call-overload]
        and list(attribute_value(node, "pads", zeros)) == zeros  # type: ignore[call-overload]
    )


def _own(scopes: Scopes, name: str) -> Tensor | None:
    """A stored float32 tensor that nothing else reads."""
    main: Scope = scopes.main
    tensor = main.initializers.get(name)
    if tensor is None or tensor.data_type != Tensor.FLOAT or len(scopes.uses(main, name)) != 1:
        return None
    return tensor


def _grouped(layers: Sequence[_Layer]) -> list[list[_Layer]]:
    """Layers in their order in a few groups, whose sums are in memory together."""
    size = -(-len(layers) // _GROUPS)
    groups: list[list[_Layer]] = []
    for layer in layers:
        full = groups and (len(groups[-1]) == size or sum(x.nbytes for x in (*groups[-1], layer)) > _BYTES)
        if not groups or full:
            groups.append([])
        groups[-1].append(layer)
    return groups


def _corrected(model: Model, layer: _Layer, sums: tuple[Sums, Sums] | None) -> bool:
    found = None if sums is None else refitted(*sums)
    if found is None:
        return False
    change = found[0]
    if layer.bias is not None:
        model.set_array(layer.bias, (model.array(layer.bias) + change[-1]).astype(np.float32))
        change = change[:-1]
    weight = model.array(layer.weight)
    more = (change.T if layer.turned else change).reshape(weight.shape)
    model.set_array(layer.weight, (weight + more).astype(np.float32))
    return True
