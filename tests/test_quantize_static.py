"""Static quantization from the command line to the file: sample models, budgets, and outputs of unlike magnitude."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxcompress
from onnxcompress.attempts import Attempt, Manner, best, first_manner, following
from onnxcompress.passes.base import Planned
from onnxcompress.passes.quantize import Quantize
from onnxcompress.pipeline import Ran
from onnxcompress.report import BudgetResult, Fidelity, Latency, LayerRecord, Percentiles
from onnxcompress.stats.output_noise import NOISE_LIMIT
from onnxcompress.verify.budgets import Budgets
from onnxcompress.verify.verify import Verification
from tests.small_models import normal, operators, optimized, outputs, proto, sqnr, write

SAMPLES = Path(__file__).parent.parent / "sample_models"
DIGITS, CALIBRATION = SAMPLES / "digits-cnn.onnx", SAMPLES / "digits-cnn.calib.npz"
CONV = "Conv<pads = [1, 1, 1, 1]>"
CHAIN = f"g (float[n, 8, 14, 14] x) => (float[n, c, h0, w0] y) {{ h = {CONV}(x, w, b) r = Relu(h) y = {CONV}(r, v) }}"
WEIGHTS = {"w": normal(32, 8, 3, 3, seed=1, scale=0.2), "b": normal(32, seed=2), "v": normal(32, 32, 3, 3, seed=3)}

FEW = 24  # of the calibration calls, which is enough here
DATA = ("--data", CALIBRATION, "--limit", FEW)

Done = subprocess.CompletedProcess[str]


def cli(*arguments: object, cwd: Path) -> Done:
    words = [sys.executable, "-m", "onnxcompress", *map(str, arguments)]
    place = {**os.environ, "PYTHONPATH": str(SAMPLES.parent)}
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=cwd, env=place)


def calls(folder: Path, shape: tuple[int, ...] = (2, 8, 14, 14), count: int = 4, **more: np.ndarray) -> Path:
    """A folder of calls of x, with the same further inputs in each."""
    data = folder / "data"
    data.mkdir(exist_ok=True)
    for i in range(count):
        np.savez(data / f"{i}.npz", allow_pickle=False, x=normal(*shape, seed=i), **more)
    return data


def forms(result: onnxcompress.Result) -> dict[str, str]:
    return {r.name: r.form for r in result.report.steps[-1].layers if r.form}


def on_integers(result: onnxcompress.Result) -> int:
    return list(forms(result).values()).count("static")


# ------------------------------------------------------------------------- a sample model


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample model quantized from the command line, and the report."""
    folder = tmp_path_factory.mktemp("digits")
    done = cli("quantize", DIGITS, *DATA, "--no-verify", "-o", "auto.onnx", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def run(folder: Path, **options: Any) -> onnxcompress.Result:
    """The sample model quantized here, timed for a moment only."""
    options = {"scheme": "static", "seconds": 0.05, "threads": 1, "force": True, **options}
    return onnxcompress.quantize(DIGITS, folder / "out.onnx", data=CALIBRATION, limit=FEW, **options)


def fidelity(path: Path) -> float:
    report = onnxcompress.verify(DIGITS, path, data=CALIBRATION, seconds=0.02, threads=1)
    assert report.fidelity is not None
    return report.fidelity.sqnr_db


def accuracy(path: Path) -> float:
    with np.load(SAMPLES / "digits-cnn.eval.npz", allow_pickle=False) as stored:
        (name,) = {n for n in stored.files if n != "labels"}
        scores = next(iter(outputs(path, {name: stored[name]}).values()))
        return float((scores.argmax(-1).ravel() == stored["labels"].ravel()).mean())


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> onnxcompress.Result:
    """The sample model on static integers with no limit, however fast it is."""
    folder = tmp_path_factory.mktemp("free")
    return run(folder, verify=False)


def test_the_sample_model_keeps_its_accuracy(digits: Path, free: onnxcompress.Result) -> None:
    assert free.path is not None
    assert fidelity(free.path) > 25
    for path in (free.path, digits / "auto.onnx"):
        assert accuracy(path) >= accuracy(DIGITS) - 0.01


@pytest.mark.parametrize(("scheme", "threads"), [("auto", 1), ("static", 2)])
def test_it_runs_on_integers_and_the_same_run_gives_the_same_bytes(
    digits: Path, tmp_path: Path, scheme: str, threads: int
) -> None:
    """Another process, another number of threads."""
    path = run(tmp_path, scheme=scheme, threads=threads, verify=False).path
    assert path is not None
    assert stripped(path) == stripped(digits / "auto.onnx")
    found = optimized(path.read_bytes(), tmp_path)
    assert found["QLinearConv"] >= 4
    assert path.stat().st_size < 0.35 * DIGITS.stat().st_size


def stripped(path: Path) -> bytes:
    """A model without what it says of how it was made, which names the scheme."""
    model = onnx.load(path)
    if any(p.key == "onnxcompress.recipe" for p in model.metadata_props):
        del model.metadata_props[:]
    return bytes(model.SerializeToString())


def test_an_excluded_convolution_stays_in_float(free: onnxcompress.Result, tmp_path: Path) -> None:
    static = [r.name for r in free.report.steps[-1].layers if (r.op, r.form) == ("Conv", "static")]
    result = run(tmp_path, exclude=static[-1:], verify=False)
    assert result.path is not None
    (record,) = [r for r in result.report.steps[-1].layers if r.name == static[-1]]
    assert (record.status, record.form) == ("skipped", None)
    assert "excluded" in (record.reason or "")
    stored = {t.name: t for t in onnx.load(result.path).graph.initializer}
    assert stored[static[-1]].data_type == TensorProto.FLOAT
    assert on_integers(result) > 0


def test_sixteen_bits_for_other_processors(digits: Path, tmp_path: Path) -> None:
    """Everything has 16 bits between operators, more precise than 8, and nobody expects it to be faster here."""
    result = run(tmp_path, activation_bits=16)
    assert result.path is not None
    assert result.report.verdict == "passed"
    assert list(forms(result).values()).count("static16") >= 8
    model = onnx.load(result.path)
    zeros = {n.input[2] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    assert len(zeros) > 4
    kinds = {t.data_type for t in model.graph.initializer if t.name in zeros}
    assert kinds == {TensorProto.UINT16}
    assert fidelity(result.path) > fidelity(digits / "auto.onnx") + 3
    assert any("16 bits" in note for step in result.report.steps for note in step.notes)


def test_without_data_static_is_wrong_usage(tmp_path: Path) -> None:
    done = cli("quantize", DIGITS, "--scheme", "static", "-o", "out.onnx", cwd=tmp_path)
    assert done.returncode == 2
    assert "--data" in done.stderr
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------- limits


def test_a_limit_out_of_reach_is_rejected(tmp_path: Path) -> None:
    done = cli("quantize", DIGITS, *DATA, "-o", "out.onnx", "--json", "out.json", "--min-sqnr", 120,
               cwd=tmp_path)  # fmt: skip
    assert done.returncode == 1
    assert {p.name for p in tmp_path.iterdir()} == {"out.rejected.onnx", "out.json"}
    report = json.loads((tmp_path / "out.json").read_text())
    assert {b["name"] for b in report["budgets"] if not b["ok"]} == {"min_sqnr"}


def test_a_limit_within_reach_is_kept_with_fewer_operators_on_integers(
    free: onnxcompress.Result, tmp_path: Path
) -> None:
    assert free.path is not None
    limit = fidelity(free.path) + 4
    result = run(tmp_path, min_sqnr=limit)
    assert result.passed
    assert result.report.fidelity is not None
    assert result.report.fidelity.sqnr_db >= limit
    assert on_integers(result) < on_integers(free)


@pytest.mark.parametrize("limit", [-5000, -1.5, 0, 200])
def test_any_limit_is_taken_at_its_word(limit: float) -> None:
    manner = first_manner(Budgets(min_sqnr=limit))
    assert 0 < manner.noise_limit < float("inf")


@pytest.mark.parametrize(("cosine", "least", "most"), [(1.0, 0, 1e-12), (0.99, 0.01, 0.02), (-1.0, 1, 10)])
def test_a_limit_on_the_cosine_bounds_the_noise(cosine: float, least: float, most: float) -> None:
    assert least < first_manner(Budgets(min_cosine=cosine)).noise_limit <= most


def test_the_stricter_of_two_limits_counts() -> None:
    both = first_manner(Budgets(min_sqnr=30, min_cosine=0.9)).noise_limit
    assert both == first_manner(Budgets(min_sqnr=30)).noise_limit
    assert first_manner(Budgets(min_speedup=2)).noise_limit == NOISE_LIMIT


def attempt(sqnr_db: float, *, form: str = "static", manner: Manner | None = None, speedup: float = 2.0,
            ok: bool = True) -> Attempt:  # fmt: skip
    """What is known of an attempt once it was verified."""
    record = LayerRecord("w", "Conv", "done", None, form, 8, 4, 1)
    planned = Planned(record, None, lambda: None)  # type: ignore[arg-type]
    p50 = Percentiles(1.0, 1.0)
    latency = Latency(
        device="cpu", threads=1, batch=1, pairs=9, original_ms=p50, compressed_ms=p50, speedup=speedup,
        speedup_low=speedup, speedup_high=speedup, load_original_ms=1, load_compressed_ms=1,
    )  # fmt: skip
    fidelity = Fidelity("given", 4, sqnr_db, 0.99, 0.1, None, ())
    checks = () if ok else (BudgetResult("min_sqnr", 99.0, sqnr_db, ok=False),)
    found = Verification(fidelity, latency, {}, checks, (), passed=ok)
    return Attempt(manner or Manner(), None, [Ran(Quantize(), 0.0, [planned], (), ())], found)  # type: ignore[arg-type]


def test_outputs_further_off_than_foreseen_are_tried_again_with_less_noise() -> None:
    """A placement is chosen on a few calls; on all of them it may turn out worse."""
    far = attempt(11.7)
    stricter = following([far])
    assert stricter is not None
    assert stricter.chains
    assert stricter.noise_limit < far.manner.noise_limit
    better = attempt(24.0, manner=stricter, speedup=1.5)  # within what was wanted, if not within what was allowed
    assert following([far, better]) is None
    assert best([far, better]) is better


def test_where_less_noise_does_not_help_integers_are_given_up() -> None:
    tried = [attempt(11.7)]
    while (manner := following(tried)) is not None and manner.chains:
        tried.append(attempt(12.0, manner=manner))
    assert manner is not None
    assert (manner.chains, len(tried)) == (False, 3)
    tried.append(attempt(40.0, form="decode", manner=manner, speedup=1.0))
    assert following(tried) is None
    assert best(tried) is tried[-1]


@pytest.mark.parametrize("sqnr_db", [25.0, 22.0, 60.0, float("nan")])
def test_outputs_that_are_near_enough_are_kept(sqnr_db: float) -> None:
    assert following([attempt(sqnr_db)]) is None


def test_low_fidelity_that_is_asked_for_or_not_of_integers_is_kept() -> None:
    assert following([attempt(8.0, manner=first_manner(Budgets(min_sqnr=6)))]) is None
    assert following([attempt(8.0, form="decode")]) is None


# ------------------------------------------------------------------------- outputs of unlike magnitude


def test_scores_beside_boxes_are_not_drowned(tmp_path: Path) -> None:
    """Boxes in hundreds and scores below one in a single output, all behind the same integer layers."""
    model = proto(
        f"""g (float[n, 8, 14, 14] x) => (float[n, k, a, b] y) {{
            h = {CONV}(x, w, b0) r = Relu(h) e = {CONV}(r, v) f = Relu(e)
            p = Conv(f, wb) s = Conv(f, ws) boxes = Mul(p, large) scores = Sigmoid(s)
            y = Concat<axis = 1>(boxes, scores)
        }}""",
        {
            "w": WEIGHTS["w"], "b0": WEIGHTS["b"], "v": normal(32, 32, 3, 3, seed=3, scale=0.05),
            "wb": normal(4, 32, 1, 1, seed=4, scale=0.2), "ws": normal(10, 32, 1, 1, seed=5, scale=0.3),
            "large": np.full((1, 1, 1, 1), 300, np.float32),
        },
    )  # fmt: skip
    result = onnxcompress.quantize(
        write(model, tmp_path), data=calls(tmp_path), scheme="static", seconds=0.1, threads=1
    )  # fmt: skip
    assert result.passed
    assert result.path is not None
    feeds = {"x": normal(2, 8, 14, 14, seed=50)}
    expected, given = outputs(model, feeds)["y"], outputs(result.path, feeds)["y"]
    assert np.abs(expected[:, :4]).max() > 100
    assert min(sqnr(expected[:, :4], given[:, :4]), sqnr(expected[:, 4:], given[:, 4:])) > 20
    assert result.report.fidelity is not None
    assert len({o.group for o in result.report.fidelity.outputs} - {None}) == 2


@pytest.mark.parametrize("lowest", [-1e38, -np.inf])
def test_a_masked_attention_does_not_collapse(tmp_path: Path, lowest: float) -> None:
    """The mask is computed in the graph, so that its sum with the products is an operator that could be static."""
    model = proto(
        """g (float[n, 12, 64] x, bool[n, 1, 12] seen) => (float[n, 12, 64] y) {
            q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) t = Transpose<perm = [0, 2, 1]>(k)
            s = MatMul(q, t) bias = Where(seen, zero, lowest) masked = Add(s, bias)
            p = Softmax<axis = -1>(masked) o = MatMul(p, v) f = MatMul(o, wo) g0 = Relu(f) y = MatMul(g0, wu)
        }""",
        {n: normal(64, 64, seed=i, scale=0.12) for i, n in enumerate(("wq", "wk", "wv", "wo", "wu"))}
        | {"zero": np.array(0, np.float32), "lowest": np.array(lowest, np.float32)},
    )
    seen = np.ones((2, 1, 12), np.bool_)
    seen[1, 0, 7:] = False
    result = onnxcompress.quantize(
        write(model, tmp_path), data=calls(tmp_path, (2, 12, 64), seen=seen), scheme="static", seconds=0.1, threads=1
    )
    assert result.passed
    assert result.path is not None
    feeds = {"x": normal(2, 12, 64, seed=50), "seen": seen}
    assert sqnr(outputs(model, feeds)["y"], outputs(result.path, feeds)["y"]) > 20


# ------------------------------------------------------------------------- the graph


def test_a_weight_of_two_layers_is_written_once_and_loads_unverified(tmp_path: Path) -> None:
    """Heads of a detector share their convolutions."""
    model = proto(
        CHAIN.replace("y = ", "k = ").replace("(r, v)", f"(r, v) q = Relu(k) y = {CONV}(q, v)"), WEIGHTS
    )  # fmt: skip
    result = onnxcompress.quantize(
        write(model, tmp_path), data=calls(tmp_path), scheme="static", verify=False, threads=1
    )  # fmt: skip
    assert forms(result)["v"] == "static"
    assert result.path is not None
    feeds = {"x": normal(2, 8, 14, 14, seed=50)}
    assert sqnr(outputs(model, feeds)["y"], outputs(result.path, feeds)["y"]) > 30


def test_an_old_opset_is_raised_and_this_is_said(tmp_path: Path) -> None:
    model = proto(CHAIN, WEIGHTS, opset=9)
    result = onnxcompress.quantize(
        write(model, tmp_path), data=calls(tmp_path), scheme="static", verify=False, threads=1
    )  # fmt: skip
    assert set(forms(result).values()) == {"static"}
    assert any("opset raised from 9 to 13" in note for s in result.report.steps for note in s.notes)


def test_weights_of_seven_bits_where_sums_would_saturate(tmp_path: Path) -> None:
    path, data = write(proto(CHAIN, WEIGHTS), tmp_path), calls(tmp_path)
    largest = {}
    for reduce_range in (True, False):
        made = onnxcompress.quantize(
            path, data=data, scheme="static", reduce_range=reduce_range, verify=False, force=True, threads=1
        )
        assert made.path is not None
        assert forms(made)["v"] == "static"
        (codes,) = [t for t in onnx.load(made.path).graph.initializer if t.name == "v.q"]
        largest[reduce_range] = int(np.abs(onnx.numpy_helper.to_array(codes).astype(int)).max())
    assert 48 < largest[True] <= 64 < largest[False] <= 127


def test_an_input_that_may_be_overridden_is_not_baked_in(tmp_path: Path) -> None:
    model = proto(CHAIN, WEIGHTS)
    model.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [32]))
    result = onnxcompress.quantize(
        write(model, tmp_path), data=calls(tmp_path), scheme="static", seconds=0.1, threads=1
    )
    assert result.path is not None
    feeds = {"x": normal(2, 8, 14, 14, seed=50), "b": normal(32, seed=51)}
    assert sqnr(outputs(model, feeds)["y"], outputs(result.path, feeds)["y"]) > 20


def test_a_dry_run_with_data_shows_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    model = write(proto(CHAIN, WEIGHTS), tmp_path)
    result = onnxcompress.quantize(model, data=calls(tmp_path), scheme="static", dry_run=True, threads=1)
    assert set(forms(result).values()) == {"static"}
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx", "data"}
    assert operators(onnx.load(model))["QuantizeLinear"] == 0
