"""Two models side by side: what differs in the files, and where along the graph values part."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from onnxcompress.comparing.parting import is_bad
from onnxcompress.render import words
from onnxcompress.render.blocks import Block, Cell, Lines, Table, row

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnxcompress.comparing.facts import Both, Comparison, Parting, StoredSide, TensorChange, ValueRow
    from onnxcompress.report import ModelFacts

TOP = 12
_LONGEST_NAME = 60
_BYTES = "size_bytes"
_NAMES = {"size_bytes": "size", "macs": "multiply-adds", "ir_version": "IR version"}
_SHOWN_FAILURES = 3
_EXACT_DB = 140.0  # as `words.decibels` has it


def blocks(found: Comparison, *, top: int | None = TOP) -> tuple[Block, ...]:
    """The page but the last line; ``top``: rows of each table, None for all."""
    return tuple(_blocks(found, top))


def _blocks(found: Comparison, top: int | None) -> Iterator[Block]:
    yield Lines("", (Cell(f"first   {_model(found.a)}"), Cell(f"second  {_model(found.b)}")))
    yield from structure(found, top)
    if found.data is not None:
        yield outputs(found)
        yield Lines("where values part", tuple(partings(found)))
        yield from values(found, top)
        yield from _unmatched(found, top)
    if found.notes:
        yield Lines("notes", tuple(Cell(f"- {words.safe(note, 400)}") for note in found.notes))


def _model(model: ModelFacts) -> str:
    size = f"{words.size(model.size_bytes)}, {words.count(model.parameters)} parameters, opset {model.opset}"
    return f"{words.safe(model.path)}: {size}"


# ------------------------------------------------------------------------- structure


def structure(found: Comparison, top: int | None) -> Iterator[Block]:
    """What differs in the files."""
    differs = found.structure
    if differs.identical:
        yield Lines("", (Cell("nothing differs in graph, stored tensors, interface or metadata", "good"),))
        return
    header = ("", "first", "second")
    if differs.facts:
        yield Table("differences", header, tuple(_fact(item) for item in differs.facts), frozenset({1, 2}))
    if differs.ports:
        rows = [
            row(f"{p.kind} {words.safe(p.name, 60)}", *(_or_dash(side) for side in (p.a, p.b))) for p in differs.ports
        ]
        yield Table("inputs and outputs that differ", header, tuple(rows))
    if differs.operators:
        rows = [row(words.safe(o.name, 40), *(_number(v) for v in (o.a, o.b))) for o in differs.operators[:top]]
        rows += _more(len(differs.operators), top, 3)
        yield Table("operators that differ in number", ("operator", "first", "second"), tuple(rows), frozenset({1, 2}))
    yield _tensors(differs.tensors, differs.same_tensors, top)


def _fact(item: Both) -> tuple[Cell, ...]:
    shown = [words.size(v) if item.name == _BYTES and isinstance(v, int) else _number(v) for v in (item.a, item.b)]
    return row(words.safe(_NAMES.get(item.name, item.name), 60), *shown)


def _number(value: str | int | None) -> str:
    return words.count(value) if isinstance(value, int) else _or_dash(value)


def _or_dash(value: str | None) -> str:
    return "-" if value is None else words.safe(value, 60) or "none"


def _tensors(changes: Sequence[TensorChange], same: int, top: int | None) -> Block:
    kinds = Counter(change.change for change in changes)
    counts = ", ".join(f"{number} {_KINDS[kind]}" for kind, number in sorted(kinds.items()))
    title = f"stored tensors: {', '.join(part for part in (counts, f'{same} alike') if part)}"
    if not changes:
        return Lines("", (Cell(title),))
    rows = [
        row(_tail(words.safe(c.name)), c.change, *map(_side, (c.a, c.b)),
            "-" if c.sqnr_db is None else words.decibels(c.sqnr_db))
        for c in changes[:top]
    ]  # fmt: skip
    rows += _more(len(changes), top, 5)
    return Table(title, ("tensor", "change", "first", "second", "SQNR"), tuple(rows), frozenset({4}))


_KINDS = {
    "added": "added", "removed": "removed", "values": "with other values", "type": "of another type",
    "shape": "of another shape", "stored otherwise": "stored otherwise",
}  # fmt: skip


def _side(side: StoredSide | None) -> str:
    if side is None:
        return "-"
    parts = f" in {len(side.parts)} parts" if len(side.parts) > 1 else ""
    return f"{side.dtype} {_shape(side.shape)}, {words.size(side.size_bytes)}{parts}"


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _more(count: int, top: int | None, columns: int) -> list[tuple[Cell, ...]]:
    if top is None or count <= top:
        return []
    return [row(Cell(f"{count - top} more: --verbose or --json", "faint"), *[""] * (columns - 1))]


def _tail(name: str) -> str:
    """The end of a long name, in which the names of one model differ."""
    return name if len(name) <= _LONGEST_NAME else "…" + name[1 - _LONGEST_NAME :]


# ------------------------------------------------------------------------- values


def source(found: Comparison) -> str:
    """What values were compared on, in words."""
    calls = words.plural(found.calls, "call")
    made_up = found.data == "synthetic"
    return (
        f"{calls} with synthetic inputs, as no data was given" if made_up else f"{calls} from {words.safe(found.data)}"
    )


def outputs(found: Comparison) -> Table:
    """Figures of the outputs, of models in which nothing is watched."""
    rows = []
    for item in found.outputs:
        name = words.safe(f"{item.name} {item.group or ''}".strip(), 60)
        agreement = "-" if item.agreement is None else words.percent(item.agreement)
        figures = (words.decibels(item.sqnr_db), words.cosine(item.cosine), words.number(item.max_abs_error))
        rows.append(row(name, *figures, agreement))
    header = ("output", "SQNR", "cosine", "max abs error", "agreement")
    return Table(f"outputs on {source(found)}", header, tuple(rows), frozenset({1, 2, 3, 4}))


def partings(found: Comparison) -> Iterator[Cell]:
    """Where values go below the threshold, the first bad layer, and the worst step, in words."""
    count = sum(value.sqnr_db is not None for value in found.values)
    limit, below, bad = f"{found.threshold_db:g} dB", found.first_below, found.first_bad
    if below is None:
        yield Cell(f"none of {words.plural(count, 'value')} is below {limit}", "good")
    elif below != bad:
        yield Cell(f"first below {limit}: {_parting(below)}; errors add up to it", "bad")
    if bad is not None:
        yield Cell(f"first bad layer: {_parting(bad)}", "bad")
    elif below is not None:
        yield Cell(f"no step is below {limit} by itself")
    if found.worst_step is not None:
        yield Cell(f"the step that adds most by itself: {_parting(found.worst_step)}")
    elif count:
        yield Cell("no step adds anything by itself")


def _parting(found: Parting) -> str:
    alone = "" if found.own_sqnr_db is None else f", {decibels(found.own_sqnr_db)} by itself"
    return f"{words.safe(found.layer, 120)} ({words.safe(found.op, 40)}), {decibels(found.sqnr_db)}{alone}"


def decibels(value: float | None) -> str:
    """A ratio; what became NaN or infinite has none."""
    if value is None:
        return "-"
    return "NaN" if value <= -200 else words.decibels(value)


def values(found: Comparison, top: int | None) -> Iterator[Table]:
    """The steps that add most by themselves, in the order of the graph; or all values."""
    rows = list(enumerate(found.values, 1))
    title = f"all {len(rows)} compared values, in the order of the graph"
    if top is not None:
        worst = sorted((item for item in rows if _differs(item[1])), key=lambda item: _badness(item[1]))
        rows = sorted(worst[:top], key=lambda item: item[0])
        title = f"values whose step adds most: {len(rows)} of {len(found.values)}, in the order of the graph"
    if rows:
        shown = tuple(_value(number, item, found.threshold_db) for number, item in rows)
        header = ("#", "value", "operator", "shape", "SQNR", "by itself", "cosine", "")
        yield Table(title, header, shown, frozenset({0, 4, 5, 6}))


def _differs(value: ValueRow) -> bool:
    """Whether there is anything to tell apart."""
    if value.sqnr_db is None:
        return value.agreement not in (None, 1.0)
    return value.sqnr_db < _EXACT_DB


def _badness(value: ValueRow) -> tuple[float, float]:
    if value.sqnr_db is None:
        return (1000 * (value.agreement if value.agreement is not None else 1.0), 0.0)
    return (value.own_sqnr_db if value.own_sqnr_db is not None else 500 + value.sqnr_db, value.sqnr_db)


def _value(number: int, value: ValueRow, threshold: float) -> tuple[Cell, ...]:
    name = _tail(words.safe(value.name))
    sqnr = Cell(decibels(value.sqnr_db), "bad" if is_bad(value, threshold) else "plain")
    cosine = "-" if value.cosine is None else words.cosine(value.cosine)
    own = decibels(value.own_sqnr_db)
    return row(str(number), name, words.safe(value.op, 40), _shape(value.shape), sqnr, own, cosine, remark(value))


def remark(value: ValueRow) -> str:
    """What figures do not say."""
    said = ["output"] * value.output + ["differs on purpose"] * value.compensated
    if value.agreement is not None:
        said.append("equal" if value.agreement == 1 else f"{words.percent(value.agreement)} equal")
    return ", ".join(said)


def _unmatched(found: Comparison, top: int | None) -> Iterator[Block]:
    if not found.unmatched:
        return
    if top is None:
        rows = [
            row(_tail(words.safe(u.name)), words.safe(u.op, 40), words.safe(u.reason, 120)) for u in found.unmatched
        ]
        yield Table("values that were not compared", ("value", "operator", "why"), tuple(rows))
        return
    reasons = Counter(
        "its shape differs" if "shape" in u.reason else words.safe(u.reason, 120) for u in found.unmatched
    )
    lines = [Cell(f"{words.plural(number, 'value')}: {reason}") for reason, number in reasons.most_common()]
    yield Lines("not compared", tuple(lines))


# ------------------------------------------------------------------------- the last line


def closing(found: Comparison) -> str:
    """``onnxcompress: PASSED a.onnx, b.onnx: 147 values compared, 38.3 dB at the worst output, none below 20 dB``."""
    names = f"{words.safe(found.a.path)}, {words.safe(found.b.path)}"
    if not found.passed:
        said = [words.safe(text, 120) for text in found.failures[:_SHOWN_FAILURES]]
        more = len(found.failures) - len(said)
        limit = f" (limit {found.min_sqnr_db:g} dB)"
        return f"onnxcompress: FAILED {', '.join(said)}{f' and {more} more' if more else ''}{limit}: {names}"
    return f"onnxcompress: PASSED {names}: {', '.join(_verdict(found))}"


def _verdict(found: Comparison) -> Iterator[str]:
    if found.structure.identical:
        yield "the same model"
    if found.data is None:
        yield "values not compared"
        return
    place = ", matched by their place," if found.matched_by == "place" else ""
    yield f"{words.plural(len(found.values), 'value')}{place} compared"
    known = [item.sqnr_db for item in found.outputs if item.sqnr_db == item.sqnr_db]
    if known:
        made_up = " on synthetic inputs" if found.data == "synthetic" else ""
        yield f"{words.decibels(min(known))} at the worst output{made_up}"
    limit, below, bad = f"{found.threshold_db:g} dB", found.first_below, found.first_bad
    if below is None:
        yield f"none below {limit}"
    elif below != bad:
        yield f"first below {limit} at {words.safe(below.layer, 120)}"
    if bad is not None:
        yield f"first bad layer {words.safe(bad.layer, 120)} ({decibels(bad.sqnr_db)})"
