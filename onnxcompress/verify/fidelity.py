"""How close the outputs are to the original's: per output, and per group of channels where magnitudes differ.

Numbers of a float output: SQNR, cosine, largest absolute error (`sums`), by groups of channels (`groups`),
and the share of rows with the same best class where the output is scores of classes (`scores`). Whole
numbers, booleans and strings: the share of equal values. Only sums are kept from call to call.

Positions that an attention mask marks as padding do not count, in outputs that share its first two
dimensions. An output whose shape differs from the original's counts as all error.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxcompress.report import CallFidelity, Fidelity, OutputFidelity
from onnxcompress.stats import magnitudes as groups
from onnxcompress.stats import scores
from onnxcompress.stats.masks import kept_positions
from onnxcompress.verify.samples import Samples, sqnr_db
from onnxcompress.verify.sums import IDENTICAL_DB, Sums

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxcompress.runtime.session import Port

_WORST = 5  # calls that are named
_BUFFER = 1 << 16  # elements gathered from small outputs before they are summed


class OutputMeter:
    """Sums over one output of both models."""

    def __init__(
        self, name: str, dims: tuple[int | str | None, ...] | None = None, producer: str | None = None
    ) -> None:
        self.name = name
        self.mismatches = 0
        self._dims, self._producer = dims, producer
        self._sums: Sums | None = None
        self._axis: int | None = None
        self._masked = False
        self._is_scores = False
        self._agreeing = self._counted = 0
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._exact_error: float | None = None
        self._samples = Samples()

    @property
    def bad(self) -> int:
        """Values that are NaN or infinite where the original's are not."""
        self._flush()
        return self._sums.bad if self._sums else 0

    @property
    def is_scores(self) -> bool:
        """Whether this output is scores of classes; known after the first call."""
        return self._is_scores

    def add(self, original: Any, compressed: Any, keep: np.ndarray | None = None) -> float:
        """Add what one call gave; ``keep`` marks the positions ``(batch, time)`` that are no padding.

        Returns:
            SQNR of that call in decibels, NaN where it has no meaning.
        """
        found = math.nan
        for x, y in itertools.zip_longest(_pieces(original), _pieces(compressed)):
            if x is None or y is None:
                self.mismatches += 1
                continue
            if x.shape == y.shape and keep is not None and x.shape[:2] == keep.shape:
                self._masked, x, y = True, x[keep], y[keep]
            if x.dtype.kind == "f" and y.dtype.kind == "f":
                self._add_floats(x, y)
                if x.shape == y.shape:
                    found = sqnr_db(groups.without_masks(x), y)
            else:
                self._add_exact(x, y)
        return found

    def rows(self) -> tuple[OutputFidelity, ...]:
        """The figures of the whole output, and of its groups if it has several."""
        self._flush()
        agreement = self._agreeing / self._counted if self._counted else None
        if self._sums is None:
            same = self._exact_error == 0 and agreement in (None, 1.0)
            sqnr, cosine = (IDENTICAL_DB, 1.0) if same else (math.nan, math.nan)
            peak = math.nan if self._exact_error is None else self._exact_error
            return (OutputFidelity(self.name, sqnr, cosine, peak, agreement),)
        seen = self._samples
        whole = OutputFidelity(
            self.name, *self._sums.figures(), agreement, points=seen.points, confusions=seen.confusions
        )
        return (whole, *self._group_rows(self._sums))

    def _group_rows(self, sums: Sums) -> list[OutputFidelity]:
        found = groups.magnitude_groups(sums.rms()) if self._axis is not None else []
        if self._axis is None or len(found) < 2:
            return []
        axis = self._axis + (1 if self._masked else 0)
        return [
            OutputFidelity(self.name, *sums.figures(part), None, groups.describe(axis, part, sums.rms_of(part)))
            for part in found
        ]

    def _add_exact(self, x: np.ndarray, y: np.ndarray) -> None:
        if x.shape != y.shape:
            self.mismatches += 1
            self._counted += x.size
            return
        self._agreeing += int(np.count_nonzero(x == y))
        self._counted += x.size
        if x.dtype.kind in "iub" and x.size:
            error = float(np.abs(x.astype(np.float64) - y.astype(np.float64)).max())
        else:
            error = 0.0 if np.array_equal(x, y) else math.nan
        self._exact_error = error if self._exact_error is None else max(self._exact_error, error)

    def _add_floats(self, x: np.ndarray, y: np.ndarray) -> None:
        x = groups.without_masks(x)
        if self._sums is None:
            dims = None if self._masked else self._dims
            self._is_scores = scores.class_like(self.name, x, self._producer)
            self._axis = groups.channel_axis(x, dims)
            self._sums = Sums(1 if self._axis is None else x.shape[self._axis])
        if x.shape != y.shape:
            self._add_mismatch(x, y)
            return
        if self._pending and (not x.ndim or self._axis == 0 or self._pending[-1][0].shape[1:] != x.shape[1:]):
            self._flush()
        self._samples.add(x, y)
        self._pending.append((x, y) if x.ndim else (x.reshape(1), y.reshape(1)))
        if sum(p.size for p, _ in self._pending) >= _BUFFER:
            self._flush()

    def _add_mismatch(self, x: np.ndarray, y: np.ndarray) -> None:
        self.mismatches += 1
        self._flush()
        self._merge().add_apart(x, y)
        if self._is_scores and x.ndim:
            self._counted += x.size // max(1, x.shape[-1])

    def _flush(self) -> None:
        if not self._pending:
            return
        pairs, self._pending = self._pending, []
        x, y = pairs[0] if len(pairs) == 1 else (np.concatenate(side) for side in zip(*pairs, strict=True))
        if self._is_scores and x.size:
            one, two = scores.best_classes(x, y)
            self._samples.classes(one, two)
            self._agreeing += int(np.count_nonzero(one == two))
            self._counted += len(one)
        axis, sums = self._axis, self._sums
        if sums is None or axis is None or axis >= x.ndim or x.shape[axis] != len(sums.xx):
            shape, sums = (1, 1, x.size), self._merge()
        else:
            shape = (math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :]))
        sums.add(x.reshape(shape), y.reshape(shape))

    def _merge(self) -> Sums:
        """The sums over all channels, where from now on they cannot be told apart."""
        self._axis = None
        self._sums = self._sums.merged() if self._sums else Sums()
        return self._sums


