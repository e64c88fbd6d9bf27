"""What the simplifier takes away, and beside each what looks alike and has to stay."""

from __future__ import annotations

import numpy as np
import pytest

from tests.simplifying import operators, parsed, rewritten, same_structure, simplified

REWRITE = {
    "constants are folded": (
        """g (float[N,4] x) => (float[N,4] y) {
            a = Constant<value = float[4] {1, 2, 3, 4}>() b = Mul(a, a) c = Sqrt(b) y = Add(x, c) }""",
        {"Add": 1},
    ),
    "identity": (
        "g (float[N] x) => (float[N] y) { a = Identity(x) b = Relu(a) y = Identity(b) }",
        {"Relu": 1},
    ),
    "a chain of identities": (
        "g (float[N,4] x) => (float[N,4] y) { a = Identity(x) b = Identity(a) c = Identity(b) y = Relu(c) }",
        {"Relu": 1},
    ),
    "identity of a weight": (
        "g (float[N,4] x) => (float[N,4] y) <float[4] w = {1, 2, 3, 4}> { v = Identity(w) y = Add(x, v) }",
        {"Add": 1},
    ),
    "identity beside a branch": (
        "g (float[N,4] x) => (float[N,4] y, float[N,4] z) { a = Relu(x) y = Identity(a) z = Neg(a) }",
        {"Relu": 1, "Neg": 1},
    ),
    "dropout at inference": (
        "g (float[N,4] x) => (float[N,4] y) { a = Relu(x) b, m = Dropout(a) y = Neg(b) }",
        {"Relu": 1, "Neg": 1},
    ),
    "dropout told not to train": (
        """g (float[N,4] x) => (float[N,4] y) <float r = {0.5}, bool t = {0}> {
            a = Relu(x) b = Dropout(a, r, t) y = Neg(b) }""",
        {"Relu": 1, "Neg": 1},
    ),
    "idle cast": ("g (float[N,4] x) => (float[N,4] y) { a = Cast<to = 1>(x) y = Neg(a) }", {"Neg": 1}),
    "dead code": (
        "g (float[N,4] x) => (float[N,4] y) <float[4] w = {1, 2, 3, 4}> { a = Add(x, w) y = Neg(x) }",
        {"Neg": 1},
    ),
    "dead branch within a subgraph": (
        """g (float[4] x, bool c) => (float[4] y) { y = If(c) <
            then_branch = t () => (float[4] p) { dead = Exp(x) p = Neg(x) },
            else_branch = e () => (float[4] q) { q = Abs(x) }> }""",
        {"If": 1, "Neg": 1, "Abs": 1},
    ),
    "identity within a subgraph": (
        """g (float[4] x, bool c) => (float[4] y) { y = If(c) <
            then_branch = t () => (float[4] p) { a = Neg(x) p = Identity(a) },
            else_branch = e () => (float[4] q) { b = Identity(x) q = Abs(b) }> }""",
        {"If": 1, "Neg": 1, "Abs": 1},
    ),
}


@pytest.mark.parametrize(("text", "left"), REWRITE.values(), ids=REWRITE)
def test_rewrite(text: str, left: dict[str, int]) -> None:
    assert operators(simplified(text)) == left


NOOP = {
    "identity from input to output": "g (float[N,4] x) => (float[N,4] y) { y = Identity(x) }",
    "two outputs of one value": "g (float[N] x) => (float[N] y, float[N] z) { y = Relu(x) z = Identity(y) }",
    "dropout whose mask is used": (
        "g (float[N,4] x) => (float[N,4] y, bool[N,4] m) { a = Relu(x) b, m = Dropout(a) y = Neg(b) }"
    ),
    "cast of an unknown type": "g (float[N] x) => (float[N] y) { a = Cast<to = 10>(x) y = Cast<to = 1>(a) }",
    "a graph of nothing but work": "g (float[N,4] x) => (float[N,4] y) { a = Exp(x) y = Neg(a) }",
    "subgraph that hands on an outer value": """g (float[4] x, bool c) => (float[4] y) {
        z = Exp(x) y = If(c) < then_branch = t () => (float[4] p) { p = Identity(z) },
        else_branch = e () => (float[4] q) { q = Abs(z) }> }""",
    "a fold that inflates": """g (float[N] x) => (float[4096] y) <int64[1] n = {4096}> {
        z = ConstantOfShape<value = float[1] {3}>(n) y = Add(x, z) }""",
}


@pytest.mark.parametrize("text", NOOP.values(), ids=NOOP)
def test_noop(text: str) -> None:
    model = parsed(text)
    assert same_structure(rewritten(model).model.proto, model.proto)


def test_duplicates_become_one_and_similar_ones_do_not() -> None:
    text = """g (float[N,4] x) => (float[N,4] y) <float[4] a = {1, 2, 3, 4}, float[4] b = {1, 2, 3, 4},
        float[4] c = {1, 2, 3, 5}, float[1,4] d = {1, 2, 3, 4}, int32[4] e = {1, 2, 3, 4}> {
        p = Add(x, a) q = Mul(p, b) r = Sub(q, c) s = Div(r, d) f = Cast<to = 6>(s) h = Mul(f, e)
        y = Cast<to = 1>(h) }"""
    names = {t.name for t in simplified(text).proto.graph.initializer}
    assert len(names) == 4
    assert names - {"a", "b"} == {"c", "d", "e"}


def test_zero_and_minus_zero_are_not_duplicates() -> None:
    weights = {"a": np.array([0.0, 1], np.float32), "b": np.array([-0.0, 1], np.float32)}
    model = simplified("g (float[N,2] x) => (float[N,2] y) { p = Div(x, a) y = Max(p, b) }", weights)
    assert len(model.proto.graph.initializer) == 2


def test_duplicates_of_two_branches_are_stored_once() -> None:
    w = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)
    text = """g (float[N,64] x, bool c) => (float[N,64] y) { y = If(c) <
        then_branch = t () => (float[N,64] p) { p = MatMul(x, w1) },
        else_branch = e () => (float[N,64] q) { n = Neg(x) q = MatMul(n, w2) }> }"""
    model = parsed(text)
    branches = model.proto.graph.node[0].attribute
    for name, branch in zip(("w1", "w2"), branches, strict=True):
        model.set_array(branch.g.initializer.add(name=name), w)
    result = rewritten(model).model
    assert sum(result.nbytes(t) for t in result.tensors()) == w.nbytes
