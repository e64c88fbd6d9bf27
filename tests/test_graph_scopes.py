"""Names are found where they are defined: bodies may shadow them, functions see only their own."""

from __future__ import annotations

import onnx
import pytest

from onnxcompress.graph.scopes import Scope, Scopes, subgraphs
from tests.small_models import normal, proto

NESTED = """g (bool c, float[4] x) => (float[4] y, float[4] z) <float[4] w = {1, 2, 3, 4}> {
    y = If(c) <
        then_branch = t () => (float[4] a) <float[4] w = {5, 6, 7, 8}> { a = Add(x, w) },
        else_branch = e () => (float[4] b) {
            b = If(c) <
                then_branch = tt () => (float[4] d) { d = Mul(w, w) },
                else_branch = ee () => (float[4] f) { w2 = Neg(w) f = Sub(w2, x) }
            >
        }
    >
    z = local.f(w)
}
<domain: "local", opset_import: ["": 17]>
f (w) => (q) { w3 = Abs(w) q = Add(w3, w) }"""


def scope_of(scopes: Scopes, op: str) -> tuple[Scope, onnx.NodeProto]:
    return next((s, n) for s in scopes.all for n in s.body.node if n.op_type == op)


def readers(scopes: Scopes, scope: Scope, name: str) -> list[str]:
    return sorted(u.node.op_type if u.node is not None else f"output {u.index}" for u in scopes.uses(scope, name))


def test_all_graphs_and_functions_are_scopes_with_the_path_to_them() -> None:
    model = proto(NESTED)
    model.graph.node[0].name = "outer"
    scopes = Scopes(model)
    paths = [s.path for s in scopes.all]
    assert len(paths) == 6
    assert paths.count(()) == 1
    assert paths.count(("outer",)) == 2
    assert paths.count(("outer", "b")) == 2
    assert ("local::f",) in paths
    assert [s.is_function for s in scopes.all].count(True) == 1


@pytest.mark.parametrize(
    ("op", "name", "found_in"),
    [
        ("Add", "w", "t"),  # shadowed
        ("Mul", "w", "g"),  # through two bodies
        ("Neg", "w", "g"),
        ("Sub", "w2", "ee"),
        ("Sub", "x", "g"),
        ("Abs", "w", "f"),  # the function's own
        ("Abs", "x", None),  # of the graph, which a function does not see
        ("If", "a", None),  # of a body, which the graph around it does not see
    ],
)
def test_names_resolve_to_the_innermost_scope_that_defines_them(op: str, name: str, found_in: str | None) -> None:
    scopes = Scopes(proto(NESTED))
    scope, _ = scope_of(scopes, op)
    found = scope.resolve(name)
    assert (found.body.name if found is not None else None) == found_in


def test_uses_are_those_of_that_value_alone() -> None:
    scopes = Scopes(proto(NESTED))
    inner = next(s for s in scopes.all if s.body.name == "t")
    function = next(s for s in scopes.all if s.is_function)
    assert readers(scopes, scopes.main, "w") == ["Mul", "Mul", "Neg", "f"]
    assert readers(scopes, inner, "w") == ["Add"]
    assert readers(scopes, function, "w") == ["Abs", "Add"]
    assert readers(scopes, scopes.main, "y") == ["output 0"]
    assert readers(scopes, scopes.main, "c") == ["If", "If"]
    assert readers(scopes, function, "q") == ["output 0"]


def test_an_outer_value_as_an_output_of_a_body_is_a_use() -> None:
    scopes = Scopes(
        proto("""g (bool c) => (float[1] y) <float[1] w = {1}> {
            y = If(c) <
                then_branch = t () => (float[1] w) { }, else_branch = e () => (float[1] a) { a = Neg(w) }
            >
        }""")
    )
    assert readers(scopes, scopes.main, "w") == ["Neg", "output 0"]


def test_inputs_of_loop_bodies_are_their_own() -> None:
    scopes = Scopes(
        proto("""g (int64 m, bool c, float[4] w) => (float[4] y) {
            y = Loop(m, c, w) <body = b (int64 i, bool k, float[4] w) => (bool k2, float[4] v) {
                k2 = Identity(k) v = Add(w, w) }>
        }""")
    )
    assert readers(scopes, scopes.main, "w") == ["Loop"]
    assert readers(scopes, scopes.all[1], "w") == ["Add", "Add"]


def test_constants_and_initializers_are_found_in_each_scope() -> None:
    model = proto(NESTED, {"v": normal(3)})
    constant = onnx.helper.make_node("Constant", [], ["k"], value=onnx.numpy_helper.from_array(normal(2)))
    next(subgraphs(model.graph.node[0])).node.insert(0, constant)
    words = onnx.helper.make_node("Constant", [], ["s"], value_floats=[1.0, 2.0])
    model.graph.node.insert(0, words)
    scopes = Scopes(model)
    assert set(scopes.main.initializers) == {"w", "v"}
    assert set(scopes.main.constants) == set()  # without a tensor it stores no weight
    inner = next(s for s in scopes.all if s.body.name == "t")
    assert (set(inner.initializers), set(inner.constants)) == ({"w"}, {"k"})


def test_names_holds_every_name_anywhere() -> None:
    assert {"w", "x", "c", "y", "z", "a", "b", "d", "f", "w2", "w3", "q"} == Scopes(proto(NESTED)).names()
