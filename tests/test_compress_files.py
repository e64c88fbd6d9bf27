"""Which files a run makes, under which names, and what becomes of those that were there."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

import onnxcompress
from onnxcompress.errors import ModelError, OnnxCompressError, UsageError
from onnxcompress.graph import writer
from onnxcompress.graph.model import Model
from tests.small_models import check_words, examples, normal, opened, outputs, proto, sqnr, write

TEXT = "g (float[n, 64] x) => (float[n, 32] y) { h = MatMul(x, first) r = Relu(h) y = MatMul(r, second) }"
FAST: dict[str, Any] = {"seconds": 0.02}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    made = proto(TEXT, {"first": normal(64, 48, seed=1), "second": normal(48, 32, seed=2)})
    helper.set_model_props(made, {"author": "nobody"})
    return write(made, tmp_path)


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


# ------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "model.int8.onnx"),
        ({"bits": 4}, "model.int4.onnx"),
        ({"scheme": "float16"}, "model.float16.onnx"),
        ({"scheme": "dynamic"}, "model.int8.onnx"),
    ],
)
def test_the_output_is_named_after_the_input_and_lies_beside_it(
    model: Path, options: dict[str, Any], name: str
) -> None:
    before = files(model.parent)
    result = onnxcompress.quantize(model, **options, **FAST)
    assert result.path == model.with_name(name)
    assert files(model.parent).keys() == {"model.onnx", name}
    assert files(model.parent)["model.onnx"] == before["model.onnx"]


def test_a_recipe_names_its_output(model: Path) -> None:
    assert onnxcompress.compress(model, "safe", **FAST).path == model.with_name("model.safe.onnx")


@pytest.mark.parametrize("kind", [str, Path])
def test_paths_are_taken_as_text_or_as_paths(model: Path, kind: type) -> None:
    target = kind(model.with_name("mine.onnx"))
    assert onnxcompress.quantize(kind(model), target, **FAST).path == model.with_name("mine.onnx")


def test_the_output_may_not_be_the_input(model: Path) -> None:
    (model.parent / "link.onnx").symlink_to(model)
    (model.parent / "folder").mkdir()
    for name in ("model.onnx", "link.onnx", "folder/../model.onnx"):
        with pytest.raises(UsageError, match="is the input"):
            onnxcompress.quantize(model, model.parent / name, force=True, **FAST)


def test_an_output_that_exists_is_kept_unless_forced(model: Path) -> None:
    target = model.with_name("model.int8.onnx")
    target.write_bytes(b"precious")
    with pytest.raises(UsageError, match="exists") as caught:
        onnxcompress.quantize(model, **FAST)
    assert "--force" in caught.value.hint
    assert target.read_bytes() == b"precious"
    assert onnxcompress.quantize(model, force=True, **FAST).path == target
    onnx.load(target)


@pytest.mark.parametrize("place", ["none/out.onnx", "folder", "model.onnx/out.onnx"])
def test_places_that_cannot_hold_the_output_are_wrong_usage(model: Path, place: str) -> None:
    (model.parent / "folder").mkdir()
    with pytest.raises(UsageError) as caught:
        onnxcompress.quantize(model, model.parent / place, **FAST)
    check_words(caught.value)


def test_a_linked_output_is_replaced_and_what_it_led_to_is_not(model: Path) -> None:
    other = model.with_name("other.onnx")
    other.write_bytes(b"precious")
    link = model.with_name("link.onnx")
    link.symlink_to(other)
    onnxcompress.quantize(model, link, force=True, **FAST)
    assert other.read_bytes() == b"precious"
    onnx.load(link)


def test_a_hard_link_to_the_input_does_not_change_it(model: Path) -> None:
    before = model.read_bytes()
    twin = model.with_name("twin.onnx")
    os.link(model, twin)
    onnxcompress.quantize(model, twin, force=True, **FAST)
    assert model.read_bytes() == before


# ------------------------------------------------------------------------- failed budgets


@pytest.mark.parametrize(
    "budget",
    [{"min_sqnr": 150}, {"max_size": 0.01}, {"max_size": 100}, {"min_cosine": 1.0}, {"min_speedup": 500}],
    ids=str,
)
@pytest.mark.parametrize("existing", [True, False])
def test_a_failed_budget_leaves_the_target_alone(model: Path, budget: dict[str, Any], existing: bool) -> None:
    target = model.with_name("model.int8.onnx")
    if existing:
        target.write_bytes(b"precious")
    result = onnxcompress.quantize(model, force=True, **budget, **FAST)
    assert not result.passed
    assert result.report.verdict == "failed"
    assert result.path == model.with_name("model.int8.rejected.onnx")
    onnx.load(result.path)
    assert target.exists() == existing
    assert not existing or target.read_bytes() == b"precious"
    assert [b.ok for b in result.report.budgets if b.name in budget] == [False]
    assert len(files(model.parent)) == 2 + existing


def test_a_budget_that_holds_is_recorded(model: Path) -> None:
    result = onnxcompress.quantize(model, min_sqnr=20, max_size=0.9, **FAST)
    assert result.passed
    assert {b.name: b.ok for b in result.report.budgets} | {"min_sqnr": True, "max_size": True} == {
        b.name: b.ok for b in result.report.budgets
    }


# ------------------------------------------------------------------------- nothing is left behind


def test_a_dry_run_writes_nothing_and_says_what_it_would_do(model: Path) -> None:
    before = files(model.parent)
    result = onnxcompress.quantize(model, dry_run=True)
    assert files(model.parent) == before
    assert (result.path, result.report.compressed, result.report.fidelity) == (None, None, None)
    records = result.report.steps[-1].layers
    assert [r.status for r in records] == ["done", "done"]
    assert sum(r.bytes_after for r in records) < 0.4 * sum(r.bytes_before for r in records)


def test_a_dry_run_predicts_the_bytes_that_are_written(model: Path) -> None:
    dry = onnxcompress.quantize(model, dry_run=True, verify=False, simplify=False).report.steps[-1].layers
    wet = onnxcompress.quantize(model, verify=False, simplify=False).report
    assert [(r.name, r.bytes_after, r.form) for r in dry] == [
        (r.name, r.bytes_after, r.form) for r in wet.steps[-1].layers
    ]
    assert wet.compressed is not None
    assert sum(r.bytes_after for r in dry) < wet.compressed.size_bytes < sum(r.bytes_after for r in dry) + 1500


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError, ModelError("no", "no")], ids=str)
@pytest.mark.parametrize("place", ["verify", "save", "publish"])
def test_an_end_at_any_point_leaves_what_was_there(
    model: Path, monkeypatch: pytest.MonkeyPatch, error: Any, place: str
) -> None:
    model.with_name("model.int8.onnx").write_bytes(b"precious")
    before = files(model.parent)
    module = import_module("onnxcompress.compress") if place == "verify" else writer
    real = getattr(module, place)

    def end(*arguments: Any, **options: Any) -> Any:
        if place == "save" and len(arguments) and ".candidate" not in str(arguments[1]):
            return real(*arguments, **options)
        raise error

    monkeypatch.setattr(module, place, end)
    with pytest.raises((KeyboardInterrupt, MemoryError, RuntimeError, ModelError)):
        onnxcompress.quantize(model, force=True, **FAST)
    assert files(model.parent) == before


# ------------------------------------------------------------------------- the same again


@pytest.mark.parametrize(
    "options",
    [{}, {"bits": 4, "symmetric": False}, {"scheme": "dynamic"}, {"verify": False}, {"simplify": False}],
    ids=str,
)
def test_two_runs_give_the_same_bytes_whatever_the_output_is_called(
    model: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # on a busy machine one of them may be measured to be slower, and written another way
    monkeypatch.setattr(import_module("onnxcompress.compress"), "following", lambda _: None)
    first, second = (onnxcompress.quantize(model, model.with_name(n), **options, **FAST) for n in ("a.onnx", "b.onnx"))
    assert first.path is not None
    assert second.path is not None
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.report.compressed is not None
    assert second.report.compressed is not None
    assert first.report.compressed.sha256 == second.report.compressed.sha256


def test_other_processes_give_the_same_bytes(model: Path) -> None:
    """Sets of names have another order in every process."""
    for seed in ("1", "2"):
        subprocess.run(
            [
                *(sys.executable, "-c", "import sys, onnxcompress"
                  "\nonnxcompress.quantize(sys.argv[1], sys.argv[2], verify=False)"),
                *(model, model.with_name(f"{seed}.onnx")),
            ],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )  # fmt: skip
    assert model.with_name("1.onnx").read_bytes() == model.with_name("2.onnx").read_bytes()


def test_provenance_is_in_the_metadata_without_times_or_paths(model: Path) -> None:
    result = onnxcompress.quantize(model, bits=4, exclude=("second",), seed=7, **FAST)
    assert result.path is not None
    entries = {p.key: p.value for p in onnx.load(result.path).metadata_props}
    assert entries["author"] == "nobody"
    assert entries["onnxcompress.seed"] == "7"
    assert entries["onnxcompress.version"]
    recipe = json.loads(entries["onnxcompress.recipe"])
    assert [s["pass"] for s in recipe["steps"]] == ["simplify", "quantize"]
    assert (recipe["steps"][1]["bits"], recipe["steps"][1]["exclude"]) == (4, ["second"])
    assert str(model.parent) not in json.dumps(entries)


def test_provenance_of_an_earlier_run_is_replaced(model: Path) -> None:
    first = onnxcompress.simplify(model, model.with_name("a.onnx"), force=True, verify=False)
    assert first.path is not None
    second = onnxcompress.quantize(first.path, seed=3, simplify=False, verify=False)
    assert second.path is not None
    keys = [p.key for p in onnx.load(second.path).metadata_props]
    assert len(keys) == len(set(keys))
    assert "onnxcompress.quantize" in keys


# ------------------------------------------------------------------------- external data


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of more than 2 kB are written with external data."""
    monkeypatch.setattr(writer, "save", functools.partial(writer.save, single_file_limit=2000))