class FidelityMeter:
    """Sums over all outputs."""

    def __init__(self, outputs: Sequence[Port], producers: Mapping[str, str]) -> None:
        self._meters = [OutputMeter(p.name, p.shape, producers.get(p.name)) for p in outputs]
        self._worst: list[CallFidelity] = []
        self.samples = 0

    def add(self, feeds: Mapping[str, np.ndarray], original: Mapping[str, Any], compressed: Mapping[str, Any]) -> None:
        """Add what one call gave."""
        keep = kept_positions(feeds)
        self.samples += 1
        found = {m.name: m.add(original[m.name], compressed[m.name], keep) for m in self._meters}
        known = {name: value for name, value in found.items() if not math.isnan(value)}
        if known:
            name = min(known, key=lambda n: known[n])
            worst = [*self._worst, CallFidelity(self.samples, name, known[name])]
            self._worst = sorted(worst, key=lambda c: (c.sqnr_db, c.call))[:_WORST]

    @property
    def bad(self) -> int:
        """Values that are NaN or infinite where the original's are not."""
        return sum(m.bad for m in self._meters)

    @property
    def score_outputs(self) -> frozenset[str]:
        """Outputs that are scores of classes; known after the first call."""
        return frozenset(m.name for m in self._meters if m.is_scores)

    def notes(self) -> list[str]:
        """What the figures do not tell."""
        return [
            f"output {m.name!r} differs from the original's in shape in {m.mismatches} of {self.samples} runs"
            for m in self._meters
            if m.mismatches
        ]

    def result(self, data: str) -> Fidelity:
        """All figures; at the top those of the worst output."""
        rows = tuple(row for meter in self._meters for row in meter.rows())
        agreements = [row.agreement for row in rows if row.agreement is not None]
        return Fidelity(
            data=data,
            samples=self.samples,
            sqnr_db=_worst(min, [r.sqnr_db for r in rows]),
            cosine=_worst(min, [r.cosine for r in rows]),
            max_abs_error=_worst(max, [r.max_abs_error for r in rows]),
            agreement=min(agreements, default=None),
            outputs=rows,
            worst_calls=tuple(self._worst) if self.samples > 1 else (),
        )


def identical(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two runs gave the same bits, NaN equal to NaN."""
    for name, value in first.items():
        for x, y in itertools.zip_longest(_pieces(value), _pieces(second[name])):
            if x is None or y is None or not np.array_equal(x, y, equal_nan=x.dtype.kind == "f"):
                return False
    return True


def _worst(choose: Any, values: list[float]) -> float:
    """The worst of the values that mean something; NaN when none does."""
    known = [v for v in values if not math.isnan(v)]
    return float(choose(known)) if known else math.nan


def _pieces(value: Any) -> list[np.ndarray]:
    """The arrays that a value is made of: one for a tensor, several for a sequence, columns for maps."""
    if value is None:
        return []
    if isinstance(value, dict):
        return [np.array([value[key] for key in sorted(value)])]
    if isinstance(value, list):
        if value and all(isinstance(v, dict) and v.keys() == value[0].keys() for v in value):
            return [np.array([[v[key] for key in sorted(v)] for v in value])]
        return [piece for v in value for piece in _pieces(v)]
    array = np.asarray(value)
    if array.dtype.kind == "V":  # bfloat16, float8, int4: no arithmetic in numpy
        return [array.astype(np.float32 if "float" in array.dtype.name else np.int32)]
    return [array]
