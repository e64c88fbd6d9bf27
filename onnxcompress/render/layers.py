"""What became of each weight: which forms were used, what was left alone and why, one by one in a plan."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from onnxcompress.render import words
from onnxcompress.render.blocks import Block, Cell, Lines, Table, row

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnxcompress.report import LayerRecord, Step

_REASONS = 8  # lines about what was left alone; more would push the table off the screen


def forms(steps: Sequence[Step]) -> Iterator[Block]:
    """One row for each pair of operator and form: how many layers, and their bytes before and after."""
    groups: dict[tuple[str, str], list[LayerRecord]] = {}
    for layer in _done(steps):
        groups.setdefault((layer.op, _form(layer)), []).append(layer)
    if not groups:
        return
    ranked = sorted(groups.items(), key=lambda group: -sum(layer.bytes_before for layer in group[1]))
    rows = tuple(_group_row(op, form, found) for (op, form), found in ranked)
    yield Table("forms", ("operator", "form", "layers", "before", "after"), rows, frozenset({2, 3, 4}))


def _group_row(op: str, form: str, found: Sequence[LayerRecord]) -> tuple[Cell, ...]:
    before, after = sum(layer.bytes_before for layer in found), sum(layer.bytes_after for layer in found)
    return row(words.safe(op, 40), form, f"{len(found):,}", words.size(before), words.size(after))


def untouched(steps: Sequence[Step], most: int | None = _REASONS) -> Iterator[Block]:
    """One line for each of ``most`` reasons, the largest first: `4.0 MiB untouched: 3 tensors in Gather: reason`."""
    done = {layer.name for layer in _done(steps)}
    left = {y.name: y for step in steps for y in step.layers if y.status == "skipped" and y.name not in done}
    reasons: dict[str, list[LayerRecord]] = {}
    for layer in left.values():
        reasons.setdefault(layer.reason or "no reason recorded", []).append(layer)
    ranked = sorted(reasons.items(), key=lambda item: -sum(layer.bytes_before for layer in item[1]))
    lines = [Cell(_left_alone(reason, found)) for reason, found in ranked[:most]]
    if most is not None and len(ranked) > most:
        rest = [layer for _, found in ranked[most:] for layer in found]
        more = f"{words.plural(len(ranked) - most, 'more reason')} (--verbose shows each tensor)"
        lines.append(Cell(_left_alone(more, rest)))
    if lines:
        yield Lines("", tuple(lines))


def _left_alone(reason: str, found: Sequence[LayerRecord]) -> str:
    total = words.size(sum(layer.bytes_before for layer in found))
    operators = ", ".join(words.safe(op, 40) for op in sorted({layer.op for layer in found}))
    return f"{total} untouched: {words.plural(len(found), 'tensor')} in {operators}: {words.safe(reason, 200)}"


def every(steps: Sequence[Step], after: str = "after") -> Iterator[Block]:
    """One table for each step, one row for each weight."""
    header = ("layer", "operator", "form", "bits", "before", after, "why not")
    for step in steps:
        if step.layers:
            rows = tuple(_layer_row(layer) for layer in step.layers)
            yield Table(words.safe(step.pass_name, 40), header, rows, frozenset({3, 4, 5}))


def _layer_row(layer: LayerRecord) -> tuple[Cell, ...]:
    skipped = layer.status == "skipped"
    bits = "-" if layer.bits is None else f"{layer.bits:g}"
    return row(
        words.safe(layer.name, 60),
        words.safe(layer.op, 40),
        Cell("left alone", "faint") if skipped else _form(layer),
        "-" if skipped else bits,
        words.size(layer.bytes_before),
        words.size(layer.bytes_after),
        Cell(words.safe(layer.reason or "", 200), "faint"),
    )


def _done(steps: Sequence[Step]) -> list[LayerRecord]:
    """What was done to each tensor in the end, from what it was at first: several steps may work on one."""
    found: dict[str, LayerRecord] = {}
    for layer in (y for step in steps for y in step.layers if y.status == "done"):
        first = found.get(layer.name, layer)
        found[layer.name] = replace(layer, bytes_before=first.bytes_before)
    return list(found.values())


def _form(layer: LayerRecord) -> str:
    return words.safe(layer.form or "-", 60)
