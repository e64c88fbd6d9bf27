"""Pruning of blocks: whole residual blocks y = x + f(x) are taken out, those first that the outputs miss least.

    y ≈ a x + c   in place of   y = x + f(x),

a and c for each channel by least squares on calibration data (`stats.block_trials`). Blocks go one after the other: the
one with the least noise at the outputs for the multiply-adds that it saves, measured with those before it gone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from onnxcompress.errors import ModelError, RuntimeFailure
from onnxcompress.graph import multiply_adds
from onnxcompress.graph.channel_world import World
from onnxcompress.graph.constants import lift_constants
from onnxcompress.graph.layers import weights
from onnxcompress.graph.residual_blocks import Block, Bridge, residual_blocks, sums, without
from onnxcompress.passes.base import Context, Rewritten
from onnxcompress.passes.seen import one_call, threads_of
from onnxcompress.passes.selection import Selection
from onnxcompress.report import LayerRecord
from onnxcompress.stats.activations import observe
from onnxcompress.stats.block_trials import BlockTrials
from onnxcompress.stats.removal_check import broken, gives_other

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.model import Model
    from onnxcompress.graph.multiply_adds import Layer

FORM = "bridge"
_CALLS, _COMPARED = 32, 4  # of the data: what stands in is fitted on, outputs are compared on
_AGAIN = 6  # blocks that are measured anew once another one is gone, those that did least before


@dataclass(frozen=True)
class Blocks:
    """Take residual blocks out of the model until a share of its multiply-adds is gone."""

    name: ClassVar[str] = "prune"

    ratio: float
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @property
    def tag(self) -> str:
        """``shallow30``."""
        return f"shallow{100 * self.ratio:g}"

    def rewrite(self, model: Model, context: Context) -> Rewritten:
        """A copy of the model with fewer blocks.

        Raises:
            UsageError: a pattern matches nothing.
            ModelError: there is no block that can go, or the result does not compute what it should.
        """
        model = model.copy()
        lift_constants(model)
        feeds = one_call(model, context)
        if feeds is None:
            raise ModelError("no block can be removed of a model that was not run", "Give --data that it runs on.")
        work = _Work.of(self, model, feeds, context)
        try:
            return work.rewritten()
        except RuntimeFailure as error:
            raise ModelError(
                f"blocks of the model cannot be tried: {error.message}", "Use --structure all, which needs less of it."
            ) from error


@dataclass(frozen=True, eq=False)
class _Work:
    asked: Blocks
    model: Model
    layers: Sequence[Layer]
    blocks: Sequence[Block]
    feeds: Feeds
    context: Context

    @classmethod
    def of(cls, asked: Blocks, model: Model, feeds: Feeds, context: Context) -> _Work:
        """Find the blocks."""
        world = World(model)
        names = [*multiply_adds.watched(world), *(n for node in sums(model) for n in node.input)]
        stored = {t.name for t in model.proto.graph.initializer}
        wanted = [n for n in dict.fromkeys(names) if n not in stored]
        seen = observe(model, wanted, [feeds], noise=False, threads=threads_of(context))
        shapes = {name: value.shapes[0] for name, value in seen.items()}
        layers = multiply_adds.layers(world, shapes)
        found = [w for w in weights(model, world.scopes) if w.scope is world.scopes.main]
        selection = Selection(asked.include, asked.exclude, found)
        kept = {w.name for w in found if selection.reason(w) is not None}
        frozen = {layer.name for layer in layers if layer.weight in kept}
        blocks = [b for b in residual_blocks(model, shapes, layers) if not frozen & set(b.layers)]
        if not blocks:
            raise ModelError(
                "no block of the model can be removed: it has no residual sums around layers that may change",
                "Ask for --structure all, or remove single weights with --sparsity.",
            )
        return cls(asked, model, layers, blocks, feeds, context)

    def rewritten(self) -> Rewritten:
        """The model without the blocks that do least."""
        context = self.context
        calls = [self.feeds] if context.probe is None else list(context.probe.data.take(_CALLS))
        trials = BlockTrials(self.model, self.blocks, calls, _COMPARED, threads_of(context))
        fitted = context.probe is not None
        gone = self._chosen(trials, trials.alone() if fitted else {block: Bridge() for block in self.blocks})
        bridges = trials.bridged(gone) if fitted else {block: Bridge() for block in gone}
        made = without(self.model, bridges)
        expected, again = (trials.outputs(self.feeds, bridges) for _ in range(2))
        reason = broken(self.model, made) or gives_other(expected, again, made, self.feeds, threads_of(context))
        if reason is not None:
            raise ModelError(f"the model cannot do without blocks: {reason}", "Report it, and use --structure all.")
        return Rewritten(made, (*self._told(gone), *context.notes), tuple(self._records(gone)))

    def _chosen(self, trials: BlockTrials, bridges: Mapping[Block, Bridge]) -> list[Block]:
        """Blocks in the order in which they go."""
        target = self.asked.ratio * multiply_adds.total(self.layers) * (1 - 1e-9)
        gone: list[Block] = []
        told = self._measured(trials, bridges, gone, self.blocks)
        while self.saved(gone) < target:
            left = [b for b in self.blocks if b not in gone and self.saved([*gone, b]) > self.saved(gone)]
            if not left:
                break
            ranked = sorted(left, key=lambda b: told[b] / (self.saved([*gone, b]) - self.saved(gone)))
            if gone:
                told |= self._measured(trials, bridges, gone, ranked[:_AGAIN])
            worth = {b: told[b] / (self.saved([*gone, b]) - self.saved(gone)) for b in ranked[:_AGAIN]}
            gone.append(min(worth, key=lambda b: worth[b]))
        return gone

    def _measured(
        self, trials: BlockTrials, bridges: Mapping[Block, Bridge], gone: Sequence[Block], candidates: Sequence[Block]
    ) -> dict[Block, float]:
        """What each candidate adds to the noise at the outputs."""
        self.context.progress.start("measuring which blocks matter", len(candidates))
        base = trials.noise({b: bridges[b] for b in gone}) if gone else 0.0
        found = {}
        for block in candidates:
            self.context.progress.advance(block.output)
            noise = trials.noise({b: bridges[b] for b in [*gone, block]})
            found[block] = max(noise - base, 1e-12) if math.isfinite(noise) else math.inf
        self.context.progress.finish()
        return found

    def saved(self, gone: Sequence[Block]) -> float:
        """Multiply-adds that go with blocks; blocks may lie within one another."""
        names = {name for block in gone for name in block.layers}
        return multiply_adds.total([layer for layer in self.layers if layer.name in names])

    def _told(self, gone: Sequence[Block]) -> list[str]:
        whole = multiply_adds.total(self.layers)
        share = self.saved(gone) / whole
        notes = [f"removed {len(gone)} of {len(self.blocks)} residual blocks: {100 * share:.1f} % of all multiply-adds"]
        if share < self.asked.ratio * (1 - 1e-6):
            notes.append(f"no more can go than that, though {100 * self.asked.ratio:g} % was asked for")
        if self.context.probe is None:
            notes.append("no data: nothing was fitted to stand in for the blocks; give --data")
        return notes

    def _records(self, gone: Sequence[Block]) -> list[LayerRecord]:
        removed = {name for block in gone for name in block.layers}
        inside = {name for block in self.blocks for name in block.layers}
        tensors = {t.name: t for t in self.model.proto.graph.initializer}
        readers: dict[str, list[Layer]] = {}
        for layer in self.layers:
            readers.setdefault(layer.weight, []).append(layer)
        found = []
        for weight, own in readers.items():
            if weight not in tensors:
                continue
            before, op = self.model.nbytes(tensors[weight]), own[0].node.op_type
            if all(layer.name in removed for layer in own):
                found.append(LayerRecord(weight, op, "done", None, FORM, None, before, 0, sparsity=1.0))
            else:
                within = any(layer.name in inside for layer in own)
                reason = "its block does more to the outputs than others" if within else "it is in no residual block"
                found.append(LayerRecord(weight, op, "skipped", reason, None, None, before, before))
        return found
