"""`onnxcompress reproduce`: a result made again from what it says of itself, and what is said where it is not."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxcompress
from onnxcompress.cli import app
from onnxcompress.forms import remembered, tune
from onnxcompress.forms.costs import Point, packed, parse_packed
from onnxcompress.graph import writer
from onnxcompress.reproduction import ReproduceOptions, reproduce
from onnxcompress.stats import cache
from tests.small_models import normal, proto, write

if TYPE_CHECKING:
    from onnxcompress.verify.verify import Verification

TEXT = "g (float[n, 64] x) => (float[n, 32] y) { h = MatMul(x, first) r = Relu(h) y = MatMul(r, second) }"
FAST: dict[str, Any] = {"seconds": 0.02}
RUN = "onnxcompress.run"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(proto(TEXT, {"first": normal(64, 48, seed=1), "second": normal(48, 32, seed=2)}), tmp_path)


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    path = tmp_path / "calls.npz"
    np.savez(path, x=normal(24, 64, seed=3) @ normal(64, 64, seed=4), labels=np.zeros(24, np.int64))
    return path


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, nothing may be timed and nothing remembered may be read."""

    def install() -> None:
        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("something was measured or read from the cache")

        monkeypatch.setattr(import_module("onnxcompress.verify.verify"), "paired", refuse)
        monkeypatch.setattr(tune, "measure", refuse)
        monkeypatch.setattr(remembered, "_read", refuse)
        monkeypatch.setattr(cache, "load", refuse)

    return install


def made(result: onnxcompress.Result) -> Path:
    assert result.path is not None
    return result.path


def said(path: Path) -> dict[str, Any]:
    entries = {p.key: p.value for p in onnx.load(path, load_external_data=False).metadata_props}
    found: dict[str, Any] = json.loads(entries[RUN])
    return found


# ------------------------------------------------------------------------- the same again


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("quantize", {}),
        ("quantize", {"bits": 4, "exclude": ("first",)}),
        ("quantize", {"scheme": "float16", "seed": 7}),
        ("quantize", {"verify": False}),
        ("quantize", {"min_sqnr": 30.0}),
        ("prune", {"sparsity": 0.7}),
        ("simplify", {}),
    ],
    ids=str,
)
def test_a_result_without_data_comes_out_again(
    model: Path, untimed: Callable[[], None], verb: str, options: dict[str, Any]
) -> None:
    output = made(getattr(onnxcompress, verb)(model, **options, **FAST))
    untimed()
    found = reproduce(output, model)
    assert (found.identical, found.difference, found.elsewhere) == (True, None, ())
    assert said(output).get("run", True) is options.get("verify", True)
    assert len(json.dumps(said(output))) < 250


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("quantize", {"scheme": "static"}),
        ("quantize", {"bits": 4, "limit": 8}),
        ("quantize", {"max_memory": 20_000}),
        ("prune", {}),
    ],
    ids=str,
)
def test_a_result_with_data_comes_out_again_whatever_they_are_called(
    model: Path, calls: Path, untimed: Callable[[], None], verb: str, options: dict[str, Any]
) -> None:
    output = made(getattr(onnxcompress, verb)(model, data=calls, **options, **FAST))
    assert str(calls.parent) not in json.dumps(said(output))
    untimed()
    moved, other = calls.with_name("moved.npz"), model.with_name("other.onnx")
    shutil.copy(calls, moved)
    shutil.copy(model, other)
    found = reproduce(output, other, ReproduceOptions(moved))
    assert found.identical, found.difference


def test_how_far_a_step_went_is_not_searched_again(tmp_path: Path, untimed: Callable[[], None]) -> None:
    text = "g (float[n, 256] x) => (float[n, 256] y) { h = MatMul(x, first) r = Relu(h) y = MatMul(r, second) }"
    weights = {name: normal(256, 40, seed=1) @ normal(40, 256, seed=2) for name in ("first", "second")}
    model = write(proto(text, weights), tmp_path)
    result = onnxcompress.factorize(model, min_sqnr=15.0, **FAST)
    assert any("was found by measuring" in note for note in result.report.notes)
    untimed()
    assert reproduce(made(result), model).identical


