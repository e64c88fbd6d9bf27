"""Recipes are files that come back as they were written, and whatever else a file says is refused in words."""

from __future__ import annotations

import dataclasses
import tomllib
from typing import TYPE_CHECKING, Any, get_type_hints

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from onnxcompress.errors import UsageError
from onnxcompress.passes.base import Pass, find_pass, passes
from onnxcompress.passes.quantize import Quantize
from onnxcompress.passes.simplify import Simplify
from onnxcompress.recipe import Recipe, json_schema, ready_names
from onnxcompress.verify.budgets import Budgets
from tests.small_models import check_words

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = json_schema()
fractions = st.none() | st.floats(0, 1)
budgets = st.builds(
    Budgets,
    max_drop=fractions,
    min_sqnr=st.none() | st.floats(-10, 100),
    min_cosine=fractions,
    min_speedup=st.none() | st.floats(0.1, 10),
    max_size=st.none() | st.floats(0.01, 1) | st.integers(2, 10**12).map(float),
    min_agreement=fractions,
)
patterns = st.lists(st.text(max_size=6), max_size=3).map(tuple)


@st.composite
def quantizers(draw: st.DrawFn) -> Quantize:
    options: dict[str, Any] = {
        "scheme": draw(st.sampled_from(["auto", "weight-only", "float16", "bfloat16"])),
        "target": draw(st.sampled_from(["cpu", "cuda", "portable"])),
        "include": draw(patterns),
        "exclude": draw(patterns),
        "requantize": draw(st.booleans()),
        "tune": draw(st.booleans()),
    }
    if options["scheme"] in ("float16", "bfloat16"):
        return Quantize(**options)
    options |= {"bits": draw(st.sampled_from([8, 4, 2])), "symmetric": draw(st.booleans())}
    if options["scheme"] == "auto":
        options["activation_bits"] = draw(st.sampled_from([None, 16, 8]))
    if draw(st.booleans()):
        options["per_tensor"] = True
    else:
        options["block_size"] = draw(st.sampled_from([None, 0, 8, 32, 128]))
    return Quantize(**options)


steps = st.lists(quantizers() | st.just(Simplify()), min_size=1, max_size=3)
names = st.none() | st.text(min_size=1, max_size=10)


@given(steps=steps, budgets=budgets, name=names)
def test_reading_is_the_inverse_of_writing(steps: list[Pass], budgets: Budgets, name: str | None) -> None:
    recipe = Recipe.of(steps, budgets, name)
    again = Recipe.from_text(recipe.to_toml(), "here", default_name=name)
    assert again.steps == recipe.steps
    assert again.budgets == recipe.budgets
    assert again.resolved()["steps"] == recipe.resolved()["steps"]
    if name is not None:
        assert again.name == name


@given(steps=steps, budgets=budgets, name=names)
def test_what_is_written_satisfies_the_schema(steps: list[Pass], budgets: Budgets, name: str | None) -> None:
    jsonschema.validate(tomllib.loads(Recipe.of(steps, budgets, name).to_toml()), SCHEMA)


def test_a_file_without_a_name_is_called_after_itself(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[[steps]]\npass = "simplify"\n')
    assert Recipe.from_toml(path).name == "mine"


def test_steps_keep_their_order_and_may_repeat() -> None:
    text = '[[steps]]\npass = "quantize"\nbits = 4\n[[steps]]\npass = "simplify"\n[[steps]]\npass = "quantize"\n'
    recipe = Recipe.from_text(text, "here")
    assert recipe.steps == (Quantize(bits=4), Simplify(), Quantize())
    assert [s["pass"] for s in recipe.resolved()["steps"]] == ["quantize", "simplify", "quantize"]


STEP = '[[steps]]\npass = "quantize"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no steps"),
        ("steps = []", "no steps"),
        ("steps = 3", "no steps"),
        ("steps = [1]", "no steps"),
        ("[[steps]]\n", "names no pass"),
        ("[[steps]]\npass = 3", "names no pass"),
        ('[[steps]]\npass = "shrink"', "shrink"),
        ("[[steps", "TOML"),
        (STEP + "bits = 9", "bits"),
        (STEP + 'bits = "four"', "bits"),
        (STEP + "bits = 8.5", "bits"),
        (STEP + "bit = 4", "'bit'"),
        (STEP + 'scheme = "fast"', "scheme"),
        (STEP + 'symmetric = "maybe"', "symmetric"),
        (STEP + 'exclude = "head"', "exclude"),
        (STEP + "exclude = [1]", "exclude"),
        (STEP + "block_size = 4", "block size"),
        (STEP + 'block_size = 32\nper_tensor = true', "exclude each other"),
        ("version = 1\n" + STEP, "'version'"),
        (STEP + "[budgets]\nmin_sqn = 3", "'min_sqn'"),
        (STEP + '[budgets]\nmin_sqnr = "high"', "min_sqnr"),
        (STEP + "[budgets]\nmax_drop = 5", "max_drop"),
        (STEP + "[budgets]\nmax_size = -1", "max_size"),
        ("budgets = 3\n" + STEP, "budgets"),
    ],
)  # fmt: skip
def test_faults_are_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        Recipe.from_toml(path)
    assert said in caught.value.message
    check_words(caught.value)


