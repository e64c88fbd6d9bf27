"""The static form: values have one scale, found beforehand, and integer operators pass codes on to each other.

    x ≈ s_x (q_x − z_x),  W ≈ s_w q_w,  b ≈ s_x s_w q_b,  y ≈ s_y (q_y − z_y)

It is written with QuantizeLinear and DequantizeLinear around float operators, which any runtime can run and which ONNX
Runtime fuses to QLinearConv and its like when it loads the model. Weights have eight symmetric bits and a scale for
each output channel (DequantizeLinear with an axis: opset 13), biases 32 bits, values eight asymmetric bits.

With sixteen bits for values (opset 21) the same is written for processors that have such kernels. ONNX Runtime's CPU
provider has none: it computes in float between the roundings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
from onnx import helper

from onnxcompress.forms.base import Writing, codes_of, edit_source, node, small
from onnxcompress.graph.edit import Edit, NewTensor, Replacement

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from onnxcompress.forms.base import Codes
    from onnxcompress.forms.chains import Unit
    from onnxcompress.graph.edit import Namer
    from onnxcompress.graph.scopes import Scope
    from onnxcompress.solvers.grid import Quantized

NAME, WIDE = "static", "static16"
MIN_OPSET, WIDE_OPSET = 13, 21
_LARGEST_BIAS = 2.0**30
_MOST_BIAS = 2**31 - 1
_HALF_STEP = 0.501


@dataclass(frozen=True)
class Value:
    """A value with its grid. ``codes``: its producer gives codes, so that all of its readers see the rounded value."""

    scale: float
    zero_point: int
    codes: bool


@dataclass(frozen=True)
class Written:
    """An edit, its stored bytes, and the codes of the weight, if there is one."""

    edit: Edit
    nbytes: int
    codes: Codes | None


class Writer:
    """Writes units one after the other; the tensors of a value are stored with the first unit that needs them.

    ``values`` are those that have grids, of 8 or 16 ``bits``. ``guarded``: float values before whose rounding ONNX
    Runtime is stopped. It would take a float layer between decoded values for one that somebody forgot, and round its
    weights with one scale for all, or quantize before a float MaxPool. ``unread``: results of units that nothing reads
    but codes. ``dropped``: biases that nothing else reads.
    """

    def __init__(
        self,
        scope: Scope,
        values: Mapping[str, Value],
        namer: Namer,
        *,
        guarded: Collection[str] = (),
        unread: Collection[str] = (),
        dropped: Collection[str] = (),
        bits: Literal[8, 16] = 8,
    ) -> None:
        self._kind = np.dtype(np.uint8 if bits == 8 else np.uint16)
        self._most = 2**bits - 1
        self._min_opset = MIN_OPSET if bits == 8 else WIDE_OPSET
        self._scope = scope
        self._values = values
        self._namer = namer
        self._guarded = guarded
        self._unread = unread
        self._dropped = dropped
        self._names: dict[str, dict[str, str]] = {}
        self._weights: dict[str, Codes] = {}

    def write(self, unit: Unit, writing: Writing | None, bias: np.ndarray | None) -> Written:
        """The edit for one unit: its weight, its inputs and its output."""
        tensors: list[NewTensor] = []
        prelude: list[onnx.NodeProto] = []
        copy = _copied(unit.node)
        if unit.op == "Pad" and self._kind == np.uint8:
            return self._padding(unit, copy, tensors)
        shared: list[onnx.NodeProto] = []
        for index, name in enumerate(copy.input):
            if name in unit.inputs:
                shared += self._read(name, tensors)
                copy.input[index] = self._read_name(name)
        codes, source = None, {}
        if writing is not None:
            codes = self._weight(unit, writing, bias, copy, tensors, prelude)
            source = edit_source(writing.weight)
            if unit.bias in self._dropped:
                source["dropped"] = (*source.get("dropped", ()), unit.bias)
        clipped = unit.cut is not None and self._needless(unit, unit.cut) and self._ends_there(unit)
        last = copy if unit.cut is None or clipped else _copied(unit.cut)
        behind = self._gives(unit, last, tensors)
        if unit.cut is None or clipped:
            replaced = [Replacement(self._scope, unit.node, (copy, *behind), tuple(shared))]
            replaced += [Replacement(self._scope, unit.cut, ())] if unit.cut is not None else []
        else:
            replaced = [
                Replacement(self._scope, unit.node, (copy,), tuple(shared)),
                Replacement(self._scope, unit.cut, (last, *behind)),
            ]
        edit = Edit(
            self._scope, tuple(tensors), tuple(prelude), tuple(replaced), min_opset=self._min_opset, **source  # type: ignore[arg-type]
        )  # fmt: skip
        return Written(edit, sum(_nbytes(t) for t in tensors), codes)

    @staticmethod
    def _needless(unit: Unit, cut: onnx.NodeProto) -> bool:
        """True where ONNX Runtime does not fuse what codes would cut off by themselves."""
        return cut.op_type == "Clip" or unit.op == "Gemm"

    def _ends_there(self, unit: Unit) -> bool:
        """True where codes end where values would be cut off, but for rounding; ONNX Runtime asks for less."""
        value, (low, high) = self._values[unit.output], unit.limits
        half = value.scale * _HALF_STEP
        return (
            -value.zero_point * value.scale >= low - half
            and (self._most - value.zero_point) * value.scale <= high + half
        )

    def _padding(self, unit: Unit, copy: onnx.NodeProto, tensors: list[NewTensor]) -> Written:
        """Padding of codes by the zero point: as an operator on floats it would not be fused."""
        shared = self._read(unit.inputs[0], tensors)
        seen, made = self._tensors(unit.inputs[0], tensors), self._tensors(unit.output, tensors)
        del copy.input[2:]
        copy.input[0] = seen["q"]
        copy.input.append(made["z"])
        copy.output[0] = made["q"]
        behind = node("DequantizeLinear", [made["q"], made["s"], made["z"]], unit.output)
        edit = Edit(
            self._scope, tuple(tensors), min_opset=MIN_OPSET,
            replaced=(Replacement(self._scope, unit.node, (copy, behind), tuple(shared)),),
        )  # fmt: skip
        return Written(edit, sum(_nbytes(t) for t in tensors), None)

    def _tensors(self, name: str, tensors: list[NewTensor]) -> dict[str, str]:
        """Names of scale, zero point, codes and decoded value of a value."""
        known = self._names.get(name)
        if known is None:
            known = {word: self._namer(f"{name}.{word}") for word in ("s", "z", "q", "dq", "f")}
            self._names[name] = known
            value = self._values[name]
            tensors.append(small(known["s"], np.array(value.scale, np.float32)))
            tensors.append(small(known["z"], np.array(value.zero_point, self._kind)))
        return known

    def _read_name(self, name: str) -> str:
        return name if self._values[name].codes else self._names[name]["dq"]

    def _read(self, name: str, tensors: list[NewTensor]) -> list[onnx.NodeProto]:
        """Nodes that quantize a float value for its integer readers; none where its producer does so."""
        if self._values[name].codes:
            return []
        names = self._tensors(name, tensors)
        if name in self._guarded:
            return [node("Sum", [name], names["f"]), *self._pair(names["f"], names, names["dq"])]
        return self._pair(name, names, names["dq"])

    def _gives(self, unit: Unit, last: onnx.NodeProto, tensors: list[NewTensor]) -> list[onnx.NodeProto]:
        """Nodes that quantize the result of a unit; what comes out of them takes its name."""
        names = self._tensors(unit.output, tensors)
        last.output[0] = names["f"]
        made = self._pair(names["f"], names, unit.output)
        return made[:1] if unit.output in self._unread else made

    @staticmethod
    def _pair(value: str, names: Mapping[str, str], result: str) -> list[onnx.NodeProto]:
        return [
            node("QuantizeLinear", [value, names["s"], names["z"]], names["q"]),
            node("DequantizeLinear", [names["q"], names["s"], names["z"]], result),
        ]

    def _weight(self, unit: Unit, writing: Writing, bias: np.ndarray | None, copy: onnx.NodeProto,
                tensors: list[NewTensor], prelude: list[onnx.NodeProto]) -> Codes:  # fmt: skip
        weight, stem = writing.weight, writing.weight.name
        axis = next(i for i in range(len(writing.dims)) if i not in writing.groups.shared)
        channels = writing.dims[axis]
        codes = self._weights.get(stem)
        if codes is None:  # the first unit that reads it
            codes = self._weights[stem] = codes_of(self._floored(unit, writing, bias), np.dtype(np.float32))
            stored = codes.stored(self._namer(f"{stem}.q"), np.dtype(np.int8), writing.dims, lambda q: q.codes)
            scale = codes.stored(self._namer(f"{stem}.s"), np.dtype(np.float32), (channels,), lambda q: q.scale)
            tensors += [stored, scale]
            read = [stored.name, scale.name]
            if unit.op == "Gemm":  # which ONNX Runtime does not fuse without
                tensors.append(small(self._namer(f"{stem}.z"), np.zeros(channels, np.int8)))
                read.append(tensors[-1].name)
            prelude.append(helper.make_node("DequantizeLinear", read, [weight.name], axis=axis))
        if bias is None:
            return codes
        seen = np.float32(self._values[unit.inputs[0]].scale)
        values = bias.reshape(-1).astype(np.float64)
        shift = writing.shift

        def rounded(q: Quantized) -> np.ndarray:
            wanted = values if shift is None else values + shift(writing, q)
            steps = np.rint(wanted / (seen * q.scale.reshape(-1).astype(np.float64)))
            return np.clip(steps, -_MOST_BIAS, _MOST_BIAS)

        place = self._namer(f"{unit.output}.b")
        whole = codes.stored(f"{place}q", np.dtype(np.int32), (channels,), rounded)  # fmt: skip
        step = codes.stored(f"{place}s", np.dtype(np.float32), (channels,), lambda q: q.scale.reshape(-1) * seen)
        tensors += [whole, step]
        prelude.append(helper.make_node("DequantizeLinear", [whole.name, step.name], [place], axis=0))
        copy.input[2] = place
        return codes

    def _floored(self, unit: Unit, writing: Writing, bias: np.ndarray | None) -> Writing:
        """The writing with scales from which on the bias fits, now that the grid of the input is known."""
        if bias is None:
            return writing
        least = least_scales(bias, self._values[unit.inputs[0]].scale).reshape(writing.groups.scale_shape)
        return replace(writing, floor=least if writing.floor is None else np.maximum(writing.floor, least))


def least_scales(bias: np.ndarray, scale: float) -> np.ndarray:
    """Scales of weights from which on biases fit 32 bits, (outputs,); ``scale`` is that of the input.

    They matter for outputs whose weights are next to nothing beside their bias.
    """
    floor: np.ndarray = (np.abs(bias.reshape(-1)) / (scale * _LARGEST_BIAS)).astype(np.float32)
    return floor


def _copied(original: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(original)
    return copy


def _nbytes(tensor: NewTensor) -> int:
    return (
        int(np.prod(tensor.dims, dtype=np.int64)) * np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    )
