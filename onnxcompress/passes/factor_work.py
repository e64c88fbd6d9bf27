"""The weights of a model that are to be factored, which way each of them goes, and what is written for it."""

from __future__ import annotations

import functools
import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.errors import RuntimeFailure
from onnxcompress.forms import factored
from onnxcompress.forms.base import Codes, edit_source
from onnxcompress.forms.factored import Parts, Stored
from onnxcompress.graph.edit import Edit, Namer, NewTensor, Replacement
from onnxcompress.graph.layers import weights
from onnxcompress.graph.scopes import Scopes
from onnxcompress.passes.allotment import Rung, allotted
from onnxcompress.passes.base import Planned, Skip
from onnxcompress.passes.factor_options import Factoring, Option, frontier
from onnxcompress.passes.factor_sites import Finder, Site
from onnxcompress.passes.outcomes import skipped
from onnxcompress.passes.selection import Selection
from onnxcompress.passes.survey import unfit
from onnxcompress.passes.watching import watched
from onnxcompress.report import LayerRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import onnx

    from onnxcompress.graph.layers import Weight
    from onnxcompress.graph.model import Model
    from onnxcompress.passes.base import Context
    from onnxcompress.passes.rounding import Rounding

Array = np.ndarray
_TRIALS = 4  # options of a site that are tried
_ON_TRIAL = 1 << 30  # bytes of weights, which are all in memory then
SLOWER = "the model was measured to be slower with factors"
_NOT_PAID = "no rank would make it smaller and faster"
_WHOLE = "whole it does more for the outputs than its parameters would elsewhere"


