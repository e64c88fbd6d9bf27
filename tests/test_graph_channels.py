"""Groups of channels: what has to be removed together is found, and what cannot be removed is refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given

from onnxcompress.graph.bodies import is_standard
from onnxcompress.graph.channels import Group, Refusal, channel_groups
from onnxcompress.graph.model import Model
from tests.backend_models import KINDS
from tests.backend_models import examples as backend_examples
from tests.channel_models import HEAD, REFUSED, ROWS, TAKEN, model_of
from tests.channel_oracle import check_all, check_cut, check_group, groups_of, inputs_of, possible
from tests.channel_strategies import networks, reshaped
from tests.simplifying import rewritten
from tests.small_models import examples, normal, outputs, proto

CORPUS = Path.home() / ".cache" / "onnx-corpus" / "models"
FEEDS = Path("/tmp/feeds")  # noqa: S108 (read where a developer has put some there)
SAMPLES = sorted((Path(__file__).parents[1] / "sample_models").glob("*.onnx"))
# model: layers in groups, layers refused
REAL = {
    "crepe-full": (6, 1),
    "ddddocr-det": (74, 9),
    "dnsmos": (9, 3),
    "efficientnet-lite0": (49, 1),
    "minilm-l3": (12, 6),
    "mnist-cnn": (3, 1),
    "ppocrv4-det": (63, 1),
    "ppocrv4-rec": (41, 6),
}


def layers_of(model: Model) -> list[str]:
    stored = {t.name for t in model.proto.graph.initializer}
    found = [n for n in model.proto.graph.node if is_standard(n, "Conv", "ConvTranspose", "MatMul", "Gemm")]
    return [
        n.name or n.output[0] for n in found if n.input[1] in stored or (n.op_type == "MatMul" and n.input[0] in stored)
    ]


def check_layers(model: Model) -> None:
    """Every layer is in one group, or has one refusal."""
    found = channel_groups(model)
    named = [name for f in found for name in (f.layers if isinstance(f, Group) else [f.label])]
    assert sorted(named) == sorted(layers_of(model))
    for refusal in [f for f in found if isinstance(f, Refusal)]:
        assert refusal.reason == refusal.reason.strip()
        assert not refusal.reason.endswith(".")


@pytest.mark.parametrize("name", TAKEN)
def test_groups(name: str) -> None:
    text, shapes, expected = TAKEN[name]
    made = model_of(text, shapes)
    model = Model(made)
    rng = np.random.default_rng(1)
    groups = check_all(model, [inputs_of(made, rng, size) for size in (1, 3)])
    assert [(g.kind, g.channels, len(g.layers)) for g in groups] == expected, channel_groups(model)
    check_layers(model)
    assert channel_groups(model) == channel_groups(Model(made))


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason(name: str) -> None:
    text, shapes, word = REFUSED[name]
    made = model_of(text, shapes)
    model = Model(made)
    outputs(made, inputs_of(made, np.random.default_rng(0), 1))  # it is a model that runs
    layer = next(n for n in made.graph.node if "v" in n.input and n.op_type in ("Conv", "MatMul", "Gemm"))
    refusal = next(f for f in channel_groups(model) if f.label == layer.output[0])
    assert isinstance(refusal, Refusal), refusal
    assert word in refusal.reason
    check_layers(model)
    check_all(model, [inputs_of(made, np.random.default_rng(0), 1)])


def only_group(text: str, shapes: dict[str, tuple[int, ...]]) -> Group:
    (group,) = groups_of(Model(model_of(text, shapes)))
    return group


def test_places_of_a_flattened_convolution() -> None:
    group = only_group(*TAKEN["flatten"][:2])
    slots = {slot.tensor: slot for slot in group.slots}
    assert {name: (s.axis, s.role, s.length) for name, s in slots.items()} == {
        "u": (0, "producer", 5), "w": (0, "consumer", 20),
    }  # fmt: skip
    assert slots["u"].places[3] == (3,)
    assert slots["w"].places[3] == (12, 13, 14, 15)
    (value,) = group.values
    assert (value.value, value.axis, value.places[3], value.consumers) == ("x", 1, (12, 13, 14, 15), ("y",))
    assert (group.label, group.layers) == ("h", ("h",))


def test_places_of_heads() -> None:
    group = only_group(*TAKEN["attention"][:2])
    slots = {slot.tensor: slot for slot in group.slots}
    assert set(slots) == {"wq", "bq", "wk", "bk", "wv", "bv", "w"}
    assert {s.places[2] for s in slots.values()} == {(6, 7, 8)}
    assert {name for name, s in slots.items() if s.role == "consumer"} == {"w"}
    assert {(c.reader, c.where, c.position, c.value) for c in group.counted} == {
        ("qr", 1, 2, 4), ("kr", 1, 2, 4), ("vr", 1, 2, 4), ("x", 1, 2, 12),
    }  # fmt: skip


def test_places_behind_a_concat_and_a_depthwise_convolution() -> None:
    first, second = groups_of(Model(model_of(*TAKEN["concat"][:2])))
    assert [s.places[1] for s in first.slots if s.tensor == "w"] == [(1,)]
    assert [s.places[1] for s in second.slots if s.tensor == "w"] == [(5,)]
    assert {s.role for s in second.slots if s.tensor in "sbmp"} == {"rider"}
    group = only_group(*TAKEN["depthwise with a multiplier"][:2])
    assert {s.tensor: (s.role, s.places[1]) for s in group.slots} == {
        "u": ("producer", (1,)), "v": ("rider", (3, 4, 5)), "c": ("rider", (3, 4, 5)), "w": ("consumer", (3, 4, 5)),
    }  # fmt: skip
    assert [(c.reader, c.where, c.value) for c in group.counted] == [("d", "group", 4)]


def test_initializers_that_a_caller_may_replace_are_left() -> None:
    text, shapes, _ = TAKEN["two convolutions"]
    for name in ("v", "c", "w"):
        made = model_of(text, shapes)
        tensor = next(t for t in made.graph.initializer if t.name == name)
        made.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
        assert not groups_of(Model(made))
        made.ir_version = 3  # every initializer has to be an input
        listed = {i.name for i in made.graph.input}
        for tensor in [t for t in made.graph.initializer if t.name not in listed]:
            made.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        assert len(groups_of(Model(made))) == 1
        check_all(Model(made), [inputs_of(made, np.random.default_rng(0))])


def test_shapes_that_the_file_claims_are_not_believed() -> None:
    made = model_of(HEAD + "{ h = Conv(a, v) s = Mul(h, b) y = Conv(s, w) }", {"v": (4, 3, 1, 1), "w": (4, 4, 1, 1)})
    made.graph.input.append(onnx.helper.make_tensor_value_info("b", 1, None))
    made.graph.value_info.append(onnx.helper.make_tensor_value_info("s", 1, [1, 4, 8, 8]))
    assert not groups_of(Model(made))


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 18])
def test_operator_sets(opset: int) -> None:
    cut = {True: "Slice<axes = [1], starts = [1], ends = [-1]>(q)", False: "Slice(q, i1, m1, i1)"}[opset < 10]
    part = {True: "Split<axis = 1, split = [3, 5]>(r)", False: "Split<axis = 1>(r, sizes)"}[opset < 13]
    mean = {True: "ReduceMean<axes = [2, 3], keepdims = 0>(k)", False: "ReduceMean<keepdims = 0>(k, hw)"}[opset < 18]
    room = {True: "Unsqueeze<axes = [2, 3]>(m)", False: "Unsqueeze(m, hw)"}[opset < 13]
    pads = {True: "Pad<pads = [0, 0, 1, 0, 0, 0, 0, 1]>(h)", False: "Pad(h, pads)"}[opset < 11]
    text = (
        f"{HEAD} {{ h = Conv(a, u) p = {pads} q = Softmax<axis = 2>(p) r = {cut} s, t = {part} o = Relu(s)"
        f" k = Concat<axis = 1>(t, o) m = {mean} n = {room} d, drop = Dropout(n) x = Squeeze<axes = [2, 3]>(d)"
        " y = Gemm(x, w, c) } # i1 = [1] m1 = [-1] sizes = [3, 5] hw = [2, 3] pads = [0, 0, 1, 0, 0, 0, 0, 1]"
    )
    if opset >= 13:
        text = text.replace("Squeeze<axes = [2, 3]>(d)", "Squeeze(d, hw)")
    shapes: dict[str, tuple[int, ...]] = {"u": (10, 3, 1, 1), "w": (8, 4), "c": (4,)}
    made = model_of(text, shapes, opset)
    read = {name for node in made.graph.node for name in node.input}
    for tensor in [t for t in made.graph.initializer if t.name not in read]:
        made.graph.initializer.remove(tensor)
    groups = check_all(Model(made), [inputs_of(made, np.random.default_rng(0))])
    assert [g.channels for g in groups] == [10]


@pytest.mark.parametrize("opset", [18, 21])
def test_group_normalization(opset: int) -> None:
    scales = (3,) if opset < 21 else (12,)
    made = model_of(
        HEAD + "{ h = Conv(a, u) n = GroupNormalization<num_groups = 3>(h, s, b) y = Conv(n, w) }",
        {"u": (12, 3, 1, 1), "s": scales, "b": scales, "w": (4, 12, 1, 1)}, opset,
    )  # fmt: skip
    (group,) = check_all(Model(made), [inputs_of(made, np.random.default_rng(0))])
    assert group.channels == 3


def test_weights_as_constant_nodes_and_in_half_precision() -> None:
    made = model_of(ROWS.replace("float", "float16") + "{ h = MatMul(a, v) r = Relu(h) y = MatMul(r, t) }", {})
    for name, shape in {"v": (12, 8), "t": (8, 3)}.items():
        tensor = onnx.numpy_helper.from_array(normal(*shape).astype(np.float16), name)
        made.graph.node.insert(0, onnx.helper.make_node("Constant", [], [name], value=tensor))
    (group,) = check_all(Model(made), [inputs_of(made, np.random.default_rng(0))], rtol=1e-2)
    assert group.channels == 8


def test_layers_in_bodies_and_functions_are_no_layers_of_the_main_graph() -> None:
    text = (
        '<ir_version: 8, opset_import: ["": 17, "local": 1]> '
        "g (float[N, 3, 8, 8] a, bool c) => (float[] y) { h = Conv(a, u) r = local.twice(h) i = If(c) <"
        "then_branch = t () => (float[] p) { p = Conv(a, w) }, else_branch = e () => (float[] q) { q = Conv(a, w) }>"
        " k = Conv(a, w) s = Add(i, k) y = Concat<axis = 1>(s, r) }"
        '<domain: "local", opset_import: ["": 17]> twice (x) => (z) { z = Add(x, x) }'
    )
    made = onnx.parser.parse_model(text)
    for name, shape in {"u": (4, 3, 1, 1), "w": (4, 3, 1, 1)}.items():
        made.graph.initializer.append(onnx.numpy_helper.from_array(normal(*shape), name))
    found = channel_groups(Model(made))
    assert [f.label for f in found] == ["h", "k"]
    assert all(isinstance(f, Refusal) for f in found)


@given(made=networks())
@examples(60)
def test_random_networks(made: onnx.ModelProto) -> None:
    model = Model(made)
    check_all(model, [inputs_of(made, np.random.default_rng(0))])
    check_layers(model)


@given(made=reshaped())
@examples(60)
def test_random_shapes(made: onnx.ModelProto) -> None:
    model = Model(made)
    check_all(model, [inputs_of(made, np.random.default_rng(0))])
    check_layers(model)


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow) if k == "node" else k for k in KINDS])
def test_models_of_the_backend_tests(kind: str) -> None:
    for example in backend_examples(kind):
        model = Model(onnx.ModelProto.FromString(example.model))
        check_layers(model)
        if groups_of(model):
            check_all(model, [example.feeds])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "inception_v2", "densenet121", "resnet50"])
def test_well_known_networks(name: str) -> None:
    made = with_weights(Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx")
    model = Model(made)
    rng = np.random.default_rng(1)
    groups = groups_of(model)
    feeds = [inputs_of(made, rng)]
    assert len(groups) > 10
    check_layers(model)
    check_cut(model, {group: possible(model, group, rng) for group in groups}, feeds, 1e-3)
    for group in groups[:: math.ceil(len(groups) / 4)]:
        check_group(model, group)
        check_cut(model, {group: possible(model, group, rng)}, feeds, 1e-3)


def with_weights(path: Path) -> onnx.ModelProto:
    """A model without weights with random ones in the place of its constants."""
    made: onnx.ModelProto = onnx.ModelProto.FromString(path.read_bytes())
    shapes = {t.name: onnx.numpy_helper.to_array(t) for t in made.graph.initializer}
    rng = np.random.default_rng(0)
    spread = {n.input[4] for n in made.graph.node if n.op_type == "BatchNormalization"}
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in made.graph.node]
    weights = {}
    for node in [n for n in nodes if n.op_type == "ConstantOfShape" and n.input[0] in shapes]:
        shape = [int(n) for n in shapes[node.input[0]]]
        values = rng.standard_normal(shape) * (math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.1)
        weights[node.output[0]] = np.asarray(np.abs(values) + 0.5 if node.output[0] in spread else values, np.float32)
    del made.graph.node[:]
    made.graph.node.extend(n for n in nodes if n.output[0] not in weights)
    made.graph.initializer.extend(onnx.numpy_helper.from_array(array, key) for key, array in weights.items())
    read = {name for n in made.graph.node for name in n.input}
    for tensor in [t for t in made.graph.initializer if t.name not in read]:
        made.graph.initializer.remove(tensor)
    stored = {t.name for t in made.graph.initializer}
    for info in [i for i in made.graph.input if i.name in stored or i.name not in read]:
        made.graph.input.remove(info)
    made.ir_version = max(made.ir_version, 4)
    return made


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_sample_models(path: Path) -> None:
    model = rewritten(Model.open(path)).model
    groups = check_all(model, [inputs_of(model.proto, np.random.default_rng(0), 8)])
    assert groups
    check_layers(model)


@pytest.mark.corpus
@pytest.mark.parametrize("name", REAL)
def test_real_models(name: str) -> None:
    model = rewritten(Model.open(CORPUS / name / "model.onnx")).model
    found = channel_groups(model)
    groups = [f for f in found if isinstance(f, Group)]
    refusals = [f for f in found if isinstance(f, Refusal)]
    taken = sum(len(group.layers) for group in groups)
    print(f"{name}: {taken} layers in {len(groups)} groups, {len(refusals)} refused")
    for refusal in refusals:
        print(f"    {refusal.label}: {refusal.reason}")
    assert (taken, len(refusals)) == REAL[name]
    check_layers(model)
    calls = sorted((FEEDS / name / "calib").glob("*.npz"))[:1]
    rng = np.random.default_rng(1)
    feeds = [dict(np.load(call)) for call in calls] or [inputs_of(model.proto, rng, 32)]
    check_cut(model, {group: possible(model, group, rng) for group in groups}, feeds, 1e-3)
    for group in groups:
        check_group(model, group)
        check_cut(model, {group: possible(model, group, rng)}, feeds)


def test_a_value_of_several_axes_of_channels() -> None:
    made = proto(
        "g (float[6, 4] a) => (float[] y) { h = Gemm(a, v) p = MatMul(h, t) q = Transpose(p) y = MatMul(q, w) }",
        {"v": normal(4, 8), "t": normal(8, 5), "w": normal(6, 3)},
    )
    groups = check_all(Model(made), [inputs_of(made, np.random.default_rng(0))])
    assert [g.channels for g in groups] == [8]
