"""The models of ONNX's own backend tests, with their inputs, as far as ONNX Runtime runs them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx.backend.test.case.test_case import TestCase as Case

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
_NEWEST_IR = 11  # models that are otherwise old enough are stamped with the newest IR version
_RANDOM = ("bernoulli", "random", "multinomial")


@dataclass(frozen=True)
class Example:
    """A model as bytes with one call of inputs; ``exact`` is false where its outputs are random."""

    name: str
    model: bytes
    feeds: dict[str, Any]
    exact: bool


@cache
def cases(kind: str) -> tuple[Case, ...]:
    """All cases of a kind, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tuple(sorted(load_model_tests(kind=kind), key=lambda case: case.name))


def examples(kind: str) -> Iterator[Example]:
    """The models of a kind."""
    for case in cases(kind):
        found = _stored(Path(case.model_dir)) if case.model_dir else _made(case)
        if found is not None:
            exact = not any(word in case.name for word in _RANDOM)
            yield Example(case.name, *found, exact)


def _made(case: Case) -> tuple[bytes, dict[str, Any]]:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = min(model.ir_version, _NEWEST_IR)
    names = [i.name for i in model.graph.input]
    values = case.data_sets[0][0] if case.data_sets else []
    return model.SerializeToString(), {n: _value(v) for n, v in zip(names, values, strict=False)}


def _stored(folder: Path) -> tuple[bytes, dict[str, Any]] | None:
    path = folder / "model.onnx"
    if not path.exists():
        return None
    model = onnx.ModelProto.FromString(path.read_bytes())
    feeds = {}
    for index, info in enumerate(model.graph.input):
        stored = folder / "test_data_set_0" / f"input_{index}.pb"
        if stored.exists():
            feeds[info.name] = _parse(stored.read_bytes(), info.type)
    return path.read_bytes(), feeds


def _parse(raw: bytes, kind: onnx.TypeProto) -> Any:
    if kind.HasField("tensor_type"):
        return numpy_helper.to_array(onnx.TensorProto.FromString(raw))
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(raw))
    return numpy_helper.to_optional(onnx.OptionalProto.FromString(raw))


def _value(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value
