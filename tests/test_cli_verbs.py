"""The list of verbs, which is read from the text of the passes, tells the truth about them."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from onnxcompress.cli import verbs
from onnxcompress.cli.flags import flat
from onnxcompress.passes.base import passes

if TYPE_CHECKING:
    from pathlib import Path

LIST = {verb.name: verb for verb in verbs.verbs()}
PASSES = {verb.name: verb for verb in verbs.pass_verbs()}


def test_the_text_of_the_passes_says_what_the_registry_says() -> None:
    summaries = {name: (inspect.getdoc(kind) or "").splitlines()[0] for name, kind in passes().items()}
    listed = {name: verb.summary for name, verb in PASSES.items()}
    assert listed == {name: said for name, said in summaries.items() if name not in ("recover", "distill")}


@pytest.mark.parametrize("name", PASSES)
def test_every_option_of_a_pass_has_a_help_sentence(name: str) -> None:
    for item in dataclasses.fields(passes()[name]):
        assert str(item.metadata.get("help", "")).strip().endswith("."), f"{name}: {item.name}"


@pytest.mark.parametrize("name", PASSES)
def test_options_of_a_pass_are_parameters_with_its_defaults(name: str) -> None:
    kind = passes()[name]

    def command(options: object) -> None:
        assert options == kind()

    command.__annotations__["options"] = kind
    shown = flat(command)
    parameters = inspect.signature(shown).parameters
    assert list(parameters) == [f.name for f in dataclasses.fields(kind)]
    shown(**{name: parameter.default for name, parameter in parameters.items()})


def test_passes_are_found_in_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base.py").write_text("def register(kind): return kind\n")
    (tmp_path / "shrink.py").write_text(
        '"""A module."""\n\n\n@register\n@dataclass(frozen=True)\nclass Shrink(Base):\n'
        '    """Make it small."""\n\n'
        '    name: ClassVar[str] = "shrink"\n'
    )
    monkeypatch.setattr(verbs, "_PASSES", tmp_path)
    assert [(v.name, v.summary) for v in verbs.pass_verbs()] == [("shrink", "Make it small.")]


def test_passes_of_other_packages_are_verbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[onnxcompress.passes]\nsqueeze = other:Squeeze\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert ("squeeze", "A pass of the package other.") in [(v.name, v.summary) for v in verbs.pass_verbs()]


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in LIST)], ids=" ".join)
def test_help(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "onnxcompress", *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: onnxcompress" in done.stdout


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_imports_nothing_heavy(argument: str) -> None:
    code = (
        "import sys; from onnxcompress.cli.app import run; run([sys.argv[1]]);"
        "print([m for m in ('numpy', 'onnx', 'onnxruntime', 'pydantic', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, argument], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