@dataclass(frozen=True)
class Work:
    """``sites``: what may be factored; ``reasons``: why the other weights stay."""

    model: Model
    scopes: Scopes
    namer: Namer
    sites: tuple[Site, ...]
    reasons: tuple[tuple[Weight, str], ...]
    rounding: Rounding | None
    context: Context
    tried: dict[str, float] = field(default_factory=dict)
    _known: dict[str, list[Option]] = field(default_factory=dict)
    _noise: dict[tuple[str, Option], float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, model: Model, context: Context, include: Sequence[str], exclude: Sequence[str], *, tables: bool = True
    ) -> Work:
        """Look at a model; what layers see is measured. Without ``tables`` weights that rows are looked up in stay.

        Raises:
            UsageError: a pattern matches nothing.
            DataError: a value is not finite on the data.
        """
        scopes = Scopes(model.proto)
        found = list(weights(model, scopes))
        selection = Selection(include, exclude, found)
        namer = Namer(scopes.names())
        finder = Finder(model, scopes, namer, context.observed)
        sites, reasons = [], []
        for weight in found:
            site = unfit(weight) or selection.reason(weight) or finder.site(weight)
            if isinstance(site, str):
                reasons.append((weight, site))
            elif not tables and any(leaf.op == "Gather" for leaf in weight.leaves):
                reasons.append((weight, "a lookup table, which was to stay"))
            else:
                sites.append(site)
        rounding = watched(model, context, [s.weight for s in sites], scopes.main, learn=False)
        # what is known of weights does not depend on how many of them are to go: other attempts ask for it again
        memory = {} if context.probe is None else context.probe.memory
        known, noise = memory.setdefault("factor options", {}), memory.setdefault("factor noise", {})
        return cls(model, scopes, namer, tuple(sites), tuple(reasons), rounding, context, _known=known, _noise=noise)

    def options(self, site: Site) -> list[Option]:
        """All ways that pay."""
        name = site.weight.label
        if name not in self._known:
            self._known[name] = Factoring(site, self.rounding).options()
        return self._known[name]

    def on_trial(self, site: Site) -> Array:
        """The weight with half of its parameters; the error of that is remembered."""
        values, self.tried[site.weight.name] = Factoring(site, self.rounding).trial()
        return values

    # ------------------------------------------------------------------------- choices

    def of_rank(self, site: Site, rank: int | None, ratio: float | None) -> Option | None:
        """The way of a rank, given as it is or as a part of the full one."""
        full = min(site.rows.out, site.rows.inputs)
        wanted = rank if rank is not None else max(1, round((ratio or 1.0) * full))
        return Factoring(site, self.rounding).of_rank(wanted)

    def of_energy(self, site: Site, energy: float) -> Option | None:
        """The cheapest way that keeps that share of the energy of the outputs."""
        by = "work" if site.multiplies else "parameters"
        fit = [o for o in self.options(site) if o.error <= 1 - energy]
        return min(fit, key=lambda o: getattr(o, by), default=None)

    def allotted(self, damage: Mapping[str, float], share: float, by: str) -> list[Option | None]:
        """A way for each site, or none, such that a share of all costs stays and the outputs lose least."""
        self.context.progress.start("judging ranks", len(self.sites))
        ladders: list[list[Option]] = []
        for site in self.sites:
            self.context.progress.advance(site.weight.label)
            ladders.append(frontier(self.options(site), by))
        self.context.progress.finish()
        losses = self._losses(ladders, damage)
        costs = [s.work if by == "work" else float(s.weight.elements) for s in self.sites]
        rungs = [
            [Rung(None, int(getattr(o, by)), e) for o, e in zip(own, lost, strict=True)] + [Rung(None, int(cost), 0.0)]
            for own, lost, cost in zip(ladders, losses, costs, strict=True)
        ]
        target = int(share * sum(costs))
        least = sum(own[0].nbytes for own in rungs)
        chosen = allotted(rungs, [1.0] * len(rungs), max(target - least, 0))
        if least > target:
            self.context.notes.append(
                f"{100 * least / max(sum(costs), 1):.0f} % of the {by} stay with the least ranks everywhere"
            )
        found: list[Option | None] = []
        for own, rung, all_rungs in zip(ladders, chosen, rungs, strict=True):
            place = next(i for i, r in enumerate(all_rungs) if r is rung)
            found.append(own[place] if place < len(own) else None)
        return found

    def _losses(self, ladders: Sequence[Sequence[Option]], damage: Mapping[str, float]) -> list[list[float]]:
        """What each option is expected to do to the outputs.

        Some were tried on the data, between them it goes with the relative error; where no data are, with the damage of
        one trial.
        """
        tried = self._measured(ladders)
        weights = self._weighed(damage)
        found = []
        for site, own, weight in zip(self.sites, ladders, weights, strict=True):
            known = sorted(tried.get(site.weight.name, {}).items())
            errors = [o.error for o in own]
            if not known:
                found.append([weight * e for e in errors])
                continue
            x = [0.0, *(e for e, _ in known)]
            y = np.maximum.accumulate([0.0, *(d for _, d in known)])
            slope = y[-1] / x[-1]
            found.append([float(np.interp(e, x, y)) + max(e - x[-1], 0.0) * slope for e in errors])
        return found

    def _measured(self, ladders: Sequence[Sequence[Option]]) -> dict[str, dict[float, float]]:
        """The noise at the outputs, by weight and relative error, of some options of each site tried alone."""
        probe = self.context.probe
        fit = [
            (s, own) for s, own in zip(self.sites, ladders, strict=True)
            if own and s.weight.scope is self.scopes.main and s.weight.constant is None
        ]  # fmt: skip
        if probe is None or not fit or sum(self.model.nbytes(s.weight.tensor) for s, _ in fit) > _ON_TRIAL:
            return {}
        wanted = [
            (site, own[place])
            for site, own in fit
            for place in sorted({len(own) * part // _TRIALS for part in range(_TRIALS)})
        ]
        self._try([(s, o) for s, o in wanted if (s.weight.name, o) not in self._noise])
        found: dict[str, dict[float, float]] = {}
        for site, option in wanted:
            noise = self._noise.get((site.weight.name, option), math.inf)
            if math.isfinite(noise):
                found.setdefault(site.weight.name, {})[option.error] = noise
        return found

    def _try(self, wanted: Sequence[tuple[Site, Option]]) -> None:
        """Note the noise at the outputs of options, each tried alone."""
        probe, progress = self.context.probe, self.context.progress
        if probe is None or not wanted:
            return
        try:
            session = probe.whatif(self.model, [], list(dict.fromkeys(s.weight.name for s, _ in wanted)))
            progress.start("measuring what ranks do to the outputs", len(wanted))
            factoring: Factoring | None = None
            for site, option in wanted:
                progress.advance(site.weight.label)
                if factoring is None or factoring.site is not site:
                    factoring = Factoring(site, self.rounding)
                values = factoring.approximated(option)
                self._noise[site.weight.name, option] = session.noise({}, {site.weight.name: values})
            progress.finish()
        except RuntimeFailure as error:
            self.context.notes.append(f"what ranks do to the outputs was not measured: {error.message}")

    def _weighed(self, damage: Mapping[str, float]) -> list[float]:
        """What a relative error of each site counts; a site that was not tried counts as the middle one."""
        known = {
            name: damage[name] / tried
            for name, tried in self.tried.items()
            if tried > 0 and math.isfinite(damage.get(name, math.inf)) and damage[name] > 0
        }
        middle = statistics.median(known.values()) if known else 1.0
        return [known.get(s.weight.name, middle) for s in self.sites]

    # ------------------------------------------------------------------------- writing

    def outcomes(self, chosen: Sequence[Option | None]) -> Iterator[Planned | Skip]:
        """What becomes of each site."""
        for site, option in zip(self.sites, chosen, strict=True):
            if option is None:
                reason = _WHOLE if self._known.get(site.weight.label) else _NOT_PAID
                yield Skip(skipped(self.model, site.weight, reason))
            else:
                yield self._planned(site, option)

    def left_whole(self) -> Iterator[Skip]:
        """What becomes of all weights where the factored model was slower."""
        for weight, reason in (*self.reasons, *((s.weight, SLOWER) for s in self.sites)):
            yield Skip(skipped(self.model, weight, reason))

    def _planned(self, site: Site, option: Option) -> Planned:
        weight = site.weight
        factoring = Factoring(site, self.rounding)
        codes = Codes(functools.partial(factoring.solved, option))
        stored = Stored(codes, self.namer, weight.name, factoring.shapes(option), len(weight.dims) - 2)
        bias = self._bias(site, codes)
        replaced: list[Replacement] = []
        for leaf, product in zip(weight.leaves, site.products, strict=True):
            if site.kernel is not None:
                replaced.append(factored.convolution(stored, leaf, option.kind, bias[0] or _third(leaf.use.node)))
            elif product is not None:
                replaced.append(factored.product(stored, leaf, product, bias[0] or _third(product.node)))
            else:
                replaced.append(factored.lookup(stored, leaf))
        chains = {id(n): n for leaf in weight.leaves for n in leaf.chain}
        source = edit_source(weight)
        removed = (*source.get("removed", ()), *chains.values())
        dropped = (*source.get("dropped", ()), *bias[2])
        edit = Edit(
            weight.scope, (*stored.tensors, *bias[1]), tuple(stored.prelude), tuple(replaced),
            removed=removed, dropped=dropped,  # type: ignore[arg-type]
        )  # fmt: skip
        before = self.model.nbytes(weight.tensor)
        record = LayerRecord(
            weight.label, weight.op, "done", None, option.kind, None, before, stored.nbytes, ranks=option.ranks
        )
        return Planned(record, edit, lambda: codes.error)

    def _bias(self, site: Site, codes: Codes) -> tuple[str | None, tuple[NewTensor, ...], tuple[str, ...]]:
        """The bias for the last part where it changes: its name, tensors to store, and tensors that go."""
        bias = site.bias
        if bias is None or site.seen(self.rounding)[1] is None:
            return None, (), ()
        old = None if bias.name is None else self.scopes.main.initializers[bias.name]
        out = site.rows.out

        def view(found: Parts) -> Array:
            base = np.zeros(out, np.float32) if old is None else self.model.array(old).reshape(-1)
            return base if found.shift is None else base + found.shift

        name = bias.name or self.namer(f"{site.weight.name}.b")
        tensor = codes.stored(name, np.dtype(np.float32), (out,), view)
        reads = bias.node is not None and bias.node.op_type in ("Conv", "Gemm")
        return (name if reads else None), (tensor,), (() if bias.name is None else (bias.name,))


def _third(node: onnx.NodeProto | None) -> str | None:
    return node.input[2] if node is not None and len(node.input) > 2 and node.input[2] else None
