"""Lines of text become the inputs of a model by its tokenizer."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from onnxcompress.data import DataOptions, load
from onnxcompress.data.names import text_role
from onnxcompress.errors import DataError, UsageError
from onnxcompress.graph.interface import Dim, ValueSpec

if TYPE_CHECKING:
    from pathlib import Path

tokenizers = pytest.importorskip("tokenizers")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "a", "b", "c")


def spec(name: str, *shape: Dim, dtype: object = np.int64) -> ValueSpec:
    return ValueSpec(name, np.dtype(dtype), 7, shape)  # type: ignore[call-overload]


IDS, MASK = spec("input_ids", "n", "s"), spec("attention_mask", "n", "s")


@pytest.fixture
def options(tmp_path: Path) -> DataOptions:
    from tokenizers import models, pre_tokenizers, processors

    words = models.WordLevel({w: i for i, w in enumerate(WORDS)}, WORDS[1])
    made = tokenizers.Tokenizer(words)
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    made.save(str(tmp_path / "tokenizer.json"))
    return DataOptions(tokenizer=tmp_path / "tokenizer.json")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "lines.txt").write_text("a b c\n\n  \nb\nzebra c\n", "utf-8")
    return tmp_path / "lines.txt"


def test_one_line_a_call_blank_lines_left_out(text: Path, options: DataOptions) -> None:
    dataset = load(text, [IDS, MASK], options)
    assert [f["input_ids"].tolist() for f in dataset] == [[[2, 3, 4, 5]], [[2, 4]], [[2, 1, 5]]]
    assert all(f["attention_mask"].all() for f in dataset)


def test_every_role_in_the_type_of_its_input(text: Path, options: DataOptions) -> None:
    inputs = [
        IDS,
        spec("attention_mask", "n", "s", dtype=np.float32),
        spec("token_type_ids", "n", "s", dtype=np.int32),
        spec("position_ids", "n", "s"),
    ]
    feeds = load(text, inputs, options).first()
    assert feeds["position_ids"].tolist() == [[0, 1, 2, 3]]
    assert feeds["token_type_ids"].dtype == np.int32
    assert not feeds["token_type_ids"].any()
    assert feeds["attention_mask"].dtype == np.float32


def test_fixed_length_pads_and_cuts(text: Path, options: DataOptions) -> None:
    calls = list(load(text, [spec("input_ids", 1, 3), spec("attention_mask", 1, 3)], options))
    assert [f["input_ids"].tolist() for f in calls] == [[[2, 3, 4]], [[2, 4, 0]], [[2, 1, 5]]]
    assert calls[1]["attention_mask"].tolist() == [[1, 1, 0]]


def test_long_lines_are_cut_at_128(tmp_path: Path, options: DataOptions) -> None:
    (tmp_path / "long.txt").write_text("a " * 500)
    assert load(tmp_path / "long.txt", [IDS], options).first()["input_ids"].shape == (1, 128)


def test_fixed_batch_and_labels(text: Path, options: DataOptions, tmp_path: Path) -> None:
    np.save(tmp_path / "l.npy", np.array([7, 8, 9]))
    options = DataOptions(tokenizer=options.tokenizer, labels=tmp_path / "l.npy")
    dataset = load(text, [spec("input_ids", 2, "s"), spec("attention_mask", 2, "s")], options)
    assert dataset.first()["input_ids"].tolist() == [[2, 3, 4, 5], [2, 4, 0, 0]]
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [7, 8]
    assert "1 of 3 lines" in dataset.notes[0]


@pytest.mark.parametrize(
    "inputs",
    [
        [IDS, spec("past_key_values.0.key", "n", 4, "p", 8, dtype=np.float32)],
        [IDS, spec("decoder_input_ids", "n", "s")],
        [MASK],
        [spec("input_ids", "s")],
    ],
)
def test_models_that_take_something_else(text: Path, options: DataOptions, inputs: list[ValueSpec]) -> None:
    with pytest.raises(DataError) as caught:
        load(text, inputs, options)
    assert ".npz" in caught.value.hint


def test_what_is_missing_or_broken(text: Path, options: DataOptions, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a tokenizer"):
        load(text, [IDS])
    with pytest.raises(UsageError, match="does not exist"):
        load(text, [IDS], DataOptions(tokenizer=tmp_path / "nowhere.json"))
    with pytest.raises(DataError, match="no tokenizer"):
        load(text, [IDS], DataOptions(tokenizer=text))
    (tmp_path / "blank.txt").write_text("\n \n")
    with pytest.raises(DataError, match="holds no text"):
        load(tmp_path / "blank.txt", [IDS], options)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="UTF-8"):
        load(tmp_path / "latin.txt", [IDS], options)


def test_without_tokenizers(text: Path, options: DataOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UsageError) as caught:
        load(text, [IDS], options)
    assert "onnxcompress[text]" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("input_ids", "ids"),
        ("token_ids", "ids"),
        ("attention_mask", "mask"),
        ("input_mask:0", "mask"),
        ("segment_ids", "types"),
        ("token_type_ids", "types"),
        ("position_ids", "positions"),
        ("pixel_values", None),
        ("input", None),
    ],
)
def test_roles_by_name(name: str, role: str | None) -> None:
    assert text_role(name) == role
