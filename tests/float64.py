"""Graphs in float64: `onnx.reference`, with the operators it lacks or is slow at."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from onnx import AttributeProto, ModelProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Array = np.ndarray
_MANY = 25  # taps, beyond which windows are laid out rather than added up


class Float64:
    """A model that computes in float64, whatever float32 it was given in."""

    def __init__(self, model: ModelProto) -> None:
        made = ModelProto()
        made.CopyFrom(model)
        _widen(made.graph)
        del made.graph.value_info[:]
        self._run = ReferenceEvaluator(made, new_ops=_OPERATORS)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name."""
        wide = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in feeds.items()}
        return dict(zip(self._run.output_names, self._run.run(None, wide), strict=True))


def _widen(graph: Any) -> None:
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(_wide(tensor))
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(_wide(attribute.t))
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
            if attribute.type == AttributeProto.GRAPH:
                _widen(attribute.g)


def _wide(tensor: TensorProto) -> TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name)


class Conv(OpRun):
    """Any rank, groups, strides, dilations, explicit pads."""

    def _run(self, x: Array, w: Array, b: Array | None = None, **a: Any) -> tuple[Array]:
        kernel, groups = w.shape[2:], a["group"] or 1
        strides, dilations, pads = _window(a, kernel)
        x = _padded(x, pads, 0.0)
        spatial = _places(x.shape[2:], kernel, strides, dilations)
        n, out, each = len(x), w.shape[0], x.shape[1] // groups
        if np.prod(kernel) > _MANY:
            spread = tuple(d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True))
            seen = sliding_window_view(x, spread, axis=tuple(range(2, x.ndim)))
            steps = (*(slice(None, None, s) for s in strides), *(slice(None, None, d) for d in dilations))
            seen = seen[:, :, *steps]
            seen = np.moveaxis(seen, 1, x.ndim - 1).reshape(n, -1, groups, each * int(np.prod(kernel)))
            weight = w.reshape(groups, out // groups, -1)
            y = np.einsum("nlgk,gok->ngol", seen, weight, optimize=True)
        else:
            y = np.zeros((n, groups, out // groups, int(np.prod(spatial))))
            taps: Any = w.reshape(groups, out // groups, each, *kernel)
            for tap, here in _taps(kernel, spatial, strides, dilations):
                seen = x[:, :, *here].reshape(n, groups, each, -1)
                part = taps[(..., *tap)]
                y += part * seen if each == 1 else part @ seen
        y = y.reshape(n, out, *spatial)
        return (y if b is None else y + b.reshape(-1, *[1] * len(kernel)),)


class ConvTranspose(OpRun):
    """Any rank, groups, strides, dilations, explicit pads and output padding."""

    def _run(self, x: Array, w: Array, b: Array | None = None, **a: Any) -> tuple[Array]:
        kernel, groups = w.shape[2:], a["group"] or 1
        strides, dilations, pads = _window(a, kernel)
        rank, spatial = len(kernel), x.shape[2:]
        extra = a.get("output_padding") or [0] * rank
        n, each = len(x), w.shape[1]
        full = [
            s * (i - 1) + d * (k - 1) + 1 + e
            for s, i, d, k, e in zip(strides, spatial, dilations, kernel, extra, strict=True)
        ]
        y = np.zeros((n, groups * each, *full))
        taps: Any = w.reshape(groups, w.shape[0] // groups, each, *kernel)
        seen = x.reshape(n, groups, w.shape[0] // groups, -1)
        for tap, here in _taps(kernel, spatial, strides, dilations):
            part = np.swapaxes(taps[(..., *tap)], 1, 2)
            y[:, :, *here] += (part @ seen).reshape(n, groups * each, *spatial)
        y = y[:, :, *(slice(p, f - q) for p, q, f in zip(pads[:rank], pads[rank:], full, strict=True))]
        return (y if b is None else y + b.reshape(-1, *[1] * rank),)


class MaxPool(OpRun):
    """Any rank, explicit pads."""

    def _run(self, x: Array, **a: Any) -> tuple[Array]:
        return (np.maximum.reduce(list(_pooled(x, a, -np.inf))),)


class AveragePool(OpRun):
    """Any rank, explicit pads."""

    def _run(self, x: Array, **a: Any) -> tuple[Array]:
        real = np.ones_like(x)
        count = len(list(_pooled(x, a, 0.0))) if a.get("count_include_pad") else sum(_pooled(real, a, 0.0))
        return (np.asarray(sum(_pooled(x, a, 0.0)) / count),)


class Resize(OpRun):
    """Repeats of whole factors, as all of 'nearest' do."""

    def _run(self, x: Array, roi: Any = None, scales: Any = None, sizes: Any = None, **a: Any) -> tuple[Array]:  # noqa: ARG002
        factors = np.asarray(sizes) / x.shape if sizes is not None and len(sizes) else np.asarray(scales)
        if a.get("mode") not in (None, "nearest") or not np.allclose(factors, np.round(factors)):
            raise NotImplementedError("Resize")
        for axis, factor in enumerate(factors):
            x = np.repeat(x, round(float(factor)), axis)
        return (x,)


class GlobalMaxPool(OpRun):
    """Any rank."""

    def _run(self, x: Array) -> tuple[Array]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class Erf(OpRun):
    """That of `onnx.reference` rounds to float32."""

    def _run(self, x: Array) -> tuple[Array]:
        return (np.vectorize(math.erf, otypes=["d"])(x),)


class LayerNormalization(OpRun):
    """Of the last axes from one on."""

    def _run(self, x: Array, scale: Array, b: Array | None = None, **a: Any) -> tuple[Array]:
        axes = tuple(range((a.get("axis") or -1) % x.ndim, x.ndim))
        centred = x - x.mean(axis=axes, keepdims=True)
        y = centred / np.sqrt(np.square(centred).mean(axis=axes, keepdims=True) + a["epsilon"]) * scale
        return (y if b is None else y + b,)


class LSTM(OpRun):
    """Forward, reverse or both, with the activations that it has by default."""

    def _run(self, x: Array, w: Array, r: Array, b: Any = None, _: Any = None, h0: Any = None, c0: Any = None,
             p: Any = None, **a: Any) -> tuple[Array, Array, Array]:  # fmt: skip
        assert p is None
        hidden, seen = r.shape[2], []
        for d, order in enumerate(_directions(a, len(x))):
            h = np.zeros((x.shape[1], hidden)) if h0 is None else h0[d]
            c = np.zeros((x.shape[1], hidden)) if c0 is None else c0[d]
            bias = np.zeros(4 * hidden) if b is None else b[d][: 4 * hidden] + b[d][4 * hidden :]
            rows = np.zeros((len(x), *h.shape))
            for t in order:
                i, o, f, g = np.split(x[t] @ w[d].T + h @ r[d].T + bias, 4, axis=-1)
                c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
                h = _sigmoid(o) * np.tanh(c)
                rows[t] = h
            seen.append((rows, h, c))
        rows, h, c = zip(*seen, strict=True)
        return np.stack(rows, 1), np.stack(h), np.stack(c)


class GRU(OpRun):
    """Forward, reverse or both, linear before the reset or not, sigmoid or other first activation."""

    def _run(self, x: Array, w: Array, r: Array, b: Any = None, _: Any = None, h0: Any = None,
             **a: Any) -> tuple[Array, Array]:  # fmt: skip
        hidden, seen = r.shape[2], []
        names = [n.lower() for n in a.get("activations") or ["sigmoid", "tanh"] * len(w)]
        for d, order in enumerate(_directions(a, len(x))):
            gate, inner = (_ACTIVATIONS[n] for n in names[2 * d : 2 * d + 2])
            h = np.zeros((x.shape[1], hidden)) if h0 is None else h0[d]
            wb, rb = np.split(np.zeros(6 * hidden) if b is None else b[d], 2)
            (wz, wr, wh), (rz, rr, rh) = (np.split(m[d], 3) for m in (w, r))
            (bz, br, bh), (qz, qr, qh) = np.split(wb, 3), np.split(rb, 3)
            rows = np.zeros((len(x), *h.shape))
            for t in order:
                z = gate(x[t] @ wz.T + h @ rz.T + bz + qz)
                reset = gate(x[t] @ wr.T + h @ rr.T + br + qr)
                if a.get("linear_before_reset"):
                    new = inner(x[t] @ wh.T + reset * (h @ rh.T + qh) + bh)
                else:
                    new = inner(x[t] @ wh.T + (reset * h) @ rh.T + qh + bh)
                h = (1 - z) * new + z * h
                rows[t] = h
            seen.append((rows, h))
        return np.stack([s[0] for s in seen], 1), np.stack([s[1] for s in seen])


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
}
_OPERATORS = [Conv, ConvTranspose, MaxPool, AveragePool, GlobalMaxPool, Resize, Erf, LayerNormalization, LSTM, GRU]


def _directions(a: dict[str, Any], length: int) -> list[range]:
    forward, backward = range(length), range(length - 1, -1, -1)
    kinds = {"forward": [forward], "reverse": [backward], "bidirectional": [forward, backward]}
    return kinds[a.get("direction") or "forward"]


def _window(a: dict[str, Any], kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    assert a.get("auto_pad") in (None, "NOTSET", "VALID")
    rank = len(kernel)
    return a.get("strides") or [1] * rank, a.get("dilations") or [1] * rank, a.get("pads") or [0] * 2 * rank


def _padded(x: Array, pads: Sequence[int], value: float) -> Array:
    rank = len(pads) // 2
    return np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)], constant_values=value)


def _places(sides: Sequence[int], kernel: Sequence[int], strides: list[int], dilations: list[int]) -> tuple[int, ...]:
    spread = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    return tuple((side - w) // s + 1 for side, w, s in zip(sides, spread, strides, strict=True))


def _taps(
    kernel: Sequence[int], places: Sequence[int], strides: list[int], dilations: list[int]
) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Each tap of a kernel, and the part of the padded input that it sees."""
    for tap in itertools.product(*(range(k) for k in kernel)):
        starts = [t * d for t, d in zip(tap, dilations, strict=True)]
        yield tap, tuple(slice(b, b + (p - 1) * s + 1, s) for b, p, s in zip(starts, places, strides, strict=True))


def _pooled(x: Array, a: dict[str, Any], value: float) -> Iterator[Array]:
    assert not a.get("ceil_mode")
    kernel = a["kernel_shape"]
    strides, dilations, pads = _window(a, kernel)
    x = _padded(x, pads, value)
    places = _places(x.shape[2:], kernel, strides, dilations)
    for _, here in _taps(kernel, places, strides, dilations):
        yield x[:, :, *here]
