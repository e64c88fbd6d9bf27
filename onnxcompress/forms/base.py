"""What the forms share: a weight that is to be written, codes computed once for all that stores them, and nodes.

A *form* is a way to write a compressed weight into the graph. Each form is a module with one function that returns
the tensors and nodes for a weight, and states the operator sets that it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from onnxcompress.errors import ModelError
from onnxcompress.forms.histograms import histogram
from onnxcompress.graph.edit import Namer, NewTensor, Replacement, Rewire
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.solvers.grid import Quantized, quantize

if TYPE_CHECKING:
    from onnxcompress.forms.supports import Support
    from onnxcompress.graph.layers import Weight
    from onnxcompress.report import Histogram
    from onnxcompress.solvers.groups import Grid, Groups

MICROSOFT = "com.microsoft"
Solve = Callable[["Writing", np.ndarray, np.dtype | None], Quantized | None]


@dataclass(frozen=True)
class Codebook:
    """A weight as places in a table: ``indices`` (vectors,), ``table`` (entries, length), ``scale`` or None."""

    indices: np.ndarray
    table: np.ndarray
    scale: np.ndarray | None
    error: float


@dataclass(frozen=True)
class Coding:
    """How a weight becomes a codebook.

    ``order``: the stored axes in the order in which vectors of ``length`` weights run through them, the last one
    fastest; rows first and inputs last where it is that of `rows.rows_of`. ``groups``: the weight seen in that order,
    with a scale for each group, or None for no scales. ``solve`` takes the weight in that order, (rows, inputs) or
    whatever axes it has.
    """

    bits: int
    entries: int
    length: int
    order: tuple[int, ...]
    groups: Groups | None
    solve: Callable[[np.ndarray], Codebook]


@dataclass(frozen=True)
class Residual:
    """A product of thin matrices that is added to a decoded weight: W = Ŵ + A·B.

    ``factors`` gives A (rows, rank) and B (rank, inputs), which are stored as float16; ``order`` and ``rows`` are
    those of `rows.rows_of`.
    """

    order: tuple[int, ...]
    rows: int
    rank: int
    factors: Callable[[], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Writing:
    """One weight on its way into a form. ``flipped``: a matrix that is stored as its transpose from now on.

    ``keep_sums``: its rounding errors are to cancel within each group. ``solve`` finds the codes in place of rounding,
    from the writing, its values and the type of the scales; where it finds none they are rounded. ``outliers``: the
    inputs that the split form leaves in float, ascending.
    ``residual``: what is added to the decoded weight. ``codebook``: the weight is stored so instead of on the grid.
    ``floor``: least scales, which broadcast against those of the groups. ``shift``: what the bias of the reader gets
    for what its codes lose of the mean of the inputs, (outputs,); only where that bias is written as well.
    ``migration``: a positive factor for each input, which broadcasts against the weight as it is stored, (in, 1) or
    (1, in). The weight is stored with its inputs times that. The migrated form divides what it reads by it, the
    decoded one the weight itself when it is loaded.
    ``keep_zeros``: weights that are zero stay so. ``sparse``: where others may be, whose codes alone are stored
    and decoded at load.
    """

    model: Model
    weight: Weight
    grid: Grid
    groups: Groups
    namer: Namer
    flipped: bool = False
    keep_sums: bool = False
    solve: Solve | None = None
    outliers: tuple[int, ...] = ()
    residual: Residual | None = None
    codebook: Coding | None = None
    floor: np.ndarray | None = None
    shift: Callable[[Writing, Quantized], np.ndarray] | None = None
    migration: np.ndarray | None = None
    keep_zeros: bool = False
    sparse: Support | None = None

    @property
    def dims(self) -> tuple[int, ...]:
        """Shape of the weight as it will be stored."""
        return self.weight.dims[::-1] if self.flipped else self.weight.dims

    def values(self) -> np.ndarray:
        """The weight, in the shape in which it will be stored, and times its migration."""
        array = self.model.view(self.weight.tensor)
        stored = array.T if self.flipped else array
        return stored if self.migration is None else stored * self.migration.astype(np.float32)


@dataclass(frozen=True)
class Reading:
    """What one reader of a stored weight needs: constants, constant nodes, and what comes in its place.

    ``nbytes``: those of its constants that are parts of the weight.
    """

    tensors: tuple[NewTensor, ...] = ()
    prelude: tuple[onnx.NodeProto, ...] = ()
    replaced: tuple[Replacement, ...] = ()
    rewired: tuple[Rewire, ...] = ()
    domains: tuple[tuple[str, int], ...] = ()
    nbytes: int = 0


@dataclass
class Codes:
    """The quantized weight, computed when the first of its tensors is written and let go after the last.

    ``compute`` gives a Quantized, or a Codebook, which have an error both. ``tensors`` counts the stored tensors
    that still have to be filled from one computation. ``original``: the values that it stands for, of which and of what
    they became a histogram is taken.
    """

    compute: Callable[[], Any]
    original: Callable[[], np.ndarray] | None = None
    tensors: int = 0
    error: float | None = None
    histogram: Histogram | None = None
    _held: Any = field(default=None, repr=False)
    _left: int = 0

    def stored(self, name: str, dtype: np.dtype, dims: tuple[int, ...], view: Callable[[Any], np.ndarray],
               ) -> NewTensor:  # fmt: skip
        """A tensor that holds a part of the quantized weight."""
        self.tensors += 1

        def values() -> np.ndarray:
            if self._held is None:
                self._held, self._left = self.compute(), self.tensors
                self.error = self._held.error
                if self.original is not None and self.histogram is None:
                    self.histogram = histogram(self.original(), self._held)
            held = self._held
            self._left -= 1
            if self._left == 0:
                self._held = None
            return np.ascontiguousarray(view(held).astype(dtype, copy=False).reshape(dims))

        return NewTensor(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), dims, values)


def quantized(writing: Writing, scale_dtype: np.dtype | None = None) -> Quantized:
    """The weight of a writing on its grid: as its solver says, else rounded.

    Raises:
        ModelError: the weight holds NaN or infinity.
        ValueError: what the solver refuses otherwise.
    """
    values = writing.values()
    try:
        found = writing.solve(writing, values, scale_dtype) if writing.solve is not None else None
        if found is not None:
            return found
        return quantize(
            values, writing.grid, writing.groups, scale_dtype, keep_sums=writing.keep_sums, floor=writing.floor
        )
    except ValueError as error:
        if writing.solve is not None and np.isfinite(np.asarray(values, np.float32)).all():
            raise
        raise not_finite(writing.weight) from error


def not_finite(weight: Weight) -> ModelError:
    """The error for a weight that holds NaN or infinity."""
    label = weight.label
    return ModelError(
        f"the weight {label!r} holds NaN or infinity", f"Mend the model, or leave it out: --exclude {label!r}."
    )


def codes_of(writing: Writing, scale_dtype: np.dtype | None = None) -> Codes:
    """The quantized weight of a writing, not yet computed."""
    return Codes(lambda: quantized(writing, scale_dtype), writing.values)


def node(op: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    """A node with one output, named after it."""
    return helper.make_node(op, inputs, [output], name=output, domain=domain, **attributes)


def small(name: str, values: np.ndarray) -> NewTensor:
    """A tensor of few values, known at once."""
    return NewTensor(name, helper.np_dtype_to_tensor_dtype(values.dtype), values.shape, lambda: values)


def float_name(data_type: int) -> str:
    """The type as users write it."""
    return str(Tensor.DataType.Name(data_type)).lower()


def edit_source(weight: Weight) -> dict[str, tuple[object, ...]]:
    """What becomes of the stored tensor itself: the Constant node goes, or the initializer."""
    if weight.constant is not None:
        return {"removed": (weight.constant,)}
    return {"dropped": (weight.name,)}