def test_the_attempt_that_was_kept_is_made_again(
    model: Path, monkeypatch: pytest.MonkeyPatch, untimed: Callable[[], None]
) -> None:
    module = import_module("onnxcompress.compress")
    real = module.verify

    def slow(*arguments: Any) -> Verification:
        found: Verification = real(*arguments)
        assert found.latency is not None
        latency = dataclasses.replace(found.latency, speedup=0.5, speedup_low=0.4, speedup_high=0.6)
        return dataclasses.replace(found, latency=latency)

    fast = made(onnxcompress.quantize(model, model.with_name("fast.onnx"), scheme="dynamic", verify=False))
    monkeypatch.setattr(module, "verify", slow)
    result = onnxcompress.quantize(model, scheme="dynamic", **FAST)
    assert any("decoded weights" in note for note in result.report.notes)
    assert said(fast).get("fast_forms", True)
    untimed()
    assert reproduce(made(result), model).identical


def test_forms_that_were_measured_are_chosen_by_what_was_measured_then(
    model: Path, calls: Path, monkeypatch: pytest.MonkeyPatch, untimed: Callable[[], None], tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def measure(shapes: list[tuple[int, int, int]]) -> Iterator[tuple[str, Point]]:
        for shape in shapes:
            for form in ("dynamic16", "dynamic8"):
                yield form, Point(*shape, 9.0 if shape[1] == 64 else 0.1)

    monkeypatch.setattr(tune, "measure", measure)
    output = made(onnxcompress.quantize(model, tune=True, data=calls, verify=False))
    assert "MatMulInteger" in {n.op_type for n in onnx.load(output).graph.node}
    assert len(said(output)["costs"]["shapes"]) == 2
    shutil.rmtree(tmp_path / "cache")
    untimed()
    assert reproduce(output, model, ReproduceOptions(calls)).identical


def test_costs_are_packed_without_loss() -> None:
    table = {"a": [Point(1, 2, 3, 1.5), Point(4, 5, 6, 0.5)], "b": [Point(4, 5, 6, 2.25)]}
    assert parse_packed(json.loads(json.dumps(packed(table)))) == table


def test_external_data_come_out_again_under_any_name(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "save", functools.partial(writer.save, single_file_limit=3000))
    output = made(onnxcompress.quantize(model, **FAST))
    data = [p for p in output.parent.iterdir() if p.suffix == ".data"]
    assert len(data) == 1
    renamed = output.rename(output.with_name("renamed.onnx"))
    assert reproduce(renamed, model).identical


# ------------------------------------------------------------------------- something else


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = app.run(["reproduce", *map(str, arguments)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_the_page_and_the_json(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = made(onnxcompress.quantize(model, **FAST))
    code, out, _ = run(capsys, output, "--from", model, "--json", model.with_name("found.json"))
    found = json.loads(model.with_name("found.json").read_text(encoding="utf-8"))
    assert code == 0
    assert out.splitlines()[-1].startswith(f"onnxcompress: PASSED {output}: reproduced byte for byte")
    assert found["identical"] is True
    assert found["sha256"][0] == found["sha256"][1]
    assert found["sha256"][0] in out
    assert [s["pass"] for s in found["recipe"]["steps"]] == ["simplify", "quantize"]
    assert not [p.name for p in model.parent.iterdir() if "part" in p.name]


def bumped(tensor: onnx.TensorProto) -> None:
    values = numpy_helper.to_array(tensor).copy()
    values.reshape(-1)[0] += 1
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def change_a_value(changed: onnx.ModelProto) -> str:
    bumped(changed.graph.initializer[0])
    return f"the tensor '{changed.graph.initializer[0].name}' has 1 other values of"


def change_a_node(changed: onnx.ModelProto) -> str:
    index = next(i for i, n in enumerate(changed.graph.node) if n.op_type == "Relu")
    changed.graph.node[index].op_type = "Sigmoid"
    return f"node {index} is Sigmoid"


def add_a_node(changed: onnx.ModelProto) -> str:
    changed.graph.node.append(helper.make_node("Identity", ["x"], ["unused"]))
    return f"there are {len(changed.graph.node)} nodes"


def rename_an_output(changed: onnx.ModelProto) -> str:
    changed.graph.doc_string = "another one"
    return "the rest of the file is not"


@pytest.mark.parametrize("change", [change_a_value, change_a_node, add_a_node, rename_an_output])
def test_the_first_difference_is_named(
    model: Path, capsys: pytest.CaptureFixture[str], change: Callable[[onnx.ModelProto], str]
) -> None:
    output = made(onnxcompress.quantize(model, **FAST))
    changed = onnx.load(output)
    told = change(changed)
    onnx.save(changed, output)
    code, out, _ = run(capsys, output, "--from", model)
    assert code == 1
    assert out.splitlines()[-1].startswith(f"onnxcompress: FAILED {output} is not reproduced: ")
    assert told in out.splitlines()[-1]


def with_entries(output: Path, **changes: str | None) -> Path:
    changed = onnx.load(output)
    entries = {p.key: p.value for p in changed.metadata_props}
    for name, value in changes.items():
        entries[f"onnxcompress.{name}"] = value or ""
        if value is None:
            entries.pop(f"onnxcompress.{name}")
    del changed.metadata_props[:]
    helper.set_model_props(changed, entries)
    path = output.with_name("changed.onnx")
    path.write_bytes(changed.SerializeToString())
    return path


def test_versions_that_differ_are_named(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = made(onnxcompress.quantize(model, **FAST))
    other = json.dumps({**said(output), "numpy": "1.0", "isa": "generic"})
    changed = with_entries(output, run=other)
    found = reproduce(changed, model)
    assert any(text.startswith("numpy 1.0 then, ") for text in found.elsewhere)
    assert any("of the kind generic then" in text for text in found.elsewhere)
    bumped_model = onnx.load(changed)
    bumped(bumped_model.graph.initializer[0])
    onnx.save(bumped_model, changed)
    code, out, _ = run(capsys, changed, "--from", model)
    assert code == 1
    assert "numpy 1.0 then" in out.splitlines()[-1]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"run": None}, "has no provenance"),
        ({"recipe": None}, "has no provenance"),
        ({"run": "{"}, "cannot be read"),
        ({"run": "[]"}, "cannot be read"),
        ({"recipe": '{"steps": [{"pass": "melt"}], "budgets": {}, "name": null}'}, "melt"),
        ({"recipe": '{"steps": [{"pass": "quantize", "bits": 99}], "budgets": {}, "name": null}'}, "cannot be read"),
        ({"seed": "seven"}, "cannot be read"),
    ],
    ids=str,
)
def test_provenance_that_cannot_be_gone_by_is_refused(
    model: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str | None], told: str
) -> None:
    changed = with_entries(made(onnxcompress.quantize(model, **FAST)), **changes)
    code, out, err = run(capsys, changed, "--from", model)
    assert code == 3
    assert told in err
    assert "\nhint: " in err
    assert out.splitlines()[-1].startswith("onnxcompress: FAILED")


def test_what_does_not_belong_together_is_refused(
    model: Path, calls: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with_data = made(onnxcompress.prune(model, tmp_path / "with.onnx", data=calls, **FAST))
    without = made(onnxcompress.prune(model, tmp_path / "without.onnx", **FAST))
    other = write(proto(TEXT, {"first": normal(64, 48, seed=1), "second": normal(48, 32)}), tmp_path, "other.onnx")
    np.savez(tmp_path / "few.npz", x=normal(5, 64))
    for code, told, *arguments in (
        (2, "made with calibration data", with_data, "--from", model),
        (2, "made without data", without, "--from", model, "--data", calls),
        (2, "do not exist", with_data, "--from", model, "--data", tmp_path / "none.npz"),
        (2, "does not exist", without, "--from", tmp_path / "none.onnx"),
        (2, "from", without),
        (3, "not what the result was made of", without, "--from", other),
        (3, "not those that", with_data, "--from", model, "--data", tmp_path / "few.npz"),
        (3, "has no provenance", model, "--from", model),
    ):
        found, _, err = run(capsys, *arguments)
        assert (found, told in err) == (code, True), err
