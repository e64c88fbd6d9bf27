"""What a student is to learn: to give what a teacher gives, at outputs and at hidden features, and what labels say.

    L = Σ over outputs kl (of classes, with a temperature) or mse / variance of the teacher's output
      + λ · mean over pairs of hidden features of mse / variance
      + α · cross entropy, or mse / variance, against labels

Hinton, Vinyals & Dean 2015, arXiv 1503.02531; hidden features: Romero et al. 2015, arXiv 1412.6550.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from onnx import TensorProto

from onnxcompress.errors import DataError, ModelError, UsageError
from onnxcompress.graph.shapes import float_values
from onnxcompress.stats.scores import class_like, probabilities, producers
from onnxcompress.training.exposing import FLAT, TINY, Exposing, joined, values_behind, variance
from onnxcompress.training.losses import Loss

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.model import Model
    from onnxcompress.training.student import Student
    from onnxcompress.training.teacher import Teacher

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Asked:
    """What counts, and how much.

    ``temperature`` softens classes; ``pairs`` are names of values of student and teacher that are to be alike, and
    ``features`` their weight; ``labels`` is that of labels, which then are given; ``teacher`` that of the outputs.
    """

    temperature: float = 2.0
    pairs: tuple[tuple[str, str], ...] = ()
    features: float = 1.0
    labels: float = 0.0
    teacher: float = 1.0


@dataclass(frozen=True)
class _Match:
    """One term: an output of the student's graph, and the value that its target comes from; None for labels."""

    loss: Loss
    wanted: str | None
    logs: bool = False


@dataclass(frozen=True, eq=False)
class Objective:
    """The loss. ``model`` is the student's with the values as outputs that ``matches`` read."""

    model: Model
    matches: tuple[_Match, ...]

    @property
    def losses(self) -> list[Loss]:
        """The terms."""
        return [match.loss for match in self.matches]

    @property
    def watched(self) -> list[str]:
        """What is asked of the teacher."""
        return list(dict.fromkeys(m.wanted for m in self.matches if m.wanted is not None))

    def targets(self, given: Mapping[str, np.ndarray], labels: np.ndarray | None) -> Arrays:
        """The targets of a call, from what the teacher gives and from labels."""
        found: Arrays = {}
        for match in self.matches:
            if match.wanted is not None:
                value = np.asarray(given[match.wanted], np.float32)
                found[match.loss.output] = np.log(np.maximum(value, np.float32(TINY))) if match.logs else value
            elif labels is not None:
                whole = match.loss.kind == "cross_entropy"
                found[match.loss.output] = labels.astype(np.int64 if whole else np.float32)
        return found


def objective(
    student: Student, teacher: Teacher | None, calls: Sequence[Feeds], asked: Asked, labels: np.ndarray | None = None
) -> Objective:
    """The loss for a student.

    Args:
        student: the model that learns.
        teacher: what it learns from; None where there are labels alone.
        calls: inputs that show what outputs are like.
        asked: what counts.
        labels: of all samples, to tell classes from numbers.

    Raises:
        UsageError: a value that was named is not there.
        ModelError: no output can be learned.
        DataError: no output fits the labels.
    """
    model = student.model.copy()
    graph = model.proto.graph
    build = Exposing(graph, values_behind(graph, set(student.variables)))
    floats = [o.name for o in graph.output if o.type.tensor_type.elem_type == TensorProto.FLOAT]
    matches: list[_Match] = []
    if teacher is not None:
        shown = joined([teacher.run(f) for f in calls])
        mine = student.shown(calls, [*floats, *(s for s, _ in asked.pairs)])
        made = producers(teacher.model.proto.graph)
        for name in floats if asked.teacher else []:
            value = shown.get(name)
            if value is not None and name in build.reached and mine[name].shape[1:] == value.shape[1:]:
                matches += _output(build, name, value, made.get(name), asked)
        matches = [_weighed(m, asked.teacher / max(len(matches), 1)) for m in matches]
        for own, other in asked.pairs:
            if own not in build.reached:
                raise UsageError(f"the value {own!r} does not depend on what is trained", "Leave the pair out.")
            spread = variance(shown[other])
            if mine[own].ndim != shown[other].ndim or mine[own].shape[1:] != shown[other].shape[1:]:
                raise UsageError(
                    f"{own!r} has the shape {mine[own].shape} and {other!r} of the teacher {shown[other].shape}",
                    "Match values of one shape.",
                )
            if spread > FLAT:
                weight = asked.features / len(asked.pairs) / spread
                matches.append(_Match(Loss("mse", build.exposed(own, mine[own].ndim), weight=weight), other))
    if labels is not None and asked.labels:
        matches.append(_labelled(build, floats, student.shown(calls, floats), labels, asked.labels))
    if not matches:
        raise ModelError(
            "no output of the model is float32, varies, and depends on what is trained", "Name other --layers."
        )
    return Objective(model, tuple(matches))


