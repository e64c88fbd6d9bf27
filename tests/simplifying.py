"""Models as text, simplified: what the tests of the simplifier share."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import parser

from onnxcompress.data.synthetic import synthetic
from onnxcompress.graph import writer
from onnxcompress.graph.interface import interface
from onnxcompress.graph.model import Model
from onnxcompress.graph.scopes import Scopes
from onnxcompress.guards import check
from onnxcompress.passes.base import Context, Rewritten
from onnxcompress.passes.simplify import Simplify
from onnxcompress.runtime.session import Session

if TYPE_CHECKING:
    from pathlib import Path

    from onnxcompress.data.dataset import Feeds

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'


def parsed(text: str, weights: dict[str, np.ndarray] | None = None) -> Model:
    """A model from ONNX text (with a usual head where it has none) and further initializers."""
    model = Model(parser.parse_model(text if text.lstrip().startswith("<") else HEAD + text))
    for name, array in (weights or {}).items():
        model.set_array(model.proto.graph.initializer.add(name=name), array)
    return model


def rewritten(model: Model) -> Rewritten:
    """The model after the simplifier, which must not have touched the one it was given and must hold."""
    before = writer.to_bytes(model)
    result = Simplify().rewrite(model, Context())
    assert writer.to_bytes(model) == before
    check(interface(model.proto), result.model, "simplify")
    assert writer.serialized_size(result.model) <= len(before)
    return result


def simplified(text: str, weights: dict[str, np.ndarray] | None = None) -> Model:
    """The model of a text after the simplifier, whose outputs are those of the original."""
    model = parsed(text, weights)
    result = rewritten(model)
    assert not [n for n in result.notes if "discarded" in n or "not compared" in n]
    feeds = synthetic(model, calls=1, seed=1).first()
    expected, given = outputs(model, feeds), outputs(result.model, feeds)
    for name, value in expected.items():
        np.testing.assert_allclose(given[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    return result.model


def outputs(model: Model, feeds: Feeds) -> dict[str, Any]:
    """What a model computes without any optimization."""
    return Session(writer.to_bytes(model), threads=1, level="none").run(feeds)


def saved(model: Model, path: Path) -> Model:
    """The model after it went through a file, in which its large tensors stay."""
    writer.save(model, path, durable=False)
    return Model.open(path)


def operators(model: Model) -> dict[str, int]:
    """How many nodes of each operator there are, at every depth."""
    return dict(Counter(node.op_type for scope in Scopes(model.proto).all for node in scope.body.node))


def stored(model: Model) -> dict[str, np.ndarray]:
    """The initializers of the main graph."""
    return {t.name: model.array(t) for t in model.proto.graph.initializer}


def same_structure(one: onnx.ModelProto, two: onnx.ModelProto) -> bool:
    """True where two models are equal in every field."""
    return bool(one.SerializeToString(deterministic=True) == two.SerializeToString(deterministic=True))
