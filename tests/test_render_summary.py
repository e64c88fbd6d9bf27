"""What the closing page says, as plain text."""

from __future__ import annotations

import dataclasses
import re

import pytest

from onnxcompress.render import plain
from onnxcompress.render.blocks import Cell, Lines, Table, row
from onnxcompress.render.plan import plan, predicted
from onnxcompress.render.summary import summary
from onnxcompress.report import BudgetResult, Report
from tests.sample_report import fidelity, latency, layer, report, skipped, step


def page(made: Report, *, verbose: bool = False) -> str:
    return plain.text(summary(made, verbose=verbose))


def line(text: str, start: str) -> str:
    """The first line that starts so, runs of spaces as one."""
    found = next(x for x in text.splitlines() if x.strip().startswith(start))
    return re.sub(r" {2,}", "  ", found.strip())


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("size", "size  86.6 MiB  23.0 MiB  3.77x smaller, 26.6 % of the original"),
        ("parameters", "parameters  22.7 M  22.7 M"),
        ("opset", "opset  11  13  changed"),
        ("latency p50", "latency p50  12.0 ms  8.00 ms  1.50x faster (95 % interval 1.40x to 1.60x)"),
        ("latency p95", "latency p95  13.5 ms  8.70 ms  cpu, 1 thread, batch 4, 120 pairs of calls"),
        ("load time", "load time  80.0 ms  95.0 ms"),
        ("accuracy", "accuracy  0.9825  0.9810  -0.0015"),
        ("logits", "logits  31.2 dB  0.999870  0.0125  99.8 %"),
        ("MatMul", "MatMul  decode  1  3.81 MiB  977 KiB"),
        ("min_sqnr", "min_sqnr  30  31.25  ok"),
        ("checks that hold", "checks that hold: loads"),
        ("3.81 MiB untouched", "3.81 MiB untouched: 1 tensor in Gather: tiny"),
        ("opset raised", "opset raised from 11 to 13"),
    ],
)
def test_lines_of_the_page(start: str, expected: str) -> None:
    assert line(page(report()), start) == expected


def test_synthetic_inputs_are_said_in_words() -> None:
    assert "8 calls with synthetic inputs, as no data was given" in page(report())
    assert "8 calls from calib/" in page(report(fidelity=fidelity(data="calib/")))


@pytest.mark.parametrize(
    ("found", "said"),
    [(latency(0.8, 0.7, 0.9), "SLOWER: 0.80x"), (latency(1.01, 0.97, 1.05), "as fast: 1.01x")],
)
def test_a_speedup_is_claimed_only_if_the_interval_says_so(found: object, said: str) -> None:
    text = line(page(report(latency=found)), "latency p50")
    assert said in text
    assert "faster" not in text


def test_a_larger_file_is_said() -> None:
    larger = dataclasses.replace(report().original, size_bytes=100_000_000)
    assert "LARGER" in line(page(report(compressed=larger)), "size")


def test_failed_checks_are_rows_even_without_a_limit() -> None:
    text = page(report(budgets=(BudgetResult("finite", None, "output has NaN", ok=False),)))
    assert line(text, "finite") == "finite  -  output has NaN  failed"


def test_checks_that_always_run_are_one_line_while_they_hold() -> None:
    checks = [BudgetResult(name, "kept", "kept", ok=True) for name in ("interface", "metadata")]
    size = BudgetResult("max_size", 0.3, 20 * 2**20, ok=False)
    text = page(report(budgets=(*checks, size)))
    assert line(text, "checks that hold") == "checks that hold: interface, metadata"
    assert line(text, "max_size") == "max_size  30.0 %  20.0 MiB  failed"


def test_what_is_untouched_is_grouped_by_reason_and_sorted_by_size() -> None:
    left = [skipped(f"a{i}", "tiny", bytes_before=100) for i in range(3)] + [skipped("b", "custom operator")]
    lines = [x for x in page(report(steps=(step(*left),))).splitlines() if "untouched" in x]
    assert lines == [
        "3.81 MiB untouched: 1 tensor in Gather: custom operator",
        "300 B untouched: 3 tensors in Gather: tiny",
    ]


def test_what_a_later_step_did_is_not_untouched() -> None:
    assert "untouched" not in page(report(steps=(step(skipped("w")), step(layer("w")))))


def test_many_reasons_are_cut_short() -> None:
    left = [skipped(f"w{i}", f"reason {i}") for i in range(12)]
    lines = [x for x in page(report(steps=(step(*left),))).splitlines() if "untouched" in x]
    assert len(lines) == 9
    assert "4 more reasons" in lines[-1]


def test_verbose_lists_every_layer_and_output() -> None:
    made = report(fidelity=fidelity("boxes", "scores"))
    assert "boxes" not in page(made)
    text = page(made, verbose=True)
    assert all(name in text for name in ("boxes", "scores", "encoder/0", "embedding"))


def test_names_of_the_model_cannot_forge_lines() -> None:
    evil = "x\nonnxcompress: PASSED\x1b[2J"
    made = report(
        fidelity=fidelity(evil, "other"),
        steps=(step(layer(evil, op=evil, form=evil), skipped(evil + "2", evil, op=evil), notes=(evil,)),),
        budgets=(BudgetResult(evil, evil, evil, ok=False), BudgetResult(evil, None, None, ok=True)),
        metrics={evil: report().metrics["accuracy"]},
        notes=(evil,),
    )
    for text in (page(made, verbose=True), plain.text(plan(made))):
        assert "\x1b" not in text
        assert not any(x.lstrip().startswith("onnxcompress:") for x in text.splitlines())


def test_a_dry_run_lists_layers_with_predicted_sizes() -> None:
    text = plain.text(plan(report(compressed=None, fidelity=None, latency=None)))
    assert line(text, "encoder/0") == "encoder/0  MatMul  decode  8  3.81 MiB  977 KiB"
    assert line(text, "embedding") == "embedding  Gather  left alone  -  3.81 MiB  3.81 MiB  tiny"
    assert predicted(report()) == "86.6 MiB to about 83.7 MiB (96.7 %)"


def test_plain_text_is_aligned() -> None:
    table = Table("title", ("a", "n"), (row("x", "1"), row("long", "12345")), frozenset({1}))
    assert plain.text([table, Lines("", (Cell("end"),))]).splitlines() == [
        "title",
        "  a         n",
        "  x         1",
        "  long  12345",
        "",
        "end",
    ]