def refuse_unknown(student: Model, teacher: Model, pairs: Sequence[tuple[str, str]]) -> None:
    """Refuse pairs of values that are not there.

    Raises:
        UsageError: a name is that of no float32 value.
    """
    for place, (model, whose) in enumerate(((student, "student"), (teacher, "teacher"))):
        made = {name for node in model.proto.graph.node for name in node.output}
        floats = float_values(model) or made
        for pair in pairs:
            if pair[place] not in made & floats:
                raise UsageError(
                    f"--match names {pair[place]!r}, which is no float32 value of the {whose}",
                    "See the names with `onnxcompress compare`; write STUDENT=TEACHER.",
                )


def _output(build: Exposing, name: str, value: np.ndarray, made: str | None, asked: Asked) -> list[_Match]:
    if not class_like(name, value, made):
        spread = variance(value)
        if spread <= FLAT:
            return []
        return [_Match(Loss("mse", build.exposed(name, value.ndim), weight=1 / spread), name)]
    logs = probabilities(value.reshape(-1, value.shape[-1]))
    read = build.logs(name, value.ndim) if logs else build.exposed(name, value.ndim)
    return [_Match(Loss("kl", read, asked.temperature), name, logs)]


def _labelled(
    build: Exposing, floats: Sequence[str], shown: Mapping[str, np.ndarray], labels: np.ndarray, weight: float
) -> _Match:
    kind: Literal["cross_entropy", "mse"] = "cross_entropy" if labels.dtype.kind in "iub" else "mse"
    rank = labels.ndim + (kind == "cross_entropy")
    for name in floats:
        value = shown[name]
        if name not in build.reached or value.ndim != rank:
            continue
        if kind == "cross_entropy":
            if value.shape[-1] <= int(labels.max(initial=0)) or value.shape[1:-1] != labels.shape[1:]:
                continue
            if labels.min(initial=0) < 0:
                raise DataError("there are labels below zero", "Give class numbers from zero.")
            odds = probabilities(value.reshape(-1, value.shape[-1]))
            read = build.logs(name, rank) if odds else build.exposed(name, rank)
            return _Match(Loss(kind, read, weight=weight), None)
        if value.shape[1:] == labels.shape[1:]:
            spread = max(float(np.var(labels.astype(np.float64))), FLAT)
            return _Match(Loss(kind, build.exposed(name, rank), weight=weight / spread), None)
    raise DataError(
        f"no output of the model fits labels of the shape {list(labels.shape)}",
        "Give class numbers for scores of classes, or numbers of an output's shape.",
    )


def _weighed(match: _Match, factor: float) -> _Match:
    loss = match.loss
    return _Match(Loss(loss.kind, loss.output, loss.temperature, loss.weight * factor), match.wanted, match.logs)


def common_features(student: Student, teacher: Teacher, calls: Sequence[Feeds], most: int = 6) -> list[str]:
    """Names of hidden values that both models have in the same shape, spread evenly over the graph.

    Those are results of layers, sums and normalisations that depend on what is trained.
    """
    kinds = {"Conv", "MatMul", "Gemm", "Add", "Relu", "LayerNormalization", "BatchNormalization", "Concat",
             "InstanceNormalization", "SkipLayerNormalization", "MaxPool", "AveragePool", "ConvTranspose"}  # fmt: skip
    graph = student.model.proto.graph
    reached = values_behind(graph, set(student.variables))
    outputs = {o.name for o in graph.output}
    shared = float_values(student.model) & float_values(teacher.model) & reached - outputs
    names = [node.output[0] for node in graph.node if node.op_type in kinds and node.output[0] in shared]
    if not names:
        return []
    first = list(calls[:1])
    mine, other = student.shown(first, names), teacher.shown(first, names)
    fit = [n for n in names if mine[n].shape == other[n].shape and mine[n].ndim > 1 and variance(other[n]) > FLAT]
    places = np.linspace(0, len(fit) - 1, min(most, len(fit))).round().astype(int)
    return [fit[i] for i in sorted(set(places.tolist()))]
