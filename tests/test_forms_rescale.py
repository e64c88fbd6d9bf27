"""Rescaled models compute the same, and what their layers read is divided by s."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxcompress.forms.rescale import rescaled
from onnxcompress.graph import writer
from onnxcompress.graph.absorb import Site, absorbing, sites
from onnxcompress.graph.model import Model
from onnxcompress.solvers.equalization import equalization
from tests.rescaling_models import TAKEN, arrays, integers
from tests.small_models import normal, opened, outputs, proto

if TYPE_CHECKING:
    from pathlib import Path


def feeds_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {i.name: normal(*(d.dim_value for d in i.type.tensor_type.shape.dim), seed=9) for i in model.graph.input}


def scales(features: int, seed: int = 5) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).uniform(-3, 3, features)).astype(np.float32)


def close(given: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-4 * float(np.abs(wanted).max()))


def with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    twin.graph.output.extend(helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    return twin


def sites_of(model: Model) -> list[Site]:
    return [s for s in sites(model) if isinstance(s, Site)]


def named(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


@pytest.mark.parametrize("name", TAKEN)
def test_the_function_is_kept_and_the_value_divided(name: str, tmp_path: Path) -> None:
    text, shapes, divided, multiplied = TAKEN[name]
    original = proto(text, {**arrays(shapes), **integers(text)})
    model = opened(original, tmp_path)
    site = sites_of(model)[-1]
    s = scales(site.features)
    written = onnx.load_from_string(writer.to_bytes(rescaled(model, [(site, s)])))
    values = [value for value, _ in site.values]
    feeds = feeds_of(original)
    before, after = (outputs(with_outputs(m, values), feeds) for m in (original, written))
    close(after["y"], before["y"])
    for value, axis in site.values:
        shape = [-1] + [1] * (-axis - 1)
        close(after[value] * s.reshape(shape), before[value])
    changed = {t.name for t in written.graph.initializer
               if t.name in shapes and not np.array_equal(named(written, t.name), named(original, t.name))}  # fmt: skip
    if name != "vector that others read":
        assert changed == (divided | multiplied) & set(shapes)


def test_a_vector_that_others_read_is_copied_for_one_reader() -> None:
    text, shapes, *_ = TAKEN["vector that others read"]
    original = proto(text, arrays(shapes))
    model = Model(original)
    (site,) = sites_of(model)
    written = rescaled(model, [(site, scales(10))]).proto
    assert [t.name for t in written.graph.initializer] == ["c", "w", "c_rescaled"]
    np.testing.assert_array_equal(named(written, "c"), named(original, "c"))


@pytest.mark.parametrize("ir", [3, 8])
def test_a_vector_of_which_all_readers_have_copies_goes(ir: int) -> None:
    text = "g (float[5, 10] a) => (float[] y) { n = Tanh(a) m = Mul(n, c) x = Add(m, c) y = MatMul(x, w) }"
    original = proto(text, arrays({"c": (10,), "w": (10, 12)}), ir=ir, opset=8)
    if ir < 4:  # where initializers have to be inputs as well
        for tensor in original.graph.initializer:
            original.graph.input.append(helper.make_tensor_value_info(tensor.name, 1, tensor.dims))
    model = Model(original)
    (site,) = sites_of(model)
    s = scales(10)
    written = onnx.load_from_string(writer.to_bytes(rescaled(model, [(site, s)])))
    assert {t.name for t in written.graph.initializer} == {"w", "c_rescaled", "c_rescaled_2"}
    assert {i.name for i in written.graph.input} == {"a"} | (
        {t.name for t in written.graph.initializer} if ir < 4 else set()
    )
    np.testing.assert_allclose(named(written, "c_rescaled") * s, named(original, "c"), rtol=1e-6)
    close(outputs(written, {"a": normal(5, 10)})["y"], outputs(original, {"a": normal(5, 10)})["y"])


def test_several_sites_share_a_weight() -> None:
    text = "g (float[5, 10] a) => (float[] y) { p = MatMul(a, u) q = Relu(p) x = MatMul(q, v) y = MatMul(x, w) }"
    original = proto(text, arrays({"u": (10, 6), "v": (6, 11), "w": (11, 12)}))
    model = Model(original)
    pairs = [(site, scales(site.features, seed)) for seed, site in enumerate(sites_of(model))]
    assert len(pairs) == 2
    written = rescaled(model, pairs)
    first, second = (np.asarray(s, np.float64) for _, s in pairs)
    wanted = named(original, "v") * first[:, None] / second
    np.testing.assert_allclose(written.array(written.proto.graph.initializer[1]), wanted, rtol=1e-6)
    feeds = {"a": normal(5, 10)}
    close(outputs(writer.to_bytes(written), feeds)["y"], outputs(original, feeds)["y"])


def test_large_weights_wait_and_the_original_stays(tmp_path: Path) -> None:
    text = "g (float[m, 300] a) => (float[] y) { x = MatMul(a, v) y = MatMul(x, w) }"
    original = proto(text, arrays({"v": (300, 400), "w": (400, 200)}))
    model = opened(original, tmp_path)
    before = model.proto.SerializeToString()
    (site,) = sites_of(model)
    s = scales(400)
    twin = rescaled(model, [(site, s)])
    assert not any(twin.has_data(t) for t in twin.proto.graph.initializer)
    assert model.proto.SerializeToString() == before
    twice = rescaled(twin, [(site, 1 / s)])  # and back
    for tensor, was in zip(twice.proto.graph.initializer, original.graph.initializer, strict=True):
        np.testing.assert_allclose(twice.array(tensor), numpy_helper.to_array(was), rtol=1e-6)
    assert writer.to_bytes(twin) == writer.to_bytes(rescaled(model, [(site, s)]))


def test_constants_in_nodes_change_in_place() -> None:
    text, shapes, *_ = TAKEN["constant nodes"]
    original = proto(text, arrays(shapes))
    model = Model(original)
    (site,) = sites_of(model)
    s = np.full(10, 2, np.float32)
    written = rescaled(model, [(site, s)]).proto
    assert len(written.graph.node) == len(original.graph.node)
    value = numpy_helper.to_array(written.graph.node[0].attribute[0].t)
    np.testing.assert_array_equal(value, np.arange(1, 11, dtype=np.float32) / 2)


@pytest.mark.parametrize("wrong", [np.ones(7), np.zeros(8), np.full(8, np.nan), -np.ones(8), np.full(8, np.inf)])
def test_scales_have_to_fit(wrong: np.ndarray) -> None:
    text, shapes, *_ = TAKEN["matmul"]
    model = Model(proto(text, arrays(shapes)))
    (site,) = sites_of(model)
    with pytest.raises(ValueError, match="positive scales"):
        rescaled(model, [(site, wrong)])


def test_equalized_convolutions(tmp_path: Path) -> None:
    """A pair that was scaled apart: its ranges are equal again, and it computes the same."""
    text, shapes, *_ = TAKEN["conv"]
    made = arrays(shapes)
    apart = np.geomspace(1e-2, 1e2, 8, dtype=np.float32)
    made["v"] *= apart[:, None, None, None]
    made["w"] /= apart[:, None, None]
    model = opened(proto(text, made), tmp_path)
    site = absorbing(model, "x")
    assert isinstance(site, Site)
    s = equalization(made["v"], made["w"].transpose(1, 0, 2, 3))
    written = onnx.load_from_string(writer.to_bytes(rescaled(model, [(site, s)])))
    first = np.abs(named(written, "v")).max((1, 2, 3))
    second = np.abs(named(written, "w")).max((0, 2, 3))
    np.testing.assert_allclose(first / second, np.full(8, (first / second)[0]), rtol=1e-4)
    feeds = {"a": normal(2, 3, 9, 9)}
    close(outputs(written, feeds)["y"], outputs(proto(text, made), feeds)["y"])
