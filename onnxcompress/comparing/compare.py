"""Compares two model files: everything is put together here, each part is found where its name says."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from onnxcompress import inputs
from onnxcompress.comparing.facts import Comparison, Options, Unmatched, ValueRow, known
from onnxcompress.comparing.grafting import Grafts
from onnxcompress.comparing.lineage import Lineage
from onnxcompress.comparing.matching import Matches, Pair, match
from onnxcompress.comparing.outputs import Plain, plain_outputs
from onnxcompress.comparing.parting import SAME_DB, compensated, first_bad, first_below, is_bad, worst_step
from onnxcompress.comparing.ports import require_same_inputs
from onnxcompress.comparing.structure import structure
from onnxcompress.comparing.walk import VALUE_BYTES, Walk, grouped, sizes, walk
from onnxcompress.graph.model import Model
from onnxcompress.graph.scopes import subgraphs
from onnxcompress.inspection.facts import Options as LookOptions
from onnxcompress.inspection.look import inspect
from onnxcompress.provenance import tool
from onnxcompress.runtime.failures import UnsupportedModel
from onnxcompress.runtime.session import require

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onnxcompress.comparing.meter import Meter
    from onnxcompress.data.dataset import Dataset

_MOST_CALLS = 32  # of given data, unless it is said how many
_FEWEST_CALLS = 2
_SECONDS = 60.0  # for runs with watched values, beyond which fewer calls are made
_PASSES = 2.0  # both models watched, and steps alone on the values of the first
_DISTURBED_DB = 60.0  # SQNR of watched outputs from which on nothing is said


def compare(a: Path, b: Path, options: Options | None = None) -> Comparison:
    """Everything in which two models differ.

    Raises:
        UsageError: a model or the data do not exist.
        ModelError: a file is no usable model, or the models take different inputs.
        DataError: the data do not fit.
        RuntimeFailure: the device is not to be had, memory runs out, or a model does not run on the data.
    """
    options = options or Options()
    require(options.device)
    try:
        return _Comparing(a, b, options).run()
    finally:
        options.progress.finish()


@dataclass(frozen=True)
class _Values:
    """What was found of values within."""

    by: Literal["name", "place"] = "name"
    calls: int = 0
    rows: tuple[ValueRow, ...] = ()
    unmatched: tuple[Unmatched, ...] = ()


class _Comparing:
    def __init__(self, a: Path, b: Path, options: Options) -> None:
        self.paths = a, b
        self.options = options
        self.models = Model.open(a), Model.open(b)
        require_same_inputs(*self.models)
        self.notes: list[str] = []

    def run(self) -> Comparison:
        options = self.options
        look = LookOptions(run=False, threads=options.threads, seed=options.seed, progress=options.progress)
        found = inspect(self.paths[0], look), inspect(self.paths[1], look)
        differs = structure(self.models, found)
        data, plain = self._plain()
        values = self._values(data, plain) if data is not None and plain is not None else _Values()
        rows, threshold = values.rows, options.threshold
        return Comparison(
            tool=tool(), a=found[0].model, b=found[1].model, structure=differs,
            data=None if data is None else data.source, calls=values.calls,
            threshold_db=threshold, min_sqnr_db=options.min_sqnr,
            matched_by=values.by, values=rows, unmatched=values.unmatched,
            outputs=() if plain is None else plain.rows,
            first_below=first_below(rows, threshold), first_bad=first_bad(rows, threshold),
            worst_step=worst_step(rows),
            failures=tuple(self._failures(rows, plain)), notes=tuple(dict.fromkeys(self.notes)),
        )  # fmt: skip

    # ------------------------------------------------------------------------- runs

    def _plain(self) -> tuple[Dataset | None, Plain | None]:
        """The calls, and the outputs of both models as they are."""
        data, notes = inputs.find(self.models[0], self.options, run=True)
        self.notes += notes
        if data is None:
            self.notes.append("values were not compared, as the first model was not run")
            return None, None
        if self.options.data is not None and self.options.data_options.limit is None and len(data) > _MOST_CALLS:
            self.notes.append(f"values were compared on {_MOST_CALLS} of {len(data)} calls; --limit takes more")
            data = data.take(_MOST_CALLS)
        try:
            plain = plain_outputs(self.models, data, self.options)
        except UnsupportedModel as error:
            self.notes.append(f"values were not compared: {error.message}")
            return None, None
        self.notes += plain.notes
        return data, plain

    def _values(self, data: Dataset, plain: Plain) -> _Values:
        lines = Lineage(self.models[0]), Lineage(self.models[1])
        self.options.progress.start("matching values")
        matches = match(self.models, *lines)
        self.options.progress.finish()
        shapes = sizes(self.models[0], [p.a for p in matches.pairs], data.first(), self.options.threads)
        groups = grouped(matches.pairs, shapes)
        data = self._affordable(data, plain, len(groups))
        done = walk(self.models, groups, data, plain.first, self.options)
        self._note_graphs(matches, lines[0], done, plain)
        compared = {n: m for n, m in done.meters.items() if m.fault is None}
        pairs = [p for p in matches.pairs if p.a in compared]
        before, segments = _before(lines[0], [p.a for p in pairs])
        rows = tuple(_row(p, lines[0], compared[p.a], segments[p.a]) for p in pairs)
        rows = self._alone(lines[1], pairs, compared, rows, before, data)
        return _Values(matches.by, len(data), rows, tuple(_unmatched(lines[0], matches, done)))

    def _affordable(self, data: Dataset, plain: Plain, groups: int) -> Dataset:
        """As many calls as take bearable time, unless it was said how many."""
        seconds = _PASSES * groups * plain.seconds
        if self.options.data_options.limit is not None or seconds <= _SECONDS:
            return data
        fewer = data.take(max(_FEWEST_CALLS, int(len(data) * _SECONDS / seconds)))
        if len(fewer) < len(data):
            self.notes.append(f"values within were compared on {len(fewer)} of {len(data)} calls, to save time")
        return fewer

    def _alone(
        self,
        line: Lineage,
        pairs: list[Pair],
        meters: dict[str, Meter],
        rows: tuple[ValueRow, ...],
        before: dict[str, tuple[str, ...]],
        data: Dataset,
    ) -> tuple[ValueRow, ...]:
        """The rows with the errors of steps alone, where values differ at all, and what differs on purpose."""
        types = {n: m.dtype for n, m in meters.items() if m.dtype is not None and m.dtype.kind != "O"}
        nbytes = {n: VALUE_BYTES * math.prod(m.shape) for n, m in meters.items()}
        low = {row.name for row in rows if is_bad(row, self.options.threshold)}
        targets = [p for p in pairs if meters[p.a].figures()[0] < SAME_DB or low.intersection(before[p.a])]
        own = Grafts(self.models, line, pairs, types, nbytes).own(targets, data, self.options)
        rows = tuple(_with_own(row, own) for row in rows)
        turned = compensated(rows, before, self.options.threshold)
        if not turned:
            return rows
        self.notes.append(f"{len(turned)} values differ on purpose: what reads them takes the difference back")
        kept = [p for p in pairs if p.a not in turned]
        again = [p for p in targets if p.a not in turned and turned & set(before[p.a])]
        own = Grafts(self.models, line, kept, types, nbytes).own(again, data, self.options)
        return tuple(replace(_with_own(row, own), compensated=row.name in turned) for row in rows)

    # ------------------------------------------------------------------------- what there is to say

    def _note_graphs(self, matches: Matches, line: Lineage, done: Walk, plain: Plain) -> None:
        if matches.by == "place":
            self.notes.append("names were lost: values were matched by their place in the graph")
        inner = sum(1 for node in line.nodes for _ in subgraphs(node))
        if inner or self.models[0].proto.functions:
            self.notes.append("values within subgraphs (If, Loop, Scan) and local functions are not watched")
        worst = min((row.sqnr_db for row in plain.rows if not math.isnan(row.sqnr_db)), default=math.inf)
        if done.disturbed < min(_DISTURBED_DB, worst + 10):
            self.notes.append(
                f"watching changes the outputs of the second model ({done.disturbed:.1f} dB): the runtime fuses "
                "less around watched values, so figures of values are those of unfused operators"
            )

    def _failures(self, rows: tuple[ValueRow, ...], plain: Plain | None) -> Iterator[str]:
        limit = self.options.min_sqnr
        if limit is None:
            return
        if plain is None:
            yield "nothing could be run"
            return
        for output in plain.rows:
            if math.isnan(output.sqnr_db):
                same = output.agreement in (None, 1.0)
                if not same:
                    yield f"output {output.name!r}: {100 * (output.agreement or 0):.1f} % of its values are equal"
            elif output.sqnr_db < limit:
                yield f"output {output.name!r} {output.sqnr_db:.1f} dB"
        yield from (f"output {name!r} is not comparable" for name in plain.lost)
        for row in rows:
            if is_bad(row, limit) and not row.output:
                yield f"{row.name!r} {row.sqnr_db:.1f} dB"


# ------------------------------------------------------------------------- rows


def _before(line: Lineage, names: list[str]) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """The compared values that each is made from, and the nodes between."""
    compared = set(names)
    before, segments = {}, {}
    for name in names:
        nodes, ends = line.back(name, compared.__contains__)
        before[name] = tuple(end for end in ends if end in compared)
        segments[name] = tuple(n.name or n.output[0] for n in nodes if any(o not in line.constant for o in n.output))
    return before, segments


def _with_own(row: ValueRow, own: dict[str, Meter]) -> ValueRow:
    meter = own.get(row.name)
    if meter is None or meter.fault is not None:
        return row
    return replace(row, own_sqnr_db=known(meter.figures()[0]))


def _row(pair: Pair, line: Lineage, meter: Meter, segment: tuple[str, ...]) -> ValueRow:
    node = line.producers[pair.a]
    figures = [known(value) for value in meter.figures()]
    return ValueRow(
        name=pair.a, other=pair.b, op=node.op_type, node=node.name, shape=meter.shape,
        sqnr_db=figures[0], cosine=figures[1], max_abs_error=figures[2], agreement=meter.agreement,
        segment=segment, output=pair.a in line.outputs,
    )  # fmt: skip


def _unmatched(line: Lineage, matches: Matches, done: Walk) -> Iterator[Unmatched]:
    """Values of the first model that are not compared, with the reason."""
    pairs = {pair.a for pair in matches.pairs}
    where = "of that name" if matches.by == "name" else "at that place"
    for name in line.variable:
        fault: str | None = f"the second model has no value {where}"
        if name in pairs:
            meter = done.meters.get(name)
            fault = done.failed.get(name) if meter is None else meter.fault
        if fault is not None:
            yield Unmatched(name, line.producers[name].op_type, fault)
