"""The rules of the house: style, types, the direction of imports, the size of things, what lies at the top.

The linters run here as well, so that the one test command tells the whole truth.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "onnxcompress"
MODULES = sorted(PACKAGE.rglob("*.py"))

LONGEST_MODULE = 300
LONGEST_FUNCTION = 40
TOP_LEVEL = {"LICENSE", "Makefile", "README.md", "onnxcompress", "pyproject.toml", "sample_models", "tests"}
MADE_BY_TOOLS = {"build", "dist"}

# Who alone may import what; the same rules stand in pyproject.toml, where the message tells the reason, but a
# file that is let off one rule there is let off all of them.
DOORS = {"onnxruntime": "runtime/*.py", "rich": "render/console*.py"}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    "command", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"], ["lint-imports"]], ids=" ".join
)
def test_linter_is_content(command: list[str]) -> None:
    program = Path(sys.executable).parent / command[0]
    done = subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def imported(module: Path) -> set[str]:
    """The top-level names of everything a module imports, at whatever depth of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize(("library", "door"), DOORS.items(), ids=DOORS)
def test_library_is_imported_behind_its_door_only(library: str, door: str) -> None:
    users = {path for path in MODULES if library in imported(path)}
    assert not {relative(path) for path in users - set(PACKAGE.glob(door))}


def test_modules_are_short() -> None:
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert not {path: lines for path, lines in lengths.items() if lines > LONGEST_MODULE}


def documented(function: ast.FunctionDef) -> int:
    """Lines of the docstring: one that tells shapes and what is raised makes no function longer."""
    first = function.body[0]
    told = ast.get_docstring(function) is not None and first.end_lineno is not None
    return first.end_lineno - first.lineno + 1 if told and first.end_lineno is not None else 0


def test_functions_are_short() -> None:
    long = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1 - documented(node)
                if lines > LONGEST_FUNCTION:
                    long[f"{relative(path)}:{node.lineno} {node.name}"] = lines
    assert not long


def test_every_module_says_what_it_is_about() -> None:
    assert not [relative(path) for path in MODULES if not ast.get_docstring(ast.parse(path.read_text("utf-8")))]


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    drawers = {"util", "utils", "helper", "helpers", "common", "misc"}
    assert not [relative(path) for path in MODULES if path.stem in drawers]


def test_top_level_is_kept_clear() -> None:
    visible = {entry.name for entry in ROOT.iterdir() if not entry.name.startswith(".")}
    assert visible - MADE_BY_TOOLS <= TOP_LEVEL
