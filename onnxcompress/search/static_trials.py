"""Operators put on static eight-bit integers one at a time: weight, input and output rounded, the rest in float."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.errors import OnnxCompressError
from onnxcompress.forms import static
from onnxcompress.forms.base import Writing, quantized
from onnxcompress.forms.chains import Unit, units
from onnxcompress.graph.edit import Namer
from onnxcompress.graph.opset import raised
from onnxcompress.graph.scopes import Scopes
from onnxcompress.graph.shapes import float_values
from onnxcompress.passes.survey import Chaining
from onnxcompress.runtime.failures import LimitReached
from onnxcompress.search.trials import IN_MEMORY, Few, bounded
from onnxcompress.solvers.clipping import candidates, grid, squared_error
from onnxcompress.solvers.groups import Grid, per_channel
from onnxcompress.stats.whatif import WhatIf

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxcompress.graph.model import Model
    from onnxcompress.stats.extremes import Extremes
    from onnxcompress.stats.probe import Probe

Array = np.ndarray
_CALLS, _TRIAL_SECONDS = 8, 0.5


@dataclass(frozen=True)
class StaticDamage:
    """Noise-to-signal ratio at the worst output by the name of the weight, and what there is to say."""

    noise: Mapping[str, float]
    notes: tuple[str, ...] = ()


def static_damage(model: Model, order: Sequence[str], probe: Probe, deadline: float) -> StaticDamage:
    """Measure weights in that order until the time is up; none are measured where the model cannot be run so.

    Args:
        model: the model as it is.
        order: names of weights.
        probe: runs it on data.
        deadline: of `time.perf_counter`.
    """
    found: dict[str, float] = {}
    try:
        if model.opset < static.MIN_OPSET:
            model = raised(model, static.MIN_OPSET)
        ready = _units(model, order, probe)
        if ready:
            _measure(model, ready, probe, deadline, found)
    except LimitReached:
        raise
    except OnnxCompressError as error:
        return StaticDamage(found, (f"static integers were not tried: {error.message}",))
    return StaticDamage(found)


def applies(model: Model) -> bool:
    """True where the model has layers that can run on static integers."""
    return any(u.weight is not None for u in units(model))


def _units(model: Model, order: Sequence[str], probe: Probe) -> list[Unit]:
    """The layers that read these weights and can run on static integers, those of the first weight first."""
    places = {name: i for i, name in enumerate(order)}
    known = float_values(model)
    ready = [u for u in units(model, Scopes(model.proto)) if u.weight is not None and u.weight.name in places]
    ready = [u for u in ready if {*u.inputs, u.output} <= known]
    shapes = probe.shapes(model, _values(ready)) if ready else {}
    ready = [u for u in ready if all(math.prod(shapes[n]) > 1 for n in (*u.inputs, u.output))]
    return sorted(ready, key=lambda u: places[u.weight.name] if u.weight is not None else 0)


def _measure(model: Model, ready: list[Unit], probe: Probe, deadline: float, found: dict[str, float]) -> None:
    names = _values(ready)
    grids = _grids(probe.extremes(model, probe.shapes(model, names)))
    namer = Namer(Scopes(model.proto).names())
    bits = Chaining(allowed=True).weight_bits
    while ready and time.perf_counter() < deadline:
        part = _portion(ready)
        del ready[: len(part)]
        weights = list(dict.fromkeys(_name(u) for u in part))
        calls = Few(list(probe.data.take(_CALLS)), _TRIAL_SECONDS)
        session = WhatIf(model, _values(part), weights, calls, probe.threads, distributions=False)
        probe.progress.start("measuring what layers lose on static integers", len(part))
        for unit in part:
            if time.perf_counter() + session.seconds > deadline:
                break
            probe.progress.advance(unit.name)
            values = {n: grids[n] for n in (*unit.inputs, unit.output)}
            noise = bounded(session.noise(values, {_name(unit): _rounded(model, unit, namer, bits)}))
            found[_name(unit)] = max(noise, found.get(_name(unit), 0.0))
        probe.progress.finish()


def _portion(ready: Sequence[Unit]) -> list[Unit]:
    total = 0
    part: list[Unit] = []
    for unit in ready:
        total += 4 * unit.weight.elements if unit.weight is not None else 0
        if part and total > IN_MEMORY:
            break
        part.append(unit)
    return part


def _grids(seen: Mapping[str, Extremes]) -> dict[str, tuple[float, int]]:
    """Scale and zero point of each value: those with the least squared error on its sample."""
    chosen = {}
    for name, value in seen.items():
        ranges = dict.fromkeys(candidates(value.sample, value.low, value.high).values())
        chosen[name] = grid(*min(ranges, key=lambda r: squared_error(value.sample, *r)))
    return chosen


def _rounded(model: Model, unit: Unit, namer: Namer, bits: int) -> Array:
    weight = unit.weight
    if weight is None:
        raise ValueError("an operator without a weight has none to round")
    groups = per_channel(weight.dims, (unit.own_axis,))
    writing = Writing(model, weight, Grid(bits), groups, namer, keep_sums=unit.op == "Conv")
    found = quantized(writing, np.dtype(np.float32))
    return np.ascontiguousarray(found.dequantize().reshape(weight.dims))


def _name(unit: Unit) -> str:
    return unit.weight.name if unit.weight is not None else ""


def _values(ready: Sequence[Unit]) -> list[str]:
    return list(dict.fromkeys(n for u in ready for n in (*u.inputs, u.output)))
