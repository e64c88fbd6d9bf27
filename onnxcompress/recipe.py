"""What was asked: an ordered list of steps, each a pass with its options, and budgets for the result.

A recipe is a TOML file::

    name = "mine"

    [[steps]]
    pass = "simplify"

    [[steps]]
    pass = "quantize"
    bits = 4
    exclude = ["lm_head*"]

    [budgets]
    min_sqnr = 20.0
    max_size = 0.2      # up to 1: a fraction of the original; else bytes

The verbs of single passes are recipes of one or two steps, so there is one way through the program.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from onnxcompress.data.bounded import read_bounded
from onnxcompress.errors import UsageError
from onnxcompress.passes.base import Pass, find_pass, passes
from onnxcompress.passes.learning import misplaced
from onnxcompress.verify.budgets import Budgets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

_READY = "onnxcompress.recipes"
_ON_FLOATS = ("prune", "factorize")
_MOST_BYTES, _MOST_STEPS = 128 << 10, 100
_MOST_DOTS = 2000  # in a line: tomllib keeps every beginning of a dotted key


@dataclass(frozen=True)
class Recipe:
    """Steps, in the order in which they run, and budgets."""

    steps: tuple[Pass, ...]
    budgets: Budgets = field(default_factory=Budgets)
    name: str | None = None

    @classmethod
    def of(cls, steps: Iterable[Pass], budgets: Budgets | None = None, name: str | None = None) -> Recipe:
        """A recipe of passes that are there already."""
        return cls(tuple(steps), budgets or Budgets(), name)

    @classmethod
    def from_toml(cls, path: Path) -> Recipe:
        """Read a recipe file.

        Raises:
            UsageError: it is missing, no TOML, or says what no recipe can say.
        """
        try:
            text = ((content := read_bounded(path, _MOST_BYTES)) or b"").decode("utf-8-sig")
        except FileNotFoundError as error:
            raise UsageError(f"the recipe {path} does not exist", "Check the path, or name a ready recipe.") from error
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the recipe {path} cannot be read", "Give a TOML file in UTF-8.") from error
        if content is None or any(line.count(".") > _MOST_DOTS for line in text.split("\n")):
            raise UsageError(f"{path} is far too large for a recipe", "See `onnxcompress recipe show fast`.")
        return cls.from_text(text, str(path), default_name=path.stem)

    @classmethod
    def from_text(cls, text: str, where: str, default_name: str | None = None) -> Recipe:
        """Read a recipe from TOML text; ``where`` names it in errors."""
        try:
            data = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # with numbers of thousands of digits, and brackets as deep
            raise UsageError(f"{where} is not valid TOML: {error}", "See `onnxcompress recipe show fast`.") from error
        lines = _Lines(text, where)
        _refuse_unknown(data, {"name", "steps", "budgets"}, lines.top)
        steps = data.get("steps")
        if not isinstance(steps, list) or not steps or not all(isinstance(s, dict) for s in steps):
            raise UsageError(f"{where} has no steps", "Give at least one [[steps]] with a pass.")
        if len(steps) > _MOST_STEPS:
            raise UsageError(f"{where} has {len(steps)} steps", f"Give at most {_MOST_STEPS}.")
        made = tuple(_step(step, functools.partial(lines.step, number)) for number, step in enumerate(steps, 1))
        _refuse_order(made, lines)
        budgets = _budgets(data.get("budgets", {}), where, lines.budgets)
        name = data.get("name", default_name)
        return cls(made, budgets, None if name is None else str(name))

    @classmethod
    def ready(cls, name: str) -> Recipe:
        """A recipe that comes with the package.

        Raises:
            UsageError: there is none of that name.
        """
        return cls.from_text(ready_text(name), f"the ready recipe {name}", default_name=name)

    @classmethod
    def from_resolved(cls, data: Mapping[str, Any], where: str) -> Recipe:
        """The inverse of `resolved`.

        Raises:
            UsageError: it says what this version does not know.
        """
        steps = tuple(_step(step, lambda _: where) for step in data["steps"])
        return cls(steps, _budgets(data["budgets"], where, lambda _: where), data["name"])

    def resolved(self) -> dict[str, Any]:
        """Everything that was asked, with defaults filled in, as plain values."""
        return {
            "name": self.name,
            "steps": [{"pass": step.name, **dataclasses.asdict(step)} for step in self.steps],  # type: ignore[call-overload]
            "budgets": self.budgets.asked,
        }

    def to_toml(self) -> str:
        """The recipe as a file: the inverse of `from_text`, with options at their defaults left out."""
        lines = [f"name = {_toml(self.name)}", ""] if self.name else []
        for step in self.steps:
            lines += ["[[steps]]", f"pass = {_toml(step.name)}"]
            for item in dataclasses.fields(step):  # type: ignore[arg-type]
                value = getattr(step, item.name)
                if value != item.default:
                    lines.append(f"{item.name} = {_toml(value)}")
            lines.append("")
        if self.budgets.asked:
            lines += [
                "[budgets]",
                *(f"{name} = {_toml(value)}" for name, value in self.budgets.asked.items()),
                "",
            ]
        return "\n".join(lines)


def ready_text(name: str) -> str:
    """The file of a recipe that comes with the package, comments and all.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in ready_names():
        raise UsageError(
            f"there is no recipe file and no ready recipe called {name!r}",
            f"Ready recipes are: {', '.join(ready_names())}.",
        )
    return resources.files(_READY).joinpath(f"{name}.toml").read_text(encoding="utf-8")


