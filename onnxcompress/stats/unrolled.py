"""An image as a convolution sees it: one column for each position, with the pixels of the kernel's window.

Inside the model this is a depthwise convolution with one-hot kernels, w[c·k + j] = δ_j for the k places of a window, so
that strides, dilations and padding are those of the layer itself:

    (batch, channels, *space)  ->  (groups, channels of a group · k, batch · positions)

Neighbouring windows overlap and say much the same, so positions are thinned out: a step on each axis, chosen from the
shape of one sample and odd, so that it does not fall in step with sizes that are powers of two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper, numpy_helper

from onnxcompress.graph.bodies import integer
from onnxcompress.graph.scopes import attribute_value

if TYPE_CHECKING:
    import onnx

SLICE_INPUTS = 10  # opset in which Slice takes steps
_WORK = 2  # multiplications for the Gram matrix to each one of the layer
_FEW = 16  # positions of a sample that are never thinned out
_PLENTY = 64, 4, 1024  # positions of a sample that are enough: at least, for each input, at most

Ints = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """How a convolution reads its input: per axis of space; ``pads`` begins then ends, None where ``auto`` says it."""

    channels: int
    groups: int
    kernel: Ints
    strides: Ints
    dilations: Ints
    pads: Ints | None
    auto: str
    steps: Ints

    @property
    def inputs(self) -> int:
        """Inputs that one output of the layer reads."""
        return self.channels // self.groups * math.prod(self.kernel)

    @property
    def trivial(self) -> bool:
        """True where every pixel is a window."""
        whole = (*self.kernel, *self.strides, *self.steps)
        return all(n == 1 for n in whole) and self.pads is not None and not any(self.pads)


def window(node: onnx.NodeProto, seen: Ints, weight: Ints, given: Ints, opset: int) -> Window:
    """The window of a Conv.

    Args:
        node: the Conv.
        seen: shape of its input, (batch, channels, *space).
        weight: shape of its weight, (out, channels of a group, *kernel).
        given: shape of its output.
        opset: of the model.
    """
    groups, kernel = integer(node, "group", 1), weight[2:]
    ones = (1,) * len(kernel)
    strides, dilations = _ints(node, "strides", ones), _ints(node, "dilations", ones)
    auto = _text(node, "auto_pad", "NOTSET")
    pads = _pads(node, auto, kernel, strides, dilations)
    steps = ones
    if pads is not None or opset >= SLICE_INPUTS:
        inputs = seen[1] // groups * math.prod(kernel)
        steps = thinned(given[2:], inputs, _WORK * weight[0] / groups / inputs)
    return Window(seen[1], groups, kernel, strides, dilations, pads, auto, steps)


def thinned(space: Ints, inputs: int, share: float) -> Ints:
    """Odd steps on the axes of an output that leave ``share`` of its positions, or what is enough for the inputs."""
    steps = [1] * len(space)
    least, each, most = _PLENTY
    limit = max(_FEW, min(share * math.prod(space), max(least, each * inputs), most))
    left = list(space)
    while math.prod(left) > limit:
        axis = left.index(max(left))
        steps[axis] += 2
        left[axis] = -(-space[axis] // steps[axis])
    return tuple(_to_the_end(size, step) for size, step in zip(space, steps, strict=True))


def _to_the_end(size: int, step: int) -> int:
    """A step that is little smaller and reaches the last position too, where padding is seen on the other side."""
    smaller = range(step, step // 2, -2)
    return next((s for s in smaller if s > 1 and (size - 1) % s == 0), step)


def nodes(value: str, seen: Window, prefix: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], str]:
    """Nodes and constants that unroll a float32 value, and the name of what comes out (groups, inputs, positions)."""
    made: list[onnx.NodeProto] = []
    constants = {"shape": np.array([seen.groups, seen.inputs, -1], np.int64)}
    last = value

    def add(op: str, word: str, *inputs: str, **attributes: Any) -> None:
        nonlocal last
        output = f"{prefix}_{word}"
        names = [last, *(f"{prefix}_{i}" for i in inputs)]
        made.append(helper.make_node(op, names, [output], name=f"{output}_node", **attributes))
        last = output

    axes = list(range(2, 2 + len(seen.kernel)))
    if not seen.trivial:
        constants["taps"] = _taps(seen)
        add("Conv", "windows", "taps", **_attributes(seen))
    if seen.pads is None and any(n > 1 for n in seen.steps):
        for word, numbers in (("from", [0] * len(axes)), ("to", [2**31 - 1] * len(axes)), ("axes", axes)):
            constants[word] = np.array(numbers, np.int64)
        constants["steps"] = np.array(seen.steps, np.int64)
        add("Slice", "thinned", "from", "to", "axes", "steps")
    add("Transpose", "turned", perm=[1, 0, *axes])
    add("Flatten", "flat", axis=1)
    add("Reshape", "columns", "shape")
    return made, [numpy_helper.from_array(a, f"{prefix}_{w}") for w, a in constants.items()], last


def _attributes(seen: Window) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "group": seen.channels,
        "kernel_shape": seen.kernel,
        "dilations": seen.dilations,
        "strides": seen.strides,
    }
    if seen.pads is None:
        return {**attributes, "auto_pad": seen.auto}
    strides = [a * b for a, b in zip(seen.strides, seen.steps, strict=True)]
    return {**attributes, "strides": strides, "pads": seen.pads}


def _taps(seen: Window) -> np.ndarray:
    places = math.prod(seen.kernel)
    taps = np.eye(places, dtype=np.float32).reshape(places, 1, *seen.kernel)
    return np.tile(taps, (seen.channels, 1, *([1] * len(seen.kernel))))


def _pads(node: onnx.NodeProto, auto: str, kernel: Ints, strides: Ints, dilations: Ints) -> Ints | None:
    """Padding that does not depend on the size of the image; None where it does."""
    if auto == "NOTSET":
        return _ints(node, "pads", (0, 0) * len(kernel))
    if auto == "VALID":
        return (0, 0) * len(kernel)
    if any(n > 1 for n in strides):
        return None
    around = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)]
    less, more = tuple(n // 2 for n in around), tuple(n - n // 2 for n in around)
    return (*less, *more) if auto == "SAME_UPPER" else (*more, *less)


def _ints(node: onnx.NodeProto, name: str, default: Ints) -> Ints:
    value = attribute_value(node, name)
    return tuple(int(n) for n in value) if isinstance(value, (list, tuple)) else default


def _text(node: onnx.NodeProto, name: str, default: str) -> str:
    value = attribute_value(node, name)
    return value.decode() if isinstance(value, bytes) else default
