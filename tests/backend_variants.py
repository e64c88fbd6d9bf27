"""Backend models with more stored weights than they come with: something for those to work on who change weights.

``stored`` turns inputs into initializers. ``embedded`` puts layers in front of the inputs of a model and behind its
outputs, so that axes of what is between these are channels:

    a -> layer -> x -> the model -> y -> layers that read every axis
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.backend_models import Example
from tests.small_models import normal

Side = Literal["last", "second", "channels"]  # the axis that a layer makes
SIDES: tuple[Side, ...] = ("last", "second", "channels")
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_NUMBERS = (
    *_FLOATS, TensorProto.BOOL, TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
    TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
)  # fmt: skip
_LARGEST = 1e30  # of the values that a layer is given, which are float32 even if those of the model are wider
_OPSET = 17  # of added layers, in models that have operators of other domains alone
_OLDEST = 6  # of Cast as it is today
_LONGEST = 64  # axes that a layer makes or reads
_CONVOLVED = (3, 4, 5)  # ranks
_LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
LIGHT = tuple(sorted(path.stem.removeprefix("light_") for path in _LIGHT.glob("light_*.onnx")))


def frozen(model: bytes) -> bytes:
    """The model with stored weights that callers cannot replace."""
    proto = onnx.load_from_string(model)
    known = {t.name for t in proto.graph.initializer}
    for index in reversed([i for i, v in enumerate(proto.graph.input) if v.name in known]):
        del proto.graph.input[index]
    proto.ir_version = max(proto.ir_version, 4)
    return bytes(proto.SerializeToString())


def stored(example: Example) -> Example | None:
    """The model with all inputs but the first one of floats stored, as they are in its call; None without others."""
    proto = onnx.load_from_string(frozen(example.model))
    types = {v.name: v.type.tensor_type.elem_type for v in proto.graph.input if v.type.HasField("tensor_type")}
    names = [n for n in types if isinstance(example.feeds.get(n), np.ndarray)]
    first = next((n for n in names if types[n] in _FLOATS), names[0] if names else None)
    others = [n for n in names if n != first]
    if not others:
        return None
    for name in others:
        _store(proto, name, types[name], example.feeds[name])
    feeds = {n: v for n, v in example.feeds.items() if n not in others}
    return Example(f"{example.name}-stored", bytes(proto.SerializeToString()), feeds, example.exact)


def _store(proto: onnx.ModelProto, name: str, kind: int, value: np.ndarray) -> None:
    index = [v.name for v in proto.graph.input].index(name)
    del proto.graph.input[index]
    tensor = numpy_helper.from_array(value, name)
    tensor.data_type = kind
    proto.graph.initializer.append(tensor)
    proto.ir_version = max(proto.ir_version, 4)


# ------------------------------------------------------------------------- layers around a model


def embedded(example: Example, side: Side, *, every: bool) -> Example | None:
    """The model between layers, its other inputs stored; None where that is not possible.

    ``side``: which axis of its first input of floats the layer makes. ``every``: so for all inputs of floats.
    """
    proto = onnx.load_from_string(frozen(example.model))
    inputs = {v.name: v.type.tensor_type.elem_type for v in proto.graph.input if v.type.HasField("tensor_type")}
    if any(not known.domain and known.version < _OLDEST for known in proto.opset_import):
        return None
    if len(inputs) != len(proto.graph.input) or any(not isinstance(v, np.ndarray) for v in example.feeds.values()):
        return None
    names = [n for n in inputs if n in example.feeds and _fits(example.feeds[n], side)]
    chosen = [n for n in names if inputs[n] in _FLOATS] or [n for n in names if inputs[n] in _NUMBERS]
    chosen = chosen if every else chosen[:1]
    if not chosen or (every and len(chosen) < 2):
        return None
    feeds = {}
    for number, name in enumerate(chosen):
        feeds[f"{name}_a"] = _before(proto, name, inputs[name], example.feeds[name], side, number)
    for name in [n for n in inputs if n not in chosen and n in example.feeds]:
        _store(proto, name, inputs[name], example.feeds[name])
    if all(known.domain for known in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid("", _OPSET))
    outputs = {v.name: v for v in proto.graph.output}
    for name, info in outputs.items():
        _behind(proto, name, info)
    title = f"{example.name}-{side}{'-every' if every else ''}"
    return Example(title, bytes(proto.SerializeToString()), feeds, example.exact)


def _fits(value: np.ndarray, side: Side) -> bool:
    if side == "channels" and value.ndim not in _CONVOLVED:
        return False
    return value.ndim > 1 and 1 < value.shape[_axis(side)] <= _LONGEST and value.size > 0


def _axis(side: Side) -> int:
    return {"last": -1, "second": -2, "channels": 1}[side]


def _before(
    proto: onnx.ModelProto, name: str, kind: int, value: np.ndarray, side: Side, number: int
) -> np.ndarray:  # fmt: skip
    """Put a layer in front of an input; the input of the layer at which it gives the value."""
    axis, graph = _axis(side), proto.graph
    length = value.shape[axis]
    exact = kind not in _FLOATS
    # W x is a permutation where values have to come out exactly
    weight = 2 * np.eye(length, dtype=np.float32)[::-1] if exact else _mixing(length, number)
    finite = value.astype(np.float64).clip(-_LARGEST, _LARGEST)
    moved = np.moveaxis(finite, axis, -1) @ np.linalg.inv(weight.astype(np.float64)).T
    given = np.ascontiguousarray(np.moveaxis(moved, -1, axis).astype(np.float32))
    layers = {"last": weight.T, "second": weight, "channels": weight.reshape(length, length, *[1] * (value.ndim - 2))}
    index = [v.name for v in graph.input].index(name)
    graph.input[index].CopyFrom(helper.make_tensor_value_info(f"{name}_a", TensorProto.FLOAT, value.shape))
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(layers[side]), f"{name}_w"))
    ends = [f"{name}_w", f"{name}_a"] if side == "second" else [f"{name}_a", f"{name}_w"]
    plain = kind == TensorProto.FLOAT
    made = [helper.make_node("Conv" if side == "channels" else "MatMul", ends, [name if plain else f"{name}_f"])]
    if not plain:
        made.append(helper.make_node("Cast", [f"{name}_f"], [name], to=kind))
    _insert(graph, made)
    return given


def _mixing(length: int, seed: int) -> np.ndarray:
    """Well-conditioned."""
    return (np.eye(length) + 0.3 / length * normal(length, length, seed=seed)).astype(np.float32)


def _insert(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    rest = [onnx.NodeProto.FromString(n.SerializeToString()) for n in graph.node]
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


def _behind(proto: onnx.ModelProto, name: str, info: onnx.ValueInfoProto) -> None:
    """Put layers behind an output that together read each of its last two axes and that of channels."""
    kind, graph = info.type.tensor_type.elem_type, proto.graph
    dims = [d.dim_value for d in info.type.tensor_type.shape.dim]
    if kind not in _NUMBERS or len(dims) < 2 or any(not 0 < n <= _LONGEST for n in (*dims[-2:], dims[1])):
        return
    graph.output.remove(next(v for v in graph.output if v.name == name))
    now = name
    if kind != TensorProto.FLOAT:
        graph.node.append(helper.make_node("Cast", [name], [f"{name}_f"], to=TensorProto.FLOAT))
        now = f"{name}_f"
    layers: list[tuple[str, tuple[int, ...], bool]] = [("MatMul", (dims[-1], 3), False)]
    shape = [*dims[:-1], 3]
    if len(dims) != 3:
        layers.append(("MatMul", (2, dims[-2]), True))
        shape[-2] = 2
    if len(dims) in _CONVOLVED:  # last, as it would move over the other axes
        layers.append(("Conv", (2, dims[1], *[1] * (len(dims) - 2)), False))
        shape[1] = 2
    for number, (op, size, left) in enumerate(layers):
        weight, made = f"{name}_v{number}", f"{name}_y{number}"
        graph.initializer.append(numpy_helper.from_array(normal(*size, seed=number), weight))
        graph.node.append(helper.make_node(op, [weight, now] if left else [now, weight], [made]))
        now = made
    graph.output.append(helper.make_tensor_value_info(now, TensorProto.FLOAT, shape))


# ------------------------------------------------------------------------- whole networks


def light(name: str) -> Example:
    """A whole network as the backend tests have it: its weights are made when it runs, and all alike."""
    model = frozen((_LIGHT / f"light_{name}.onnx").read_bytes())
    (given,) = onnx.load_from_string(model).graph.input
    shape = [d.dim_value for d in given.type.tensor_type.shape.dim]
    return Example(name, model, {given.name: normal(*shape)}, exact=True)


def filled(network: Example) -> Example:
    """A whole network with random stored weights."""
    proto = onnx.load_from_string(network.model)
    graph = proto.graph
    shapes = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for index in reversed([i for i, n in enumerate(graph.node) if n.op_type == "ConstantOfShape"]):
        node = graph.node[index]
        dims = [int(n) for n in shapes[node.input[0]]]
        spread = float(np.sqrt(max(1, int(np.prod(dims[1:])))))
        # variances and scales of normalization are positive
        values = normal(*dims, seed=index, scale=1 / spread) if len(dims) > 1 else 1 + np.abs(normal(*dims, seed=index))
        graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        del graph.node[index]
    return Example(f"{network.name}-filled", proto.SerializeToString(), network.feeds, network.exact)


def opened(example: Example) -> Example:
    """The model with nothing said of the lengths of axes of its inputs and outputs."""
    proto = onnx.load_from_string(example.model)
    del proto.graph.value_info[:]
    for info in (*proto.graph.input, *proto.graph.output):
        for axis, dim in enumerate(info.type.tensor_type.shape.dim):
            dim.dim_param = f"{info.name}_{axis}"
    return Example(f"{example.name}-open", proto.SerializeToString(), example.feeds, example.exact)
