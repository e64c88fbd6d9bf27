"""The sample models do what sample_models/README.md states."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tokenizers

import onnxcompress
from onnxcompress.errors import UsageError

FOLDER = Path(__file__).parent.parent / "sample_models"
NAMES = ["digits-cnn", "language-id"]
LARGEST_FOLDER_BYTES = 3_000_000


def stated(name: str) -> tuple[int, int]:
    """(right, of) in the model's row of the README's table."""
    row = re.search(rf"^\| `{name}` .*?(\d+) of (\d+)", (FOLDER / "README.md").read_text("utf-8"), re.MULTILINE)
    assert row is not None, f"no row for {name}"
    return int(row[1]), int(row[2])


def logits(name: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = ort.InferenceSession(FOLDER / f"{name}.onnx", providers=["CPUExecutionProvider"])
    result = session.run(None, feeds)[0]
    assert isinstance(result, np.ndarray)
    return result


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_is_the_stated_one(name: str) -> None:
    with np.load(FOLDER / f"{name}.eval.npz", allow_pickle=False) as arrays:
        feeds = dict(arrays)
    labels = feeds.pop("labels")
    right = int((logits(name, feeds).argmax(1) == labels).sum())
    # A processor with other instructions may round one sample to the other side.
    assert len(labels) == stated(name)[1]
    assert abs(right - stated(name)[0]) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_covers_the_labels_evenly(name: str) -> None:
    with np.load(FOLDER / f"{name}.eval.npz", allow_pickle=False) as arrays:
        counts = np.bincount(arrays["labels"])
    assert 3 * counts.min() > 2 * counts.max()


def test_models_hold_what_they_are_there_to_show() -> None:
    digits, language = (onnx.load(FOLDER / f"{name}.onnx") for name in NAMES)
    convolutions = [n for n in digits.graph.node if n.op_type == "Conv"]
    groups = [a.i for n in convolutions for a in n.attribute if a.name == "group"]
    assert max(groups) > 1
    assert {"BatchNormalization", "Add", "Gemm"} <= {n.op_type for n in digits.graph.node}
    assert {"MatMul", "Gather", "Softmax", "LayerNormalization"} <= {n.op_type for n in language.graph.node}
    for value in language.graph.input:
        assert [d.dim_param for d in value.type.tensor_type.shape.dim] == ["batch", "sequence"]


def test_padding_does_not_change_the_answer() -> None:
    with np.load(FOLDER / "language-id.eval.npz", allow_pickle=False) as arrays:
        ids, mask = arrays["input_ids"], arrays["attention_mask"]
    row = int(mask.sum(1).argmin())
    length = int(mask[row].sum())
    padded = logits("language-id", {"input_ids": ids[[row]], "attention_mask": mask[[row]]})
    bare = logits("language-id", {"input_ids": ids[[row], :length], "attention_mask": mask[[row], :length]})
    np.testing.assert_allclose(padded, bare, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Der Computer steht auf dem Tisch im anderen Zimmer.", 2),
        ("The computer is on the table in the other room.", 4),
        ("L'ordinateur est sur la table dans l'autre pièce.", 7),
        ("Компьютер стоит на столе в другой комнате.", 16),
    ],
    ids=["de", "en", "fr", "ru"],
)
def test_tokenizer_belongs_to_the_model(text: str, language: int) -> None:
    encoded = tokenizers.Tokenizer.from_file(str(FOLDER / "language-id.tokenizer.json")).encode(text)
    feeds = {"input_ids": np.array([encoded.ids]), "attention_mask": np.array([encoded.attention_mask])}
    assert logits("language-id", feeds).argmax() == language


def test_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < LARGEST_FOLDER_BYTES


def test_results_are_judged_on_other_data_than_calibrated_on(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "data": FOLDER / "digits-cnn.calib.npz",
        "limit": 2,
        "eval_data": FOLDER / "digits-cnn.eval.npz",
    }
    result = onnxcompress.quantize(FOLDER / "digits-cnn.onnx", tmp_path / "made.onnx", seconds=0.2, **options)
    found = result.report.fidelity
    assert found is not None
    assert (found.data, found.samples) == (str(options["eval_data"]), 599)
    assert result.report.metrics["accuracy"].original > 0.98


def test_data_to_judge_on_have_to_be_there_and_to_be_used(tmp_path: Path) -> None:
    model, target = FOLDER / "digits-cnn.onnx", tmp_path / "made.onnx"
    with pytest.raises(UsageError, match="do not exist"):
        onnxcompress.quantize(model, target, eval_data=tmp_path / "nothing")
    with pytest.raises(UsageError, match="--no-verify"):
        onnxcompress.quantize(model, target, eval_data=FOLDER / "digits-cnn.eval.npz", verify=False)
    assert not list(tmp_path.iterdir())
