"""Inputs that the graph itself makes plausible, for models that come without data.

Everything is a guess, most of all the sizes of open dimensions, and only running the model can prove one. So
there are candidates, most plausible first; those in which onnx's own shape inference sees a contradiction
come last. The same model, seed and number of calls always give the same candidates. The first three calls
show every size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnxcompress.data import content, names
from onnxcompress.data.dataset import Dataset, Feeds
from onnxcompress.data.fit import describe, kind
from onnxcompress.data.roles import Role, Traced, traced
from onnxcompress.data.sizes import Axis, Plan, channels_first, concrete, plans
from onnxcompress.data.slots import filled
from onnxcompress.data.trace import Tracer
from onnxcompress.errors import DataError
from onnxcompress.graph.interface import interface
from onnxcompress.graph.scopes import attribute_value, constant_tensor
from onnxcompress.graph.shapes import NOT_INFERRED

if TYPE_CHECKING:
    from onnxcompress.graph.model import Model

SOURCE = "synthetic"
_LARGEST = 1 << 26  # values of an input: more than twice those of a picture in 4096×2160
_DEEPEST = 32  # axes of an array in the oldest numpy
_WORDS = ("the", "model", "reads", "one", "plain", "word", "at", "a", "time")

# Constants met at the entrance (mean absolute values) that show pixels of 0..255, or of 0..1.
_RAW = {"Div": (100.0, 1e9), "Mul": (0.0, 0.01), "Sub": (20.0, 1e9), "Conv": (20.0, 1e9)}
_UNIT = {"Div": (0.0, 0.6), "Mul": (1.5, 6.0), "Sub": (0.2, 0.8)}

Shapes = Mapping[str, tuple[int, ...]]


def synthetic(model: Model, *, calls: int = 8, seed: int = 0) -> Dataset:
    """The most plausible synthetic inputs of a model."""
    return next(synthetic_candidates(model, calls=calls, seed=seed))


def synthetic_candidates(model: Model, *, calls: int = 8, seed: int = 0) -> Iterator[Dataset]:
    """Synthetic inputs of a model with other choices of sizes each time, most plausible first.

    Raises:
        DataError: an input is no tensor, so that nothing can be made up for it.
    """
    inputs = trace_inputs(model)
    rank = _output_rank(model)
    held_back: list[Plan] = []
    every = list(plans(inputs, output_rank=rank, text_line=_reads_lines(model)))
    stub = _stub(model) if len(every) > 1 else None
    for plan in every:
        if stub is not None and not _consistent(stub, inputs, plan):
            held_back.append(plan)
            continue
        yield _dataset(inputs, plan, calls, seed)
    for plan in held_back:
        yield _dataset(inputs, plan, calls, seed)


def trace_inputs(model: Model) -> dict[str, Traced]:
    """The inputs of a model, each with its role."""
    tracer = Tracer(model)
    found = {}
    for spec in interface(model.proto).inputs:
        if spec.dtype is None:
            raise DataError(
                f"the input {spec.name!r} is {describe(spec)}, for which no values can be made up",
                "Only models whose inputs are tensors can be run.",
            )
        found[spec.name] = traced(spec, tracer.facts(spec.name, None if spec.shape is None else len(spec.shape)))
    return found


def _output_rank(model: Model) -> int | None:
    shape = next((o.shape for o in interface(model.proto).outputs), None)
    return None if shape is None else len(shape)


def _reads_lines(model: Model) -> bool:
    """Height squeezed away: text recognizers, which read a line of text from left to right, do that."""
    constants = {t.name: t for t in model.proto.graph.initializer}
    for node in model.proto.graph.node:
        if node.op_type == "Constant" and node.output:
            tensor = constant_tensor(node)
            if tensor is not None:
                constants[node.output[0]] = tensor
        if node.op_type == "Squeeze":
            axes = attribute_value(node, "axes")
            if len(node.input) > 1 and node.input[1] in constants:
                axes = model.array(constants[node.input[1]]).ravel().tolist()
            if axes == [2]:
                return True
    return False


# ------------------------------------------------------------------------- does a plan contradict the graph?


def _stub(model: Model) -> onnx.ModelProto:
    """The structure alone: large initializers become inputs of the same type and shape."""
    stub = onnx.ModelProto()
    stub.CopyFrom(model.proto)
    large = [t for t in stub.graph.initializer if not model.has_data(t)]
    declared = {i.name for i in stub.graph.input}  # up to IR version 3, initializers are inputs as well
    for tensor in large:
        if tensor.name not in declared:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            stub.graph.input.append(info)
        stub.graph.initializer.remove(tensor)
    return stub


def _consistent(stub: onnx.ModelProto, inputs: Mapping[str, Traced], plan: Plan) -> bool:
    """False where shape inference finds a contradiction with the sizes of the first calls."""
    for call in range(max((len(sizes) for sizes in plan.chosen.values()), default=1)):
        trial = onnx.ModelProto()
        trial.CopyFrom(stub)
        for info in trial.graph.input:
            if info.name in inputs:
                shape = concrete(inputs[info.name], plan, call)
                info.CopyFrom(onnx.helper.make_tensor_value_info(info.name, info.type.tensor_type.elem_type, shape))
        try:
            onnx.shape_inference.infer_shapes(trial, strict_mode=True, data_prop=True)
        except NOT_INFERRED:
            return False
    return True


# ------------------------------------------------------------------------- values


def _dataset(inputs: Mapping[str, Traced], plan: Plan, calls: int, seed: int) -> Dataset:
    def read(call: int) -> Feeds:
        shapes = {name: concrete(entry, plan, call) for name, entry in inputs.items()}
        _refuse_absurd(shapes)
        maker = _Maker(inputs, shapes, plan, call)
        return {
            name: maker.array(entry, np.random.default_rng((seed, call, i)))
            for i, (name, entry) in enumerate(inputs.items())
        }

    return Dataset(SOURCE, calls, read)


def _refuse_absurd(shapes: Shapes) -> None:
    """Raise DataError for the first shape that no real input has."""
    for name, shape in shapes.items():
        if len(shape) > _DEEPEST or math.prod(max(1, size) for size in shape) > _LARGEST:
            raise DataError(
                f"the input {name!r} has the shape {list(shape)[:_DEEPEST]}, for which no values are made up",
                "Give --data, or export the model again with a smaller shape.",
            )


class _Maker:
    """Makes the arrays of one call."""

    def __init__(self, inputs: Mapping[str, Traced], shapes: Shapes, plan: Plan, call: int) -> None:
        self._inputs, self._shapes, self._plan, self._call = inputs, shapes, plan, call

    def array(self, entry: Traced, rng: np.random.Generator) -> np.ndarray:
        """The values of one input in its type and shape."""
        shape, dtype = self._shapes[entry.spec.name], entry.spec.dtype
        if dtype is None:
            raise DataError(f"the input {entry.spec.name!r} is no tensor", "Only tensors can be made up.")
        if entry.fill is not None:
            return filled(entry.fill, shape, dtype, rng)
        if entry.role is Role.TEXT:
            return rng.choice(np.array(_WORDS, object), shape).astype(object)
        values = np.asarray(self._values(entry, shape, rng))
        return np.array(np.broadcast_to(values, shape).astype(dtype), order="C")

    def _values(self, entry: Traced, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        makers: dict[Role, Callable[[], np.ndarray]] = {
            Role.TOKENS: lambda: _tokens(entry, shape, rng),
            Role.POSITIONS: lambda: self._plan.size(Axis.PAST, self._call) * self._has_past() + _counting(shape),
            Role.LENGTH: lambda: np.array(self._length(entry)),
            Role.CHOICE: lambda: np.array(_choice(entry)),
            Role.FLAG: lambda: np.array(self._plan.size(Axis.FLAG, self._call)),
            Role.TIMESTEP: lambda: np.array(rng.integers(1, 999)),
            Role.IMAGE: lambda: _image(entry, shape, rng),
            Role.IMAGE_SIZE: lambda: self._image_size(shape),
            Role.AUDIO: lambda: _sounds(shape, rng),
            Role.FEATURES: lambda: _features(entry, shape, rng),
        }
        zeros = entry.role in (Role.TYPES, Role.STATE)
        return makers.get(entry.role, lambda: np.array(0 if zeros else 1))()

    def _has_past(self) -> bool:
        return any(t.role is Role.STATE for t in self._inputs.values())

    def _length(self, entry: Traced) -> int:
        """The length of the sequence that the name of the length starts with, or else of the first one."""
        rivals = [t for t in self._inputs.values() if t.role in (Role.TOKENS, Role.AUDIO, Role.FEATURES)]
        rivals = [t for t in rivals if len(self._shapes[t.spec.name]) > 1]
        if not rivals:
            return 1
        own = entry.spec.name.lower()
        beside = max(rivals, key=lambda t: own.startswith(_stem(t.spec.name)) * len(_stem(t.spec.name)))
        shape, declared = self._shapes[beside.spec.name], beside.shape or ()
        open_axes = [i for i, d in enumerate(declared) if i > 0 and not isinstance(d, int)]
        return shape[open_axes[0]] if open_axes else max(shape[1:])

    def _image_size(self, shape: tuple[int, ...]) -> np.ndarray:
        image = next((t for t in self._inputs.values() if t.role is Role.IMAGE), None)
        if image is None or not shape:
            return np.array(224)
        dims = self._shapes[image.spec.name]
        first = channels_first(image.shape or (), image.facts.sizes)
        size = [*(dims[-2:] if first else dims[-3:-1]), 1, 1, 1, 1]
        return np.array(size[: shape[-1]] if shape[-1] <= len(size) else 1)


def _stem(name: str) -> str:
    return name.lower().rsplit("_", 1)[0] if name.lower().endswith(("_signal", "_ids", "_features")) else name.lower()


def _counting(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(shape[-1] if shape else 1) if shape else np.array(0)


def _tokens(entry: Traced, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Rows of the table that is indexed, but not a value that stands for padding; or values compared with."""
    facts = entry.facts
    if facts.rows is None and len(facts.compared) > 2:
        return np.asarray(rng.choice(sorted(facts.compared), shape))
    ids = np.asarray(rng.integers(0, max(facts.rows or 100, 1), shape))
    padding = facts.compared if 0 < len(facts.compared) <= 2 else ()
    for value in padding:
        ids = np.where(ids == value, (ids + 1) % max(facts.rows or 100, 1), ids)
    return ids


