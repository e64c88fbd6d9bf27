"""A whole lesson: a student, a teacher, data, and what counts, put together, trained, and told of."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.errors import DataError, ModelError
from onnxcompress.graph import writer
from onnxcompress.stats import cache
from onnxcompress.training.checkpoints import Checkpoints
from onnxcompress.training.fit import Fitted, Training
from onnxcompress.training.gradients import blamed, required
from onnxcompress.training.objective import Asked, common_features, objective, refuse_unknown
from onnxcompress.training.student import Student
from onnxcompress.training.teacher import Teacher, stackable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxcompress.data.dataset import Dataset, Feeds
    from onnxcompress.graph.model import Model
    from onnxcompress.progress import Progress
    from onnxcompress.training.settings import Settings

_SHOWN = 8  # calls that show what outputs are like


@dataclass(frozen=True, eq=False)
class Lesson:
    """What is to be learned.

    ``teacher`` is None where there are labels alone, which then are those of ``data``. Where ``asked`` names no pairs
    of hidden values, those of the same name are matched, unless they weigh nothing. ``guide`` see `Student.of`;
    ``dry``: nothing is trained.
    """

    student: Model
    teacher: Model | None
    data: Dataset
    settings: Settings
    asked: Asked
    layers: Sequence[str] = ()
    guide: Model | None = None
    seed: int = 0
    threads: int | None = None
    dry: bool = False

    def key(self) -> str:
        """A hash of all that the result depends on."""
        models = [m for m in (self.student, self.teacher, self.guide) if m is not None]
        hashes = [hashlib.sha256(writer.to_bytes(m)).hexdigest() for m in models]
        labels = () if self.data.labels is None or not self.asked.labels else ({"labels": self.data.labels},)
        said = [hashes, asdict(self.settings), asdict(self.asked), list(self.layers), self.seed, self.threads, self.dry]
        return cache.key_of(json.dumps(said, sort_keys=True), (*self.data, *labels), kind="training")


@dataclass(frozen=True, eq=False)
class Taught:
    """What came of a lesson: the model, None where it was not changed, and what there is to say."""

    model: Model | None
    notes: tuple[str, ...]


def taught(lesson: Lesson, progress: Progress, checkpoints: Checkpoints | None = None) -> Taught:
    """Train; checkpoints are those in the cache folder unless given.

    Raises:
        UsageError: onnx-ad is not installed, or a name matches nothing.
        ModelError: the model has no gradient.
        DataError: labels do not fit.
        RuntimeFailure: a model does not run.
    """
    required()
    student = Student.of(lesson.student, lesson.layers, lesson.guide)
    if lesson.dry:
        return Taught(None, (f"would be trained: {_told(student)}", *_stayed(student)))
    calls = list(lesson.data.take(_SHOWN))
    labels = lesson.data.labels if lesson.asked.labels else None
    if lesson.asked.labels and labels is None:
        raise DataError("there are no labels to learn", "Give them with --labels, or as an array labels in the data.")
    kept = checkpoints or Checkpoints.of(lesson.key())
    while True:
        try:
            found, per_epoch = _trained(lesson, student, calls, labels, progress, kept)
            break
        except ModelError as error:  # where one operator is to blame, the others may still learn
            less = student.without(blamed(error.message), "it has no gradient")
            if less is None:
                raise
            student = less
    notes = (f"trained: {_told(student)}", *_stayed(student), *_came(found, lesson, per_epoch))
    return Taught(student.written(found.shadows) if found.gained else None, notes)


def _trained(
    lesson: Lesson, student: Student, calls: Sequence[Feeds], labels: np.ndarray | None, progress: Progress,
    checkpoints: Checkpoints,
) -> tuple[Fitted, int]:  # fmt: skip
    """What came of training, and the steps of an epoch."""
    teacher = None if lesson.teacher is None else Teacher(lesson.teacher, threads=lesson.threads)
    asked = lesson.asked
    if teacher is not None and asked.features and not asked.pairs:
        names = common_features(student, teacher, calls)
        asked = replace(asked, pairs=tuple((name, name) for name in names))
    elif teacher is not None:
        refuse_unknown(student.model, teacher.model, asked.pairs)
    if teacher is not None and asked.pairs:
        teacher = Teacher(teacher.model, [other for _, other in asked.pairs], lesson.threads)
    target = objective(student, teacher, calls, asked, labels)
    stacked = stackable(lesson.student, calls, lesson.threads)
    training = Training(
        student, target, teacher, lesson.data, lesson.settings, stacked=stacked, seed=lesson.seed,
        threads=lesson.threads, progress=progress, checkpoints=checkpoints,
    )  # fmt: skip
    return training.run(), training.per_epoch


def _told(student: Student) -> str:
    kinds = Counter(type(v.constraint).__name__.lower() for v in student.variables.values())
    count = sum(v.start.size for v in student.variables.values())
    words = {"free": "free", "sparse": "with zeros that stay", "half": "in float16", "codes": "on their codes"}
    parts = ", ".join(f"{n} {words[kind]}" for kind, n in sorted(kinds.items()))
    return f"{len(student.variables)} weights of {count} values ({parts})"


def _stayed(student: Student) -> list[str]:
    """Why weights were left, the largest groups first."""
    reasons = Counter(student.frozen.values())
    return [f"not trained, {reason}: {count}" for reason, count in reasons.most_common(4)]


def _came(found: Fitted, lesson: Lesson, per_epoch: int) -> list[str]:
    held = "calls held back" if lesson.settings.patience else "all calls"
    told = f"loss on {held} {found.before:.4g} to {found.after:.4g} in {found.steps} steps"
    notes = [told] if found.gained else [f"training gained nothing and was taken back: {told}"]
    if found.hurried:
        epochs = np.format_float_positional(found.steps / per_epoch, precision=4, trim="-")
        notes.append(f"the limit on time made it {epochs} epochs; only a number of epochs can be repeated to the byte")
    return notes