@pytest.mark.usefixtures("split")
def test_large_results_have_their_data_beside_them(model: Path) -> None:
    result = onnxcompress.quantize(model, **FAST)
    assert result.passed
    assert result.path is not None
    (data,) = set(files(model.parent)) - {"model.onnx", "model.int8.onnx"}
    assert data.startswith("model.int8.onnx.")
    assert result.report.compressed is not None
    assert result.report.compressed.size_bytes == result.path.stat().st_size + (model.parent / data).stat().st_size
    feeds = {"x": normal(5, 64)}
    assert sqnr(outputs(model, feeds)["y"], outputs(result.path, feeds)["y"]) > 36


@pytest.mark.usefixtures("split")
def test_data_of_a_replaced_result_go_and_those_of_a_rejected_one_stay(model: Path) -> None:
    first = onnxcompress.quantize(model, **FAST)
    kept = files(model.parent)
    rejected = onnxcompress.quantize(model, force=True, bits=4, output=first.path, min_sqnr=150, **FAST)
    assert rejected.path is not None
    assert {n: b for n, b in files(model.parent).items() if n in kept} == kept
    assert len(files(model.parent)) == len(kept) + 2
    Model.open(rejected.path)
    onnxcompress.quantize(model, force=True, bits=4, output=first.path, **FAST)
    assert first.path is not None
    Model.open(first.path)
    Model.open(rejected.path)
    assert set(kept) - set(files(model.parent)) == set(kept) - {"model.onnx", "model.int8.onnx"}


