"""Padding goes into the convolutions behind it, and stays wherever they would compute something else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.graph.model import Model
from onnxcompress.graph.padding import fold_padding
from tests.simplifying import operators, outputs, parsed, simplified
from tests.small_models import normal, proto

PLANE, LINE = (2, 3, 7, 6), (2, 3, 9)
PADS = [0, 0, 1, 2, 0, 0, 3, 0]  # of a plane: one row before, two columns before, three rows after


def padded(body: str, shape: tuple[int, ...] = PLANE, pads: list[int] | None = None, *, opset: int = 17,
           outs: str = "y", **more: np.ndarray) -> Model:  # fmt: skip
    """A model of x and those of its constants that it reads: pads, a weight w (4, 3, ...), numbers and ``more``."""
    numbers = {"none": 0.0, "one": 1.0, "minus": -0.0}
    stored = {
        "pads": np.array(PADS if pads is None else pads),
        "w": normal(4, 3, *(3,) * (len(shape) - 2), seed=1),
        **{name: np.array(number, np.float32) for name, number in numbers.items()},
        **more,
    }
    used = {n: a for n, a in stored.items() if any(f"{before}{n}{after}" in body for before in " (" for after in ",)")}
    dims = ",".join(map(str, shape))
    free = [",".join(f"{o}{i}" for i in range(len(shape))) for o in outs.split()]
    results = ", ".join(f"float[{f}] {o}" for o, f in zip(outs.split(), free, strict=True))
    return Model(proto(f"g (float[{dims}] x) => ({results}) {{ {body} }}", used, opset=opset))


def folded(model: Model, *, times: int = 1) -> Model:
    """The model after this rewrite alone, its dead Pad nodes removed; it computes the same."""
    result = model.copy()
    assert fold_padding(result) == times
    graph = result.proto.graph
    read = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    for index in reversed([i for i, n in enumerate(graph.node) if not read & set(n.output)]):
        del graph.node[index]
    x = {"x": normal(*[d.dim_value for d in graph.input[0].type.tensor_type.shape.dim])}
    expected, given_ = outputs(model, x), outputs(result, x)
    for name, value in expected.items():
        np.testing.assert_allclose(given_[name], value, rtol=1e-5, atol=1e-5)
    return result


FOLDED = {
    "into a plane": "p = Pad(x, pads) y = Conv(p, w)",
    "with zero named": "p = Pad(x, pads, none) y = Conv(p, w)",
    "with a zero that is negative": "p = Pad(x, pads, minus) y = Conv(p, w)",
    "with an empty value": "p = Pad(x, pads, ) y = Conv(p, w)",
    "with the mode in words": 'p = Pad<mode = "constant">(x, pads, none) y = Conv(p, w)',
    "behind other work": "h = Neg(x) p = Pad(h, pads) y = Conv(p, w)",
    "into strides and dilations": "p = Pad(x, pads) y = Conv<strides = [2, 1], dilations = [2, 2]>(p, w)",
    "into its own pads": "p = Pad(x, pads) y = Conv<pads = [1, 0, 2, 1]>(p, w)",
    "where it pads nothing by word": 'p = Pad(x, pads) y = Conv<auto_pad = "VALID">(p, w)',
    "where pads are explicit by word": 'p = Pad(x, pads) y = Conv<auto_pad = "NOTSET", pads = [1, 1, 1, 1]>(p, w)',
    "into several": "p = Pad(x, pads) a = Conv(p, w) b = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(p, w) "
    "c = GlobalMaxPool(a) d = GlobalMaxPool(b) y = Add(c, d)",
}


@pytest.mark.parametrize("body", FOLDED.values(), ids=FOLDED)
def test_padding_is_folded(body: str) -> None:
    assert "Pad" not in operators(folded(padded(body)))


def test_the_pads_are_added_side_by_side() -> None:
    result = folded(padded("p = Pad(x, pads) y = Conv<pads = [1, 0, 2, 1]>(p, w)"))
    (attribute,) = [a for a in result.proto.graph.node[0].attribute if a.name == "pads"]
    assert list(attribute.ints) == [2, 2, 5, 1]
    assert result.proto.graph.node[0].input[0] == "x"


@pytest.mark.parametrize("own", ["", "<pads = [2, 1]>"])
def test_padding_of_a_line_is_folded(own: str) -> None:
    model = padded(f"p = Pad(x, pads) y = Conv{own}(p, w)", LINE, [0, 0, 1, 0, 0, 4])
    assert operators(folded(model)) == {"Conv": 1}


def test_padding_of_a_space_is_folded() -> None:
    model = padded("p = Pad(x, pads) y = Conv(p, w)", (1, 3, 4, 4, 4), [0, 0, 1, 0, 2, 0, 0, 0, 1, 1])
    assert operators(folded(model)) == {"Conv": 1}


@pytest.mark.parametrize("opset", [9, 10])
def test_pads_that_are_an_attribute_are_folded(opset: int) -> None:
    model = padded(f"p = Pad<pads = {PADS}>(x) y = Conv<pads = [1, 1, 1, 1]>(p, w)", opset=opset)
    assert operators(folded(model)) == {"Conv": 1}


def test_one_pad_after_the_other_takes_two_rounds() -> None:
    model = padded("q = Pad(x, pads) p = Pad(q, pads) y = Conv(p, w)")
    assert operators(folded(folded(model))) == {"Conv": 1}


def test_several_that_stand_apart_are_all_folded() -> None:
    model = padded("p = Pad(x, pads) h = Conv(p, u) q = Pad(h, pads) y = Conv(q, w)", u=normal(3, 3, 3, 3))
    assert operators(folded(model, times=2)) == {"Conv": 2}


KEPT = {
    "read by something else too": ("p = Pad(x, pads) y = Conv(p, w) z = Relu(p)", {"outs": "y z"}),
    "read by no convolution": ("p = Pad(x, pads) y = MaxPool<kernel_shape = [2, 2]>(p)", {}),
    "read as a weight": ("p = Pad(x, pads) y = Conv(w, p)", {"shape": (2, 3, 1, 1), "pads": [0, 0, 1, 1, 0, 0, 1, 1]}),
    "read by a transposed convolution": ("p = Pad(x, pads) y = ConvTranspose(p, u)", {"u": normal(3, 2, 3, 3)}),
    "an output of the graph": ("p = Pad(x, pads) y = Conv(p, w)", {"outs": "y p"}),
    "by one": ("p = Pad(x, pads, one) y = Conv(p, w)", {}),
    "wide": ("p = Pad(x, pads) y = Conv(p, w)", {"pads": [0, 0, 5, 0, 0, 0, 4, 0]}),
    "cut off": ("p = Pad(x, pads) y = Conv(p, w)", {"pads": [0, 0, 1, 0, 0, 0, -1, 0]}),
    "of the batch": ("p = Pad(x, pads) y = Conv(p, w)", {"pads": [1, 0, 1, 1, 0, 0, 1, 1]}),
    "of the batch at its end": ("p = Pad(x, pads) y = Conv(p, w)", {"pads": [0, 0, 1, 1, 1, 0, 1, 1]}),
    "of channels": ("p = Pad(x, pads) y = Conv(p, u)", {"pads": [0, 1, 1, 1, 0, 0, 1, 1], "u": normal(2, 4, 3, 3)}),
    "of channels at their end": (
        "p = Pad(x, pads) y = Conv(p, u)", {"pads": [0, 0, 1, 1, 0, 1, 1, 1], "u": normal(2, 4, 3, 3)},
    ),
    "reflected": ('p = Pad<mode = "reflect">(x, pads) y = Conv(p, w)', {}),
    "repeated": ('p = Pad<mode = "edge">(x, pads) y = Conv(p, w)', {}),
    "before a shape that is kept": ('p = Pad(x, pads) y = Conv<auto_pad = "SAME_UPPER">(p, w)', {}),
    "before a shape that is kept, the other way": ('p = Pad(x, pads) y = Conv<auto_pad = "SAME_LOWER">(p, w)', {}),
    "before several, one of which cannot": (
        'p = Pad(x, pads) a = Conv<auto_pad = "SAME_UPPER">(p, w) y = GlobalMaxPool(a) z = Conv(p, w)',
        {"outs": "y z"},
    ),
    "along named axes": (
        "p = Pad(x, two, none, axes) y = Conv(p, w)", {"opset": 18, "two": np.array([2, 1]), "axes": np.array([3])},
    ),
    "by pads that are computed": ("s = Neg(pads) t = Neg(s) p = Pad(x, t) y = Conv(p, w)", {}),
    "by a value that is computed": ("n = Sub(one, one) p = Pad(x, pads, n) y = Conv(p, w)", {}),
}  # fmt: skip


@pytest.mark.parametrize(("body", "options"), KEPT.values(), ids=KEPT)
def test_padding_is_kept(body: str, options: dict[str, object]) -> None:
    model = padded(body, **options)  # type: ignore[arg-type]
    before = model.proto.SerializeToString(deterministic=True)
    outputs(model, {"x": normal(*[d.dim_value for d in model.proto.graph.input[0].type.tensor_type.shape.dim])})
    assert fold_padding(model) == 0
    assert model.proto.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", ["pads", "none"])
def test_what_a_caller_may_override_is_not_relied_on(name: str) -> None:
    model = padded("p = Pad(x, pads, none) y = Conv(p, w)")
    kind, shape = (TensorProto.INT64, [8]) if name == "pads" else (TensorProto.FLOAT, [])
    model.proto.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
    assert fold_padding(model) == 0


def test_another_value_at_an_old_opset_is_kept() -> None:
    model = padded(f"p = Pad<pads = {PADS}, value = 0.5>(x) y = Conv(p, w)", opset=9)
    assert fold_padding(model) == 0


def test_operators_of_others_are_left_alone() -> None:
    model = padded("p = Pad(x, pads) y = Conv(p, w)")
    model.proto.graph.node[0].domain = "mine"
    assert fold_padding(model) == 0
    model.proto.graph.node[0].domain, model.proto.graph.node[1].domain = "", "mine"
    assert fold_padding(model) == 0


def test_a_reader_in_a_branch_keeps_the_padding() -> None:
    model = parsed(
        """g (float[2, 3, 7, 6] x, bool c) => (float[A, B, C, D] y) { p = Pad(x, pads) y = If(c) <
            then_branch = t () => (float[A, B, C, D] a) { a = Conv(p, w) },
            else_branch = e () => (float[A, B, C, D] b) { b = Conv(x, w) }> }""",
        {"pads": np.array(PADS), "w": normal(4, 3, 3, 3)},
    )
    assert fold_padding(model) == 0


def test_padding_within_a_branch_is_folded_there() -> None:
    model = parsed(
        """g (float[2, 3, 7, 6] x, bool c) => (float[A, B, C, D] y) { y = If(c) <
            then_branch = t () => (float[A, B, C, D] a) { p = Pad(x, pads) a = Conv(p, w) },
            else_branch = e () => (float[A, B, C, D] b) { b = Conv(x, w) }> }""",
        {"pads": np.array(PADS), "w": normal(4, 3, 3, 3)},
    )
    feeds = {"x": normal(*PLANE), "c": np.array(True)}
    expected = outputs(model, feeds)["y"]
    assert fold_padding(model) == 1
    np.testing.assert_allclose(outputs(model, feeds)["y"], expected, rtol=1e-5, atol=1e-5)


def test_the_simplifier_folds_padding() -> None:
    text = "g (float[2, 3, 7, 6] x) => (float[2, 4, 9, 6] y) { p = Pad(x, pads) y = Conv(p, w) }"
    assert operators(simplified(text, {"pads": np.array(PADS), "w": normal(4, 3, 3, 3)})) == {"Conv": 1}


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=4, max_size=4), st.lists(st.integers(0, 2), min_size=4, max_size=4),
    st.integers(1, 3), st.integers(1, 2), st.sampled_from([1, 3]),
)  # fmt: skip
def test_any_padding_by_zero(pads: list[int], own: list[int], stride: int, dilation: int, group: int) -> None:
    model = padded(
        f"p = Pad(x, pads) y = Conv<pads = {own}, strides = [{stride}, {stride}], "
        f"dilations = [{dilation}, {dilation}], group = {group}>(p, u)",
        pads=[0, 0, *pads[:2], 0, 0, *pads[2:]], u=normal(3, 3 // group, 3, 2),
    )  # fmt: skip
    assert operators(folded(model)) == {"Conv": 1}


def test_constants_of_nodes_are_left_to_the_simplifier() -> None:
    model = padded("y = Conv(p, w)")
    constant = helper.make_node("Constant", [], ["pads"], value=numpy_helper.from_array(np.array(PADS)))
    for index, node in enumerate((constant, helper.make_node("Pad", ["x", "pads"], ["p"]))):
        model.proto.graph.node.insert(index, node)
    assert fold_padding(model) == 0
