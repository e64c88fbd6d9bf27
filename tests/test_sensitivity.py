"""Layers ranked by damage, against models whose sensitive layer was planted, and against whole quantized models."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxcompress import api
from onnxcompress.errors import ModelError, UsageError
from onnxcompress.graph import writer
from onnxcompress.graph.model import Model
from onnxcompress.graph.scopes import Scopes
from onnxcompress.passes.selection import Selection
from onnxcompress.render import ranking as page
from onnxcompress.render.plain import text
from onnxcompress.search.candidates import Rounded, found
from onnxcompress.search.exclusion import Knowledge, fewest, pattern, shell, toml
from onnxcompress.search.lifting import lifted
from onnxcompress.search.ranking import sensitivity
from onnxcompress.search.sensitivity import LayerDamage, Options, Sensitivity
from onnxcompress.search.trials import Trials, portion
from onnxcompress.stats.output_groups import groups
from tests.small_models import check_words, normal, opened, outputs, proto, sqnr, write

SAMPLES = Path(__file__).parent.parent / "sample_models"
FOUR = """g (float[B, 64] x) => (float[B, 64] y) {
    a = MatMul(x, first) b = Relu(a) c = MatMul(b, second) d = Relu(c) e = MatMul(d, third) f = Relu(e)
    y = MatMul(f, fourth) }"""
NAMES = ("first", "second", "third", "fourth")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def planted(sensitive: str | None = None) -> dict[str, np.ndarray]:
    """Gaussian weights; the sensitive one has a giant in each channel, at an input that is hardly ever used."""
    made = {name: normal(64, 64, seed=i, scale=0.2) for i, name in enumerate(NAMES)}
    if sensitive is not None:
        made[sensitive][7] = 60.0
        if sensitive == "first":
            return made
        made[NAMES[NAMES.index(sensitive) - 1]][:, 7] = 0.0
    return made


def calls(folder: Path, silent: int | None = None) -> Path:
    x = normal(16, 64, seed=9)
    if silent is not None:
        x[:, silent] = 0.0
    np.savez(folder / "calls.npz", x=x)
    return folder / "calls.npz"


def ranked(folder: Path, weights: dict[str, np.ndarray], silent: int | None = None, **options: Any) -> Sensitivity:
    path = write(proto(FOUR, weights), folder)
    return sensitivity(path, Options(data=calls(folder, silent), threads=1, **options))


def by_name(result: Sensitivity) -> dict[str, LayerDamage]:
    return {layer.name: layer for layer in result.layers}


# ------------------------------------------------------------------------- ranking


@pytest.mark.parametrize("sensitive", ["first", "third"])
def test_a_planted_layer_is_the_worst(tmp_path: Path, sensitive: str) -> None:
    found = ranked(tmp_path, planted(sensitive), silent=7, activations=False)
    worst = found.layers[0]
    assert (worst.name, worst.source) == (sensitive, "measured")
    estimated = {layer.name: layer.estimated_noise or 0.0 for layer in found.layers}
    assert max(estimated, key=lambda name: estimated[name]) == sensitive
    assert {layer.source for layer in found.layers} == {"measured"}
    assert [layer.noise for layer in found.layers] == sorted((x.noise or 0.0 for x in found.layers), reverse=True)


def test_a_measured_figure_is_that_of_the_whole_model(tmp_path: Path) -> None:
    """With one layer rounded per channel by hand."""
    weights = planted()
    found = by_name(ranked(tmp_path, weights, activations=False))["second"]
    scale = np.abs(weights["second"]).max(0) / 127
    rounded = {**weights, "second": (np.rint(weights["second"] / scale) * scale).astype(np.float32)}
    x = np.load(tmp_path / "calls.npz")["x"][:: 15 // 7][:8]
    expected, given = (outputs(proto(FOUR, w), {"x": x})["y"] for w in (weights, rounded))
    assert -10 * math.log10(found.measured_noise or 0.0) == pytest.approx(sqnr(expected, given), abs=1.5)


def test_estimates_and_measurements_agree_in_order(tmp_path: Path) -> None:
    """Layers side by side, whose grids are the coarser the larger a weight is that meets zeros only."""
    graph = """g (float[B, 64] x) => (float[B, 64] y) {
        a = MatMul(x, first) b = MatMul(x, second) c = MatMul(x, third) d = MatMul(x, fourth) y = Sum(a, b, c, d) }"""
    weights = planted()
    for peak, name in zip((2.0, 30.0, 8.0, 100.0), NAMES, strict=True):
        weights[name][7] = peak
    path = write(proto(graph, weights), tmp_path)
    found = sensitivity(path, Options(data=calls(tmp_path, silent=7), threads=1, activations=False))
    assert [layer.name for layer in found.layers] == ["fourth", "second", "third", "first"]
    estimated = [layer.estimated_noise or 0.0 for layer in found.layers]
    assert estimated == sorted(estimated, reverse=True)


def test_a_channel_that_is_near_zero_by_chance_is_no_group_of_its_own() -> None:
    rng = np.random.default_rng(0)
    calls = [rng.normal(size=(1, 50)) for _ in range(8)]
    calls[0][0, 3] = 1e-6
    assert groups(calls) is None
    assert groups(calls[:1]) is None
    scores = [np.concatenate([c, c / 1000], axis=1) for c in calls]
    assert groups(scores) == (1, [list(range(50)), list(range(50, 100))])


def test_fewer_bits_do_more_damage(tmp_path: Path) -> None:
    noise = []
    for bits in (8, 4, 3, 2):
        found = ranked(tmp_path, planted(), bits=bits, seconds=5.0)
        noise.append(sum(layer.noise or 0.0 for layer in found.layers))
        assert {layer.bits for layer in found.layers} == {bits}
    assert noise == sorted(noise)


def test_a_dead_layer_does_no_damage_and_is_named(tmp_path: Path) -> None:
    weights = planted()
    weights["second"] = -np.abs(weights["second"])  # so what comes after is zero behind the Relu
    text = FOUR.replace("y = MatMul(f, fourth)", "z = MatMul(f, fourth) y = Add(z, x)")
    path = write(proto(text, weights), tmp_path)
    found = by_name(sensitivity(path, Options(data=calls(tmp_path), threads=1)))
    for name in ("third", "fourth"):
        assert (found[name].estimated_noise, found[name].noise) == (0.0, 0.0)
        assert found[name].reason == "the data never exercise it"


def test_static_integers_are_tried_where_they_can_be(tmp_path: Path) -> None:
    found = ranked(tmp_path, planted())
    assert all((x.static_noise or 0.0) >= (x.measured_noise or 0.0) > 0 for x in found.layers)
    without = ranked(tmp_path, planted(), activations=False)
    assert {layer.static_noise for layer in without.layers} == {None}


def test_without_time_one_layer_is_measured_and_the_others_are_estimated(tmp_path: Path) -> None:
    found = ranked(tmp_path, planted("third"), silent=7, seconds=1e-9)
    assert sorted(layer.source for layer in found.layers) == ["estimated"] * 3 + ["measured"]
    assert by_name(found)["third"].source == "measured"  # the one with the largest estimate
    assert by_name(found)["first"].noise == pytest.approx(found.gain * (by_name(found)["first"].estimated_noise or 0.0))
    assert "3 layers not measured" in text(page.blocks(found, None))


def test_lookups_recurrent_layers_bodies_and_constants_are_measured(tmp_path: Path) -> None:
    graph = """g (int64[B, 5] i, bool c) => (float[B, 5, 8] y) {
        e = Gather(table, i) t = Transpose<perm=[1,0,2]>(e) r, h = LSTM<hidden_size=16>(t, input, state)
        s = Squeeze(r, one) u = Transpose<perm=[1,0,2]>(s)
        y = If(c) <then_branch = g1 () => (float[B, 5, 8] p) { p = MatMul(u, then) },
                   else_branch = g2 () => (float[B, 5, 8] q) { q = MatMul(u, constant) }> }"""
    weights = {"table": normal(100, 32), "input": normal(1, 64, 32, seed=1), "state": normal(1, 64, 16, seed=2)}
    made = proto(graph, weights)
    made.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "one"))
    branches = [a.g for node in made.graph.node if node.op_type == "If" for a in node.attribute]
    wide = {name: np.tile(normal(16, 8, seed=3), (1, 1)) for name in ("then", "constant")}
    branches[0].initializer.append(numpy_helper.from_array(wide["then"], "then"))
    value = numpy_helper.from_array(wide["constant"], "value")
    branches[1].node.insert(0, helper.make_node("Constant", [], ["constant"], value=value))
    twin = lifted(opened(made, tmp_path))
    assert {"then", "constant"} <= {t.name for t in twin.proto.graph.initializer}
    feeds = {"i": np.arange(10).reshape(2, 5), "c": np.array(False)}
    writer.save(twin, tmp_path / "lifted.onnx", durable=False)
    before, after = (outputs(m, feeds)["y"] for m in (made, tmp_path / "lifted.onnx"))
    assert np.array_equal(before, after)
    np.savez(tmp_path / "call.npz", i=feeds["i"], c=feeds["c"])
    (tmp_path / "calls").mkdir()
    (tmp_path / "call.npz").rename(tmp_path / "calls" / "0.npz")
    found = by_name(sensitivity(tmp_path / "model.onnx", Options(data=tmp_path / "calls", simplify=False)))
    for name in ("table", "input", "state"):
        assert (found[name].source, found[name].estimated_noise) == ("measured", None)
    assert "tiny" in (found["then"].reason or "")


def test_weights_that_do_not_fit_in_memory_together_take_turns(tmp_path: Path) -> None:
    model = lifted(opened(proto(FOUR, planted()), tmp_path))
    fit = found(model, Scopes(model.proto), 8, (), ()).fit
    assert [len(portion(fit, limit)) for limit in (0, 16384, 40000, 1 << 20)] == [1, 1, 2, 4]
    knowledge = Knowledge(0.01, {})
    trials = Trials(model, [{"x": normal(4, 64)}], Rounded(), Options().progress, threads=1, session_bytes=40000)
    trials.run(fit, knowledge, math.inf)
    assert set(knowledge.measured) == set(NAMES)
    assert trials.together(fit) is None  # no session has all of them
    whole = Trials(model, [{"x": normal(4, 64)}], Rounded(room=0), Options().progress, threads=1)
    other = Knowledge(0.01, {})
    whole.run(fit, other, math.inf)
    assert other.measured == pytest.approx(knowledge.measured, rel=1e-3)
    assert (whole.together(fit) or 0.0) > max(other.measured.values())


# ------------------------------------------------------------------------- what to leave out


def test_the_fewest_that_bring_the_sum_below_the_limit() -> None:
    assert fewest([5.0, 3.0, 1.0, 1.0], 2.0) == 2
    assert fewest([5.0, 3.0, 1.0, 1.0], 10.0) == 0
    assert fewest([5.0, 3.0], 2.0) == 2
    assert fewest([], 1.0) == 0
    known = Knowledge(2.5, {"a": 1.0, "b": 2.0, "c": 4.0}, {"c": 8.0})
    assert known.gain == 2.0
    assert known.ranked(["a", "b", "c", "d"]) == [("c", 8.0), ("b", 4.0), ("a", 2.0)]
    assert known.excluded(["a", "b", "c", "d"]) == ["c", "b"]
    assert known.next(["a", "b", "c", "d"], ["a", "b", "d"]) == "d"  # nothing is known of it
    assert known.next(["a", "b", "c", "d"], ["a", "b"]) == "b"  # the last before the border


def test_the_exclude_list_holds_what_it_promises(tmp_path: Path) -> None:
    source, data = SAMPLES / "digits-cnn.onnx", SAMPLES / "digits-cnn.calib.npz"
    found = sensitivity(source, Options(bits=2, min_sqnr=12.0, data=data, threads=1, seconds=6.0))
    assert 0 < len(found.exclude) < len(found.ranked)
    assert found.rest.expected_noise <= 10**-1.2
    assert (found.rest.measured_noise or 0.0) <= 10**-1.2
    options: dict[str, Any] = {"bits": 2, "data": data, "seconds": 0.1, "scheme": "weight-only", "threads": 1}
    made = api.quantize(source, tmp_path / "out.onnx", exclude=found.exclude, min_sqnr=12.0, **options)
    assert made.passed


def test_a_name_becomes_a_pattern_that_matches_it_alone(tmp_path: Path) -> None:
    strange = ["a[0]*", "it's", '"q"\\', "x\x1b[2J", "-w", "ä b"]
    assert shell(["a", "it's", "-w"]) == "--exclude 'a' --exclude 'it'\"'\"'s' --exclude='-w'"
    nodes = " ".join(f"y{i} = MatMul(x, w{i})" for i in range(len(strange)))
    ports = ", ".join(f"float[B, 32] y{i}" for i in range(len(strange)))
    made = proto(f"g (float[B, 64] x) => ({ports}) {{ {nodes} }}", {f"w{i}": normal(64, 32) for i in range(6)})
    for i, name in enumerate(strange):
        made.graph.initializer[i].name = name
        made.graph.node[i].input[1] = name
    model = opened(made, tmp_path)
    patterns = [pattern(name) for name in strange]
    for name, one in zip(strange, patterns, strict=True):
        left = found(model, Scopes(model.proto), 8, (), (one,))
        assert [weight.name for weight, _ in left.left] == [name]
    assert "\x1b" not in shell(patterns) + toml(patterns)
    import tomllib

    assert tomllib.loads(toml(patterns)) == {"exclude": patterns}


def test_patterns_select_and_miss(tmp_path: Path) -> None:
    one = ranked(tmp_path, planted(), include=("fi*",), activations=False)
    assert [layer.name for layer in one.ranked] == ["first"]
    assert {layer.reason for layer in one.layers[1:]} == {"not included"}
    with pytest.raises(UsageError, match="matches no weight") as refused:
        ranked(tmp_path, planted(), exclude=("fifth",))
    check_words(refused.value)


def test_what_means_nothing_is_refused(tmp_path: Path) -> None:
    for wrong in ({"seconds": 0.0}, {"seconds": math.nan}, {"min_sqnr": math.inf}, {"bits": 4, "activations": True}):
        with pytest.raises(UsageError) as refused:
            Options(**wrong)
        check_words(refused.value)
    path = write(proto("g (float[B, 4] x) => (float[B, 4] y) { y = Relu(x) }"), tmp_path)
    with pytest.raises(ModelError, match="there is no layer to rank") as refused_model:
        sensitivity(path, Options())
    check_words(refused_model.value)


def test_without_data_it_says_so(tmp_path: Path) -> None:
    path = write(proto(FOUR, planted()), tmp_path)
    found = sensitivity(path, Options(threads=1, activations=False))
    assert found.data == "synthetic"
    assert any("synthetic inputs, as no data was given" in note for note in found.notes)


def test_json(tmp_path: Path) -> None:
    found = ranked(tmp_path, planted(), bits=2, min_sqnr=15.0)
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    layer = {"name": {"type": "string"}, "shape": {"type": "array"}, "measured_sqnr_db": {"type": "number"}}
    top = {
        "schema_version": {"const": "1.0"}, "exclude": {"type": "array", "items": {"type": "string"}},
        "layers": {"type": "array", "items": {"properties": layer, "required": list(layer)}},
        "model": {"required": ["path", "sha256"]}, "data": {"type": "string"},
        "rest": {"required": ["expected_sqnr_db"]},
    }  # fmt: skip
    jsonschema.Draft202012Validator({"properties": top, "required": list(top)}).validate(data)
    assert len(data["layers"]) == 4
    measured = data["layers"][0]
    assert measured["sqnr_db"] == pytest.approx(-10 * math.log10(measured["noise"]))


def test_tied_and_half_precision_weights(tmp_path: Path) -> None:
    graph = """g (int64[B, 5] i) => (float16[B, 5, 100] y) {
        e = Gather(table, i) t = Transpose<perm=[1,0]>(table) y = MatMul(e, t) }"""
    path = write(proto(graph, {"table": normal(100, 32).astype(np.float16)}), tmp_path)
    (layer,) = sensitivity(path, Options(threads=1)).ranked
    assert layer.op == "Gather+MatMul"
    assert 0 < (layer.measured_noise or 0.0) < 1e-2


def test_names_are_those_that_quantize_knows(tmp_path: Path) -> None:
    found = sensitivity(SAMPLES / "digits-cnn.onnx", Options(data=SAMPLES / "digits-cnn.calib.npz", seconds=0.1))
    model = api.simplify(SAMPLES / "digits-cnn.onnx", tmp_path / "s.onnx", verify=False).path
    assert model is not None
    from onnxcompress.graph.layers import weights

    known = Model.open(model)
    Selection([pattern(x.name) for x in found.layers], (), list(weights(known, Scopes(known.proto))))


def test_weights_as_inputs_of_an_old_ir(tmp_path: Path) -> None:
    made = proto(FOUR, planted(), ir=3)
    for name in NAMES:
        made.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 64]))
    found = sensitivity(write(made, tmp_path), Options(data=calls(tmp_path), simplify=False, seconds=2.0))
    assert {layer.source for layer in found.ranked} == {"measured"}
