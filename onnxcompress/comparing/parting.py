"""Where two models part company, from the errors of values and what each step adds by itself.

With the SQNR s(v) of a value, errors of everything before included, and o(v) of its step alone (`grafting`):

- **bad**: s(v) below the threshold, and not compensated;
- **compensated**: a compressed model may divide features of a value and multiply the weights that read it. Then s(v) is
  bad on purpose. It shows in what reads v: on the first model's v it gives worse than on the second's own, o(r) < s(r);
- **first below**: the first bad value in the order of the graph. Errors may have added up to it;
- **the first bad layer**: the first bad value of which o(v) is below the threshold too;
- **the worst step**: the value of least o(v).

What reads compensated values is measured once more, together with what makes them, before anything is named.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from onnxcompress.comparing.facts import Parting, ValueRow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MARGIN_DB = 3.0  # by which a reader has to be better on the second model's value
SAME_DB = 100.0  # from which on nothing was lost


def compensated(rows: Sequence[ValueRow], before: Mapping[str, Sequence[str]], threshold: float) -> frozenset[str]:
    """The values that differ on purpose.

    Args:
        rows: in topological order.
        before: the values that each is made from, by name.
        threshold: SQNR in dB below which a value is bad.
    """
    after: dict[str, list[ValueRow]] = defaultdict(list)
    found: set[str] = set()
    for row in rows:
        for name in before.get(row.name, ()):
            if row.sqnr_db is not None:
                after[name].append(row)
    for row in reversed(rows):
        low = row.sqnr_db is not None and row.sqnr_db < threshold and not row.output
        readers = after[row.name]
        if low and readers and all(_takes_back(r) or r.name in found for r in readers):
            found.add(row.name)
    return frozenset(found)


def _takes_back(reader: ValueRow) -> bool:
    if reader.sqnr_db is None or reader.own_sqnr_db is None:
        return False
    return reader.own_sqnr_db < reader.sqnr_db - _MARGIN_DB


def first_below(rows: Sequence[ValueRow], threshold: float) -> Parting | None:
    """The first bad value, None where all are good."""
    return next((_parting(row) for row in rows if is_bad(row, threshold)), None)


def first_bad(rows: Sequence[ValueRow], threshold: float) -> Parting | None:
    """The first bad value that is bad by itself as well; None where there is none."""
    for row in rows:
        own = row.own_sqnr_db
        if is_bad(row, threshold) and (own is None or own < threshold):
            return _parting(row)
    return None


def is_bad(row: ValueRow, threshold: float) -> bool:
    """Whether a value has parted, and not on purpose."""
    return row.sqnr_db is not None and row.sqnr_db < threshold and not row.compensated


def worst_step(rows: Sequence[ValueRow]) -> Parting | None:
    """The step that adds most by itself, None where none adds anything."""
    found: tuple[float, ValueRow] | None = None
    for row in rows:
        own = row.own_sqnr_db
        if own is not None and own < SAME_DB and not row.compensated and (found is None or own < found[0]):
            found = own, row
    return None if found is None else _parting(found[1])


def _parting(row: ValueRow) -> Parting:
    return Parting(row.name, row.node or row.name, row.op, row.sqnr_db or 0.0, row.own_sqnr_db)