LONG = """# a comment
name = "mine"

[[steps]]
pass = "simplify"

[[steps]]
pass = "quantize"
bits = 8

[budgets]
min_sqnr = 20
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("bits = 8", "bits = 9", "recipe.toml, line 9, step 2 (quantize): bits"),
        ("bits = 8", "bit = 8", "recipe.toml, line 9, step 2 (quantize) has the unknown key 'bit'"),
        ("bits = 8", "block_size = 4", "recipe.toml, line 9, step 2 (quantize): a block size of 4"),
        ('pass = "simplify"', 'pass = "shrink"', "recipe.toml, line 5, step 1: there is no pass called 'shrink'"),
        ('pass = "simplify"', "check = true", "recipe.toml, line 4, step 1 names no pass"),
        ('name = "mine"', "version = 3", "recipe.toml, line 2 has the unknown key 'version'"),
        ("min_sqnr = 20", "min_sqnr = 900", "recipe.toml, line 12: min_sqnr"),
        ("min_sqnr = 20", "min_sqn = 20", "recipe.toml, line 12 has the unknown key 'min_sqn'"),
        ("[budgets]", "[budget]", "recipe.toml, line 11 has the unknown key 'budget'"),
        ("bits = 8", 'bits = 8\n[[steps]]\npass = "prune"', "recipe.toml, line 11, step 3: prune works on floats"),
        ("bits = 8", "bits = 8 8", "line 9"),
    ],
)
def test_faults_are_told_with_their_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(LONG)
    assert len(Recipe.from_toml(path).steps) == 2
    path.write_text(LONG.replace(old, new))
    with pytest.raises(UsageError) as caught:
        Recipe.from_toml(path)
    assert said in caught.value.message
    check_words(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"a\0b"], ids=["missing", "not UTF-8", "zero byte"])
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "recipe.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        Recipe.from_toml(path)
    assert str(path) in caught.value.message
    check_words(caught.value)


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        Recipe.from_toml(tmp_path)


# ------------------------------------------------------------------------- ready recipes and the schema


@pytest.mark.parametrize("name", ready_names())
def test_ready_recipes_are_valid(name: str) -> None:
    recipe = Recipe.ready(name)
    assert recipe.name == name
    assert recipe.steps
    jsonschema.validate(tomllib.loads(recipe.to_toml()), json_schema())
    assert Recipe.from_text(recipe.to_toml(), name) == recipe


def test_there_are_ready_recipes_and_others_are_refused() -> None:
    assert {"tiny", "fast", "safe", "edge-cnn", "encoder", "decoder-4bit", "small", "half"} == set(ready_names())
    with pytest.raises(UsageError, match="'huge'") as caught:
        Recipe.ready("huge")
    assert "fast" in caught.value.hint


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"steps": []},
        {"steps": [{}]},
        {"steps": [{"pass": "shrink"}]},
        {"steps": [{"pass": "quantize", "bits": 9}]},
        {"steps": [{"pass": "quantize", "unknown": 1}]},
        {"steps": [{"pass": "simplify"}], "more": 1},
        {"steps": [{"pass": "simplify"}], "budgets": {"min_sqn": 1}},
        {"steps": [{"pass": "simplify"}], "name": 3},
    ],
    ids=str,
)
def test_the_schema_refuses_what_the_reader_refuses(bad: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, json_schema())


@pytest.mark.parametrize("name", list(passes()))
def test_each_pass_has_typed_options_with_defaults_and_help(name: str) -> None:
    kind: Any = find_pass(name)
    assert kind.name == name
    assert kind.__doc__
    assert kind().tag
    hints = get_type_hints(kind)
    for option in dataclasses.fields(kind):
        assert option.metadata.get("help"), option.name
        assert hints[option.name]
    assert TypeAdapter(kind).validate_python({}) == kind()
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().name_of_something = 1


def test_an_unknown_pass_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError) as caught:
        find_pass("shrink")
    assert "quantize" in caught.value.hint


def test_resolved_holds_every_option() -> None:
    (step,) = Recipe.of([Quantize()]).resolved()["steps"]
    assert set(step) == {"pass", *(f.name for f in dataclasses.fields(Quantize))}
