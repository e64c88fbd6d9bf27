"""What makes a wrong removal of channels visible: consumers that do not see the channels in the original model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from onnxcompress.graph import writer
from onnxcompress.graph.channels import Group, channel_groups
from onnxcompress.graph.narrowing import narrowed
from onnxcompress.graph.scopes import Scopes, constant_tensor
from onnxcompress.runtime.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxcompress.graph.model import Model

Arrays = Mapping[str, np.ndarray]


def groups_of(model: Model) -> list[Group]:
    return [found for found in channel_groups(model) if isinstance(found, Group)]


def chosen(group: Group, rng: np.random.Generator) -> list[int]:
    """Some channels to keep, and some that are not."""
    count = int(rng.integers(1, group.channels))
    return sorted(int(i) for i in rng.choice(group.channels, count, replace=False))


def blinded(model: Model, kept: Mapping[Group, Sequence[int]]) -> Model:
    """A copy whose consumers have zero weights for the channels that are not kept."""
    twin = model.copy()
    main = Scopes(twin.proto).main
    for group, channels in kept.items():
        for slot in group.slots:
            if slot.role != "consumer":
                continue
            constant = main.constants.get(slot.tensor)
            tensor = main.initializers[slot.tensor] if constant is None else constant_tensor(constant)
            assert tensor is not None
            array = twin.array(tensor).copy()
            gone = [i for c in set(range(group.channels)) - set(channels) for i in slot.places[c]]
            assert array.shape[slot.axis] == slot.length
            array[(slice(None),) * slot.axis + (gone,)] = 0
            twin.set_array(tensor, array)
    return twin


def inputs_of(model: onnx.ModelProto, rng: np.random.Generator, size: int = 2) -> dict[str, np.ndarray]:
    """Random inputs; unknown lengths are ``size``, integers 0 or 1."""
    stored = {t.name for t in model.graph.initializer}
    feeds = {}
    for info in model.graph.input:
        if info.name in stored:
            continue
        kind = info.type.tensor_type
        dims = [d.dim_value if d.HasField("dim_value") else size for d in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        values = rng.standard_normal(dims) if np.issubdtype(dtype, np.floating) else rng.integers(0, 2, dims)
        feeds[info.name] = np.asarray(values, dtype)
    return feeds


def parameters(model: onnx.ModelProto) -> int:
    return sum(int(np.prod(t.dims, dtype=np.int64)) for t in model.graph.initializer)


def check_cut(model: Model, kept: Mapping[Group, Sequence[int]], feeds: Sequence[Arrays], rtol: float = 1e-4) -> None:
    """The narrowed model is valid, smaller, and computes what the original does without the removed channels."""
    before = model.proto.SerializeToString()
    expecting = Session(writer.to_bytes(blinded(model, kept)), threads=1)
    raw = writer.to_bytes(narrowed(model, kept))
    assert model.proto.SerializeToString() == before
    small = onnx.load_from_string(raw)
    if _valid(onnx.load_from_string(writer.to_bytes(model))):
        onnx.checker.check_model(small, full_check=True)
    onnx.shape_inference.infer_shapes(small, strict_mode=False)
    session = Session(raw, threads=1)
    for feed in feeds:
        for name, expected in expecting.run(feed).items():
            given = session.run(feed)[name]
            assert given.shape == expected.shape
            if not np.issubdtype(np.asarray(expected).dtype, np.floating):
                np.testing.assert_array_equal(given, expected)
                continue
            finite = np.abs(expected[np.isfinite(expected)])
            scale = float(finite.max()) if finite.size else 1.0
            np.testing.assert_allclose(given, expected, rtol=rtol, atol=rtol * scale + 1e-6)


def _valid(model: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def check_all(model: Model, feeds: Sequence[Arrays], seed: int = 0, rtol: float = 1e-4) -> list[Group]:
    """Each group on its own, and all at once."""
    rng = np.random.default_rng(seed)
    groups = groups_of(model)
    for group in groups:
        check_group(model, group)
        check_cut(model, {group: possible(model, group, rng)}, feeds, rtol)
    if len(groups) > 1:
        check_cut(model, {group: possible(model, group, rng) for group in groups}, feeds, rtol)
    return groups


def possible(model: Model, group: Group, rng: np.random.Generator) -> list[int]:
    """Channels to keep such that nothing is left empty."""
    for _ in range(50):
        kept = chosen(group, rng)
        if group.fits(kept):
            return kept
        with pytest.raises(ValueError, match="nothing would be left"):
            narrowed(model, {group: kept})
    return next(k for c in range(group.channels) if group.fits(k := [i for i in range(group.channels) if i != c]))


def check_group(model: Model, group: Group) -> None:
    """What a group says of itself holds together."""
    main = Scopes(model.proto).main
    assert group.channels > 1
    assert group.layers[0] == group.label
    assert any(slot.role == "consumer" for slot in group.slots)
    assert group.values
    parts = [(p.places, p.length) for p in group.slots] + [(p.places, p.length) for p in group.carriers]
    for places, length in parts + [(p.places, p.length) for p in group.renumbered]:
        indices = [i for some in places for i in some]
        assert len(places) == group.channels
        assert len(set(indices)) == len(indices)
        assert all(0 <= i < length for i in indices)
    for slot in group.slots:
        reader = main.producers[slot.reader]
        assert reader.input[slot.index] == slot.tensor
        if slot.role == "consumer":
            assert any(slot.reader in value.consumers for value in group.values)
