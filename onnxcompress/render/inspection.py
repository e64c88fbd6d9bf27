"""What is in a model, on one screen; or a row for each stored tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from onnxcompress.render import words
from onnxcompress.render.blocks import Block, Cell, Lines, Table, row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from onnxcompress.graph.interface import Dim
    from onnxcompress.inspection.facts import Inspection, OperatorFacts, PortFacts, Prospect, StoredFacts

Sort = Literal["bytes", "name", "macs", "zeros", "op"]
_TOP = 10
_TELLING = 0.0005  # share of the file from which an operator has a row
_LONGEST_NAME = 60
_LONGEST_TAIL = 40  # where other columns are many
_SHOWN_PORTS = 12


def blocks(found: Inspection, *, verbose: bool = False) -> tuple[Block, ...]:
    """The page but the last line; ``verbose``: all rows of its tables."""
    return tuple(_blocks(found, None if verbose else _TOP, None if verbose else _SHOWN_PORTS))


def _blocks(found: Inspection, top: int | None, ports: int | None) -> Iterator[Block]:
    yield Lines("", tuple(Cell(f"{what:<12} {text}") for what, text in _facts(found)))
    yield _ports(found, ports)
    rows = tuple(
        row(t.name, words.count(t.tensors), words.count(t.values), words.size(t.size_bytes), words.percent(t.share))
        for t in found.by_dtype
    )
    yield Table("bytes by type", ("type", "tensors", "values", "bytes", "of the file"), rows, frozenset({1, 2, 3, 4}))
    yield _operators(found.by_operator, top)
    weights = [t for t in found.tensors if t.layers] or list(found.tensors)
    if weights:
        yield _largest(weights, top)
    if found.notes:
        yield Lines("notes", tuple(Cell(f"- {words.safe(note, 400)}") for note in found.notes))
    yield _prospects(found.prospects)


def _facts(found: Inspection) -> Iterator[tuple[str, str]]:
    model = found.model
    nonzero = model.nonzero if model.nonzero is not None else model.parameters
    zeros = 1 - nonzero / model.parameters if model.parameters else 0.0
    yield (
        "size",
        f"{words.size(model.size_bytes)}, {words.count(model.parameters)} parameters, {words.percent(zeros)} zeros",
    )
    opsets = ", ".join(f"{words.safe(d, 40)} {v}" for d, v in found.opsets.items() if d != "ai.onnx")
    more = f" ({opsets})" if opsets else ""
    producer = f", made by {words.safe(found.producer, 60)}" if found.producer else ""
    inner = f", {words.plural(found.subgraphs, 'subgraph')}" if found.subgraphs else ""
    inner += f", {words.plural(len(found.functions), 'function')}" if found.functions else ""
    yield (
        "graph",
        f"opset {model.opset}{more}, IR {found.ir_version}, {words.plural(found.nodes, 'node')}{inner}{producer}",
    )
    source = "shapes as seen in one run on synthetic inputs" if found.shapes_from == "run" else "inferred shapes"
    if model.macs is None:
        yield "a call", "multiply-adds are not known, as no shape of a layer is"
    else:
        least = "at least " if found.uncounted else ""
        yield "a call", f"{least}{words.count(model.macs)} multiply-adds, {source}"
    live = found.activations
    if live is not None:
        where = f", at {words.safe(live.node, _LONGEST_NAME)}" if live.node else ", the inputs"
        least = "at least" if live.unknown or found.subgraphs else "about"
        yield "activations", f"{least} {words.size(live.peak_bytes)} at once{where}"


def _ports(found: Inspection, top: int | None) -> Table:
    rows = [*_port_rows("input", found.inputs, top), *_port_rows("output", found.outputs, top)]
    return Table("inputs and outputs", ("", "name", "type", "shape", "in that call"), tuple(rows))


def _port_rows(kind: str, ports: Sequence[PortFacts], top: int | None) -> Iterator[tuple[Cell, ...]]:
    for port in ports[:top]:
        seen = "-" if port.seen is None else _shape(port.seen)
        yield row(kind, words.safe(port.name, _LONGEST_NAME), port.dtype, _shape(port.shape), seen)
    if top is not None and len(ports) > top:
        yield row(kind, Cell(f"and {len(ports) - top} more: --verbose or --json", "faint"), "", "", "")


def _shape(shape: Sequence[Dim] | None) -> str:
    if shape is None:
        return "any"
    return "×".join("?" if d is None else words.safe(d, 24) for d in shape) or "scalar"


def _operators(operators: Sequence[OperatorFacts], top: int | None) -> Table:
    telling = [o for o in operators if top is None or o.share >= _TELLING or o.macs != 0]
    rows = [
        row(words.safe(o.name, 40), _or_dash(o.nodes), _or_dash(o.tensors), words.size(o.size_bytes),
            words.percent(o.share), "?" if o.macs is None else _or_dash(o.macs))
        for o in telling[:top]
    ]  # fmt: skip
    rest = [o for o in operators if o not in telling[: len(rows)]]
    if rest:
        nbytes, macs = sum(o.size_bytes for o in rest), sum(o.macs or 0 for o in rest)
        more = Cell(f"{len(rest)} more: --verbose or --json", "faint")
        share = sum(o.share for o in rest)
        rows.append(
            row(more, _or_dash(sum(o.nodes for o in rest)), _or_dash(sum(o.tensors for o in rest)), words.size(nbytes),
                words.percent(share), _or_dash(macs))
        )  # fmt: skip
    header = ("operator", "nodes", "tensors", "bytes", "of the file", "multiply-adds")
    return Table("bytes by operator", header, tuple(rows), frozenset(range(1, 6)))


def _or_dash(number: int) -> str:
    return words.count(number) if number else "-"


def _largest(weights: Sequence[StoredFacts], top: int | None) -> Table:
    largest = ordered(weights, "bytes")
    rows = [
        row(_tail(words.safe(_known_as(t, weights))), words.safe(t.operator, 30), t.dtype, _shape(t.shape),
            words.size(t.size_bytes), words.percent(t.share), _macs(t), _share(t.zeros))
        for t in largest[:top]
    ]  # fmt: skip
    if len(largest) > len(rows):
        rest = largest[len(rows) :]
        more = Cell(f"{len(rest)} more: --layers", "faint")
        share = words.percent(sum(t.share for t in rest))
        rows.append(row(more, "", "", "", words.size(sum(t.size_bytes for t in rest)), share, "", ""))
    header = ("weight", "operator", "type", "shape", "bytes", "of the file", "multiply-adds", "zeros")
    return Table("largest layers", header, tuple(rows), frozenset(range(4, 8)))


def _known_as(tensor: StoredFacts, weights: Sequence[StoredFacts]) -> str:
    """Its name, or that of its only reader where an exporter has numbered it."""
    numbered = tensor.name.startswith("onnx::") and len(tensor.readers) == 1
    alone = numbered and sum(other.readers == tensor.readers for other in weights) == 1
    return tensor.readers[0] if alone else tensor.name


def _prospects(prospects: Sequence[Prospect]) -> Table:
    rows = []
    for item in prospects:
        size = "-" if item.size_bytes is None else f"about {words.size(item.size_bytes)}"
        share = "-" if item.share is None else words.percent(item.share)
        remark = item.remark or words.plural(item.layers, "weight")
        rows.append(row(item.verb, size, share, words.safe(remark, 120)))
    return Table("what could be done", ("verb", "bytes", "of the file", ""), tuple(rows), frozenset({1, 2}))


# ------------------------------------------------------------------------- a row a tensor


def ordered(tensors: Sequence[StoredFacts], sort: Sort) -> list[StoredFacts]:
    """Tensors by name or operator, or the most first; equal ones in the order of the file."""
    keys: dict[Sort, Callable[[StoredFacts], Any]] = {
        "bytes": lambda t: -t.size_bytes,
        "name": lambda t: t.name,
        "macs": lambda t: -(t.macs or 0),
        "zeros": lambda t: -(t.zeros or 0.0),
        "op": lambda t: (t.operator, -t.size_bytes),
    }
    return sorted(tensors, key=keys[sort])


def layers(found: Inspection, sort: Sort, top: int | None) -> tuple[Block, ...]:
    """One row for each stored tensor."""
    shown = ordered(found.tensors, sort)[:top]
    header = (
        "tensor",
        "operator",
        "type",
        "shape",
        "bytes",
        "of the file",
        "multiply-adds",
        "min",
        "max",
        "mean",
        "std",
    )
    table = Table("", (*header, "zeros"), tuple(map(_tensor, shown)), frozenset(range(4, 12)))
    left = len(found.tensors) - len(shown)
    return (table, Lines("", (Cell(f"and {words.plural(left, 'more tensor')}", "faint"),))) if left else (table,)


def _tensor(tensor: StoredFacts) -> tuple[Cell, ...]:
    known = tensor.statistics
    figures = (known.minimum, known.maximum, known.mean, known.std) if known else (None,) * 4
    numbers = ["-" if f is None else f"{f:.3g}" for f in figures]
    return row(
        words.safe(tensor.name), words.safe(tensor.operator, 40), tensor.dtype, _shape(tensor.shape),
        words.size(tensor.size_bytes), words.percent(tensor.share), _macs(tensor), *numbers, _share(tensor.zeros),
    )  # fmt: skip


def _macs(tensor: StoredFacts) -> str:
    return "-" if not tensor.macs else words.count(tensor.macs)


def _share(share: float | None) -> str:
    return "-" if share is None else words.percent(share)


def _tail(name: str) -> str:
    """The end of a long name, in which the names of one model differ."""
    return name if len(name) <= _LONGEST_TAIL else "…" + name[1 - _LONGEST_TAIL :]


def closing(found: Inspection, path: Path) -> str:
    """``onnxcompress: PASSED model.onnx: 65.9 MiB, 17.3 M parameters, 349 M multiply-adds, opset 17``."""
    model = found.model
    least = "at least " if found.uncounted else ""
    macs = "" if model.macs is None else f" {least}{words.count(model.macs)} multiply-adds,"
    quantized = ", quantized already" if any(n.startswith("quantized already") for n in found.notes) else ""
    size = f"{words.size(model.size_bytes)}, {words.count(model.parameters)} parameters,{macs} opset {model.opset}"
    return f"onnxcompress: PASSED {words.safe(path)}: {size}{quantized}"
