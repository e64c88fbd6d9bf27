"""What each form of a matrix product costs, measured: its speed as a multiple of the float product's.

The table ships with the package (``costs.json``), one part for each kind of processor on which it was measured. A
form that was not measured on a kind of processor is not chosen for it. Between the measured shapes the logarithm of
the speed is interpolated by inverse distance over the logarithms of rows, inputs and outputs.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

MARGIN = 1.15  # a rival of the float product has to win by this much, so that choices do not flicker
_NEIGHBOURS = 4


@dataclass(frozen=True)
class Point:
    """One measurement: (rows, in_features) times (in_features, out_features)."""

    rows: int
    inputs: int
    outputs: int
    speedup: float

    def distance(self, rows: int, inputs: int, outputs: int) -> float:
        """Euclidean distance in powers of two."""
        mine, theirs = (self.rows, self.inputs, self.outputs), (rows, inputs, outputs)
        return math.hypot(*(math.log2(a / b) for a, b in zip(mine, theirs, strict=True)))


CostTable = Mapping[str, Sequence[Point]]  # form, as `form_key` names it -> measurements


def form_key(form: str, bits: int = 8, block: int | None = None) -> str:
    """The name of a form in the table, with the options that change its speed."""
    if form.startswith("dynamic"):
        return form
    return f"{form}-w{bits}-b{block}" if block else f"{form}-w{bits}"


@functools.cache
def shipped(isa: str) -> CostTable:
    """The measurements that come with the package for a kind of processor; empty where there are none."""
    text = resources.files("onnxcompress.forms").joinpath("costs.json").read_text(encoding="utf-8")
    return parse(json.loads(text), isa)


def parse(data: Mapping[str, object], isa: str) -> CostTable:
    """The part of a cost file that is for a kind of processor."""
    part = data.get(isa)
    if not isinstance(part, dict):
        return {}
    return {form: [Point(*row) for row in rows] for form, rows in part["points"].items()}


def packed(table: CostTable) -> dict[str, object]:
    """A table as plain values, each shape once: {"shapes": [[rows, inputs, outputs]], form: [speed-up or null]}."""
    shapes = list(dict.fromkeys((p.rows, p.inputs, p.outputs) for points in table.values() for p in points))
    known = {form: {(p.rows, p.inputs, p.outputs): p.speedup for p in points} for form, points in table.items()}
    return {"shapes": [list(s) for s in shapes], **{f: [of.get(s) for s in shapes] for f, of in known.items()}}


def parse_packed(data: Mapping[str, list[Any]]) -> dict[str, list[Point]]:
    """The inverse of `packed`."""
    shapes = data.get("shapes", [])
    return {
        form: [Point(r, i, o, speedup) for (r, i, o), speedup in zip(shapes, row, strict=True) if speedup is not None]
        for form, row in data.items()
        if form != "shapes"
    }


def speedup(table: CostTable, key: str, rows: int, inputs: int, outputs: int) -> float | None:
    """Expected speed of a form over the float product; None where it was not measured."""
    points = table.get(key)
    if not points or min(rows, inputs, outputs) < 1:
        return None
    near = sorted((p.distance(rows, inputs, outputs), p.speedup) for p in points)[:_NEIGHBOURS]
    if near[0][0] == 0:
        return near[0][1]
    total = sum(1 / d for d, _ in near)
    return math.exp(sum(math.log(s) / d for d, s in near) / total)


def expected(table: CostTable, key: str, shapes: Sequence[tuple[int, ...]], inputs: int, outputs: int) -> float | None:
    """Expected speed over all the shapes that the left-hand side had, weighted by the work of each."""
    rows = [math.prod(shape[:-1]) for shape in shapes]
    rows = [r for r in rows if r > 0]
    if not rows:
        return None
    times = [(r, speedup(table, key, r, inputs, outputs)) for r in rows]
    spent = sum(r / s for r, s in times if s is not None)
    return None if any(s is None for _, s in times) else sum(rows) / spent