def ready_names() -> tuple[str, ...]:
    """Names of the recipes that come with the package."""
    files = resources.files(_READY).iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def json_schema() -> dict[str, Any]:
    """JSON Schema of recipe files, made from the passes that are registered."""
    steps = []
    for name, kind in passes().items():
        schema = TypeAdapter(kind).json_schema()
        schema["properties"] = {"pass": {"const": name}, **schema.get("properties", {})}
        steps.append({**schema, "required": ["pass"], "additionalProperties": False})
    budgets = TypeAdapter(Budgets).json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "onnxcompress recipe",
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "steps": {"type": "array", "minItems": 1, "items": {"oneOf": steps}},
            "budgets": {**budgets, "additionalProperties": False},
        },
        "required": ["steps"],
        "additionalProperties": False,
    }


_Where = Callable[[str | None], str]  # the place of a key in a recipe, or of the table that it would be in


class _Lines:
    """Where things stand in a recipe, for errors: ``recipe.toml, line 7``; without a line where none can be told."""

    def __init__(self, text: str, where: str) -> None:
        self._where = where
        self._rows = text.splitlines()
        self._tables = [(n, row.strip()) for n, row in enumerate(self._rows, 1) if row.lstrip().startswith("[")]
        self._steps = [n for n, row in self._tables if re.match(r"\[\[\s*[\"']?steps[\"']?\s*\]\]", row)]

    def top(self, key: str | None) -> str:
        """A key before all tables, or a table."""
        if key is not None:
            for number, row in self._tables:
                if re.match(rf"\[+\s*[\"']?{re.escape(key)}[\"']?\s*[\].]", row):
                    return f"{self._where}, line {number}"
        return self._at(self._key(1, key))

    def step(self, number: int, key: str | None) -> str:
        """A key of the step of that number, from 1, or the step."""
        start = self._steps[number - 1] if number <= len(self._steps) else None
        line = self._key(start + 1, key) if start is not None else None
        return f"{self._at(line or start)}, step {number}"

    def budgets(self, key: str | None) -> str:
        """A budget, or their table."""
        start = next((n for n, row in self._tables if re.match(r"\[\s*[\"']?budgets[\"']?\s*\]", row)), None)
        line = self._key(start + 1, key) if start is not None else None
        return self._at(line or start)

    def _key(self, first: int, key: str | None) -> int | None:
        """The line of a key in the table that goes on at that line."""
        for number, row in enumerate(self._rows[first - 1 :], first):
            if row.lstrip().startswith("["):
                break
            if key is not None and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", row):
                return number
        return None

    def _at(self, line: int | None) -> str:
        return self._where if line is None else f"{self._where}, line {line}"


def _refuse_unknown(data: Mapping[str, Any], known: set[str], where: _Where) -> None:
    unknown = sorted(set(data) - known)
    if unknown:
        raise UsageError(
            f"{where(unknown[0])} has the unknown key {unknown[0]!r}", f"Known are: {', '.join(sorted(known))}."
        )


def _refuse_order(steps: Sequence[Pass], lines: _Lines) -> None:
    """Refuse steps that find nothing to work on."""
    if (wrong := misplaced(steps)) is not None:
        raise UsageError(f"{lines.step(wrong[0] + 1, 'pass')}: {wrong[1]}", wrong[2])
    codes = None
    for number, step in enumerate(steps, 1):
        if step.name in _ON_FLOATS and codes is not None:
            raise UsageError(
                f"{lines.step(number, 'pass')}: {step.name} works on floats, and step {codes} makes codes of all",
                "Put quantize behind it.",
            )
        if step.name == "quantize" and not (getattr(step, "include", ()) or getattr(step, "exclude", ())):
            codes = codes or number


def _step(data: Mapping[str, Any], where: _Where) -> Pass:
    name = data.get("pass")
    if not isinstance(name, str):
        raise UsageError(f"{where('pass')} names no pass", 'Write for example: pass = "quantize".')
    try:
        kind = find_pass(name)
    except UsageError as error:
        raise UsageError(f"{where('pass')}: {error.message}", error.hint) from error
    options = {k: v for k, v in data.items() if k != "pass"}
    _refuse_unknown(options, {f.name for f in dataclasses.fields(kind)}, lambda key: f"{where(key)} ({name})")
    made: Pass = _validated(kind, options, lambda key: f"{where(key)} ({name})")
    return made


def _budgets(data: object, whole: str, where: _Where) -> Budgets:
    if not isinstance(data, dict):
        raise UsageError(f"the budgets of {whole} are no table", "Write [budgets] and one line for each limit.")
    _refuse_unknown(data, {f.name for f in dataclasses.fields(Budgets)}, where)
    made: Budgets = _validated(Budgets, data, where)
    return made


def _validated(kind: Any, options: Mapping[str, Any], where: _Where) -> Any:
    try:
        return TypeAdapter(kind).validate_python(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else None
        place = ".".join(str(p) for p in first["loc"]) or "options"
        raise UsageError(f"{where(key)}: {place}: {first['msg']}", "See `onnxcompress recipe schema`.") from error
    except UsageError as error:
        named = next((k for k in options if any(k.replace("_", c) in error.message for c in "_- ")), None)
        raise UsageError(f"{where(named)}: {error.message}", error.hint) from error


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(v) for v in value)}]"
    if isinstance(value, str):
        escaped = "".join(c if c >= " " and c not in '"\\\x7f' else f"\\u{ord(c):04x}" for c in value)
        return f'"{escaped}"'
    return repr(value)
