"""Each rule against its operator: removing what a tie holds together before it is as good as removing it behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxcompress.errors import OnnxCompressError
from onnxcompress.graph import writer
from onnxcompress.graph.channel_rules import ties_of
from onnxcompress.graph.channel_ties import Axis, Count, Indices
from onnxcompress.graph.channel_world import World
from onnxcompress.graph.channels import Carrier, Counted, Group, Renumbered, Slot
from onnxcompress.graph.model import Model
from onnxcompress.graph.narrowing import narrowed
from onnxcompress.runtime.session import Session
from tests.backend_models import examples
from tests.channel_models import HEAD, model_of

if TYPE_CHECKING:
    from onnxcompress.graph.channel_ties import End, Tie

Arrays = dict[str, np.ndarray]
FEWEST = 90  # operators that have a tie which was put to the test, at least
_INPUTS = (1, 99)  # from which input on they are stored


def places(labels: np.ndarray, count: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(i) for i in np.flatnonzero(labels == channel)) for channel in range(count))


def as_group(world: World, tie: Tie) -> Group:
    """What one tie holds together, as if it were all."""
    count = 1 + max(int(end.labels.max(initial=0)) for end in tie.ends)
    slots, carriers, counted, renumbered = [], [], [], []
    for end in tie.ends:
        where, port, length = places(end.labels, count), end.port, len(end.labels)
        if isinstance(port, Axis) and world.stored(port.value) is not None:
            index = end.element or 0
            slots.append(Slot(port.value, port.axis, end.role, where, length, tie.reader, index, not port.reader))
        elif isinstance(port, Axis):
            carriers.append(Carrier(port.value, port.axis, where, length, ()))
        elif isinstance(port, Count):
            before = places(np.where(np.arange(length) < port.upto, end.labels, -1), count)
            counted.append(Counted(port.reader, port.where, port.position, port.value, before, port.part))
        elif isinstance(port, Indices):
            renumbered.append(Renumbered(port.reader, port.index, where, length))
    return Group(count, tuple(slots), "channels", ("x",), tuple(carriers), tuple(counted), tuple(renumbered), "x")


def cut(array: np.ndarray, group: Group, name: str, gone: int) -> np.ndarray:
    for carrier in group.carriers:
        if carrier.value == name:
            array = np.delete(array, carrier.places[gone], carrier.axis)
    return array


def prepared(raw: bytes, feeds: Arrays, first: int) -> tuple[onnx.ModelProto, Arrays]:
    """The model with inputs from one on stored, and without claims about its outputs."""
    made = onnx.ModelProto.FromString(raw)
    moved = [i.name for i in made.graph.input][first:]
    for name in [n for n in moved if n in feeds]:
        made.graph.initializer.append(numpy_helper.from_array(np.asarray(feeds[name]), name))
        made.graph.input.remove(next(i for i in made.graph.input if i.name == name))
    for output in made.graph.output:
        output.type.tensor_type.ClearField("shape")
    return made, {name: array for name, array in feeds.items() if name not in moved}


def check_tie(model: Model, tie: Tie, feeds: Arrays, expected: Arrays) -> bool:
    """Remove the first and the last label; False where there is nothing to remove or to keep."""
    group = as_group(World(model), tie)
    tested = False
    for gone in {0, group.channels - 1} if group.channels > 1 else set():
        kept = [i for i in range(group.channels) if i != gone]
        if not group.fits(kept):
            continue
        small = narrowed(model, {group: kept})
        for info in [i for i in small.proto.graph.input if i.name in feeds]:
            dims = cut(np.asarray(feeds[info.name]), group, info.name, gone).shape
            for dim, length in zip(info.type.tensor_type.shape.dim, dims, strict=True):
                dim.dim_value = length
        cut_feeds = {name: cut(np.asarray(array), group, name, gone) for name, array in feeds.items()}
        given = Session(writer.to_bytes(small), threads=1).run(cut_feeds)
        for name, array in expected.items():
            wanted = cut(array, group, name, gone)
            assert given[name].shape == wanted.shape
            np.testing.assert_allclose(
                np.asarray(given[name], np.float64), np.asarray(wanted, np.float64), rtol=1e-4, atol=1e-5
            )
        tested = True
    return tested


def usable(end: End) -> bool:
    return not isinstance(end.port, Axis) or end.role != "consumer"


def expected_outputs(made: onnx.ModelProto, feeds: Arrays) -> Arrays | None:
    try:
        return Session(made.SerializeToString(), threads=1).run(feeds)
    except OnnxCompressError:
        return None


def single_nodes(first: int) -> list[tuple[str, Model, Arrays]]:
    found = []
    for example in examples("node"):
        arrays = all(isinstance(a, np.ndarray) and a.dtype.kind in "fiub" for a in example.feeds.values())
        if not arrays or not example.exact or (first < 99 and len(example.feeds) < 2):
            continue
        made, feeds = prepared(example.model, example.feeds, first)
        if len(made.graph.node) == 1 and not any(name in example.name for name in ("sequence", "optional", "string")):
            found.append((example.name, Model(made), feeds))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("first", _INPUTS)
def test_rules(first: int) -> None:
    operators = set()
    for name, model, feeds in single_nodes(first):
        node = model.proto.graph.node[0]
        ties = [tie for tie in ties_of(World(model), node).ties if all(usable(end) for end in tie.ends)]
        expected = expected_outputs(model.proto, feeds) if ties else None
        if expected is None:
            continue
        for tie in ties:
            outputs = [end for end in tie.ends if isinstance(end.port, Axis) and (end.element or 0) < 0]
            assert outputs, name
            try:
                if check_tie(model, tie, feeds, expected):
                    operators.add(node.op_type)
            except (AssertionError, OnnxCompressError) as error:
                raise AssertionError(f"{name}: {[(e.port, e.labels.tolist()) for e in tie.ends]}") from error
    print(len(operators), sorted(operators))
    assert len(operators) >= (FEWEST if first == 99 else 20)


@pytest.mark.parametrize(
    "operator", ["com.microsoft.Gelu(h)", "com.microsoft.QuickGelu(h)", "GroupNormalization<num_groups = 3>(h, s, b)"]
)
def test_shapes_behind_operators_that_onnx_does_not_follow(operator: str) -> None:
    shapes = {"u": (12, 3, 1, 1), "s": (3,), "b": (3,), "w": (4, 12, 1, 1)}
    made = model_of(HEAD + f"{{ h = Conv(a, u) k = {operator} r = Relu(k) y = Conv(r, w) }}", shapes, 18)
    assert World(Model(made)).length("r", 1) == 12
    assert World(Model(made)).length("y", 2) == 8
