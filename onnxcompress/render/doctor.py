"""What was found on a machine, as one page, with the advice at the end."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from onnxcompress.render import words
from onnxcompress.render.blocks import Block, Cell, Lines, Table, Tone, row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxcompress.diagnosis.facts import Diagnosis, Facts, Forms

_CLEAR = 1.15  # a form that is chosen wins by so much
_MEANINGS = {
    "dynamic8": "activations to 8 bits on every call",
    "dynamic16": "activations to 8 bits in two passes, the second for what the first lost",
    "fused": "DequantizeLinear before MatMul, which the runtime fuses",
}
_BLOCKWISE = re.compile(r"(?:blockwise)(_other)?-w(\d+)-b(\d+)")


_SHOWN = 6  # forms, unless all are asked for


def _meaning(form: str) -> str:
    found = _BLOCKWISE.fullmatch(form)
    if found:
        return f"MatMulNBits: {found[2]} bits in blocks of {found[3]}" + (", any grid" if found[1] else "")
    return _MEANINGS.get(form.split("-")[0], "")


def blocks(found: Diagnosis, *, verbose: bool = False) -> tuple[Block, ...]:
    """The whole page but the last line; of forms the fastest alone, unless ``verbose`` asks for all."""
    return tuple(_blocks(found, verbose=verbose))


def _blocks(found: Diagnosis, *, verbose: bool) -> Iterator[Block]:
    facts = found.facts
    yield Lines("", tuple(Cell(f"{what:<12} {text}") for what, text in _machine(facts)))
    yield _features(facts)
    yield _providers(facts)
    yield _forms(facts.forms, None if verbose else _SHOWN)
    if facts.forms.remembered_in:
        yield Lines("", (Cell(f"remembered in {words.safe(facts.forms.remembered_in)}", "faint"),))
    advice = tuple(Cell(f"- {words.safe(text)}") for text in found.advice)
    yield Lines("advice", advice or (Cell("none: all is well", "good"),))


def _machine(facts: Facts) -> Iterator[tuple[str, str]]:
    yield "versions", ", ".join(f"{name} {words.safe(version, 40)}" for name, version in facts.versions.items())
    processor = facts.processor
    yield "processor", f"{words.safe(processor.name, 80)}, {processor.architecture}, of the kind {processor.kind}"
    yield "system", words.safe(processor.system, 80)
    total, left = (_bytes(b) for b in (facts.memory.total_bytes, facts.memory.available_bytes))
    limit = facts.memory.limit_bytes
    yield "memory", f"{total}, {left} free" + (f", limited to {words.size(limit)}" if limit else "")
    threads = facts.threads
    load = "" if threads.load is None else f", load {threads.load:.1f}"
    cores = words.plural(threads.usable_cores, "core")
    yield "threads", f"{cores} usable of {words.plural(threads.logical_cpus, 'CPU')}{load}"
    settings = ", ".join(f"{name}={words.safe(value, 40)}" for name, value in threads.settings.items())
    yield "environment", settings or "nothing set about threads"


def _bytes(count: int | None) -> str:
    return "unknown" if count is None else words.size(count)


def _features(facts: Facts) -> Table:
    rows = tuple(row(f.name, _yes(f.present), f.meaning) for f in facts.processor.features)
    return Table("processor features that decide the speed of integers", ("feature", "here", "what for"), rows)


def _providers(facts: Facts) -> Table:
    rows = tuple(row(words.safe(p.name, 60), _yes(p.usable), words.safe(p.reason or "", 160)) for p in facts.providers)
    return Table("execution providers compiled in", ("provider", "usable", "why not"), rows)


def _yes(is_so: bool) -> Cell:
    return Cell("yes", "good") if is_so else Cell("no", "faint")


def _forms(forms: Forms, most: int | None) -> Block:
    if not forms.speeds:
        return Lines("forms of a matrix product", (Cell("not measured, and no table ships for this processor"),))
    shapes = sorted({(s.rows, s.in_features, s.out_features) for s in forms.speeds})
    known = {(s.form, (s.rows, s.in_features, s.out_features)): s.speedup for s in forms.speeds}
    names = sorted({s.form for s in forms.speeds}, key=lambda form: -known.get((form, shapes[0]), 0.0))
    rows = []
    for name in names[:most]:
        cells = [_speed(known.get((name, shape))) for shape in shapes]
        rows.append(row(words.safe(name, 40), *cells, _meaning(name)))
    if most is not None and len(names) > most:
        rows.append(row(f"{len(names) - most} more: --verbose", *[""] * (len(shapes) + 1)))
    source = "measured on this machine" if forms.source == "measured" else "from the table of the package"
    header = ("form", *(f"{words.plural(r, 'row')} of {i}x{o}" for r, i, o in shapes), "what it is")
    numeric = frozenset(range(1, 1 + len(shapes)))
    return Table(f"speed over the float product, one thread, {source}", header, tuple(rows), numeric)


def _speed(value: float | None) -> Cell:
    if value is None:
        return Cell("-")
    tone: Tone = "good" if value >= _CLEAR else "bad" if value < 1 else "plain"
    return Cell(f"{value:.2f}x", tone)


def closing(found: Diagnosis) -> str:
    """``onnxcompress: PASSED 2 cores, vnni, onnxruntime 1.32.0 on CPU: 1 piece of advice``."""
    facts = found.facts
    usable = ", ".join(p.name.removesuffix("ExecutionProvider") for p in facts.providers if p.usable)
    advice = words.plural(len(found.advice), "piece") + " of advice" if found.advice else "no advice"
    cores = words.plural(facts.threads.usable_cores, "core")
    runtime = words.safe(facts.versions["onnxruntime"], 40)
    return (
        f"onnxcompress: PASSED {cores}, {facts.processor.kind}, onnxruntime {runtime} on {words.safe(usable)}: {advice}"
    )
