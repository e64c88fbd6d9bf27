"""Channels cut out of a model: lazily, in copies where readers differ, and never all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxcompress.graph import writer
from onnxcompress.graph.model import Model
from onnxcompress.graph.narrowing import narrowed
from tests.channel_models import HEAD, TAKEN, model_of
from tests.channel_oracle import check_cut, groups_of, inputs_of
from tests.small_models import opened, proto

if TYPE_CHECKING:
    from pathlib import Path

    from onnxcompress.graph.channels import Group


def taken(name: str) -> tuple[Model, list[Group]]:
    text, shapes, _ = TAKEN[name]
    model = Model(model_of(text, shapes))
    return model, groups_of(model)


def stored(model: Model) -> dict[str, np.ndarray]:
    made = onnx.load_from_string(writer.to_bytes(model))
    return {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}


def test_what_is_left_are_the_values_of_the_channels_kept() -> None:
    model, (group,) = taken("two convolutions")
    before, after = stored(model), stored(narrowed(model, {group: [6, 1]}))
    np.testing.assert_array_equal(after["v"], before["v"][[1, 6]])
    np.testing.assert_array_equal(after["c"], before["c"][[1, 6]])
    np.testing.assert_array_equal(after["w"], before["w"][:, [1, 6]])


def test_all_channels_kept_change_nothing() -> None:
    for name in TAKEN:
        model, groups = taken(name)
        same = narrowed(model, {group: range(group.channels) for group in groups})
        before, after = (onnx.load_from_string(writer.to_bytes(m)) for m in (model, same))
        for made in (before, after):
            del made.graph.value_info[:]
        assert after.SerializeToString() == before.SerializeToString(), name


@pytest.mark.parametrize(
    ("kept", "word"),
    [([], "no channel"), ([0, 0], "once"), ([8], "8 channels"), ([-1], "8 channels"), ([0, 9], "8 channels")],
)
def test_selections_that_are_none(kept: list[int], word: str) -> None:
    model, (group,) = taken("two convolutions")
    with pytest.raises(ValueError, match=word):
        narrowed(model, {group: kept})


def test_no_part_is_left_empty() -> None:
    model, (group,) = taken("split")
    assert not group.fits([0, 1, 2])
    with pytest.raises(ValueError, match="nothing would be left of axis 1"):
        narrowed(model, {group: [0, 1, 2]})
    assert group.fits([0, 4])
    narrowed(model, {group: [0, 4]})


def test_a_constant_of_two_groups_is_copied_only_where_it_differs() -> None:
    model, (first, second) = taken("one constant of two groups")
    feeds = [inputs_of(model.proto, np.random.default_rng(0))]
    alike = narrowed(model, {first: [1, 2], second: [1, 2]})
    assert set(stored(alike)) == {"u", "v", "e", "w"}
    unlike = {first: [1, 2], second: [1, 2, 3]}
    assert len(stored(narrowed(model, unlike))) == 5
    check_cut(model, unlike, feeds)
    one = {first: [5]}
    arrays = stored(narrowed(model, one))
    assert sorted(a.shape for name, a in arrays.items() if name.startswith("e")) == [(1, 1, 1, 1), (1, 8, 1, 1)]
    check_cut(model, one, feeds)


def test_a_shape_of_several_groups_is_copied() -> None:
    text = HEAD + """{ h = Conv(a, u) p = Reshape(h, to) q = MatMul(p, v) r = Reshape(b, to) s = MatMul(r, v)
        y = Add(q, s) } # to = [0, 20]"""  # fmt: skip
    made = model_of(text, {"u": (5, 3, 7, 7), "v": (20, 4), "b": (1, 5, 2, 2)})
    made.graph.initializer.remove(next(t for t in made.graph.initializer if t.name == "b"))
    made.graph.input.append(onnx.helper.make_tensor_value_info("b", 1, [1, 5, 2, 2]))
    assert not groups_of(Model(made))  # the weight is read along an axis of an input as well
    other = model_of(text.replace("MatMul(r, v)", "MatMul(r, w)"), {"u": (5, 3, 7, 7), "v": (20, 4), "w": (20, 4)})
    other.graph.input.append(onnx.helper.make_tensor_value_info("b", 1, [1, 5, 2, 2]))
    model = Model(other)
    (group,) = groups_of(model)
    arrays = stored(narrowed(model, {group: [0, 3]}))
    assert sorted(a.tolist() for name, a in arrays.items() if name.startswith("to")) == [[0, 8], [0, 20]]
    check_cut(model, {group: [0, 3]}, [inputs_of(other, np.random.default_rng(0), 1)])


