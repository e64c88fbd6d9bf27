"""Pruning of weights: those that matter least go to zero, the others take over, and only they are stored.

    minimise  tr((W−Ŵ) H (W−Ŵ)ᵀ)   subject to   Ŵ on a sparse support,   H = E[x xᵀ]

With data the support and the values on it are solved together (`solvers.sparsity`); without, weights go by their size.
How many go of each tensor is decided by what that does to the outputs, unless all are to lose the same share, or one
threshold decides. Tensors are stored as the bits of their support and the values that stay, and put together again when
the model is loaded (`forms.sparse`): a smaller file at the original's speed.
"""

from __future__ import annotations

import functools
from dataclasses import field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from onnx import helper
from pydantic.dataclasses import dataclass

from onnxcompress.errors import UsageError
from onnxcompress.forms import sparse, supports
from onnxcompress.forms.base import Codes, edit_source
from onnxcompress.graph.edit import Edit
from onnxcompress.passes.base import FIDELITY, Context, Extents, Pass, Planned, Skip, register, shares_open
from onnxcompress.passes.blocks import Blocks
from onnxcompress.passes.outcomes import skipped
from onnxcompress.passes.prune_refusals import refuse
from onnxcompress.passes.repacking import PACKED, WORTH
from onnxcompress.passes.sparse_work import BY_GRADIENT, Work
from onnxcompress.passes.sparsities import by_damage, by_threshold
from onnxcompress.passes.structures import Structures
from onnxcompress.report import LayerRecord
from onnxcompress.solvers.supports import Pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from onnxcompress.graph.layers import Weight
    from onnxcompress.graph.model import Model
    from onnxcompress.progress import Progress
    from onnxcompress.stats.activations import Observed
    from onnxcompress.stats.probe import Probe

Array = np.ndarray
Importance = Literal["auto", "magnitude", "activation", "hessian", "gradient", "taylor", "fisher", "row-share"]
Allocation = Literal["damage", "uniform", "global"]
Structure = Literal["channels", "neurons", "heads", "all", "blocks"]
DENSE = "dense"
_DEFAULT, _RATIO, _ROUNDS = 0.5, 0.3, 4
_ON_TRIAL = 1 << 30  # bytes of weights, which are all in memory then


