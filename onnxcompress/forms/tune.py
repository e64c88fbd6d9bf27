"""Measuring what the forms cost on this machine: each written into a one-layer model and timed against float."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxcompress.forms import blockwise, decode, dynamic, fused
from onnxcompress.forms.assemble import assemble
from onnxcompress.forms.base import Writing
from onnxcompress.forms.costs import Point, form_key
from onnxcompress.graph import edit, writer
from onnxcompress.graph.layers import weights
from onnxcompress.graph.model import Model
from onnxcompress.graph.scopes import Scopes
from onnxcompress.runtime.crowding import crowded
from onnxcompress.runtime.session import Session
from onnxcompress.runtime.timing import paired
from onnxcompress.solvers.groups import Grid, per_block, per_channel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Shape = tuple[int, int, int]  # rows, in_features, out_features
Variant = tuple[str, int, int | None]  # form, bits of a weight, block

PER_CHANNEL_BLOCKS: Variant = (blockwise.NAME, 8, 32)  # blocks of the operator, scales of whole channels
VARIANTS: tuple[Variant, ...] = (
    (dynamic.TWO_PASSES, 8, None),
    (dynamic.ONE_PASS, 8, None),
    (fused.NAME, 8, None),
    PER_CHANNEL_BLOCKS,
    (blockwise.NAME, 8, 128),
    (blockwise.NAME, 4, 32),
    (blockwise.NAME, 4, 128),
)


def variant_key(variant: Variant) -> str:
    """The name of a variant in the cost table."""
    return form_key(*variant)


def one_layer(inputs: int, outputs: int) -> Model:
    """A model of one MatMul of float weights."""
    weight = np.random.default_rng(0).standard_normal((inputs, outputs)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "one_layer",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["rows", inputs])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["rows", outputs])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = Model(proto)
    tensor = proto.graph.initializer.add()
    tensor.CopyFrom(numpy_helper.from_array(np.zeros(0, np.float32), "w"))
    model.set_array(tensor, weight)
    return model


def write_variant(model: Model, variant: Variant) -> bytes:
    """The one-layer model with its weight in a form."""
    form, bits, block = variant
    twin = model.copy()
    scopes = Scopes(twin.proto)
    weight = next(w for w in weights(twin, scopes) if w.leaves)
    whole = block is None or variant == PER_CHANNEL_BLOCKS
    groups = per_channel(weight.dims, (1,)) if whole or block is None else per_block(weight.dims, (1,), block)
    writing = Writing(twin, weight, Grid(bits), groups, edit.Namer(scopes.names()))
    choice = dict.fromkeys(weight.leaves, form)
    edit.apply(twin, [assemble(writing, np.dtype(np.float32), choice).edit])
    return writer.to_bytes(twin)


def measure(shapes: Sequence[Shape], variants: Sequence[Variant] = VARIANTS, *, threads: int = 1,
            seconds: float = 0.3) -> Iterator[tuple[str, Point]]:  # fmt: skip
    """Speed-up of every variant at every shape, over the self-decoding form (which is folded to the float product)."""
    spin = not crowded(threads, wait=True)
    for rows, inputs, outputs in shapes:
        model = one_layer(inputs, outputs)
        feeds = {"x": np.random.default_rng(1).standard_normal((rows, inputs)).astype(np.float32)}
        plain = Session(write_variant(model, (decode.NAME, 8, None)), threads=threads, spin=spin)
        for variant in variants:
            block = variant[2]
            if block is not None and inputs % block:
                continue
            rival = Session(write_variant(model, variant), threads=threads, spin=spin)
            callers = [(plain.caller(feeds), rival.caller(feeds))]
            speedup = paired([functools.partial(list, callers)], seconds).speedup
            yield variant_key(variant), Point(rows, inputs, outputs, round(speedup, 3))
