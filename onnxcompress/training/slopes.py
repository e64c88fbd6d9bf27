"""Loss and gradients for batches of any shape: one gradient graph for all of them where that can be, else one for each.

A graph with open shapes is derived once, where no operator needs to know them; shapes of few kinds are bound, which is
faster. Graphs that were not used for longest go.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from onnxcompress.errors import ModelError, RuntimeFailure
from onnxcompress.training.batches import shapes_of
from onnxcompress.training.gradients import Arrays, GradientGraph, Slope

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.model import Model
    from onnxcompress.training.batches import Shapes
    from onnxcompress.training.losses import Loss

_KEPT = 8  # graphs


class Slopes:
    """Gradients of the sum of losses on a model for weights of these names.

    ``kinds``: how many kinds of shapes will come.
    """

    def __init__(
        self, model: Model, losses: Sequence[Loss], names: list[str], kinds: int, threads: int | None = None
    ) -> None:
        self._model, self._losses, self._names, self._threads = model, losses, names, threads
        self._bound: OrderedDict[Shapes, GradientGraph] = OrderedDict()
        self._open: GradientGraph | None = None
        self._may_be_open = kinds > 2

    def run(self, weights: Mapping[str, np.ndarray], feeds: Feeds, targets: Arrays) -> Slope:
        """Loss and gradients of one call.

        Raises:
            UsageError: onnx-ad is not installed.
            ModelError: an operator has no derivative.
            RuntimeFailure: the graph does not run.
        """
        if self._may_be_open:
            try:
                self._open = self._open or self._graph(None)
                return self._open.run(weights, feeds, targets)
            except (ModelError, RuntimeFailure):
                self._may_be_open, self._open = False, None
        shapes = shapes_of(feeds)
        graph = self._bound.pop(shapes, None) or self._graph(shapes)
        self._bound[shapes] = graph
        while len(self._bound) > _KEPT:
            self._bound.popitem(last=False)
        return graph.run(weights, feeds, targets)

    def _graph(self, shapes: Shapes | None) -> GradientGraph:
        bound = None if shapes is None else dict(shapes)
        return GradientGraph(self._model, self._losses, self._names, self._threads, bound)
