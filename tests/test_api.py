"""The functions of the package, as a program calls them."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

import onnxcompress
from onnxcompress.errors import DataError, ModelError, RuntimeFailure, UsageError
from tests.small_models import check_words, normal, outputs, proto, sqnr, write

if TYPE_CHECKING:
    from pathlib import Path

FAST: dict[str, Any] = {"seconds": 0.02}
TEXT = "g (float[n, 64] x) => (float[n, 32] y) { h = MatMul(x, first) r = Relu(h) y = MatMul(r, second) }"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(proto(TEXT, {"first": normal(64, 48, seed=1), "second": normal(48, 32, seed=2)}), tmp_path)


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "order",
    ["quantize, compress, verify", "compress, quantize, verify", "verify, simplify, compress", "Recipe, compress"],
)
def test_functions_stay_functions_whatever_is_used_first(order: str) -> None:
    """Modules of the same names lie behind some of them, and importing those must not hide the functions."""
    code = f"import onnxcompress as o\nfor name in '{order}'.split(', '): assert callable(getattr(o, name)), name\n"
    python(code + "import onnxcompress.compress, onnxcompress.verify\nfrom onnxcompress.compress import RunOptions\n"
           "assert callable(o.compress) and callable(o.verify)\nfrom onnxcompress import compress, verify\n"
           "assert callable(compress) and callable(verify)")  # fmt: skip


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = ("numpy", "onnx", "onnxruntime", "pydantic", "typer", "rich")
    assert python(f"import onnxcompress, sys; print([m for m in {heavy} if m in sys.modules])") == "[]\n"


def test_all_that_is_promised_is_there() -> None:
    for name in onnxcompress.__all__:
        assert getattr(onnxcompress, name) is not None
    with pytest.raises(AttributeError, match="shrink"):
        onnxcompress.shrink  # noqa: B018


def test_quantize_returns_a_result_with_a_report(model: Path) -> None:
    result = onnxcompress.quantize(model, **FAST)
    report = result.report
    assert result.passed
    assert result.path is not None
    assert report.verdict == "passed"
    assert [s.pass_name for s in report.steps] == ["simplify", "quantize"]
    assert report.compressed is not None
    assert report.fidelity is not None
    assert report.latency is not None
    assert report.compressed.size_bytes == result.path.stat().st_size
    assert report.compressed.parameters == report.original.parameters
    assert report.fidelity.data == "synthetic"
    assert any("synthetic" in note for note in report.notes)
    assert report.latency.speedup_low <= report.latency.speedup <= report.latency.speedup_high
    errors = [r.error for r in report.steps[-1].layers if r.status == "done"]
    assert all(e is not None and e < 1e-3 for e in errors)


def test_options_reach_their_places(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=normal(3, 64))
    result = onnxcompress.quantize(
        model, simplify=False, bits=4, data=tmp_path / "x.npz", threads=1, seed=5, min_sqnr=3, limit=2, **FAST
    )
    report = result.report
    assert [s.pass_name for s in report.steps] == ["quantize"]
    assert report.steps[0].options["bits"] == 4
    assert report.fidelity is not None
    assert report.fidelity.data == str(tmp_path / "x.npz")
    assert report.latency is not None
    assert report.latency.threads == 1
    assert report.seed == 5
    assert report.recipe["budgets"] == {"min_sqnr": 3}


@pytest.mark.parametrize("function", ["quantize", "simplify", "verify", "compress"])
def test_an_unknown_option_is_wrong_usage(model: Path, function: str) -> None:
    second: dict[str, Any] = {"verify": model, "compress": "safe", "quantize": None, "simplify": None}
    with pytest.raises(UsageError, match="'colour'") as caught:
        getattr(onnxcompress, function)(model, second[function], colour="red")
    check_words(caught.value)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"data": "missing.npz"}, UsageError),
        ({"min_sqnr": 20, "verify": False}, UsageError),
        ({"max_drop": 3}, UsageError),
        ({"bits": 9}, Exception),
        ({"device": "cuda"}, RuntimeFailure),
    ],
    ids=str,
)
def test_wrong_options_write_nothing(model: Path, options: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        onnxcompress.quantize(model, **options)
    assert [p.name for p in model.parent.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    "arrays", [{"z": normal(3, 64)}, {"x": normal(3, 65)}, {"x": np.zeros((3, 64), np.int64)},
               {"x": np.full((3, 64), np.nan, np.float32)}],
    ids=["name", "shape", "type", "nan"],
)  # fmt: skip
def test_data_that_do_not_fit_write_nothing(model: Path, tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "x.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError) as caught:
        onnxcompress.quantize(model, data=tmp_path / "data" / "x.npz")
    check_words(caught.value)
    assert not list(tmp_path.glob("*.int8*"))


def test_a_missing_model_and_a_folder_are_wrong_usage(tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(UsageError):
            onnxcompress.quantize(path)


def test_an_empty_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    with pytest.raises(ModelError, match="empty"):
        onnxcompress.quantize(tmp_path / "m.onnx")


def test_verify_compares_two_files(model: Path) -> None:
    result = onnxcompress.quantize(model, **FAST)
    assert result.path is not None
    report = onnxcompress.verify(model, result.path, min_sqnr=20, **FAST)
    assert report.verdict == "passed"
    assert report.fidelity is not None
    assert result.report.fidelity is not None
    assert report.fidelity.sqnr_db == pytest.approx(result.report.fidelity.sqnr_db, abs=1)
    assert onnxcompress.verify(model, result.path, min_sqnr=190, **FAST).verdict == "failed"
    assert onnxcompress.verify(result.path, model, **FAST).verdict == "failed"  # larger than the original


def test_compress_takes_a_recipe_a_name_or_a_file(model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[[steps]]\npass = "quantize"\nbits = 4\n[budgets]\nmin_sqnr = 100\n')
    recipe = onnxcompress.Recipe.ready("half")
    for given in (recipe, "half"):
        result = onnxcompress.compress(model, given, force=True, **FAST)
        assert result.path == model.with_name("model.half.onnx")
    assert not onnxcompress.compress(model, tmp_path / "mine.toml", force=True, **FAST).passed
    lowered = onnxcompress.compress(model, str(tmp_path / "mine.toml"), force=True, min_sqnr=1, **FAST)
    assert lowered.passed
    assert lowered.report.recipe["budgets"] == {"min_sqnr": 1}
    with pytest.raises(UsageError, match="no recipe"):
        onnxcompress.compress(model, "unknown")


def test_simplify_alone_changes_no_weights(model: Path) -> None:
    made = onnx.load(model)
    made.graph.node.insert(2, onnx.helper.make_node("Identity", ["r"], ["r2"]))
    made.graph.node[3].input[0] = "r2"
    path = write(made, model.parent, "idle.onnx")
    result = onnxcompress.simplify(path, **FAST)
    assert result.passed
    assert result.path == model.with_name("idle.simplified.onnx")
    feeds = {"x": normal(4, 64)}
    assert sqnr(outputs(path, feeds)["y"], outputs(result.path, feeds)["y"]) > 100


def test_each_pass_has_a_function(model: Path) -> None:
    sparse = onnxcompress.prune(model, model.with_name("s.onnx"), sparsity=0.75, verify=False)
    assert sparse.path is not None
    assert sparse.path.stat().st_size < 0.7 * model.stat().st_size
    thin = onnxcompress.factorize(model, model.with_name("t.onnx"), rank=8, verify=False)
    assert thin.report.steps[-1].options["rank"] == 8
    assert thin.path is not None
    assert len(onnx.load(thin.path).graph.node) == 5
    with pytest.raises(UsageError, match="'bits'"):
        onnxcompress.prune(model, bits=4)