def test_types_that_no_longer_fit_are_forgotten() -> None:
    text, shapes, _ = TAKEN["residual block"]
    made = onnx.shape_inference.infer_shapes(model_of(text, shapes))
    known = {v.name for v in made.graph.value_info}
    model = Model(made)
    wide, inner = groups_of(model)
    small = narrowed(model, {inner: [0, 1]})
    assert known - {v.name for v in small.proto.graph.value_info} == {"p", "q"}
    onnx.checker.check_model(onnx.load_from_string(writer.to_bytes(small)), full_check=True)
    assert {v.name for v in model.proto.graph.value_info} == known
    check_cut(model, {wide: [0, 7], inner: [5]}, [inputs_of(made, np.random.default_rng(0))])


def test_large_tensors_are_cut_when_they_are_written(tmp_path: Path) -> None:
    text = "g (float[B, 64] a) => (float[] y) { h = MatMul(a, v) r = Relu(h) y = MatMul(r, w) }"
    rng = np.random.default_rng(0)
    arrays = {n: rng.standard_normal(s).astype(np.float32) for n, s in {"v": (64, 5000), "w": (5000, 64)}.items()}
    model = opened(proto(text, arrays), tmp_path)
    assert not any(model.has_data(t) for t in model.proto.graph.initializer)
    (group,) = groups_of(model)
    kept = {group: range(0, 5000, 3)}
    small = narrowed(model, kept)
    assert not any(small.has_data(t) for t in small.proto.graph.initializer)
    assert [tuple(t.dims) for t in small.proto.graph.initializer] == [(64, 1667), (1667, 64)]
    check_cut(model, kept, [inputs_of(model.proto, rng)])
    again = groups_of(small)[0]
    twice = stored(narrowed(small, {again: [0, 1000]}))
    np.testing.assert_array_equal(twice["v"], arrays["v"][:, [0, 3000]])
    np.testing.assert_array_equal(twice["w"], arrays["w"][[0, 3000]])


def test_bounds_from_the_end_follow() -> None:
    model, (group,) = taken("slice")
    feeds = [inputs_of(model.proto, np.random.default_rng(0))]
    for gone in range(group.channels):
        check_cut(model, {group: [i for i in range(group.channels) if i != gone]}, feeds)


@pytest.mark.parametrize("shared", [True, False])
def test_a_joined_shape_is_copied_for_readers_that_differ(shared: bool) -> None:
    second = "to" if shared else "other"
    text = HEAD + f"""{{ s = Shape(a) n = Gather(s, i0) to = Concat<axis = 0>(n, c, m1) h = Conv(a, u)
        r = Reshape(h, to) p = Relu(r) q = Reshape(p, back) k = Conv(q, v) other = Concat<axis = 0>(n, c, m1)
        t = Reshape(k, {second}) o = Relu(t) z = Reshape(o, back) y = Conv(z, w) }}
        # i0 = [0] c = [6] m1 = [-1] back = [0, 0, 8, 8]"""  # fmt: skip
    made = model_of(text, {"u": (6, 3, 1, 1), "v": (6, 6, 1, 1), "w": (4, 6, 1, 1)})
    model = Model(made)
    first, last = groups_of(model)
    feeds = [inputs_of(made, np.random.default_rng(0), size) for size in (1, 2)]
    for kept in ({first: [1, 4]}, {last: [1]}, {first: [1, 4], last: [0, 2, 3]}, {first: [0, 2], last: [1, 4]}):
        check_cut(model, kept, feeds)
        small = onnx.load_from_string(writer.to_bytes(narrowed(model, kept)))
        read = {name for node in small.graph.node for name in node.input} | {"y", "other"}
        assert all(node.output[0] in read for node in small.graph.node)
        assert {t.name for t in small.graph.initializer} <= read