@pytest.mark.usefixtures("split")
def test_a_run_that_ends_in_verification_leaves_no_data(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(import_module("onnxcompress.compress"), "verify", end)
    with pytest.raises(KeyboardInterrupt):
        onnxcompress.quantize(model, **FAST)
    assert set(files(model.parent)) == {"model.onnx"}


def test_external_data_of_the_input_become_part_of_a_small_result(model: Path) -> None:
    folder = model.parent / "large"
    folder.mkdir()
    onnx.save(onnx.load(model), folder / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    before = files(folder)
    result = onnxcompress.quantize(folder / "m.onnx", **FAST)
    assert result.passed
    assert set(files(folder)) - set(before) == {"m.int8.onnx"}
    assert {n: b for n, b in files(folder).items() if n in before} == before
    assert result.report.original.size_bytes == sum(map(len, before.values()))


# ------------------------------------------------------------------------- damaged input


@examples(60)
@given(place=st.integers(0, 400), value=st.integers(0, 255), tail=st.booleans())
def test_a_damaged_model_is_refused_or_done_and_nothing_else(
    tmp_path: Path, place: int, value: int, tail: bool
) -> None:
    made = proto(TEXT, {"first": normal(64, 48, seed=1), "second": normal(48, 32, seed=2)})
    data = bytearray(made.SerializeToString())
    data[-1 - place if tail else place] = value
    path = tmp_path / "damaged.onnx"
    path.write_bytes(data)
    try:
        onnxcompress.quantize(path, force=True, verify=False)
    except OnnxCompressError as error:
        check_words(error)
    assert path.read_bytes() == data
    assert {p.name for p in tmp_path.iterdir()} <= {"damaged.onnx", "damaged.int8.onnx", "damaged.int8.rejected.onnx"}


def test_the_model_that_was_opened_is_not_changed_by_a_run(tmp_path: Path) -> None:
    from onnxcompress.passes.quantize import Quantize
    from onnxcompress.pipeline import Environment, run

    model = opened(proto(TEXT, {"first": normal(64, 48), "second": normal(48, 32)}), tmp_path)
    before = writer.to_bytes(model)
    run(model, [Quantize()], Environment())
    assert writer.to_bytes(model) == before
    assert np.isfinite(model.array(model.proto.graph.initializer[0])).all()


def test_a_step_that_finds_nothing_to_do_is_refused(model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "twice.toml"
    recipe.write_text('[[steps]]\npass = "quantize"\n\n[[steps]]\npass = "quantize"\nbits = 4\n')
    with pytest.raises(ModelError, match="can be compressed by quantize"):
        onnxcompress.compress(model, recipe, **FAST)
    assert files(tmp_path).keys() == {"model.onnx", "twice.toml"}


def test_the_output_is_no_device(model: Path) -> None:
    with pytest.raises(UsageError, match="no ordinary file"):
        onnxcompress.quantize(model, "/dev/null", force=True, **FAST)


def test_a_step_that_finds_nothing_beside_others_is_told(model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "both.toml"
    recipe.write_text('[[steps]]\npass = "factorize"\nenergy = 1.0\n\n[[steps]]\npass = "quantize"\n')
    result = onnxcompress.compress(model, recipe, **FAST)
    (note,) = [n for n in result.report.steps[0].notes if "changed nothing" in n]
    assert note.startswith("factorize changed nothing: ")
    assert any(layer.status == "done" for layer in result.report.steps[-1].layers)
