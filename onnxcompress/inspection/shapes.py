"""Shapes of values in one call: watched while the model runs on synthetic inputs, or inferred from theirs alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Literal

import onnx
from onnx import helper

from onnxcompress.data.synthetic import synthetic_candidates
from onnxcompress.errors import DataError, RuntimeFailure
from onnxcompress.graph.channel_inference import unclaimed
from onnxcompress.graph.channel_world import World
from onnxcompress.graph.constants import lift_constants
from onnxcompress.graph.scopes import Scopes
from onnxcompress.graph.shapes import NOT_INFERRED, skeleton
from onnxcompress.inspection.stand_ins import without_weights
from onnxcompress.stats.activations import observe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from onnxcompress.data.dataset import Feeds
    from onnxcompress.graph.model import Model
    from onnxcompress.inspection.facts import Options, Shape

_TRIES = 12  # guesses of the sizes of open dimensions
_MOST = 1 << 30  # bytes of weights that are left to load

Tables = list[dict[str, "Shape"]]


@dataclass(frozen=True)
class Shapes:
    """What is known: of the values of each scope, in the order of `Scopes`; types of those of the main graph."""

    tables: Tables
    types: dict[str, int]
    inputs: dict[str, Shape]
    source: Literal["run", "inferred"]
    notes: tuple[str, ...] = field(default=())


def find(model: Model, scopes: Scopes, options: Options) -> Shapes:
    """The shapes of one call of a model without functions."""
    types = _types(model)
    candidates = _candidates(model, options.seed)
    first = next(candidates, None)
    reason: str | None = None if first is not None else "no inputs could be made up for it"
    ran: tuple[Feeds, dict[str, Shape]] | None = None
    if options.run and first is not None:
        ran, reason = _run(model, [first, *islice(candidates, _TRIES - 1)], types, options)
    feeds = {name: array.shape for name, array in (ran[0] if ran is not None else first or {}).items()}
    seen = {**feeds, **(ran[1] if ran is not None else {})}
    fixed = _with_inputs(model, feeds)
    main = {**_inferred(fixed), **seen}
    inner = _inner(fixed, main, types) if len(scopes.all) > 1 else []
    tables = [main, *(inner if len(inner) == len(scopes.all) - 1 else [{} for _ in scopes.all[1:]])]
    notes = (f"shapes are inferred, as the model was not run: {reason}",) if options.run and reason else ()
    return Shapes(tables, types, feeds, "inferred" if ran is None else "run", notes)


def _candidates(model: Model, seed: int) -> Iterator[Feeds]:
    try:
        yield from (data.first() for data in synthetic_candidates(model, calls=1, seed=seed))
    except DataError:
        return


# ------------------------------------------------------------------------- inferred


def _types(model: Model) -> dict[str, int]:
    """Types of elements of the main graph's values, zero for values that are no tensors."""
    try:
        graph = onnx.shape_inference.infer_shapes(skeleton(model)).graph
    except NOT_INFERRED:
        graph = model.proto.graph
    infos = (*graph.input, *graph.value_info, *graph.output)
    known = set(helper.get_all_tensor_dtypes())
    kinds = {info.name: info.type.tensor_type.elem_type for info in infos}
    return {name: kind if kind in known else 0 for name, kind in kinds.items()}


def _with_inputs(model: Model, inputs: Mapping[str, Shape]) -> Model:
    """The model with the shapes of its inputs fixed, and constants where inference sees them."""
    twin = model.copy()
    lift_constants(twin)
    for info in twin.proto.graph.input:
        if info.name in inputs:
            kind = info.type.tensor_type.elem_type
            info.CopyFrom(helper.make_tensor_value_info(info.name, kind, inputs[info.name]))
    return twin


def _inferred(model: Model) -> dict[str, Shape]:
    """Shapes of the main graph that are fully known."""
    try:
        world = World(model)
    except (IndexError, ValueError):  # nodes without the inputs or outputs that their operators have
        return {}
    names = [name for node in model.proto.graph.node for name in node.output if name]
    shapes = {name: world.shape(name) for name in names}
    return {n: tuple(map(int, s)) for n, s in shapes.items() if s is not None and all(isinstance(d, int) for d in s)}


def _inner(model: Model, main: Mapping[str, Shape], types: Mapping[str, int]) -> Tables:
    """Shapes of the graphs within nodes, from those of the values around them."""
    proto = unclaimed(model)
    declared = {info.name for info in (*proto.graph.input, *proto.graph.output)}
    for name, shape in main.items():
        if types.get(name) and name not in declared:
            proto.graph.value_info.append(helper.make_tensor_value_info(name, types[name], shape))
    try:
        proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except NOT_INFERRED:
        return []
    return [_table(scope.body) for scope in Scopes(proto).all[1:]]


def _table(body: onnx.GraphProto | onnx.FunctionProto) -> dict[str, Shape]:
    if isinstance(body, onnx.FunctionProto):
        return {}
    found = {}
    for info in (*body.input, *body.value_info, *body.output):
        tensor = info.type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            found[info.name] = tuple(int(dim.dim_value) for dim in tensor.shape.dim)
    return found


# ------------------------------------------------------------------------- watched


def _run(
    model: Model, candidates: list[Feeds], types: Mapping[str, int], options: Options
) -> tuple[tuple[Feeds, dict[str, Shape]] | None, str | None]:
    """The first inputs that the model runs on, with the shapes that were seen; or why there are none."""
    twin = without_weights(model)
    size = sum(twin.nbytes(t) for t in twin.tensors())
    if size > _MOST:
        return None, f"it would take {size / 2**20:.0f} MiB of weights"
    made = {output for node in twin.proto.graph.node for output in node.output}
    outputs = (output for node in model.proto.graph.node for output in node.output)
    names = [name for name in dict.fromkeys(outputs) if name in made and types.get(name) != 0 and name]
    certain = [name for name in names if types.get(name)]
    reason = "there are no inputs to try"
    for feeds in candidates:
        for watched in (names, certain) if len(certain) < len(names) else (names,):
            try:
                seen = observe(twin, watched, [feeds], noise=False, threads=options.threads)
            except (RuntimeFailure, DataError) as failure:
                reason = failure.message
            else:
                return (feeds, {name: value.shapes[0] for name, value in seen.items()}), None
    return None, reason
