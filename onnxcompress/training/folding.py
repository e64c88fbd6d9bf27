"""The model as its layers see it: codes decoded into float weights, and roundings of activations taken for identities.

Weights that constant nodes decode become stored floats, each with the decoder that it came from; MatMulNBits becomes a
MatMul. QuantizeLinear and DequantizeLinear on activations become one Clip to the range of the codes, through which
gradients go straight. What is left has gradients; integer products have none, and are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.errors import ModelError
from onnxcompress.graph.dead import remove_dead
from onnxcompress.graph.scopes import attribute_value, subgraphs
from onnxcompress.training.decoders import Decoder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnxcompress.graph.model import Model

_SHORT = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_RANGES: dict[int, tuple[int, int]] = {
    TensorProto.UINT8: (0, 255), TensorProto.INT8: (-128, 127), TensorProto.UINT16: (0, 65535),
    TensorProto.INT16: (-32768, 32767),
}  # fmt: skip
_INTEGER = {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"}
_ENDLESS = (-(2**31), 2**31)
_NBITS = "MatMulNBits"
_CLIP_OPSET = 11  # from which its bounds are inputs
_ALIKE = {"Mul", "Sub", "Add", "Div", "MatMul", "Reshape", "Transpose", "Concat", "Gather", "GatherElements", "Slice",
          "Identity", "Squeeze", "Unsqueeze"}  # fmt: skip
_CHANCE = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}


@dataclass(frozen=True, eq=False)
class Folded:
    """A model whose weights are stored floats, and the decoders of those that were not, by name."""

    model: Model
    decoders: dict[str, Decoder]


def folded(model: Model) -> Folded:
    """The model as its layers see it; the one given is not changed.

    Raises:
        ModelError: a layer computes with integers.
        RuntimeFailure: a weight cannot be decoded.
    """
    twin = model.copy()
    _refuse_integers(twin.proto)
    chains = _Constants(twin)
    decoders: dict[str, Decoder] = {}
    nodes: list[onnx.NodeProto] = []
    gone: set[int] = set()
    graph = twin.proto.graph
    for name in chains.frontier():
        if chains.coded(name) and chains.floats(name):
            decoders[name] = chains.decoder([name], (), name)
            gone.add(id(chains.made[name]))
    for node in graph.node:
        if id(node) in gone:
            continue
        if node.op_type == _NBITS and (product := _product(chains, node)) is not None:
            decoder, plain = product
            decoders[decoder.value] = decoder
            nodes += plain
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] not in chains.constant:
            nodes.append(_straight(twin, chains, node))
        else:
            nodes.append(node)
    values = {name: decoder.decoded() for name, decoder in decoders.items()}
    kept = [copied(n) for n in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(kept)
    for name, value in values.items():
        graph.initializer.add(name=name)
        twin.set_array(graph.initializer[-1], value)
    remove_dead(twin.proto)
    return Folded(twin, decoders)


def copied(node: onnx.NodeProto) -> onnx.NodeProto:
    """The same node, in no graph."""
    twin = onnx.NodeProto()
    twin.CopyFrom(node)
    return twin


class _Constants:
    """The values of the main graph that are the same in every call."""

    def __init__(self, model: Model) -> None:
        graph = model.proto.graph
        given = {i.name for i in graph.input}
        self._model, self._graph = model, graph
        self.stored = {t.name: t for t in graph.initializer if t.name not in given}
        self.made: dict[str, onnx.NodeProto] = {}
        self.constant = set(self.stored)
        for node in graph.node:
            plain = not any(True for _ in subgraphs(node)) and node.op_type not in _CHANCE
            if plain and all(name in self.constant for name in node.input if name):
                self.constant |= set(node.output)
                self.made |= dict.fromkeys(node.output, node)

    def frontier(self) -> list[str]:
        """Constant values made by nodes that something else than constant nodes reads."""
        read: dict[str, None] = {}
        for node in self._graph.node:
            if node.output[0] not in self.made:
                read |= dict.fromkeys(_reads(node))
        return [name for name in read if name in self.made and self.made[name].op_type != "Constant"]

    def _above(self, names: Iterable[str]) -> tuple[list[onnx.NodeProto], list[str]]:
        """The nodes that make values, in order, and the names of the stored tensors that they read."""
        wanted, found, stored = list(names), set[str](), dict[str, None]()
        while wanted:
            name = wanted.pop()
            if name in self.stored:
                stored[name] = None
            elif name not in found:
                found.add(name)
                wanted += [i for i in self.made[name].input if i]
        return [n for n in self._graph.node if n.output and n.output[0] in found], list(stored)

    def coded(self, name: str) -> bool:
        """Whether anything but float32 tensors and shapes is stored of a value."""
        kinds = {self.stored[s].data_type for s in self._above([name])[1]}
        return bool(kinds - {TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL})

    def floats(self, name: str) -> bool:
        """Whether a value is float32."""
        node = self.made[name]
        if node.op_type == "Cast":
            return attribute_value(node, "to") == TensorProto.FLOAT
        if node.op_type == "DequantizeLinear":
            scale = self._kind(node.input[1])
            return scale == TensorProto.FLOAT
        return self._kind(name) == TensorProto.FLOAT

    def _kind(self, name: str) -> int | None:
        """The type of a value, by the operators that keep types; None where that is not clear."""
        if name in self.stored:
            return int(self.stored[name].data_type)
        node = self.made[name]
        if node.op_type == "Cast":
            return int(attribute_value(node, "to", 0))  # type: ignore[call-overload,no-any-return]
        if node.op_type == "DequantizeLinear":
            return self._kind(node.input[1])
        return self._kind(node.input[0]) if node.op_type in _ALIKE else None

    def decoder(self, names: Iterable[str], more: tuple[onnx.NodeProto, ...], value: str,
                tensors: tuple[TensorProto, ...] = ()) -> Decoder:  # fmt: skip
        """The decoder of a value that is made of those of these names, by ``more`` nodes with ``tensors`` of theirs."""
        nodes, stored = self._above(names)
        data = [numpy_helper.from_array(self._model.array(self.stored[s]), s) for s in stored]
        proto = self._model.proto
        return Decoder(
            [*(copied(n) for n in nodes), *more], [*data, *tensors], value, proto.opset_import, max(proto.ir_version, 4)
        )

    def array(self, name: str) -> np.ndarray | None:
        """A stored tensor, or the value of a Constant node."""
        if name in self.stored:
            return self._model.array(self.stored[name])
        node = self.made.get(name)
        tensor = attribute_value(node, "value") if node is not None and node.op_type == "Constant" else None
        return numpy_helper.to_array(tensor) if isinstance(tensor, TensorProto) else None


def _reads(node: onnx.NodeProto) -> Iterable[str]:
    yield from (name for name in node.input if name)
    for body in subgraphs(node):
        for inner in body.node:
            yield from _reads(inner)
        yield from (o.name for o in body.output)


def _refuse_integers(proto: onnx.ModelProto) -> None:
    for node in proto.graph.node:
        if node.op_type in _INTEGER or node.op_type.startswith("QLinear"):
            raise ModelError(
                f"the layer {node.name or node.output[0]!r} computes with integers ({node.op_type}), which have no "
                "gradient",
                "Train before such a step, or quantize with --scheme weight-only or below 8 bits.",
            )


def _product(chains: _Constants, node: onnx.NodeProto) -> tuple[Decoder, list[onnx.NodeProto]] | None:
    """The decoder of the weight of a MatMulNBits, and a MatMul in its place; None where it has what is not known."""
    inputs = list(node.input) + [""] * (6 - len(node.input))
    x, constants, (groups, bias) = inputs[0], [i for i in inputs[1:4] if i], inputs[4:6]
    if groups or any(name not in chains.constant for name in constants):
        return None
    length, weight = int(attribute_value(node, "K", 0)), f"{node.output[0]}.weight"  # type: ignore[call-overload]
    one = numpy_helper.from_array(np.eye(length, dtype=np.float32), f"{weight}.one")
    plain = copied(node)
    plain.input[:], plain.output[:] = [one.name, *inputs[1:4]], [weight]
    attributes = [a for a in plain.attribute if a.name != "accuracy_level"]
    del plain.attribute[:]
    plain.attribute.extend(attributes)
    decoder = chains.decoder(constants, (plain,), weight, (one,))
    if not bias:
        return decoder, [helper.make_node("MatMul", [x, weight], [node.output[0]], name=node.name)]
    product = f"{node.output[0]}.product"
    return decoder, [
        helper.make_node("MatMul", [x, weight], [product], name=node.name),
        helper.make_node("Add", [product, bias], [node.output[0]]),
    ]


def _straight(model: Model, chains: _Constants, node: onnx.NodeProto) -> onnx.NodeProto:
    """What stands for the rounding of an activation: its range alone, or nothing behind that."""
    if node.op_type == "DequantizeLinear":
        return helper.make_node("Identity", [node.input[0]], [node.output[0]])
    scale = chains.array(node.input[1])
    zero = chains.array(node.input[2]) if len(node.input) > 2 and node.input[2] else np.uint8(0)
    if scale is None or zero is None or scale.size != 1 or model.opset < _CLIP_OPSET:
        raise ModelError(
            f"the rounding at {node.name or node.output[0]!r} is none that a gradient could go through",
            "Train before the activations are quantized.",
        )
    kind = int(helper.np_dtype_to_tensor_dtype(np.asarray(zero).dtype))
    names = []
    for word, end in zip(("low", "high"), _RANGES.get(kind, _ENDLESS), strict=True):
        bound = float(scale.reshape(())) * (end - int(np.asarray(zero).reshape(())))
        names.append(f"{node.output[0]}.{word}")
        model.proto.graph.initializer.append(numpy_helper.from_array(np.array(bound, np.float32), names[-1]))
    return helper.make_node("Clip", [node.input[0], *names], [node.output[0]])
