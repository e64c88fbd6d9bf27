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
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from onnxcompress.errors import UsageError
from onnxcompress.passes.base import Pass, find_pass, passes
from onnxcompress.verify.budgets import Budgets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_READY = "onnxcompress.recipes"


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
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise UsageError(f"the recipe {path} does not exist", "Check the path, or name a ready recipe.") from error
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the recipe {path} cannot be read", "Give a TOML file in UTF-8.") from error
        return cls.from_text(text, str(path), default_name=path.stem)

    @classmethod
    def from_text(cls, text: str, where: str, default_name: str | None = None) -> Recipe:
        """Read a recipe from TOML text; ``where`` names it in errors."""
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{where} is not valid TOML: {error}", "See `onnxcompress recipe init`.") from error
        _refuse_unknown(data, {"name", "steps", "budgets"}, where)
        steps = data.get("steps")
        if not isinstance(steps, list) or not steps or not all(isinstance(s, dict) for s in steps):
            raise UsageError(f"{where} has no steps", "Give at least one [[steps]] with a pass.")
        made = tuple(_step(step, f"{where}, step {number}") for number, step in enumerate(steps, 1))
        return cls(made, _budgets(data.get("budgets", {}), where), str(data.get("name", default_name)))

    @classmethod
    def ready(cls, name: str) -> Recipe:
        """A recipe that comes with the package.

        Raises:
            UsageError: there is none of that name.
        """
        if name not in ready_names():
            raise UsageError(
                f"there is no recipe file and no ready recipe called {name!r}",
                f"Ready recipes are: {', '.join(ready_names())}.",
            )
        text = resources.files(_READY).joinpath(f"{name}.toml").read_text(encoding="utf-8")
        return cls.from_text(text, f"the ready recipe {name}", default_name=name)

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


def _refuse_unknown(data: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(data) - known)
    if unknown:
        raise UsageError(f"{where} has the unknown key {unknown[0]!r}", f"Known are: {', '.join(sorted(known))}.")


def _step(data: Mapping[str, Any], where: str) -> Pass:
    name = data.get("pass")
    if not isinstance(name, str):
        raise UsageError(f"{where} names no pass", 'Write for example: pass = "quantize".')
    kind = find_pass(name)
    options = {k: v for k, v in data.items() if k != "pass"}
    _refuse_unknown(options, {f.name for f in dataclasses.fields(kind)}, f"{where} ({name})")
    made: Pass = _validated(kind, options, f"{where} ({name})")
    return made


def _budgets(data: object, where: str) -> Budgets:
    if not isinstance(data, dict):
        raise UsageError(f"the budgets of {where} are no table", "Write [budgets] and one line for each limit.")
    _refuse_unknown(data, {f.name for f in dataclasses.fields(Budgets)}, f"the budgets of {where}")
    made: Budgets = _validated(Budgets, data, f"the budgets of {where}")
    return made


def _validated(kind: Any, options: Mapping[str, Any], where: str) -> Any:
    try:
        return TypeAdapter(kind).validate_python(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"]) or "options"
        raise UsageError(f"{where}: {place}: {first['msg']}", "See `onnxcompress recipe schema`.") from error


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(v) for v in value)}]"
    if isinstance(value, str):
        escaped = "".join(c if c >= " " and c not in '"\\\x7f' else f"\\u{ord(c):04x}" for c in value)
        return f'"{escaped}"'
    return repr(value)
