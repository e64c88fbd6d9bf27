"""`onnxcompress compare` as a person or a script meets it: page, files and exit codes, in real processes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnxcompress.cli.app import run
from onnxcompress.comparing.compare import compare
from onnxcompress.comparing.facts import Comparison, Options
from onnxcompress.render import comparison, plain
from onnxcompress.render.comparison_files import html_page, markdown_page
from tests import comparing_models as made
from tests.small_models import write
from tests.test_cli_subprocess import FAILED, PASSED, cli, last
from tests.test_render_files import HOSTILE, parsed

NAMES = {
    "schema_version", "tool", "a", "b", "structure", "data", "calls", "threshold_db", "min_sqnr_db", "matched_by",
    "values", "unmatched", "outputs", "first_below", "first_bad", "worst_step", "failures", "notes", "verdict",
}  # fmt: skip


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A model and one with its second product damaged."""
    return write(made.chain(), tmp_path, "a.onnx"), write(made.scaled(made.chain(), "second"), tmp_path, "b.onnx")


def hostile(folder: Path) -> Comparison:
    """A comparison of models in which every name is an attack."""
    a = made.chain()
    for node in a.graph.node:
        node.name = f"{node.output[0]}{HOSTILE}"
        node.input[:] = [n if n == "x" else n + HOSTILE for n in node.input]
        node.output[:] = [n if n == "y" else n + HOSTILE for n in node.output]
    for tensor in a.graph.initializer:
        tensor.name += HOSTILE
    b = made.scaled(a, "second" + HOSTILE)
    b.metadata_props.add(key=HOSTILE, value=HOSTILE)
    paths = write(a, folder, "a.onnx"), write(b, folder, "b.onnx")
    return compare(*paths, Options(threads=1, min_sqnr=20))


# ------------------------------------------------------------------------- a whole run


