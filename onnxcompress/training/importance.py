"""How much the outputs hang on each weight, by the gradient of their likelihood on calibration data.

With ℓ the negative log-likelihood of targets drawn from the model's own outputs (`likelihood`), and the mean over calls
and draws:

    gradient   E |∂ℓ/∂w|
    taylor     E |w ∂ℓ/∂w|         what ℓ changes to first order without w (Molchanov et al. 2019, arXiv 1906.10771)
    fisher     ½ w² E (∂ℓ/∂w)²     to second order, with the diagonal of the Fisher information for that of the
                                   Hessian (LeCun, Denker & Solla 1989; Theis et al. 2018, arXiv 1801.05787)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from onnxcompress.errors import ModelError
from onnxcompress.graph import writer
from onnxcompress.graph.scopes import constant_tensor
from onnxcompress.progress import Progress, Silent
from onnxcompress.training.batches import shapes_of
from onnxcompress.training.folding import copied, folded
from onnxcompress.training.gradients import blamed, required, trainable
from onnxcompress.training.likelihood import judged, likelihood
from onnxcompress.training.slopes import Slopes
from onnxcompress.training.teacher import Teacher

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from onnxcompress.data.dataset import Dataset
    from onnxcompress.graph.model import Model

Array = np.ndarray
Arrays = dict[str, np.ndarray]
Kind = Literal["gradient", "taylor", "fisher"]
_SHOWN = 8  # calls that show what outputs are like
_DRAWS = 4  # of targets for each call


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """``mean``: of |∂ℓ/∂w|, for fisher of its square, in the shape of the weights."""

    kind: Kind
    mean: Array

    def scores(self, weights: Array) -> Array:
        """The importance of weights, float32, in their shape; one that is zero already has none."""
        if self.kind == "gradient":
            return np.where(weights == 0, np.float32(0), self.mean)
        factor = np.abs(weights) if self.kind == "taylor" else np.square(weights) / 2
        return np.asarray(factor * self.mean, np.float32)


@dataclass(frozen=True, eq=False)
class Measured:
    """Means by weight, in the weight's shape, float32; ``reasons``: why others have none."""

    means: Arrays
    reasons: dict[str, str]


def measured(
    model: Model, names: Sequence[str], data: Dataset, *, squared: bool, seed: int = 0, threads: int | None = None,
    progress: Progress | None = None,
) -> Measured:  # fmt: skip
    """The mean of |∂ℓ/∂w|, or of its square, for weights of the main graph.

    Args:
        model: not changed.
        names: of the weights, initializers or values of Constant nodes.
        data: calls, each of which is run with several draws.
        squared: whether gradients are squared.
        seed: of the draws.
        threads: within an operator.
        progress: of the calls.

    Raises:
        UsageError: onnx-ad is not installed.
        ModelError: the model, or all of these weights, have no gradient.
        RuntimeFailure: the model, or its graph of gradients, does not run.
    """
    required()
    whole = writer.settled(model)
    if writer.serialized_size(whole) > writer.SINGLE_FILE_LIMIT:
        raise ModelError("a model above 2 GiB has no gradients here", "Its graph of gradients would not load.")
    twin = folded(whole).model
    _unwrapped(twin, names)
    able = set(trainable(twin.proto))
    wanted = [name for name in names if name in able]
    reasons = {name: "not stored in float32, so it has no gradient" for name in names if name not in able}
    calls = _Calls(twin, data, squared, seed, threads, progress or Silent())
    found: Arrays = {}
    while wanted:
        try:
            found = calls.means(wanted)
            break
        except ModelError as error:  # where one operator is to blame, the weights of others may still have gradients
            operator = blamed(error.message)
            read = {i for node in twin.proto.graph.node if node.op_type == operator for i in node.input}
            gone = [name for name in wanted if name in read]
            if not gone or len(gone) == len(wanted):
                raise
            reasons |= dict.fromkeys(gone, f"{operator} has no gradient in its weight")
            wanted = [name for name in wanted if name not in read]
    for name in wanted:
        mean = found.get(name)
        if mean is None or not mean.any():
            reasons[name] = "no gradient reaches it"
        elif not np.isfinite(mean).all():
            reasons[name] = "its gradient is not finite"
    found = {name: mean for name, mean in found.items() if name not in reasons}
    if names and not found:
        raise ModelError(f"no weight has a gradient, such as {names[0]!r}: {reasons[names[0]]}", "Leave it as it is.")
    return Measured(found, reasons)


@dataclass(frozen=True)
class _Calls:
    """A model, and the calls that gradients are averaged over."""

    model: Model
    data: Dataset
    squared: bool
    seed: int
    threads: int | None
    progress: Progress

    def means(self, names: list[str]) -> Arrays:
        """The means over all calls and draws, of weights that the likelihood depends on."""
        own = Teacher(self.model, judged(self.model.proto.graph), self.threads)
        target = likelihood(self.model, names, [own.run(f) for f in self.data.take(_SHOWN)])
        names = target.reaching(names)
        kinds = {shapes_of(f) for f in self.data}
        slopes = Slopes(target.model, target.losses, names, len(kinds), self.threads)
        stored = {t.name: t for t in self.model.proto.graph.initializer}
        weights = {name: np.asarray(self.model.array(stored[name]), np.float32) for name in names}
        sums = {name: np.zeros(w.shape, np.float32) for name, w in weights.items()}
        self.progress.start("gradients of the outputs", len(self.data))
        for number, feeds in enumerate(self.data):
            given = own.run(feeds)
            rng, factor = np.random.default_rng((self.seed, number)), np.float32(target.factor(given))
            for _ in range(_DRAWS):
                for name, slope in slopes.run(weights, feeds, target.drawn(given, rng)).gradients.items():
                    sized = factor * slope
                    sums[name] += np.square(sized) if self.squared else np.abs(sized)
            self.progress.advance("")
        self.progress.finish()
        return {name: found / np.float32(_DRAWS * len(self.data)) for name, found in sums.items()}


def _unwrapped(model: Model, names: Collection[str]) -> None:
    """Turn Constant nodes of these names into initializers."""
    graph, wanted = model.proto.graph, set(names)
    tensors = {n.output[0]: constant_tensor(n) for n in graph.node if n.op_type == "Constant" and n.output[0] in wanted}
    values = {name: model.array(tensor) for name, tensor in tensors.items() if tensor is not None}
    if not values:
        return
    kept = [copied(n) for n in graph.node if not n.output or n.output[0] not in values]
    del graph.node[:]
    graph.node.extend(kept)
    for name, value in values.items():
        graph.initializer.add(name=name)
        model.set_array(graph.initializer[-1], value)
