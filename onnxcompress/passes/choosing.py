"""The form for each reader of a weight, by what is allowed and by what the cost table expects of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from onnxcompress.forms import blockwise, costs, decode, dynamic, fused, gather
from onnxcompress.forms.assemble import MIN_OPSETS, available
from onnxcompress.forms.product import features, product_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from onnxcompress.forms.base import Writing
    from onnxcompress.graph.layers import Leaf
    from onnxcompress.passes.activations import OnePass
    from onnxcompress.passes.base import Context

_STORAGE = (decode.NAME, gather.NAME)  # they change how a weight is stored, not how it is computed with
_TWO_BITS = 2
_BLOCKWISE = (blockwise.NAME, blockwise.OTHER_GRIDS)
_FAITHFUL_DB = 40.0  # one eight-bit pass is enough where real activations keep this; weights have about as much


def stored_only(choice: Mapping[Leaf, str]) -> bool:
    """True where no reader computes with codes, so that any blocks will do."""
    return all(form in _STORAGE for form in choice.values())


@dataclass(frozen=True)
class Chooser:
    """Chooses forms under one set of options. ``one_pass``: activations that it is enough for, where that is known."""

    scheme: str
    target: Literal["cpu", "cuda", "portable"]
    activation_bits: int | None
    context: Context
    one_pass: OnePass | None = None

    def choose(self, writing: Writing) -> dict[Leaf, str]:
        """One form for each reader."""
        return {leaf: self._form(writing, leaf) for leaf in writing.weight.leaves}

    def migration(self, writing: Writing, choice: Mapping[Leaf, str]) -> np.ndarray | None:
        """What the inputs of a weight are multiplied by if all of its readers divide by it, in its stored layout."""
        if self.one_pass is None or set(choice.values()) != {dynamic.ONE_PASS}:
            return None
        found = [product_of(writing, leaf) for leaf in choice]
        factors = [self.one_pass.factors.get(p.x) if p is not None else None for p in found]
        first, p = factors[0], found[0]
        if first is None or p is None or any(s is not first for s in factors):
            return None
        return first.reshape((1, -1) if p.transposed else (-1, 1))

    def outliers(self, writing: Writing, choice: Mapping[Leaf, str]) -> tuple[int, ...]:
        """The inputs of a weight that stay in float so that one pass is enough for the others; none where it is not."""
        if self.one_pass is None or set(choice.values()) != {dynamic.TWO_PASSES}:
            return ()
        found = {p.x if p is not None else "" for p in (product_of(writing, leaf) for leaf in choice)}
        return self.one_pass.wide.get(found.pop(), ()) if len(found) == 1 else ()

    def _form(self, writing: Writing, leaf: Leaf) -> str:
        found = product_of(writing, leaf)
        x = found.x if found is not None else ""
        names = [n for n in available(writing, leaf) if self._allowed(n, x)]
        if gather.NAME in names:
            return gather.NAME
        if self.scheme == "dynamic" and names[-1] != decode.NAME:
            return names[-1]
        speeds = {n: self._speed(writing, leaf, n) for n in names if n not in _STORAGE}
        best = max(speeds, key=lambda n: speeds[n], default=decode.NAME)
        return best if speeds.get(best, 0.0) >= costs.MARGIN else decode.NAME

    def _allowed(self, name: str, x: str) -> bool:
        if name in _STORAGE:
            return True
        limit = self.context.opset_limit
        if not self.context.fast_forms or self.target == "cuda":
            return False
        if limit is not None and MIN_OPSETS.get(name, 1) > limit:
            return False
        if name in (dynamic.ONE_PASS, dynamic.TWO_PASSES):
            return self.scheme in ("auto", "dynamic") and name == self._passes(x)
        if name in (_BLOCKWISE if self.target == "portable" else (fused.NAME,)):
            return False
        return self.scheme in ("auto", "weight-only")

    def _passes(self, x: str) -> str:
        """How often an activation is to be quantized: as asked for, or as real data show that it needs."""
        if self.activation_bits is not None:
            return dynamic.ONE_PASS if self.activation_bits == 8 else dynamic.TWO_PASSES
        if self.one_pass is not None:
            return dynamic.ONE_PASS if x in self.one_pass.names else dynamic.TWO_PASSES
        observed = self.context.observed.get(x)
        noise = observed.noise if observed is not None else None
        faithful = noise is not None and noise <= 10 ** (-_FAITHFUL_DB / 10)
        return dynamic.ONE_PASS if faithful else dynamic.TWO_PASSES

    def _speed(self, writing: Writing, leaf: Leaf, name: str) -> float:
        """Expected speed over the float product, 0 where it is not known."""
        found = product_of(writing, leaf)
        if found is None or found.x not in self.context.observed:
            return 0.0
        inputs, outputs = features(writing.dims, found)
        block = blockwise.block_size(writing, found) if name in _BLOCKWISE else None
        bits = writing.grid.stored_bits
        if name == blockwise.OTHER_GRIDS and bits > _TWO_BITS:
            name = blockwise.NAME  # zero points cost no time
        key = costs.form_key(name, bits, block)
        shapes = self.context.observed[found.x].shapes
        return costs.expected(self.context.costs, key, shapes, inputs, outputs) or 0.0
