"""Random small networks of convolutions, as hypothesis draws them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from tests.small_models import normal, proto

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

_SIZE = 6  # height and width of everything


@dataclass
class Net:
    """A network as text while it grows: values with their channels, all of the same height and width."""

    draw: Callable[[st.SearchStrategy[int]], int]
    nodes: list[str] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    values: list[tuple[str, int]] = field(default_factory=lambda: [("a", 3)])

    def pick(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        scale = 1 / np.sqrt(max(1, int(np.prod(shape[1:], dtype=np.int64))))
        self.weights[name] = normal(*shape, seed=len(self.weights), scale=float(scale))
        return name

    def numbers(self, *values: int) -> str:
        name = f"n{len(self.weights)}"
        self.weights[name] = np.asarray(values, np.int64)
        return name

    def node(self, text: str, channels: int) -> None:
        name = f"v{len(self.nodes)}"
        self.nodes.append(f"{name} = {text}")
        self.values.append((name, channels))

    def some(self) -> tuple[str, int]:
        return self.values[self.pick(max(0, len(self.values) - 4), len(self.values) - 1)]


def _conv(net: Net) -> None:
    value, channels = net.some()
    made, kernel = net.pick(1, 6), net.pick(0, 1) * 2 + 1
    bias = f", {net.weight(made)}" if net.pick(0, 1) else ""
    weight = net.weight(made, channels, kernel, kernel)
    net.node(f"Conv<pads = {[kernel // 2] * 4}>({value}, {weight}{bias})", made)


def _grouped(net: Net) -> None:
    value, channels = net.some()
    group = next(g for g in (channels, 3, 2, 1) if channels % g == 0 and (net.pick(0, 1) or g == 1))
    made = group * net.pick(1, 3)
    weight = net.weight(made, channels // group, 1, 1)
    net.node(f"Conv<group = {group}>({value}, {weight}, {net.weight(made)})", made)


def _unary(net: Net) -> None:
    value, channels = net.some()
    net.node(f"{('Relu', 'Sigmoid', 'Neg', 'HardSwish')[net.pick(0, 3)]}({value})", channels)


def _binary(net: Net) -> None:
    value, channels = net.some()
    others = [name for name, count in net.values if count in (channels, 1)]
    net.node(f"{('Add', 'Mul', 'Max')[net.pick(0, 2)]}({value}, {others[net.pick(0, len(others) - 1)]})", channels)


def _constant(net: Net) -> None:
    value, channels = net.some()
    shape = ((channels, 1, 1), (1, channels, 1, _SIZE), (1,), (_SIZE, 1))[net.pick(0, 3)]
    net.node(f"{('Add', 'Mul', 'Min')[net.pick(0, 2)]}({net.weight(*shape)}, {value})", channels)


def _concat(net: Net) -> None:
    parts = [net.some() for _ in range(net.pick(2, 3))]
    net.node(f"Concat<axis = 1>({', '.join(name for name, _ in parts)})", sum(count for _, count in parts))


def _split(net: Net) -> None:
    value, channels = net.some()
    if channels > 1:
        first = net.pick(1, channels - 1)
        sizes = net.numbers(first, channels - first)
        left, right = f"v{len(net.nodes)}", f"r{len(net.nodes)}"
        net.nodes.append(f"{left}, {right} = Split<axis = 1>({value}, {sizes})")
        net.values += [(left, first), (right, channels - first)]


def _slice(net: Net) -> None:
    value, channels = net.some()
    start = net.pick(0, channels - 1)
    end = net.pick(start + 1, channels)
    bounds = (
        start - channels if net.pick(0, 1) else start,
        end if end == channels or net.pick(0, 1) else end - channels,
    )
    net.node(f"Slice({value}, {net.numbers(bounds[0])}, {net.numbers(bounds[1])}, {net.numbers(1)})", end - start)


def _gather(net: Net) -> None:
    value, channels = net.some()
    picked = [net.pick(-channels, channels - 1) for _ in range(net.pick(1, 5))]
    net.node(f"Gather<axis = 1>({value}, {net.numbers(*picked)})", len(picked))


def _gate(net: Net) -> None:
    value, channels = net.some()
    net.node(f"GlobalAveragePool({value})", channels)
    pooled = net.values.pop()[0]
    net.node(f"Conv({pooled}, {net.weight(channels, channels, 1, 1)})", channels)
    gate = net.values.pop()[0]
    net.node(f"Mul({value}, {gate})", channels)


def _shuffle(net: Net) -> None:
    value, channels = net.some()
    group = 2 if channels % 2 == 0 else 1
    net.node(f"Reshape({value}, {net.numbers(0, group, channels // group, _SIZE, _SIZE)})", channels)
    net.node(f"Transpose<perm = [0, 2, 1, 3, 4]>({net.values.pop()[0]})", channels)
    net.node(f"Reshape({net.values.pop()[0]}, {net.numbers(0, channels, _SIZE, _SIZE)})", channels)


def _normalized(net: Net) -> None:
    value, channels = net.some()
    names = [net.weight(channels) for _ in range(4)]
    net.weights[names[3]] = np.abs(net.weights[names[3]]) + np.float32(0.5)
    net.node(f"BatchNormalization({value}, {', '.join(names)})", channels)


_STEPS = (_conv, _conv, _conv, _grouped, _unary, _binary, _binary, _constant, _concat, _split, _slice, _gather, _gate,
          _shuffle, _normalized)  # fmt: skip


@st.composite
def networks(draw: Callable[[st.SearchStrategy[int]], int]) -> onnx.ModelProto:
    """A network with up to twelve operators, and a layer that reads its last values."""
    net = Net(draw)
    for _ in range(net.pick(1, 12)):
        _STEPS[net.pick(0, len(_STEPS) - 1)](net)
    total = net.values[-3:]
    net.node(f"Concat<axis = 1>({', '.join(name for name, _ in total)})", sum(count for _, count in total))
    value, channels = net.values[-1]
    if net.pick(0, 1):
        net.nodes.append(f"y = Conv({value}, {net.weight(3, channels, 1, 1)})")
    else:
        net.nodes.append(f"f = Flatten({value})")
        net.nodes.append(f"y = Gemm(f, {net.weight(channels * _SIZE * _SIZE, 3)})")
    text = f"g (float[2, 3, {_SIZE}, {_SIZE}] a) => (float[] y) {{ {' '.join(net.nodes)} }}"
    return proto(text, net.weights)


def _factored(net: Net, length: int) -> list[int]:
    """A random way to write a length as a product of up to three lengths."""
    parts = []
    for _ in range(2):
        divisors = [n for n in range(1, length + 1) if length % n == 0]
        parts.append(divisors[net.pick(0, len(divisors) - 1)])
        length //= parts[-1]
    return [*parts, length]


@st.composite
def reshaped(draw: Callable[[st.SearchStrategy[int]], int]) -> onnx.ModelProto:
    """A convolution whose output is given another shape, turned over and given a shape of rows again, a few times."""
    net = Net(draw)
    channels = (4, 6, 8, 12)[net.pick(0, 3)]
    net.node(f"Conv(a, {net.weight(channels, 3, 1, 1)})", channels)
    total = channels * 4
    for _ in range(net.pick(1, 3)):
        value = net.values[-1][0]
        dims = _factored(net, total) if net.pick(0, 1) else [channels, *_factored(net, 4)]
        open_ended = net.pick(0, len(dims))
        target = [-1 if i == open_ended - 1 else n for i, n in enumerate(dims)]
        net.node(f"Reshape({value}, {net.numbers(0, *target)})", 0)
        order = draw(st.permutations(range(1, len(dims) + 1)))  # type: ignore[arg-type]
        net.node(f"Transpose<perm = {[0, *order]}>({net.values[-1][0]})", 0)  # type: ignore[misc]
        net.node(f"Relu({net.values[-1][0]})", 0)
    net.node(f"Reshape({net.values[-1][0]}, {net.numbers(*((0, total), (0, -1))[net.pick(0, 1)])})", 0)
    text = f"g (float[N, 3, 2, 2] a) => (float[] y) {{ {' '.join(net.nodes)} y = MatMul({net.values[-1][0]}, w) }}"
    return proto(text, {**net.weights, "w": normal(total, 3)})
