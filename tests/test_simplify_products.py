"""Linear layers that follow one another: multiplied together where that is less work, and left where it is not safe."""

from __future__ import annotations

import numpy as np
import pytest

from onnxcompress.graph import products
from onnxcompress.graph.products import merge_products
from tests.simplifying import operators, outputs, parsed, simplified

RNG = np.random.default_rng(0)


def matrix(*shape: int) -> np.ndarray:
    return (RNG.normal(size=shape) / 4).astype(np.float32)


WIDE = {
    "a": matrix(12, 40),
    "b": matrix(40, 10),
    "c": matrix(40),
    "d": matrix(10),
    "at": matrix(40, 12),
    "bt": matrix(10, 40),
}
MERGED = {
    "two products": ("h = MatMul(x, a) y = MatMul(h, b)", "MatMul"),
    "a product and a layer": ("h = MatMul(x, a) y = Gemm(h, b, d)", "Gemm"),
    "two layers": ("h = Gemm(x, a, c) y = Gemm(h, b, d)", "Gemm"),
    "a bias of the first alone": ("h = Gemm(x, a, c) y = Gemm(h, b)", "Gemm"),
    "turned": ("h = Gemm<transB = 1>(x, at, c) y = Gemm<transB = 1>(h, bt, d)", "Gemm"),
    "no bias at all": ("h = Gemm(x, a) y = MatMul(h, b)", "MatMul"),
}
LEFT = {
    "another reader": ("h = MatMul(x, a) z = MatMul(h, b) r = ReduceSum(h) y = Add(z, r)", {}),
    "an activation": ("h = MatMul(x, a) r = Relu(h) y = MatMul(r, b)", {}),
    "a factor": ("h = Gemm<alpha = 0.5>(x, a) y = MatMul(h, b)", {}),
    "no place for a bias": ("h = Gemm(x, a, c) y = MatMul(h, b)", {}),
    "low rank": ("h = MatMul(x, a) y = MatMul(h, b)", {"a": matrix(12, 3), "b": matrix(3, 10)}),
    "not finite": ("h = MatMul(x, a) y = MatMul(h, b)", {"a": np.full((12, 40), np.inf, np.float32)}),
}


def text(body: str) -> str:
    return f"g (float[n,12] x) => (float[n,10] y) {{ {body} }}"


@pytest.mark.parametrize(("body", "left"), MERGED.values(), ids=MERGED)
def test_merged(body: str, left: str) -> None:
    model = parsed(text(body), {k: v for k, v in WIDE.items() if f", {k}" in body})
    made = model.copy()
    assert merge_products(made) == 1
    assert operators(made) == {left: 1}
    feeds = {"x": matrix(7, 12)}
    np.testing.assert_allclose(outputs(made, feeds)["y"], outputs(model, feeds)["y"], rtol=1e-4, atol=1e-5)
    assert len(simplified(text(body), {k: v for k, v in WIDE.items() if f", {k}" in body}).proto.graph.node) == 1


@pytest.mark.parametrize(("body", "other"), LEFT.values(), ids=LEFT)
def test_left(body: str, other: dict[str, np.ndarray]) -> None:
    model = parsed(text(body), {k: v for k, v in {**WIDE, **other}.items() if f", {k}" in body})
    made = model.copy()
    assert merge_products(made) == 0


def test_a_chain_of_three_and_more_axes() -> None:
    stored = {"a": matrix(12, 40), "b": matrix(40, 30), "w": matrix(30, 10)}
    model = parsed(
        "g (float[n,5,12] x) => (float[n,5,10] y) { h = MatMul(x, a) k = MatMul(h, b) y = MatMul(k, w) }", stored
    )
    made = model.copy()
    assert merge_products(made) == 2
    feeds = {"x": matrix(3, 5, 12)}
    np.testing.assert_allclose(outputs(made, feeds)["y"], outputs(model, feeds)["y"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("limit", "merged"), [("_LARGEST", 0), ("_MOST", 1)])
def test_large_ones_are_left_apart_and_that_is_said(monkeypatch: pytest.MonkeyPatch, limit: str, merged: int) -> None:
    stored = {"a": matrix(12, 20), "b": matrix(20, 30), "c": matrix(30, 40), "d": matrix(40, 10)}
    body = "h = MatMul(x, a) k = MatMul(h, b) r = Relu(k) s = MatMul(r, c) y = MatMul(s, d)"
    model = parsed(text(body), stored)
    monkeypatch.setattr(products, limit, {"_LARGEST": 30 * 10 * 4, "_MOST": 30 * 40 * 4}[limit])
    notes: list[str] = []
    assert merge_products(model, notes) == merged
    assert notes == [f"products that follow one another were not merged, as they are large: {2 - merged}"]


def test_the_largest_of_factors_and_product_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_LARGEST", 40 * 12 * 4)
    model = parsed(text("h = MatMul(x, a) y = MatMul(h, b)"), {k: WIDE[k] for k in "ab"})
    notes: list[str] = []
    assert merge_products(model, notes) == 1
    assert not notes
