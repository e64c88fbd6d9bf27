"""The ways in which one plan can be written, tried one after the other until a result holds and is not slower.

First whatever the costs say; then, where the outputs moved too far, with less noise allowed to static integers; without
static integers; at the end with every weight decoded at load, which runs at the original's speed. Of those that hold,
the fastest is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnxcompress.errors import ModelError
from onnxcompress.forms import static
from onnxcompress.forms.factored import FACTORED
from onnxcompress.passes.base import FIDELITY, PlanningPass
from onnxcompress.stats.output_noise import NOISE_LIMIT

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from onnxcompress.graph.model import Model
    from onnxcompress.pipeline import Ran
    from onnxcompress.report import LayerRecord
    from onnxcompress.verify.budgets import Budgets
    from onnxcompress.verify.verify import Verification

# a later attempt would write them again
_STORAGE_FORMS = {"decode", "gather", "float16", "bfloat16", "sparse", "dense"}
_EIGHT_BITS = {"dynamic8", "migrated8", "split8"}  # of activations on each call
_POOR_DB = 15.0  # below, activations of eight bits on each call are no good either
_NOISE = 0.97  # a speed-up whose interval ends below is slower beyond measurement noise
_PAYS = 1.03  # static integers move the outputs, so they have to be faster, not only not slower
_LEAST_DB = -100.0  # a limit on fidelity below which none is left
_LEAST_NOISE = 1e-16  # that of float arithmetic itself
_SLACK_DB = 4.0  # by which more calls, and the rounding of other weights, may miss what was foreseen
_STRICTER = 4.0  # of the noise, at each step
_STRICTER_STEPS = 2


@dataclass(frozen=True)
class Manner:
    """How freely a plan may be made.

    ``noise_limit``: what static integers may leave at the outputs as far as this can be foreseen; ``wanted``: in fact.
    """

    fast_forms: bool = True
    chains: bool = True
    noise_limit: float = NOISE_LIMIT
    wanted: float = NOISE_LIMIT


@dataclass(frozen=True)
class Attempt:
    """One way to write the model, as it was tried."""

    manner: Manner
    model: Model
    ran: Sequence[Ran]
    verification: Verification

    @property
    def speedup(self) -> float:
        """Over the original; 1 where it was not timed."""
        return self.verification.latency.speedup if self.verification.latency else 1.0

    @property
    def slower(self) -> bool:
        """True when it is slower than the original, beyond noise, or no faster in spite of static integers."""
        latency = self.verification.latency
        if latency is None:
            return False
        if static.WIDE in self.forms:  # meant for other processors
            return False
        return latency.speedup_high < _NOISE or (self.has_chains and latency.speedup < _PAYS)

    @property
    def forms(self) -> set[str]:
        """All forms in it."""
        plans = [r for r in self.ran if isinstance(r.step, PlanningPass)]
        return {form for r in plans for o in r.outcomes if o.record.form for form in o.record.form.split("+")}

    @property
    def steps(self) -> int:
        """Steps that changed weights."""
        return sum(r.step.name != "simplify" for r in self.ran)

    @property
    def has_chains(self) -> bool:
        """True where operators run on static integers."""
        return bool(self.forms & {static.NAME, static.WIDE})

    @property
    def strays(self) -> bool:
        """True where a limit on fidelity is missed, or integers leave far more noise than they were allowed.

        What they leave was foreseen from a few calls, of slow models from a single one.
        """
        missed = any(not c.ok and c.name in FIDELITY for c in self.verification.checks)
        fidelity = self.verification.fidelity
        if missed or fidelity is None or self.steps > 1:  # what pruning lost is no fault of integers
            return missed
        if self.has_chains:
            return fidelity.sqnr_db < -10 * math.log10(self.manner.wanted) - _SLACK_DB
        return bool(self.forms & _EIGHT_BITS) and fidelity.sqnr_db < _POOR_DB

    def holds(self, budgets: Collection[str]) -> bool:
        """True where these budgets hold."""
        return all(c.ok for c in self.verification.checks if c.name in budgets)

    @property
    def settled(self) -> bool:
        """True where there is nothing to be gained from another attempt."""
        return self.verification.passed and not self.slower and not self.strays

    def told(self) -> str:
        """What was wrong with it, as the beginning of a sentence."""
        why = "slower than the original" if self.slower else "not within the checks and budgets"
        if self.verification.passed and self.strays:
            why = "further from the original than integers may be"
        return f"the forms chosen by cost were {why} ({self.speedup:.2f}x)"


def first_manner(budgets: Budgets) -> Manner:
    """What is tried first: a limit on fidelity that was asked for replaces the one that goes without saying."""
    limits = []
    if budgets.min_sqnr is not None:  # the rest of the noise is that of the other weights
        limits.append(10 ** (-(max(budgets.min_sqnr, _LEAST_DB) + 1) / 10))
    if budgets.min_cosine is not None:  # cos = 1 - noise / 2 for noise at right angles to the signal
        limits.append(max(1.6 * (1 - budgets.min_cosine), _LEAST_NOISE))
    limit = min(limits, default=NOISE_LIMIT)
    return Manner(noise_limit=limit, wanted=limit)


def following(tried: Sequence[Attempt]) -> Manner | None:
    """What is to be tried after these attempts; None where nothing is left or the last one will do."""
    last = tried[-1]
    rivals = last.forms - _STORAGE_FORMS
    if last.settled or not rivals or (rivals <= FACTORED and not last.slower):
        return None
    manner = last.manner
    if last.has_chains:
        stricter = sum(a.manner.noise_limit < tried[0].manner.noise_limit for a in tried)
        if last.strays and stricter < _STRICTER_STEPS:
            return replace(manner, noise_limit=manner.noise_limit / _STRICTER)
        return None if static.WIDE in last.forms else replace(manner, chains=False)
    return replace(manner, fast_forms=False)


def best(tried: Sequence[Attempt]) -> Attempt:
    """The attempt to keep: of those that hold the fastest, else the last."""
    holding = [a for a in tried if a.verification.passed]
    settled = [a for a in holding if a.settled]
    return max(settled or holding or tried[-1:], key=lambda a: a.speedup)


def taken_back(tried: Sequence[Attempt], kept: Attempt) -> str | None:
    """The sentence for the report on attempts that were not kept, or that did no better."""
    if len(tried) == 1:
        return None
    first = tried[0]
    if kept is first:
        return f"{first.told()}, but decoded weights do no better"
    if not kept.manner.fast_forms:
        return f"{first.told()}: taken back to weights that are decoded when the model is loaded"
    how = "without static integers" if not kept.manner.chains else "with fewer operators on static integers"
    return f"{first.told()}: written again {how}"


def refuse_idle(ran: Sequence[Ran]) -> list[Ran]:
    """The steps, with a note where a planning pass found nothing to do beside others that did.

    Raises:
        ModelError: none of them found anything, so nothing would change; or one has left nothing to another like it.
    """
    planning = [r for r in ran if isinstance(r.step, PlanningPass)]
    idle = [r for r in planning if not any(record.status == "done" for record in _records(r))]
    for step in idle:
        if not _records(step):
            raise ModelError("the model holds no weights", "There is nothing to compress in it.")
    busy = {r.step.name for r in planning if not any(r is other for other in idle)}
    for step in idle:
        if not busy or step.step.name in busy:
            tensors = f"none of the {len(_records(step))} stored float tensors"
            raise ModelError(
                f"{tensors} can be compressed by {step.step.name}: {_why(step)}",
                "See --dry-run --verbose for each tensor, and the options of the verb.",
            )
    noted = {id(r): (*r.notes, f"{r.step.name} changed nothing: {_why(r)}") for r in idle}
    return [replace(r, notes=noted[id(r)]) if id(r) in noted else r for r in ran]


def _records(ran: Ran) -> list[LayerRecord]:
    return [o.record for o in ran.outcomes] or list(ran.layers)


def _why(ran: Ran) -> str:
    """The reasons of the largest tensors."""
    reasons = dict.fromkeys(r.reason or "" for r in sorted(_records(ran), key=lambda r: -r.bytes_before))
    return "; ".join(list(reasons)[:3])
