"""Several models in one graph, that gives the weighted mean of their outputs, or of the probabilities in them.

    y = Σ cᵢ yᵢ,    or    p = Σ cᵢ softmax(yᵢ)

What the models compute alike from the inputs on, such as a shared stem, is computed once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
from onnx import compose, helper, numpy_helper

from onnxcompress.errors import ModelError
from onnxcompress.graph import writer
from onnxcompress.graph.duplicates import merge_duplicates
from onnxcompress.graph.model import Model, Tensor
from onnxcompress.graph.opset import raised
from onnxcompress.passes.base import Context
from onnxcompress.passes.simplify import Simplify
from onnxcompress.verify.structure import interface_difference

if TYPE_CHECKING:
    from collections.abc import Sequence

Kind = Literal["outputs", "probabilities"]
_MOST_BYTES = (1 << 31) - (1 << 24)  # of all models, which are put together in memory
_FLOATS = frozenset({Tensor.FLOAT, Tensor.DOUBLE, Tensor.FLOAT16})
_OPSET = 13  # at least: Softmax along one axis
_IR = 4  # from which initializers are no inputs


def ensemble(models: Sequence[Model], coefficients: Sequence[float], kind: Kind) -> Model:
    """The graph of all models with their outputs averaged.

    Raises:
        ModelError: their inputs or outputs differ, an output cannot be averaged, or they are too large.
    """
    _refuse(models)
    newest = max(_OPSET, *(model.opset for model in models))
    parts = [_part(raised(model, newest), f"m{index}.") for index, model in enumerate(models)]
    graph = onnx.GraphProto(name=models[0].proto.graph.name or "ensemble")
    graph.input.extend(parts[0].graph.input)
    for part in parts:
        graph.node.extend(part.graph.node)
        graph.initializer.extend(part.graph.initializer)
    whole = unmixed(models[0])
    for index, output in enumerate(models[0].proto.graph.output):
        names = [part.graph.output[index].name for part in parts]
        if output.name in whole:
            graph.node.append(helper.make_node("Identity", names[:1], [output.name]))
        else:
            _average(graph, output, names, coefficients, kind)
        graph.output.append(output)
    imports = {(o.domain or ""): o.version for part in parts for o in part.opset_import}
    opsets = [helper.make_opsetid(domain, version) for domain, version in imports.items()]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=max(_IR, *(p.ir_version for p in parts)))
    proto.metadata_props.extend(models[0].proto.metadata_props)
    joined = Model(proto)
    merge_duplicates(joined)  # nodes that read equal tensors are then seen to be alike
    return Simplify().rewrite(joined, Context()).model


def unmixed(model: Model) -> list[str]:
    """Outputs that hold no floats, which an ensemble takes from the first model."""
    return [o.name for o in model.proto.graph.output if o.type.tensor_type.elem_type not in _FLOATS]


def _refuse(models: Sequence[Model]) -> None:
    first = models[0]
    for other in models[1:]:
        if difference := interface_difference(first.proto, other.proto):
            raise ModelError(
                f"{other.path} does not fit {first.path}: {difference}", "Give models of the same inputs and outputs."
            )
    if len(unmixed(first)) == len(first.proto.graph.output):
        raise ModelError(
            "no output holds floats, so there is no mean", "Give models that end in scores, such as before an ArgMax."
        )
    if any(model.proto.functions for model in models):
        raise ModelError("a model has functions of its own", "Simplify the models first, which writes them out.")
    domains: dict[str, set[int]] = {}
    for model in models:
        for entry in model.proto.opset_import:
            domains.setdefault(entry.domain or "", set()).add(entry.version)
    if mixed := sorted(name for name, found in domains.items() if name and len(found) > 1):
        raise ModelError(f"the models use {mixed[0]} in different versions", "Export them alike.")
    if sum(model.nbytes(t) for model in models for t in model.tensors()) > _MOST_BYTES:
        raise ModelError("the models together are larger than 2 GB", "Mix their weights instead, if they agree.")


def _part(model: Model, prefix: str) -> onnx.ModelProto:
    """A model with its data in it, and names of its own but for the inputs."""
    proto = onnx.ModelProto.FromString(writer.to_bytes(model))
    stored = {t.name for t in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in stored]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    return compose.add_prefix(proto, prefix, rename_inputs=False)


def _average(
    graph: onnx.GraphProto, output: onnx.ValueInfoProto, names: Sequence[str], shares: Sequence[float], kind: Kind
) -> None:
    """Write the mean of values of these names under the name of the output."""
    dtype = helper.tensor_dtype_to_np_dtype(output.type.tensor_type.elem_type)
    weighted = []
    for index, (name, share) in enumerate(zip(names, shares, strict=True)):
        stem = f"ensemble.{output.name}.{index}"
        if kind == "probabilities":
            graph.node.append(helper.make_node("Softmax", [name], [f"{stem}.p"], axis=-1))
            name = f"{stem}.p"
        graph.initializer.append(numpy_helper.from_array(np.array(share, dtype), f"{stem}.c"))
        graph.node.append(helper.make_node("Mul", [name, f"{stem}.c"], [f"{stem}.w"]))
        weighted.append(f"{stem}.w")
    graph.node.append(helper.make_node("Sum", weighted, [output.name]))