def test_a_damaged_layer_on_the_page_and_in_the_files(pair: tuple[Path, Path]) -> None:
    folder = pair[0].parent
    files = ("--json", folder / "c.json", "--report", folder / "c.html", "--report", folder / "c.md")
    done = cli("compare", *pair, *files, "--report", folder / "again.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert "first bad layer: c (MatMul), -6.0 dB, -6.0 dB by itself" in done.stdout
    assert "on 8 calls with synthetic inputs, as no data was given" in done.stdout
    assert last(done.stdout).startswith(f"{PASSED} {pair[0]}, {pair[1]}: 5 values compared, ")
    assert last(done.stdout).endswith("first bad layer c (-6.0 dB)")
    found = json.loads((folder / "c.json").read_text())
    assert found.keys() == NAMES
    assert found == json.loads((folder / "again.json").read_text())
    assert found["first_bad"] == found["first_below"]
    assert [v["name"] for v in found["values"]] == ["a", "b", "c", "d", "y"]
    assert "first bad layer c" in (folder / "c.md").read_text()
    parsed((folder / "c.html").read_text())


def test_a_model_with_itself() -> None:
    done = cli("compare", made.DIGITS, made.DIGITS, "--data", made.DIGITS_DATA, "--limit", 2, "--min-sqnr", 100)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing differs in graph, stored tensors, interface or metadata" in done.stdout
    assert "the same model" in last(done.stdout)


def test_a_limit_that_does_not_hold_is_exit_code_1(pair: tuple[Path, Path]) -> None:
    done = cli("compare", *pair, "--min-sqnr", "5", "-q")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.count("\n") == 1
    assert done.stdout.startswith(f"{FAILED} output 'y' ")
    assert "'c' -6.0 dB" in done.stdout
    assert "(limit 5 dB)" in done.stdout
    assert cli("compare", *pair, "--min-sqnr", "-20", "-q").returncode == 0


def test_json_alone_on_standard_output(pair: tuple[Path, Path]) -> None:
    done = cli("compare", *pair, "--json", "-", "--min-sqnr", "5")
    assert done.returncode == 1
    assert json.loads(done.stdout)["verdict"] == "failed"
    assert last(done.stderr).startswith(FAILED)


def test_other_inputs_are_exit_code_3(pair: tuple[Path, Path]) -> None:
    done = cli("compare", pair[0], made.DIGITS)
    assert done.returncode == 3
    assert "error: the models take different inputs: only the first has 'x'" in done.stderr
    assert "hint: " in done.stderr
    assert last(done.stdout).startswith(FAILED)


@pytest.mark.parametrize(
    "words",
    [
        ("--report", "c.txt"),
        ("--report", "b.onnx"),
        ("--json", "b.onnx"),
        ("--labels", "l.npy"),
        ("--mean", "1,1,1"),
        ("--threshold", "nan"),
        ("--top", "0"),
        ("--data", "nowhere"),
        ("--data", "b.onnx"),
        ("-q", "-v"),
    ],
    ids=" ".join,
)
def test_refusals(
    words: tuple[str, ...],
    pair: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = pair[1].read_bytes()
    monkeypatch.chdir(pair[0].parent)
    assert run(["compare", "a.onnx", "b.onnx", *words]) == 2
    assert re.search(r"(?m)^error: .+\nhint: .+", capsys.readouterr().err)
    assert pair[1].read_bytes() == before


def test_files_that_are_no_models(pair: tuple[Path, Path]) -> None:
    (pair[0].parent / "c.onnx").write_bytes(b"nothing")
    assert cli("compare", pair[0], pair[0].parent / "c.onnx").returncode == 3
    assert cli("compare", pair[0], pair[0].parent / "d.onnx").returncode == 2


# ------------------------------------------------------------------------- the page


def test_rows_of_tables(pair: tuple[Path, Path]) -> None:
    found = compare(*pair, Options(threads=1))
    few, all_rows = (plain.text(comparison.blocks(found, top=top)) for top in (1, None))
    assert "values whose step adds most: 1 of 5" in few
    assert "all 5 compared values" in all_rows
    assert re.search(r"(?m)^  3  c ", few)
    assert len(re.findall(r"(?m)^  \d  [a-dy] ", all_rows)) == 5


def test_names_from_a_model_are_shown_harmless(tmp_path: Path) -> None:
    found = hostile(tmp_path)
    text = plain.text(comparison.blocks(found, top=None)) + comparison.closing(found)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert comparison.closing(found).count("\n") == 0


# ------------------------------------------------------------------------- HTML and Markdown


def test_html_is_one_sound_file_that_loads_nothing(tmp_path: Path) -> None:
    found = hostile(tmp_path)
    text = html_page(found)
    page = parsed(text)
    assert page.tags.count("script") == 1
    assert not {"img", "link", "iframe", "object"} & set(page.tags)
    assert not [a for a in page.attributes if a[0] in ("src", "href") or a[0].startswith("on")]
    assert "Content-Security-Policy" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    shown = " ".join(page.text)
    for part in ("failed", "SQNR along the graph", found.a.sha256, found.b.sha256, "metadata", "stored tensors"):
        assert part in shown


def test_the_drawing_has_a_dot_with_a_title_for_each_value(pair: tuple[Path, Path]) -> None:
    text = html_page(compare(*pair, Options(threads=1)))
    dots: list[tuple[Any, ...]] = re.findall(
        r'<circle class="(c\d)" cx="([\d.]+)" cy="([\d.]+)" r="[\d.]+" data-name="(\w)"><title>(.*?)</title>', text
    )
    assert len(dots) == text.count("<circle")
    main = [dot for dot in dots if dot[0] == "c1"]
    assert [dot[3] for dot in main] == ["a", "b", "c", "d", "y"]
    places = [float(dot[1]) for dot in main]
    assert places == sorted(places)
    heights = {dot[3]: float(dot[2]) for dot in main}
    assert heights["a"] == heights["b"] < heights["c"]  # exact is above, on a page that counts from the top
    assert "c (MatMul): -6.0 dB, by itself -6.0 dB" in [dot[4] for dot in main]
    assert "first bad: c" in text
    assert text.count('<th scope="row" class="name">') == 5


def test_markdown_has_no_foreign_marks(tmp_path: Path) -> None:
    text = markdown_page(hostile(tmp_path))
    assert text.startswith("### ❌ onnxcompress: FAILED")
    for mark in ("<", ">", "`", "["):
        assert not re.search(rf"(?<!\\){re.escape(mark)}", text)


def test_a_model_that_was_not_run_has_a_page(tmp_path: Path) -> None:
    foreign = made.chain()
    foreign.graph.node[1].op_type, foreign.graph.node[1].domain = "Unknown", "nobody"
    foreign.opset_import.append(onnx.helper.make_opsetid("nobody", 1))
    path = write(foreign, tmp_path)
    found = compare(path, path, Options(threads=1))
    assert "values not compared" in comparison.closing(found)
    parsed(html_page(found))
    assert "SQNR along" not in html_page(found)
