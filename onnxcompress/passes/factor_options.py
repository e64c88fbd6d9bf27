"""The ways to factor a weight: kinds and ranks, what each costs, what it is expected to lose, and how it is solved.

Errors are parts of tr(W H Wᵀ). Those of matrices and of `output` kernels are exact, sums of the smallest eigenvalues;
those of `spatial` and `tucker` kernels are told from the spectra of unfoldings, and set right by solving one of each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.forms.factored import LOW_RANK, OUTPUT, SPATIAL, TUCKER, Parts
from onnxcompress.solvers import conv_low_rank, low_rank
from onnxcompress.solvers.metric import plain_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnxcompress.passes.factor_sites import Site
    from onnxcompress.passes.rounding import Rounding

Array = np.ndarray
_UNIT, _SMALL_UNIT = 16, 8  # of ranks: what runtimes multiply at once
_SMALL = 128  # rows or inputs, below which ranks go by the smaller unit
_MOST_RANKS = 24
_NODE_WORK = 50_000  # multiply-adds that one more operator costs, about two microseconds
_PAYS = 0.85  # of the work, and of the parameters, that a factored layer has to stay below
_PARTS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75)  # of inputs, and of outputs, that the inner kernel of `tucker` has


@dataclass(frozen=True)
class Option:
    """One way: ``parameters`` that are stored, ``work`` in multiply-adds of a call, and the relative error."""

    kind: str
    ranks: tuple[int, ...]
    parameters: int
    work: float
    error: float

    @property
    def shown(self) -> str:
        """``low-rank 64``, for people."""
        return f"{self.kind} {'x'.join(map(str, self.ranks))}"


@dataclass(eq=False)
class Factoring:
    """A site with its weight and metric, for as long as options are looked at."""

    site: Site
    rounding: Rounding | None
    _apart: low_rank.Decomposition | None = None

    def _decomposed(self, W: Array, H: Array | None) -> low_rank.Decomposition:
        if self._apart is None:
            self._apart = low_rank.Decomposition(W, H)
        return self._apart

    def options(self) -> list[Option]:
        """All ways that pay, by cost; of two that cost the same the better one.

        Raises:
            ModelError: a value is not finite.
        """
        W, (H, _) = self.site.matrix(), self.site.seen(self.rounding)
        spectrum = self._decomposed(W, H).spectrum
        total = float(spectrum.sum())
        if total <= 0:
            return []
        found = list(self._exact(spectrum / total))
        if self.site.kernel is not None and self.site.kernel[2] * self.site.kernel[3] > 1:
            found += self._kernels(W, H, spectrum / total, total)
        return [o for o in found if self._pays(o)]

    def trial(self) -> tuple[Array, float]:
        """The weight with half of its parameters, in its own shape, and the relative error of that.

        Raises:
            ModelError: a value is not finite.
        """
        W, (H, _) = self.site.matrix(), self.site.seen(self.rounding)
        rank = max(1, round(0.5 * W.size / sum(W.shape)))
        made = self._decomposed(W, H).factors(rank).product
        total = low_rank.energy(W.astype(np.float64), H)
        error = low_rank.energy(W.astype(np.float64) - made, H)
        return self._stored(made), error / total if total > 0 else 0.0

    def approximated(self, option: Option) -> Array:
        """The weight with those ranks, in its own shape.

        Raises:
            ModelError: a value is not finite.
        """
        return self._stored(self._solved(self.site.matrix(), self.site.seen(self.rounding)[0], option)[1])

    def solved(self, option: Option) -> Parts:
        """The factors.

        Raises:
            ModelError: a value is not finite.
        """
        W, (H, mean) = self.site.matrix(), self.site.seen(self.rounding)
        parts, product = self._solved(W, H, option)
        self._apart = None  # as large as the weight, and not asked for again
        shift = None if mean is None else ((W - product).astype(np.float64) @ mean).astype(np.float32)
        return Parts(parts, plain_error(W, product), shift)

    def shapes(self, option: Option) -> tuple[tuple[int, ...], ...]:
        """Those of the parts, in the order of `solved`."""
        site, ranks = self.site, option.ranks
        if option.kind == LOW_RANK:
            return (ranks[0], site.rows.inputs), (site.rows.out, ranks[0])
        outs, ins, kh, kw = site.kernel or (0, 0, 0, 0)
        if option.kind == OUTPUT:
            return (ranks[0], ins, kh, kw), (outs, ranks[0], 1, 1)
        if option.kind == SPATIAL:
            return (ranks[0], ins, kh, 1), (outs, ranks[0], 1, kw)
        return (ranks[0], ins, 1, 1), (ranks[1], ranks[0], kh, kw), (outs, ranks[1], 1, 1)

    # ------------------------------------------------------------------------- costs

    def _pays(self, option: Option) -> bool:
        site = self.site
        smaller = option.parameters <= _PAYS * site.weight.elements
        return smaller and (not site.multiplies or option.work <= _PAYS * site.work)

    def _option(self, kind: str, ranks: tuple[int, ...], error: float) -> Option:
        sizes = [math.prod(shape) for shape in self.shapes(Option(kind, ranks, 0, 0, 0))]
        inside, outside = self.site.positions
        positions = {SPATIAL: (self.site.middle, outside), TUCKER: (inside, outside, outside)}.get(kind, (outside,) * 2)
        nodes = _NODE_WORK * (len(sizes) - 1) if outside else 0.0
        work = sum((p or 1.0) * size for p, size in zip(positions, sizes, strict=True)) + nodes
        return Option(kind, ranks, sum(sizes), work, max(error, 0.0))

    def _exact(self, spectrum: Array) -> Iterator[Option]:
        kind = LOW_RANK if self.site.kernel is None else OUTPUT
        left = np.append(np.cumsum(spectrum[::-1])[::-1], 0.0)
        for rank in _ranks(len(spectrum), min(self.site.rows.out, self.site.rows.inputs)):
            yield self._option(kind, (rank,), float(left[rank]))

    def of_rank(self, rank: int) -> Option | None:
        """The way with that rank, or the highest there is; None where it does not pay."""
        W, (H, _) = self.site.matrix(), self.site.seen(self.rounding)
        spectrum = self._decomposed(W, H).spectrum
        rank = min(rank, len(spectrum))
        total = float(spectrum.sum())
        error = float(spectrum[rank:].sum()) / total if total > 0 else 0.0
        found = self._option(LOW_RANK if self.site.kernel is None else OUTPUT, (rank,), error)
        return found if self._pays(found) else None

    # ------------------------------------------------------------------------- kernels

    def _kernels(self, W: Array, H: Array | None, outputs: Array, total: float) -> Iterator[Option]:
        outs, ins, kh, kw = self.site.kernel or (0, 0, 0, 0)
        wide, K = W.reshape(outs, ins, kh, kw), kh * kw
        left = np.append(np.cumsum(outputs[::-1])[::-1], 0.0)
        flat = wide.reshape(outs, ins, K).transpose(0, 2, 1).reshape(outs * K, ins)
        single = None if H is None else np.einsum("iaja->ij", H.reshape(ins, K, ins, K))
        inner = low_rank.spectrum(flat, single)
        inner = np.append(np.cumsum((inner / max(float(inner.sum()), 1e-300))[::-1])[::-1], 0.0)
        pairs = {
            (_rounded(a * ins, ins), _rounded(b * outs, outs))
            for a, b in ((a, b) for a in (*_PARTS, 1.0) for b in _PARTS if abs(a - b) < 0.3)
        }
        tucker = [
            self._option(TUCKER, pair, float(inner[pair[0]] + left[pair[1]]))
            for pair in sorted(pairs)
            if pair[0] < ins and pair[0] < len(inner) and pair[1] <= min(len(left) - 1, pair[0] * K)
        ]
        yield from self._scaled(W, H, tucker, total)
        if min(kh, kw) > 1:
            columns = None if H is None else np.einsum("xbyb->xy", H.reshape(ins * kh, kw, ins * kh, kw))
            unfolded = wide.transpose(0, 3, 1, 2).reshape(outs * kw, ins * kh)
            seen = low_rank.spectrum(unfolded, columns)
            seen = np.append(np.cumsum((seen / max(float(seen.sum()), 1e-300))[::-1])[::-1], 0.0)
            ranks = _ranks(len(seen) - 1, min(unfolded.shape))
            yield from self._scaled(W, H, [self._option(SPATIAL, (r,), float(seen[r])) for r in ranks], total)

    def _scaled(self, W: Array, H: Array | None, found: Sequence[Option], total: float) -> list[Option]:
        """Options with errors as one that was solved has them."""
        fit = [o for o in found if self._pays(o) and o.error > 0]
        if not fit:
            return []
        middle = fit[len(fit) // 2]
        _, product = self._solved(W, H, middle)
        real = low_rank.energy(W.astype(np.float64) - product, H) / total
        factor = real / middle.error
        return [Option(o.kind, o.ranks, o.parameters, o.work, o.error * factor) for o in fit]

    def _solved(self, W: Array, H: Array | None, option: Option) -> tuple[tuple[Array, ...], Array]:
        """The parts and what they stand for, (out, in)."""
        ranks = option.ranks
        if option.kind == LOW_RANK:
            found = self._decomposed(W, H).factors(ranks[0])
            return (found.right, found.left), found.product
        kernel = W.reshape(self.site.kernel or W.shape)
        if option.kind == OUTPUT:  # as of `conv_low_rank.output`, taken apart once for all ranks
            found = self._decomposed(W, H).factors(ranks[0])
            core = found.right.reshape(ranks[0], *kernel.shape[1:])
            return (core, found.left[:, :, None, None]), found.product
        if option.kind == SPATIAL:
            vertical, horizontal = conv_low_rank.spatial(kernel, H, ranks[0])
            product = np.einsum("orb,ria->oiab", horizontal[:, :, 0], vertical[..., 0], optimize=True)
            return (vertical, horizontal), product.reshape(W.shape)
        first, core, last = conv_low_rank.tucker(kernel, H, *ranks)
        inner = np.einsum("rsab,si->riab", core, first[:, :, 0, 0], optimize=True)
        return (first, core, last), (last[:, :, 0, 0] @ inner.reshape(len(inner), -1)).reshape(W.shape)

    def _stored(self, matrix: Array) -> Array:
        return self.site.rows.values(matrix).reshape(self.site.weight.dims)


def _rounded(value: float, limit: int) -> int:
    unit = _UNIT if limit >= _SMALL else _SMALL_UNIT
    return int(min(max(unit, round(value / unit) * unit), limit))


def _ranks(highest: int, size: int) -> list[int]:
    """Multiples of what runtimes work on at once, not too many of them."""
    unit = _UNIT if size >= _SMALL else _SMALL_UNIT if size >= 2 * _SMALL_UNIT else 4
    every = list(range(unit, highest + 1, unit))
    thin = -(-len(every) // _MOST_RANKS) or 1
    return every[thin - 1 :: thin]


def frontier(options: Sequence[Option], by: str) -> list[Option]:
    """The options that are better than all that cost less, by ``parameters`` or ``work``, ascending."""
    best: list[Option] = []
    for option in sorted(options, key=lambda o: (getattr(o, by), o.error)):
        if not best or option.error < best[-1].error:
            best.append(option)
    return best