@register
@dataclass(frozen=True, kw_only=True)
class Prune:
    """Set the weights to zero that matter least, and store only the others."""

    name: ClassVar[str] = "prune"

    sparsity: float | None = field(
        default=None, metadata={"help": "Share of the weights that go, from 0 to below 1; default 0.5."}
    )
    allocation: Allocation = field(
        default="damage",
        metadata={"help": "How many go of each tensor: by what the outputs lose, the same share, or one threshold."},
    )
    threshold: float | None = field(
        default=None, metadata={"help": "In place of a share: weights of a smaller magnitude go."}
    )
    pattern: str = field(
        default="unstructured", metadata={"help": "Where zeros stand: unstructured, N:M such as 2:4, or 'block RxC'."}
    )
    importance: Importance = field(
        default="auto",
        metadata={
            "help": "What counts: magnitude, times its input, what others cannot take over, or by gradients (gradient, "
            "taylor, fisher); of structures row-share."
        },
    )
    residual_rank: int | None = field(
        default=None, metadata={"help": "Beside what stays of a matrix, a product of this rank, found together."}
    )
    schedule: Literal["cubic", "linear"] | None = field(
        default=None,
        metadata={"help": "In rounds, each on what layers see by then; as far as budgets on fidelity hold, if given."},
    )
    rounds: int | None = field(default=None, metadata={"help": "Of the schedule; default 4."})
    form: Literal["packed", "dense"] = field(
        default="packed", metadata={"help": "Store what stays, put together at load; or zeros where they are."}
    )
    structure: Structure | None = field(
        default=None, metadata={"help": "In place of single weights: what is cut out whole, so that work is saved too."}
    )
    ratio: float | None = field(
        default=None,
        metadata={
            "help": "With --structure: share of multiply-adds that goes; default 0.3, or as --min-speedup needs."
        },
    )
    include: tuple[str, ...] = field(default=(), metadata={"help": "Only weights whose name, or a reader's, matches."})
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "No weights whose name, or a reader's, matches."})

    def __post_init__(self) -> None:
        """Refuse combinations that mean nothing."""
        refuse(self)

    def parts(self) -> tuple[Pass, ...]:
        """The passes that do it: this one for single weights, another one for structures, one for each round."""
        if self.structure is None and self.schedule is None:
            return (self,)
        if self.structure is None:
            return tuple(replace(self, sparsity=s, schedule=None, rounds=None) for s in self._shares)
        left, made = 1.0, list[Pass]()
        for share in self._shares:  # of what was there at first, while a round counts what it finds
            made.append(self._structures(self.structure, share if left == 1 else 1 - (1 - share) / left))
            left = 1 - share
        return tuple(made)

    def _structures(self, structure: Structure, ratio: float) -> Pass:
        if structure == "blocks":
            return Blocks(ratio, self.include, self.exclude)
        return Structures(structure, ratio, self.include, self.exclude, self.importance == "row-share")

    @property
    def _shares(self) -> list[float]:
        """What is gone after each round: s_k = s (1 − (1 − k/n)³), or s k/n (Zhu & Gupta 2017, arXiv 1710.01878)."""
        if self.schedule is None:
            return [self._share]
        power, n = 3 if self.schedule == "cubic" else 1, self.rounds or _ROUNDS
        return [self._share * (1 - (1 - k / n) ** power) for k in range(1, n + 1)]

    def extents(self, budgets: Mapping[str, float]) -> Extents | None:
        """The ratio where only speed or fidelity is asked for, or the rounds that budgets on fidelity may end."""
        if self.structure is not None and self.ratio is None and self.schedule is None:
            return shares_open(budgets)
        bounds = tuple(name for name in FIDELITY if name in budgets)
        if self.schedule is not None and bounds:
            return Extents(tuple(self._shares), len(self._shares) - 1, bounds, most=True)
        return None

    def at(self, extent: float) -> Pass:
        """The pass with that share, in as many rounds as it takes."""
        rounds = 1 + self._shares.index(extent) if self.schedule is not None else 1
        way = self.schedule if rounds > 1 else None
        made = replace(self, schedule=way, rounds=rounds if way is not None else None)
        return replace(made, sparsity=extent) if self.structure is None else replace(made, ratio=extent)

    @property
    def tag(self) -> str:
        """``sparse50``, ``sparse2of4``, ``sparse``; ``narrow30``."""
        if self.structure is not None:
            return self._structures(self.structure, self._share).tag
        ratio = Pattern.of(self.pattern).ratio
        if ratio is not None:
            return f"sparse{ratio[0]}of{ratio[1]}"
        return "sparse" if self.threshold is not None else f"sparse{100 * self._share:g}"

    @property
    def _share(self) -> float:
        if self.structure is not None:
            return _RATIO if self.ratio is None else self.ratio
        return _DEFAULT if self.sparsity is None else self.sparsity

    @property
    def _by_damage(self) -> bool:
        return self.allocation == "damage" and self.threshold is None and Pattern.of(self.pattern).ratio is None

    def wanted_opset(self, model: Model, *, real: bool) -> int:  # noqa: ARG002 - what every pass is asked
        """None in particular."""
        return 1

    def prepared(self, model: Model, probe: Probe, progress: Progress) -> tuple[Model, tuple[str, ...]]:  # noqa: ARG002
        """As it is."""
        return model, ()

    def watched(self, model: Model) -> Sequence[str]:  # noqa: ARG002
        """Nothing besides what layers see."""
        return ()

    def measured(self, model: Model, observed: Mapping[str, Observed]) -> Sequence[tuple[int, int, int]]:  # noqa: ARG002
        """No products: what is pruned runs as it did."""
        return ()

    def trials(self, model: Model, context: Context) -> Mapping[str, Callable[[], Array]]:
        """The weights of the main graph with zeros put in."""
        if not self._by_damage:
            return {}
        work = self._work(model, context)
        main = [w for w in work.fit if w.scope is work.scopes.main and w.constant is None]
        if sum(model.nbytes(w.tensor) for w in main) > _ON_TRIAL:
            return {}
        return {w.name: functools.partial(work.on_trial, w, self._share) for w in main}

    def plan(self, model: Model, context: Context) -> Iterator[Planned | Skip]:
        """One outcome for every stored float tensor."""
        if context.probe is None and self.importance in ("activation", "hessian", *BY_GRADIENT):
            raise UsageError(f"--importance {self.importance} has to see real inputs", "Give them with --data.")
        if self.residual_rank is not None and not context.final:
            raise UsageError("a product beside pruned weights is lost in a later step", "Let prune be the last one.")
        work = self._work(model, context)
        for weight, reason in work.reasons:
            yield Skip(skipped(model, weight, reason))
        pattern = Pattern.of(self.pattern)
        fit = []
        for weight in work.fit:
            lacking = pattern.lacking(*work.shape(weight))
            if lacking is None:
                fit.append(weight)
            else:
                yield Skip(skipped(model, weight, f"it cannot have the pattern {pattern.text}: {lacking}"))
        rank = self.residual_rank
        if rank is not None and (without := sum(not work.takes_product(w, rank) for w in fit)):
            context.notes.append(f"without a product of rank {rank}, as they are too small or no matrices: {without}")
        for weight, zeros in zip(fit, self._zeros(work, fit, context), strict=True):
            yield self._outcome(work, weight, pattern, zeros, context)

    def _work(self, model: Model, context: Context) -> Work:
        known: Work | None = context.notebook.get("work")
        if known is None:
            known = context.notebook["work"] = Work.of(model, context, self.include, self.exclude, self.importance)
        return known

    def _zeros(self, work: Work, fit: Sequence[Weight], context: Context) -> list[int]:
        """How many weights of each are to go."""
        if self.threshold is not None:
            return [int(np.count_nonzero(np.abs(work.target(w).rows) < self.threshold)) for w in fit]
        if self._by_damage:
            context.progress.start("judging sparsities", len(fit))
            curves = []
            for weight in fit:
                context.progress.advance(weight.label)
                curves.append(work.curve(weight, self._share, damaged=weight.name in context.damage))
            context.progress.finish()
            return by_damage(curves, context.damage, self._share)
        if self.allocation == "global" and Pattern.of(self.pattern).ratio is None:
            scores = self.importance in BY_GRADIENT  # which are of one likelihood, so tensors have them in common
            targets = (work.target(w) for w in fit)
            return by_threshold([t.scores() if scores else t.rows for t in targets], self._share, scaled=not scores)
        return [int(self._share * w.elements) for w in fit]

    def _outcome(self, work: Work, weight: Weight, pattern: Pattern, zeros: int, context: Context) -> Planned | Skip:
        model, shape = work.model, work.shape(weight)
        zeros = max(zeros, work.zeros(weight))
        kept = pattern.kept(*shape, zeros)
        if kept >= weight.elements:
            return Skip(skipped(model, weight, "none of its weights is to go"))
        before = model.nbytes(weight.tensor)
        solve = functools.partial(work.solved, weight, pattern, zeros)
        limit = context.opset_limit
        able = limit is None or limit >= sparse.MIN_OPSET
        rows, bits = work.rows(weight), 8 * before / weight.elements
        plain = sparse.Layout(weight.dims, tuple(range(len(weight.dims))), shape[0])
        layout = plain if rows is None else supports.layout_of(rows)
        support = supports.planned(layout, pattern, kept, bits)
        beside = self._beside(work, weight, layout)
        small = support.nbytes(bits) + (beside.nbytes if beside else 0) < WORTH * before
        packs = context.final and self.form == "packed" and able and small and weight.tensor.data_type in PACKED
        if packs:
            if beside is not None:
                solve = functools.partial(work.solved_beside, weight, pattern, zeros, beside.rank)
            edit, after, codes = sparse.write(work.writing(weight), support, weight.tensor.data_type, solve, beside)
        else:
            edit, after, codes = _dense(weight, solve, before, lambda: model.view(weight.tensor))
        record = LayerRecord(
            weight.label, weight.op, "done", None, sparse.NAME if packs else DENSE, None, before, after,
            sparsity=1 - kept / weight.elements, ranks=(beside.rank,) if beside and packs else None,
        )  # fmt: skip
        return Planned(record, edit, lambda: codes.error, lambda: codes.histogram)

    def _beside(self, work: Work, weight: Weight, layout: sparse.Layout) -> sparse.Beside | None:
        if self.residual_rank is None or not work.takes_product(weight, self.residual_rank):
            return None
        return sparse.Beside(layout, self.residual_rank)


def _dense(
    weight: Weight, solve: Callable[[], sparse.Kept], nbytes: int, original: Callable[[], np.ndarray]
) -> tuple[Edit, int, Codes]:
    """A weight with zeros where they are."""
    codes = Codes(solve, original)
    dtype = helper.tensor_dtype_to_np_dtype(weight.tensor.data_type)
    tensor = codes.stored(weight.name, dtype, weight.dims, lambda found: found.values)
    return Edit(weight.scope, (tensor,), **edit_source(weight)), nbytes, codes  # type: ignore[arg-type]
