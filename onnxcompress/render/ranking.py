"""Layers by the damage that compressing them does, the worst first, and what to leave out of a compression.

The lines to paste stand by themselves: a terminal must not break them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.render import words
from onnxcompress.render.blocks import Block, Cell, Lines, Table, row
from onnxcompress.search.exclusion import shell, toml
from onnxcompress.search.sensitivity import decibels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onnxcompress.search.sensitivity import LayerDamage, Sensitivity

_HEADER = ("layer", "operator", "shape", "bits", "parameters", "estimated", "measured", "static")
_SHOWN_REASONS = 8


def blocks(found: Sensitivity, top: int | None) -> tuple[Block, ...]:
    """The page up to the lines to paste; ``top``: rows of the table, None for all."""
    return tuple(_blocks(found, top))


def _blocks(found: Sensitivity, top: int | None) -> Iterator[Block]:
    static = any(layer.static_noise is not None for layer in found.ranked)
    shown = found.ranked[:top]
    header = _HEADER if static else _HEADER[:-1]
    rows = tuple(_row(layer, static=static) for layer in shown)
    title = f"SQNR at the worst output with one layer compressed, {_data(found)}"
    if rows:
        yield Table(title, header, rows, frozenset(range(3, len(header))))
    lines = tuple(_remarks(found, len(shown)))
    if lines:
        yield Lines("", lines)
    if found.notes:
        yield Lines("notes", tuple(Cell(words.safe(note)) for note in found.notes))
    yield Lines("", (Cell(_verdict(found)),))


def _data(found: Sensitivity) -> str:
    calls = words.plural(found.samples, "call")
    return f"{calls} with synthetic inputs" if found.data == "synthetic" else f"{calls} from {words.safe(found.data)}"


def _row(layer: LayerDamage, *, static: bool) -> tuple[Cell, ...]:
    cells = [
        words.safe(layer.name, 60), words.safe(layer.op, 40), "×".join(map(str, layer.shape)), str(layer.bits),
        words.count(layer.parameters), _db(layer.estimated_noise), _db(layer.measured_noise),
    ]  # fmt: skip
    return row(*cells, *([_db(layer.static_noise)] if static else []))


def _db(noise: float | None) -> str:
    shown = decibels(noise)
    return "-" if shown is None else words.decibels(shown)


def _remarks(found: Sensitivity, shown: int) -> Iterator[Cell]:
    if len(found.ranked) > shown:
        yield Cell(f"and {words.plural(len(found.ranked) - shown, 'more layer')}: --verbose, --top or --json", "faint")
    guessed = sum(layer.source == "estimated" for layer in found.ranked)
    if guessed:
        shift = decibels(found.gain) or 0.0
        yield Cell(
            f"{words.plural(guessed, 'layer')} not measured: ranked by the estimate at their own output,"
            f" {shift:+.1f} dB as in the median of those measured"
        )
    reasons: dict[str, list[str]] = {}
    for layer in found.layers:
        if layer.reason is not None:
            reasons.setdefault(layer.reason, []).append(layer.name)
    for reason, names in list(reasons.items())[:_SHOWN_REASONS]:
        yield Cell(f"{words.plural(len(names), 'layer')} such as {words.safe(names[0], 60)}: {words.safe(reason, 200)}")


def _verdict(found: Sensitivity) -> str:
    rest = found.rest
    together = "" if rest.measured_noise is None else f", measured together {_db(rest.measured_noise)}"
    limit = f"{found.min_sqnr_db:g} dB"
    if not found.exclude:
        return f"nothing needs to be excluded: expected {_db(rest.expected_noise)} with {found.bits} bits{together}"
    if len(found.exclude) == len(found.ranked):
        return f"every layer has to be excluded for {limit}:"
    what = words.plural(len(found.exclude), "layer")
    return f"leave out {what} for {limit}: then expected {_db(rest.expected_noise)} with {found.bits} bits{together}:"


def pasted(found: Sensitivity) -> tuple[str, ...]:
    """The layers to leave out as options for a command line, and as a line for a recipe."""
    return (shell(found.exclude), toml(found.exclude)) if found.exclude else ()


def closing(found: Sensitivity, path: Path) -> str:
    """The last line: ``onnxcompress: PASSED model.onnx: 32 layers ranked, 32 measured, exclude 2 for 20 dB …``."""
    measured = sum(layer.source == "measured" for layer in found.ranked)
    left_out = f"exclude {len(found.exclude)}" if found.exclude else "nothing to exclude"
    made_up = " on synthetic inputs" if found.data == "synthetic" else ""
    return (
        f"onnxcompress: PASSED {words.safe(path)}: {words.plural(len(found.ranked), 'layer')} ranked{made_up},"
        f" {measured} measured, {left_out} for {found.min_sqnr_db:g} dB with {found.bits} bits"
    )
