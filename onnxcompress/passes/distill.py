"""Distillation: a student learns to give what a teacher gives, and what labels say where they are to count.

    minimise  Σ over outputs  KL(softmax(t/T) ‖ softmax(y/T)) · T²,  or  ‖t − y‖² / var t  where they are no classes,
              + λ · mean over pairs of hidden values of  ‖h − g‖² / var h  +  α · the loss on labels

Weights of the student may begin as those of the teacher where names and shapes agree. The model of the run is the
teacher, so that the result is compared with it.

Hinton, Vinyals & Dean 2015, arXiv 1503.02531; Romero et al. 2015, arXiv 1412.6550.
"""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING, ClassVar

from pydantic.dataclasses import dataclass

from onnxcompress.errors import DataError, UsageError
from onnxcompress.forms.unpacking import unpacked
from onnxcompress.graph.interface import interface
from onnxcompress.graph.model import Tensor
from onnxcompress.graph.payload import element_count
from onnxcompress.passes.base import register
from onnxcompress.passes.learning import Learning, refuse_temperature, refuse_weight
from onnxcompress.training.folding import folded
from onnxcompress.training.objective import Asked

if TYPE_CHECKING:
    from onnxcompress.graph.model import Model
    from onnxcompress.passes.base import Context, Rewritten


@register
@dataclass(frozen=True, kw_only=True)
class Distill(Learning):
    """Train a student to give what a teacher gives."""

    name: ClassVar[str] = "distill"

    temperature: float = field(default=2.0, metadata={"help": "That outputs which are classes are softened with."})
    match: tuple[str, ...] = field(
        default=(),
        metadata={"help": "Hidden values to be alike, STUDENT=TEACHER; by default those of one name and shape.",
                  "metavar": "NAME=NAME"},
    )  # fmt: skip
    features: float = field(default=1.0, metadata={"help": "Weight of hidden values; 0 leaves them out."})
    label_weight: float = field(default=0.0, metadata={"help": "Weight of the loss on labels beside the teacher."})
    transfer: bool = field(
        default=False, metadata={"help": "Begin with the teacher's weights where names and shapes agree."}
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        self.settings()
        refuse_temperature(self.temperature)
        for name in ("features", "label_weight"):
            refuse_weight(name, getattr(self, name))
        for pair in self.match:
            own, equals, other = pair.partition("=")
            if not (own and equals and other):
                raise UsageError(f"--match {pair!r} names no pair", "Write STUDENT=TEACHER, two names of values.")
        if self.match and not self.features:
            raise UsageError("--match has no meaning where features weigh nothing", "Leave one of them out.")

    @property
    def learns_labels(self) -> bool:
        """Whether labels belong to what is learned."""
        return self.label_weight > 0

    @property
    def tag(self) -> str:
        """``distilled``."""
        return "distilled"

    def parameters(self, model: Model) -> int:
        """Parameters of a student, however it stores them."""
        seen = folded(unpacked(model) or model).model
        return sum(element_count(t.dims) for t in seen.tensors() if t.data_type == Tensor.FLOAT)

    def rewrite(self, model: Model, context: Context) -> Rewritten:
        """The student with trained weights, or as it is where that gains nothing.

        Raises:
            UsageError: there is no student, there are no data, or onnx-ad is not installed.
            DataError: there are no labels, or they fit no output.
            ModelError: the student has no gradient.
        """
        if context.student is None:
            raise UsageError("distill has no student here", "Run `onnxcompress distill TEACHER STUDENT`.")
        if interface(context.student.proto) != interface(model.proto):
            raise UsageError(
                "the student has other inputs or outputs than the teacher",
                "Both need the same names, types and shapes.",
            )
        if context.probe is None:
            raise UsageError("distill has to see real inputs", "Give them with --data.")
        data, student, notes = context.probe.data, context.student, tuple[str, ...]()
        if self.label_weight and data.labels is None:
            raise DataError(
                "there are no labels to learn", "Give them with --labels, or as an array labels in the data."
            )
        if self.transfer:
            student, count = _transferred(student, model)
            notes = (f"weights that began as the teacher's: {count}",)
        pairs = tuple((p.partition("=")[0], p.partition("=")[2]) for p in self.match)
        asked = Asked(self.temperature, pairs, self.features, self.label_weight)
        found = self.learned(student, model, data, asked, replace(context, earlier=None))
        return replace(found, notes=(*notes, *found.notes))


def _transferred(student: Model, teacher: Model) -> tuple[Model, int]:
    """The student with weights of the teacher, and how many.

    Raises:
        UsageError: there are none.
    """
    twin = student.copy()
    theirs = {t.name: t for t in teacher.proto.graph.initializer if t.data_type == Tensor.FLOAT}
    alike = [
        t for t in twin.proto.graph.initializer
        if t.data_type == Tensor.FLOAT and t.name in theirs and t.dims and list(theirs[t.name].dims) == list(t.dims)
    ]  # fmt: skip
    if not alike:
        raise UsageError(
            "no weight of the student has the name and shape of one of the teacher", "Leave out --transfer."
        )
    for tensor in alike:
        twin.set_array(tensor, teacher.array(theirs[tensor.name]))
    return twin, len(alike)
