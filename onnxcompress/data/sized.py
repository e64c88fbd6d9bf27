"""Synthetic inputs whose batch and sequence have the sizes that were asked for.

Which axes these are is decided as for all synthetic inputs: by the name that the exporter gave an open dimension, or
by the role of its input and its place. An axis that the model fixes can be asked for at that size only.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from onnxcompress.data.fit import fixed
from onnxcompress.data.roles import Role, Traced
from onnxcompress.data.sizes import Axis, Plan, concrete, plans
from onnxcompress.data.synthetic import _consistent, _dataset, _output_rank, _reads_lines, _stub, trace_inputs
from onnxcompress.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from onnxcompress.data.dataset import Dataset
    from onnxcompress.graph.model import Model

Word = Literal["batch", "sequence"]
_AXES: dict[Word, tuple[Axis, ...]] = {
    "batch": (Axis.BATCH,),
    "sequence": (Axis.SEQUENCE, Axis.FRAMES, Axis.SAMPLES),  # the first of these that the model has
}


def sized_candidates(
    model: Model, sizes: Mapping[Word, int], *, calls: int = 1, seed: int = 0
) -> Iterator[Dataset]:  # fmt: skip
    """As `synthetic_candidates`, with these sizes in every candidate.

    Raises:
        UsageError: the model has no such axis, or fixes it at another size.
        DataError: an input is no tensor.
    """
    inputs = {name: _with_batch(entry) for name, entry in trace_inputs(model).items()}
    asked = {axis: (size,) for word, size in sizes.items() if (axis := asked_axis(inputs, word, size)) is not None}
    rank = _output_rank(model)
    every = plans(inputs, output_rank=rank, text_line=_reads_lines(model))
    merged = [Plan({**plan.chosen, **asked}) for plan in every]
    distinct = list({tuple(sorted((a.value, s) for a, s in p.chosen.items())): p for p in merged}.values())
    stub = _stub(model) if len(distinct) > 1 else None
    held_back = []
    for plan in distinct:
        if stub is not None and not _consistent(stub, inputs, plan):
            held_back.append(plan)
        else:
            yield _dataset(inputs, plan, calls, seed)
    for plan in held_back:
        yield _dataset(inputs, plan, calls, seed)


def _with_batch(entry: Traced) -> Traced:
    """A state whose one open dimension nothing is known of has as many rows as there are samples."""
    shape = entry.shape
    if entry.role is not Role.STATE or shape is None or len(shape) < 2:
        return entry
    dims = concrete(entry, Plan({}), 0)
    open_places = [i for i, dim in enumerate(shape) if fixed(dim) is None]
    if len(open_places) != 1 or dims[open_places[0]] != 1:
        return entry
    given = entry.spec.shape or ()
    named = (*given[: open_places[0]], "batch", *given[open_places[0] + 1 :])
    return dataclasses.replace(entry, spec=dataclasses.replace(entry.spec, shape=named))


def asked_axis(inputs: Mapping[str, Traced], word: Word, size: int) -> Axis | None:
    """The class of open axes to give this size; None where the model fixes them at just that.

    Raises:
        UsageError: the model has no such axis, or fixes it at another size.
    """
    for axis in _AXES[word]:
        if any(_places(entry, axis) for entry in inputs.values()):
            return axis
    found = _fixed(inputs, word)
    if not found:
        raise UsageError(f"no input of the model has a {word} axis", f"Leave --{word} out.")
    name, there = next(((n, s) for n, s in found.items() if s != size), next(iter(found.items())))
    if there == size:
        return None
    raise UsageError(
        f"the {word} axis of the input {name!r} is fixed at {there}, so it cannot be {size}",
        f"Leave --{word} out, give --{word} {there}, or export the model with that axis open.",
    )


def sizes_of(inputs: Mapping[str, Traced], shapes: Mapping[str, tuple[int, ...]], word: Word) -> int | None:
    """The size of the axis in a call with these shapes, as the first input has it; None where there is none."""
    for axis in _AXES[word]:
        for name, entry in inputs.items():
            for place in _places(_opened(entry), axis):
                if place < len(shapes[name]):
                    return shapes[name][place]
    return None


def _places(entry: Traced, axis: Axis) -> tuple[int, ...]:
    """The open dimensions of an input that belong to a class: those that grow with it."""
    small, large = (concrete(entry, Plan({axis: (size,)}), 0) for size in (1, 2))
    return tuple(i for i, (a, b) in enumerate(zip(small, large, strict=True)) if a != b)


def _fixed(inputs: Mapping[str, Traced], word: Word) -> dict[str, int]:
    """Sizes of the fixed dimensions that would be the axis by their place."""
    for axis in _AXES[word]:
        found = {n: size for n, e in inputs.items() for i in _places(_opened(e), axis) if (size := _dim(e, i))}
        if found:
            return found
    return {}


def _dim(entry: Traced, place: int) -> int | None:
    dim = (entry.shape or ())[place]
    return dim if isinstance(dim, int) else None


def _opened(entry: Traced) -> Traced:
    """The input as if no dimension were fixed; those that keep their names keep their classes."""
    if entry.spec.shape is None:
        return entry
    shape = tuple(dim if isinstance(dim, str) else None for dim in entry.spec.shape)
    facts = dataclasses.replace(entry.facts, sizes={})
    return dataclasses.replace(entry, spec=dataclasses.replace(entry.spec, shape=shape), facts=facts)
