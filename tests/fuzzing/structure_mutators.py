"""Changes to the structure of a model: graphs that no exporter writes, but that protobuf can hold."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import onnx
from onnx import AttributeProto, TensorProto, helper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

    Mutator = Callable[[Random, onnx.ModelProto], None]

_NUMBERS = (-(1 << 63), -(1 << 31), -2, -1, 0, 1, 2, 3, 7, 1 << 16, 1 << 31, 1 << 32, 1 << 40, (1 << 63) - 1)
_REALS = (0.0, -0.0, 1e-45, 1e38, -1.0, float("inf"), float("-inf"), float("nan"))
_TEXTS = ("", "x", "none", "a" * 3000, "\x00", "é\n\x1b[31m", "../../x", "%s{0}", "*", "[", "Constant")
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "nowhere", "ai.onnx.preview.training")
_OPERATORS = (
    "Add", "MatMul", "Gemm", "Conv", "ConvTranspose", "Gather", "Constant", "ConstantOfShape", "Identity", "Reshape",
    "Transpose", "DequantizeLinear", "QuantizeLinear", "LSTM", "GRU", "RNN", "If", "Loop", "Scan", "Concat", "Split",
    "BatchNormalization", "Slice", "Expand", "Tile", "Range", "Pad", "Cast", "Relu", "Squeeze", "Unsqueeze", "Shape",
    "Einsum", "LayerNormalization", "Softmax", "Dropout", "Nothing",
)  # fmt: skip
_TYPES = (*TensorProto.DataType.values(), 99, -1)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _graph(rng: Random, model: onnx.ModelProto) -> onnx.GraphProto:
    return rng.choice(list(_graphs(model.graph)))


def _node(rng: Random, model: onnx.ModelProto) -> onnx.NodeProto:
    graph = _graph(rng, model)
    chosen: onnx.NodeProto = rng.choice(list(graph.node) or [graph.node.add()])
    return chosen


def _tensor(rng: Random, model: onnx.ModelProto) -> TensorProto:
    found = [t for g in _graphs(model.graph) for t in g.initializer]
    found += [a.t for g in _graphs(model.graph) for n in g.node for a in n.attribute if a.HasField("t")]
    chosen: TensorProto = rng.choice(found or [model.graph.initializer.add()])
    return chosen


def _info(rng: Random, model: onnx.ModelProto) -> onnx.ValueInfoProto:
    graph = _graph(rng, model)
    found = [*graph.input, *graph.output, *graph.value_info]
    chosen: onnx.ValueInfoProto = rng.choice(found or [graph.value_info.add()])
    return chosen


def _names(model: onnx.ModelProto) -> list[str]:
    graph = model.graph
    found = [name for node in graph.node for name in (*node.input, *node.output)]
    return [*found, *(t.name for t in graph.initializer), *(i.name for i in (*graph.input, *graph.output)), *_TEXTS]


def rename(rng: Random, model: onnx.ModelProto) -> None:
    """Give a node, one of its ends, a tensor, an input or an output the name of another, or an odd one."""
    name, node = rng.choice(_names(model)), _node(rng, model)
    ends = rng.choice((node.input, node.output))
    if rng.random() < 0.6 and ends:
        ends[rng.randrange(len(ends))] = name
    else:
        rng.choice((node, _tensor(rng, model), _info(rng, model), _graph(rng, model))).name = name


def rewire(rng: Random, model: onnx.ModelProto) -> None:
    """Swap two inputs of a node, take one away, add one, or take all."""
    node = _node(rng, model)
    ends = list(node.input)
    rng.choice((rng.shuffle, lambda e: e.append(rng.choice(_names(model))), lambda e: e and e.pop(), list.clear))(ends)
    node.input[:] = ends


def reorder(rng: Random, model: onnx.ModelProto) -> None:
    """Leave nodes, inputs, outputs or tensors out, repeat them, or put them elsewhere."""
    graph = _graph(rng, model)
    items: Any = rng.choice((graph.node, graph.node, graph.initializer, graph.input, graph.output, graph.value_info))
    if not items:
        return
    index = rng.randrange(len(items))
    if rng.random() < 0.5:
        del items[index]
        return
    copy = type(items[index])()
    copy.CopyFrom(items[index])
    if isinstance(copy, onnx.NodeProto) and rng.random() < 0.5:
        copy.output[:] = [f"{name}_again" for name in copy.output]
    items.append(copy)


def retype(rng: Random, model: onnx.ModelProto) -> None:
    """Declare another type of a tensor, an input or an output."""
    kind = rng.choice(_TYPES)
    if rng.random() < 0.5:
        _tensor(rng, model).data_type = kind
    elif rng.random() < 0.8:
        _info(rng, model).type.tensor_type.elem_type = kind
    else:
        info = _info(rng, model)
        info.type.sequence_type.elem_type.tensor_type.elem_type = kind


def reshape(rng: Random, model: onnx.ModelProto) -> None:
    """Declare other dimensions of a tensor, an input or an output, absurd ones among them."""
    number = rng.choice(_NUMBERS)
    if rng.random() < 0.5:
        tensor = _tensor(rng, model)
        dims = list(tensor.dims)
        change = rng.randrange(4)
        if change == 0:
            dims.reverse()
        elif change == 1 and dims:
            dims[rng.randrange(len(dims))] = number
        elif change == 2:
            dims = []
        else:
            dims.append(rng.choice((1, number)))
        tensor.dims[:] = dims
        return
    shape = _info(rng, model).type.tensor_type.shape
    if shape.dim and rng.random() < 0.7:
        dim = rng.choice(shape.dim)
        if rng.random() < 0.5:
            dim.dim_value = number
        else:
            dim.dim_param = rng.choice(_TEXTS)
    else:
        shape.dim.add().dim_value = number


def revalue(rng: Random, model: onnx.ModelProto) -> None:
    """Give a tensor other values, too few or too many, in another field, or in a file that is not there."""
    tensor = _tensor(rng, model)
    change = rng.randrange(6)
    if change == 0:
        tensor.raw_data = tensor.raw_data[: -rng.randrange(1, 9)]
    elif change == 1:
        tensor.raw_data += rng.randbytes(rng.randrange(1, 2000))
    elif change == 2:
        rng.choice((tensor.float_data, tensor.double_data)).append(rng.choice(_REALS))
    elif change == 3:
        rng.choice((tensor.int64_data, tensor.dims)).append(rng.choice(_NUMBERS))
    elif change == 4:
        tensor.data_location = TensorProto.EXTERNAL
        entry = rng.choice((("location", "model.onnx"), ("location", rng.choice(_TEXTS)), ("offset", "-1")))
        tensor.external_data.add(key=entry[0], value=entry[1])
    else:
        tensor.raw_data = rng.randbytes(len(tensor.raw_data))


def reform(rng: Random, model: onnx.ModelProto) -> None:
    """Give a tensor another shape, type or values that fit: the wrong ones for who reads it."""
    tensor = _tensor(rng, model)
    dims, change = list(tensor.dims), rng.randrange(6)
    if change == 0:
        dims.reverse()
    elif change == 1:
        dims = [math.prod(dims)]
    elif change == 2:
        dims.insert(rng.randrange(len(dims) + 1), 1)
    elif change == 3 and dims and dims[0]:
        dims = [math.prod(dims) // dims[0], dims[0]]
    elif change == 4 and tensor.data_type == TensorProto.FLOAT:
        tensor.data_type = rng.choice((TensorProto.INT32, TensorProto.UINT32, TensorProto.FLOAT))
    elif tensor.data_type == TensorProto.FLOAT:
        count = len(tensor.raw_data) // 4
        one = struct.pack("<f", rng.choice(_REALS))
        place = 4 * rng.randrange(max(count, 1))
        tensor.raw_data = (
            one * count
            if rng.random() < 0.3
            else tensor.raw_data[:place] + one * bool(count) + (tensor.raw_data[place + 4 :])
        )
    elif tensor.data_type == TensorProto.INT64 and len(tensor.raw_data) >= 8:
        place = 8 * rng.randrange(len(tensor.raw_data) // 8)
        one = struct.pack("<q", rng.choice(_NUMBERS))
        tensor.raw_data = tensor.raw_data[:place] + one + tensor.raw_data[place + 8 :]
    if abs(math.prod(dims)) < 1 << 63:
        tensor.dims[:] = dims


def revise(rng: Random, model: onnx.ModelProto) -> None:
    """Change, add or leave out an attribute of a node."""
    node = _node(rng, model)
    if not node.attribute or rng.random() < 0.1:
        node.attribute.append(helper.make_attribute(rng.choice(("axis", "to", "perm", "value")), rng.choice(_NUMBERS)))
        return
    index = rng.randrange(len(node.attribute))
    attribute, change = node.attribute[index], rng.randrange(6)
    if change == 0:
        del node.attribute[index]
    elif change == 1:
        attribute.name = rng.choice(("axis", "axes", "value", "body", "to", *_TEXTS))
    elif change == 2:
        attribute.type = rng.choice(AttributeProto.AttributeType.values())
    elif change == 3 and attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(_NUMBERS)
    elif change == 4:
        attribute.ints.append(rng.choice(_NUMBERS))
    else:
        attribute.i, attribute.f, attribute.s = rng.choice(_NUMBERS), rng.choice(_REALS), rng.choice(_TEXTS).encode()


def reoperate(rng: Random, model: onnx.ModelProto) -> None:
    """Make a node another operator, or of another domain."""
    node = _node(rng, model)
    if rng.random() < 0.7:
        node.op_type = rng.choice((*_OPERATORS, *_TEXTS))
    else:
        node.domain = rng.choice(_DOMAINS)


def reversion(rng: Random, model: onnx.ModelProto) -> None:
    """Declare other versions."""
    if rng.random() < 0.3:
        model.ir_version = rng.choice((*range(15), *_NUMBERS))
    elif model.opset_import and rng.random() < 0.8:
        rng.choice(model.opset_import).version = rng.choice((*range(30), *_NUMBERS))
    else:
        model.opset_import.add(domain=rng.choice(_DOMAINS), version=rng.choice((*range(30), *_NUMBERS)))


def enfold(rng: Random, model: onnx.ModelProto) -> None:
    """Turn a node into a call of a function, or put it into a branch, or give it a graph."""
    node = _node(rng, model)
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    if rng.random() < 0.5:
        function = model.functions.add(name="f", domain="local", input=copy.input, output=copy.output, node=[copy])
        function.opset_import.extend(model.opset_import)
        node.op_type, node.domain = ("f", "local")
        del node.attribute[:]
        if rng.random() < 0.7:
            model.opset_import.add(domain="local", version=1)
    else:
        outputs = [onnx.ValueInfoProto(name=name) for name in copy.output]
        body = helper.make_graph([copy], "body", [], outputs)
        node.op_type, node.domain = "If", ""
        node.input[:] = list(node.input)[:1]
        del node.attribute[:]
        node.attribute.extend(helper.make_attribute(f"{name}_branch", body) for name in ("then", "else"))


def annotate(rng: Random, model: onnx.ModelProto) -> None:
    """Add what is rare: metadata, a sparse tensor, a quantization annotation, an input of a stored tensor."""
    change, name = rng.randrange(4), rng.choice(_names(model))
    if change == 0:
        model.metadata_props.add(key=rng.choice(("onnxcompress", *_TEXTS)), value=rng.choice(_TEXTS))
    elif change == 1:
        sparse = model.graph.sparse_initializer.add(dims=[rng.choice(_NUMBERS), 4])
        sparse.values.CopyFrom(_tensor(rng, model))
        sparse.indices.CopyFrom(_tensor(rng, model))
    elif change == 2:
        model.graph.quantization_annotation.add(tensor_name=name)
    else:
        model.graph.input.append(helper.make_tensor_value_info(_tensor(rng, model).name, 1, [rng.choice(_NUMBERS)]))


# in the second half those after which a model can be read more often than not
MUTATORS: tuple[Mutator, ...] = (
    rename, rewire, reorder, retype, reshape, revalue, annotate,
    reform, reform, reform, reshape, revise, revise, reoperate, reversion, enfold,
)  # fmt: skip
GENTLE = MUTATORS[7:]
