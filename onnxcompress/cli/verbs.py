"""The verbs: some of their own, and one for each pass.

A pass is one file, and its options are its fields, so the verb of a pass is made from the pass itself.
Importing all passes to list them would take longer than a person likes to wait for ``--help``. So the list is
read from the *text* of the files, name and first sentence, and a verb's module is imported once the verb is
called. Passes of other packages are known by their entry points; naming them needs no import either.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from onnxcompress.cli import completion

_PASSES = Path(__file__).parents[1] / "passes"
_GROUP = "onnxcompress.passes"
_ELSEWHERE = ("recover", "distill")  # passes that are options of other verbs, or have a verb of their own
_PASS = re.compile(
    r"""^@register\n(?:@.+\n)*class\ .+:\n
    \ {4}\"{3}(?P<summary>.+?)(?:\"{3}|\n)
    (?:.*\n)*?
    \ {4}name:\ ClassVar\[str\]\ =\ "(?P<name>.+)"$""",
    re.MULTILINE | re.VERBOSE,
)


@dataclass(frozen=True)
class Verb:
    """A command that is known by name and summary, and loaded when it is called."""

    name: str
    summary: str
    load: Callable[[], typer.Typer]
    of_pass: bool = False

    def command(self) -> TyperCommand:
        """The command as Typer lists it."""
        return _Deferred(self)


class _Deferred(TyperCommand):
    def __init__(self, verb: Verb) -> None:
        super().__init__(verb.name, help=verb.summary, short_help=verb.summary, rich_markup_mode=None)
        self._verb = verb

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of the command itself, which its invocation and its help go by.

        To load a pass takes longer than a person likes to wait for models to be completed, so that is done without.
        """
        completes = extra.get("resilient_parsing", False) and self._verb.of_pass
        if completes and not (args and args[-1].startswith("-")):
            command = completion.of_models(self._loaded)
        else:
            command = self._loaded()
        return command.make_context(info_name, args, parent, **extra)

    def _loaded(self) -> Any:
        command = typer.main.get_command(self._verb.load())
        command.name = self.name
        return command


def verbs() -> Iterator[Verb]:
    """All verbs, those of passes first."""
    yield from pass_verbs()
    yield Verb("compress", "Run the steps of a recipe, and hold the result to its budgets.", _own("compress"))
    yield Verb("distill", "Train a student to give what a teacher gives.", _own("distill"))
    yield Verb("merge", "Make several models one: mix their weights, or average their outputs.", _own("merge"))
    yield Verb("verify", "Compare a compressed model with its original.", _own("verify"))
    yield Verb("compare", "Show what differs between two models, and where their values part.", _own("compare"))
    yield Verb("reproduce", "Make a result again from its provenance, and compare the bytes.", _own("reproduce"))
    yield Verb("sensitivity", "Rank layers by the damage that compressing each does.", _own("sensitivity"))
    yield Verb("inspect", "Show what is in a model, and what each verb could do to it.", _own("inspect"))
    yield Verb("bench", "Measure speed and memory of models, side by side.", _own("bench"))
    yield Verb("doctor", "Look at this machine: what is fast here, and what stands in the way.", _own("doctor"))
    yield Verb("recipe", "Write and check recipes.", _own("recipe"))


def pass_verbs() -> Iterator[Verb]:
    """One verb for each pass of this package and of others."""
    for path in sorted(_PASSES.glob("*.py")):
        for found in _PASS.finditer(path.read_text(encoding="utf-8")):
            if found["name"] in _ELSEWHERE:
                continue
            yield Verb(found["name"], found["summary"], _pass(found["name"]), of_pass=True)
    if _others():
        from importlib.metadata import entry_points

        for entry in sorted(entry_points(group=_GROUP), key=lambda e: e.name):
            source = entry.dist.name if entry.dist else entry.value
            yield Verb(entry.name, f"A pass of the package {source}.", _pass(entry.name), of_pass=True)


def _others() -> bool:
    """Whether any package brings passes: `importlib.metadata` knows, but is slow to import."""
    listed = (f for p in sys.path for f in Path(p or ".").glob("*.*-info/entry_points.txt"))
    return any(f"[{_GROUP}]" in f.read_text(encoding="utf-8", errors="replace") for f in listed)


def _own(name: str) -> Callable[[], typer.Typer]:
    return lambda: importlib.import_module(f"onnxcompress.cli.{name}").app


def _pass(name: str) -> Callable[[], typer.Typer]:
    def load() -> typer.Typer:
        from onnxcompress.cli.one_pass import app_of

        return app_of(name)

    return load
