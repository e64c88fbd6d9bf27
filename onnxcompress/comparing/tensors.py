"""Stored tensors of two models: which came, went or changed, and what is the same one stored otherwise.

A tensor is told by its name. Where a name of the first model is gone, and the second has new ones that begin with it
(``W`` became ``W.q`` and ``W.s``, or ``W_quantized`` and ``W_scale``), these are its parts: it is stored otherwise.
Values of tensors of one type and shape are compared in blocks.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.comparing.facts import StoredSide, TensorChange, known
from onnxcompress.inspection.statistics import blocks
from onnxcompress.inspection.stored import stored_tensors
from onnxcompress.verify.sums import Sums

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnxcompress.graph.model import Model, Tensor
    from onnxcompress.graph.scopes import Scopes
    from onnxcompress.inspection.facts import StoredFacts

_MARKS = "._:/"  # what parts of a tensor put behind its name


class Tensors:
    """The tensors of a model by their names; where several have one, the first counts."""

    def __init__(self, model: Model, scopes: Scopes, facts: Iterable[StoredFacts]) -> None:
        self.model = model
        self.facts: dict[str, StoredFacts] = {}
        for fact in facts:
            self.facts.setdefault(fact.name, fact)
        self.stored: dict[str, Tensor] = {}
        for item in stored_tensors(scopes, scopes):
            self.stored.setdefault(item.name, item.tensor)


def tensor_changes(a: Tensors, b: Tensors) -> tuple[tuple[TensorChange, ...], int]:
    """What differs, the most bytes first, and the number of tensors that are alike."""
    both = [name for name in a.facts if name in b.facts]
    changes = [found for name in both if (found := _changed(name, a, b)) is not None]
    same = len(both) - len(changes)
    gone = [name for name in a.facts if name not in b.facts]
    new = [name for name in b.facts if name not in a.facts]
    parts = _parts(gone, new)
    for name in gone:
        own = parts.get(name)
        if own is None:
            changes.append(TensorChange(name, "removed", _side(a.facts[name]), None))
        else:
            changes.append(TensorChange(name, "stored otherwise", _side(a.facts[name]), _together(own, b)))
    used = {part for own in parts.values() for part in own}
    changes += [TensorChange(name, "added", None, _side(b.facts[name])) for name in new if name not in used]
    return tuple(sorted(changes, key=_size, reverse=True)), same


def _size(change: TensorChange) -> int:
    return max(side.size_bytes for side in (change.a, change.b) if side is not None)


def _side(fact: StoredFacts) -> StoredSide:
    return StoredSide(fact.dtype, fact.shape, fact.size_bytes)


def _together(parts: list[str], b: Tensors) -> StoredSide:
    """Several tensors as one: type and shape are those of the largest."""
    facts = [b.facts[name] for name in parts]
    largest = max(facts, key=lambda fact: fact.size_bytes)
    return StoredSide(largest.dtype, largest.shape, sum(fact.size_bytes for fact in facts), tuple(parts))


def _parts(gone: Iterable[str], new: Iterable[str]) -> dict[str, list[str]]:
    """New names by the longest name that is gone and that they begin with."""
    names, found = set(gone), defaultdict(list)
    for name in new:
        ends = [i for i, character in enumerate(name) if i and character in _MARKS and name[:i] in names]
        if ends:
            found[name[: ends[-1]]].append(name)
    return found


def _changed(name: str, a: Tensors, b: Tensors) -> TensorChange | None:
    one, other = a.facts[name], b.facts[name]
    if one.dtype != other.dtype:
        return TensorChange(name, "type", _side(one), _side(other))
    if one.shape != other.shape:
        return TensorChange(name, "shape", _side(one), _side(other))
    sums, same = Sums(), True
    for x, y in zip(blocks(a.model, a.stored[name]), blocks(b.model, b.stored[name]), strict=True):
        same = same and x.tobytes() == y.tobytes() and x.dtype.kind != "O"
        if x.dtype.kind not in "OSUc":
            sums.add(*(part.astype(np.float64).reshape(1, 1, -1) for part in (x, y)))
        elif x.dtype.kind == "O":
            same = bool(np.array_equal(x, y))
    if same:
        return None
    return TensorChange(name, "values", _side(one), _side(other), known(sums.figures()[0]))