def _choice(entry: Traced) -> float:
    """A constant that the graph compares with: 16 kHz where that is among sample rates, else the largest."""
    known = entry.facts.compared
    rate = names.RATE.search(entry.spec.name.lower()) is not None
    if 16000.0 in known or (rate and not known):
        return 16000.0
    return max(known, default=1.0)


def _image(entry: Traced, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A picture on the scale that the type, or arithmetic at the entrance of the graph, shows."""
    first = channels_first(entry.shape or (None,) * len(shape), entry.facts.sizes)
    dims = (1,) * (4 - len(shape)) + shape if len(shape) <= 4 else (int(np.prod(shape[:-3])), *shape[-3:])
    channels, height, width = dims[-3:] if first else (dims[-1], dims[-3], dims[-2])
    if 0 in dims:
        return np.zeros(shape)
    made = np.stack([content.picture(rng, channels, height, width) for _ in range(dims[0])])
    made = _scaled(made, entry)
    return (made if first else made.transpose(0, 2, 3, 1)).reshape(shape)


def _scaled(values: np.ndarray, entry: Traced) -> np.ndarray:
    dtype = entry.spec.dtype
    raw: np.ndarray = np.clip(np.rint(122 + 58 * values), 0, 255)
    if dtype is not None and kind(dtype) == "int":
        return np.asarray(raw - 128 if dtype == np.int8 else raw)
    for op, size in entry.facts.scales:
        low, high = _RAW.get(op, (0.0, 0.0))
        if low < size < high:
            return raw
        low, high = _UNIT.get(op, (0.0, 0.0))
        if low < size < high:
            return raw / 255
    return values


def _sounds(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if 0 in shape:
        return np.zeros(shape)
    count = int(np.prod(shape[:-1]))
    return np.stack([content.sound(rng, shape[-1]) for _ in range(count)]).reshape(shape)


def _features(entry: Traced, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    convolved = entry.facts.reaches("Conv", "ConvTranspose", "MaxPool", "AveragePool")
    return content.features(rng, shape, smooth=len(shape) >= 3 and convolved)
