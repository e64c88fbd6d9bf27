"""Factorization: weights of low rank in place of full ones, where that makes a layer smaller and faster.

    minimise  tr((W − Ŵ) H (W − Ŵ)ᵀ)   subject to   rank Ŵ ≤ r,   H = E[x xᵀ]

With data the exact optimum in the metric of what a layer sees (the SVD of W H^½), and a bias takes over what is lost of
the mean; without, the SVD of W. Convolutions become a chain of smaller ones, of the kind that loses least for what it
costs. Ranks are chosen for the whole model at once: where they cost the outputs least for what they save.

Eckart & Young 1936; whitening: Yuan et al., "ASVD", 2023, arXiv 2312.05821, and Wang et al., "SVD-LLM", ICLR 2025,
arXiv 2403.07378; convolutions as in `solvers.conv_low_rank`.
"""

from __future__ import annotations

import functools
from dataclasses import field, replace
from typing import TYPE_CHECKING, ClassVar

from pydantic.dataclasses import dataclass

from onnxcompress.errors import UsageError
from onnxcompress.graph.layers import weights
from onnxcompress.graph.scopes import Scopes
from onnxcompress.passes.base import Context, Extents, Pass, Planned, Skip, register, shares_open
from onnxcompress.passes.factor_work import Work
from onnxcompress.passes.outcomes import skipped
from onnxcompress.passes.refit import Refit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np

    from onnxcompress.graph.model import Model
    from onnxcompress.passes.factor_options import Option
    from onnxcompress.progress import Progress
    from onnxcompress.stats.activations import Observed
    from onnxcompress.stats.probe import Probe

_DEFAULT = 0.75
_ON_TRIAL = 1 << 30  # bytes of weights, which are all in memory then


@register
@dataclass(frozen=True, kw_only=True)
class Factorize:
    """Replace layers by products of smaller ones, where that makes them smaller and faster."""

    name: ClassVar[str] = "factorize"

    params: float | None = field(
        default=None, metadata={"help": "Share of the parameters of layers that stays, in all; default 0.75."}
    )
    work: float | None = field(
        default=None, metadata={"help": "In place of that: share of their multiply-adds; as --min-speedup needs."}
    )
    rank: int | None = field(default=None, metadata={"help": "In place of that: one rank for every layer."})
    rank_ratio: float | None = field(
        default=None, metadata={"help": "In place of that: the rank as a share of the full one."}
    )
    energy: float | None = field(
        default=None, metadata={"help": "In place of that: share of its outputs' energy that each layer keeps."}
    )
    include: tuple[str, ...] = field(default=(), metadata={"help": "Only weights whose name, or a reader's, matches."})
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "No weights whose name, or a reader's, matches."})

    tables: bool = field(default=True, metadata={"help": "Give lookup tables a low rank as well."})
    refit: bool = field(
        default=True, metadata={"help": "With data, fit factors and the layers behind them to what the original gives."}
    )

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        given = [name for name in ("params", "work", "rank", "rank_ratio", "energy") if getattr(self, name) is not None]
        if len(given) > 1:
            first, second = (f"--{name.replace('_', '-')}" for name in given[:2])
            raise UsageError(f"{first} and {second} exclude each other", "Give one of them.")
        if self.rank is not None and self.rank < 1:
            raise UsageError(f"there is no product of rank {self.rank}", "Give --rank 1 or more.")
        for name in ("params", "work", "rank_ratio", "energy"):
            value = getattr(self, name)
            last = name == "energy"
            if value is not None and not (0 < value < 1 or (last and value == 1)):
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(f"{flag} {value:g} cannot be had", "Give a share between 0 and 1, such as 0.75.")

    @property
    def tag(self) -> str:
        """``rank64``, ``energy95``, ``factored75``."""
        if self.rank is not None:
            return f"rank{self.rank}"
        if self.energy is not None:
            return f"energy{100 * self.energy:g}"
        share = next((s for s in (self.params, self.work, self.rank_ratio) if s is not None), _DEFAULT)
        return f"factored{100 * share:g}"

    def parts(self) -> tuple[Pass, ...]:
        """The passes that do it."""
        return (self, Refit()) if self.refit else (self,)

    def extents(self, budgets: Mapping[str, float]) -> Extents | None:
        """The share of the work that goes, where only the speed or the fidelity is asked for."""
        given = (self.params, self.work, self.rank, self.rank_ratio, self.energy)
        return None if any(value is not None for value in given) else shares_open(budgets)

    def at(self, extent: float) -> Pass:
        """The pass that takes that share of the multiply-adds away."""
        return replace(self, work=round(1 - extent, 6))

    def wanted_opset(self, model: Model, *, real: bool) -> int:  # noqa: ARG002 - what every pass is asked
        """None in particular."""
        return 1

    def prepared(self, model: Model, probe: Probe, progress: Progress) -> tuple[Model, tuple[str, ...]]:  # noqa: ARG002
        """As it is."""
        return model, ()

    def watched(self, model: Model) -> Sequence[str]:
        """What convolutions and products of the main graph read, and what convolutions give."""
        scopes, found = Scopes(model.proto), dict[str, None]()
        for weight in weights(model, scopes):
            for leaf in weight.leaves:
                node = leaf.use.node
                if node is None or leaf.use.scope is not scopes.main or node.op_type not in ("MatMul", "Gemm", "Conv"):
                    continue
                if node.input[0] in scopes.main.defined and leaf.use.index == 1:
                    found[node.input[0]] = None
                    if node.op_type == "Conv":
                        found[node.output[0]] = None
        stored = {*scopes.main.initializers, *scopes.main.constants}
        return [name for name in found if name not in stored]

    def measured(self, model: Model, observed: Mapping[str, Observed]) -> Sequence[tuple[int, int, int]]:  # noqa: ARG002
        """No forms."""
        return ()

    def trials(self, model: Model, context: Context) -> Mapping[str, Callable[[], np.ndarray]]:
        """The weights of the main graph with half of their parameters."""
        if any(value is not None for value in (self.rank, self.rank_ratio, self.energy)) or context.probe is not None:
            return {}  # with data more is measured
        work = self._work(model, context)
        main = [s for s in work.sites if s.weight.scope is work.scopes.main and s.weight.constant is None]
        if sum(model.nbytes(s.weight.tensor) for s in main) > _ON_TRIAL:
            return {}
        return {s.weight.name: functools.partial(work.on_trial, s) for s in main}

    def plan(self, model: Model, context: Context) -> Iterator[Planned | Skip]:
        """One outcome for every stored float tensor."""
        work = self._work(model, context)
        if not context.fast_forms:
            yield from work.left_whole()
            return
        for weight, reason in work.reasons:
            yield Skip(skipped(model, weight, reason))
        yield from work.outcomes(self._chosen(work, context))

    def _chosen(self, work: Work, context: Context) -> list[Option | None]:
        if self.rank is not None or self.rank_ratio is not None:
            return [work.of_rank(s, self.rank, self.rank_ratio) for s in work.sites]
        if self.energy is not None:
            return [work.of_energy(s, self.energy) for s in work.sites]
        if self.work is not None:
            return work.allotted(context.damage, self.work, "work")
        return work.allotted(context.damage, _DEFAULT if self.params is None else self.params, "parameters")

    def _work(self, model: Model, context: Context) -> Work:
        known: Work | None = context.notebook.get("work")
        if known is None:
            known = context.notebook["work"] = Work.of(model, context, self.include, self.exclude, tables=self.tables)
        return known
