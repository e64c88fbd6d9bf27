"""Groups of channels that have to be removed together, so that a model becomes really smaller.

Removing an output of a layer means removing it from all that computes, carries and reads it: the bias, constants of
normalization behind it, whatever is added to it along a residual connection, and the inputs of the next layers. The
coupled axes are found by a search over the graph, as in DepGraph (G. Fang et al., "DepGraph: Towards Any Structural
Pruning", CVPR 2023, https://arxiv.org/abs/2301.12900), but index by index: a channel is a set of places along any
number of axes. What remains computes the same as before, but for what the removed channels added to their consumers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcompress.graph.channel_group import Carrier, Counted, Group, Refusal, Renumbered, Slot
from onnxcompress.graph.channel_results import Result
from onnxcompress.graph.channel_search import Search
from onnxcompress.graph.channel_world import World

if TYPE_CHECKING:
    from onnxcompress.graph.channel_ties import Ties
    from onnxcompress.graph.model import Model

__all__ = ["Carrier", "Counted", "Group", "Refusal", "Renumbered", "Slot", "channel_groups"]

_ATTEMPTS = 3  # factors of a reshaped axis that are tried


def channel_groups(model: Model) -> list[Group | Refusal]:
    """All groups of channels of the main graph.

    Every layer with a stored weight (Conv, ConvTranspose, MatMul, Gemm) is in the ``layers`` of exactly one group,
    or has a refusal.
    """
    world = World(model)
    known: dict[int, Ties] = {}
    found = Result(Search(world, known))
    settled = found.settled()
    if any(id(choice.node) not in settled for choice in found.search.choices):
        for attempt in range(1, _ATTEMPTS):
            other = Result(Search(world, known, dict(settled), attempt))
            settled |= {node: rank for node, rank in other.settled().items() if node not in settled}
        found = Result(Search(world, known, settled))
    return found.groups()
