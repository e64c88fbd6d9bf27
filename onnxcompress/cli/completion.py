"""What the shell offers behind Tab: models, folders and recipes. Verbs, options and choices Typer knows by itself.

Run at every Tab, so nothing heavy is imported. A function gives all that begins with what was typed; none at all leaves
it to the shell, which offers files then.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from onnxcompress.errors import UsageError

_RECIPES = Path(__file__).parents[1] / "recipes"
_REQUESTS = ("--install-completion", "--show-completion")
_VARIABLE = "_ONNXCOMPRESS_COMPLETE"
_SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
_DEEPEST = 8  # folders with nothing but a folder in them that are gone through at once


def models(incomplete: str) -> list[str]:
    """Model files, and folders of them."""
    return _paths(incomplete, ".onnx")


_Models = Annotated[list[str], typer.Argument(autocompletion=models)]


def recipe_files(incomplete: str) -> list[str]:
    """Recipe files, and folders of them."""
    return _paths(incomplete, ".toml")


def ready_recipes(incomplete: str) -> list[tuple[str, str]]:
    """Recipes that come with the package, each with what it is for."""
    return [
        (path.stem, path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# "))
        for path in sorted(_RECIPES.glob("*.toml"))
        if path.stem.startswith(incomplete)
    ]


def recipes(incomplete: str) -> list[str | tuple[str, str]]:
    """Recipes that come with the package, and recipe files."""
    return [*ready_recipes(incomplete), *recipe_files(incomplete)]


def prepare() -> None:
    """Mend what the shell asks by: it does so in variables of the environment, which Typer reads."""
    asked = os.environ.get(_VARIABLE)
    if asked is None:
        return
    os.environ["COLUMNS"] = "10000"  # what is said of a candidate is one line in zsh and fish, and Typer wraps it
    words, here = os.environ.get("COMP_WORDS", "").split("\n"), os.environ.get("COMP_CWORD", "")
    if "=" in words and here.isdigit():  # bash takes --option=value for three words
        os.environ["COMP_WORDS"] = "\n".join(word for word in words if word != "=")
        os.environ["COMP_CWORD"] = str(int(here) - words[: int(here)].count("="))


def requested(arguments: Sequence[str]) -> bool:
    """Whether the shell's part of completion is asked for."""
    return bool(arguments) and arguments[0] in _REQUESTS


def give(arguments: Sequence[str]) -> None:
    """Show the shell's part of completion, or put it where the shell reads it.

    The shell is that which runs the tool, or the one named behind the option.

    Raises:
        UsageError: there is no completion for the shell, or none can be told.
    """
    from typer._completion_shared import get_completion_script, install

    shell = arguments[1] if len(arguments) > 1 else _running_shell()
    if shell not in _SHELLS:
        what = f"there is no completion for {shell}" if shell else "this shell cannot be told"
        raise UsageError(what, f"Name one: {arguments[0]} {', '.join(_SHELLS[:-1])} or {_SHELLS[-1]}.")
    names = {"prog_name": "onnxcompress", "complete_var": _VARIABLE}
    if arguments[0] == "--show-completion":
        typer.echo(get_completion_script(shell=shell, **names))
        return
    _, path = install(shell, **names)
    typer.echo(f"Completion for {shell} was written to {path}. New shells know it.")


def _running_shell() -> str | None:
    """The shell that started this process, which Typer's own dependency can tell."""
    try:
        return str(importlib.import_module("shellingham").detect_shell()[0])
    except (ImportError, OSError):  # its failure to tell is one of these
        return None


def of_models(load: Callable[[], Any]) -> Any:
    """A command with nothing but models, in place of one that takes long to load; for its options it is loaded."""

    class Deferred(TyperCommand):
        def shell_complete(self, ctx: Any, incomplete: str) -> Any:
            return load().shell_complete(ctx, incomplete)

    def command(_: _Models) -> None:
        """Take models; the shell never runs it."""

    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    app.command(cls=Deferred, context_settings={"ignore_unknown_options": True})(command)
    return typer.main.get_command(app)


def _paths(incomplete: str, suffix: str) -> list[str]:
    import shlex

    found = list(_within(incomplete, suffix))
    for _ in range(_DEEPEST):
        if len(found) != 1 or not found[0].endswith("/"):
            break
        found = list(_within(found[0], suffix)) or found
    # In bash a name is taken as it stands: one that would have to be quoted is left to the shell itself.
    bare = not os.environ.get(_VARIABLE, "").endswith("bash")
    return found if bare or all(shlex.quote(name) == name for name in found) else []


def _within(typed: str, suffix: str) -> Iterator[str]:
    """Folders, with a stroke at their end, and files with that suffix, whose paths begin with what was typed."""
    cut = typed.rfind("/") + 1
    head, start = typed[:cut], typed[cut:]
    try:
        entries = sorted(Path(head or ".").iterdir())
    except OSError:
        return
    for entry in entries:
        if not entry.name.startswith(start) or (entry.name.startswith(".") and not start.startswith(".")):
            continue
        if entry.is_dir():
            yield f"{head}{entry.name}/"
        elif entry.suffix.lower() == suffix:
            yield head + entry.name
