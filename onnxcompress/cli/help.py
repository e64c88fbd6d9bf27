"""The help of a command: options in groups, then examples. As plain text, so that it shows at once."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand, TyperGroup

from onnxcompress.cli.examples import EXAMPLES

_REST = "Options"
_WIDEST = 76  # columns of an option and its choices, which are indented by two
_SEVERAL = re.compile(r"(?:\.\.\.)? <list\[\w+\]>")  # how Typer shows the type of an argument that may be repeated


class Command(TyperCommand):
    """A command whose options stand in the groups that their ``rich_help_panel`` names."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then options group by group, in the order in which they are declared."""
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], _REST: []}
        closing = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            record = (_broken(record[0]), record[1])
            if parameter.param_type_name == "argument":
                groups["Arguments"].append((_SEVERAL.sub("...", record[0]), record[1]))
            elif parameter.name == "help":
                closing.append(record)
            else:
                groups.setdefault(getattr(parameter, "rich_help_panel", None) or _REST, []).append(record)
        next(records for records in reversed(groups.values()) if records or records is groups[_REST]).extend(closing)
        for title, records in groups.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples."""
        _examples(ctx, formatter)


def _broken(term: str) -> str:
    """An option whose choices go on in a second line where one is not enough.

    >>> _broken("--pattern <text>")
    '--pattern <text>'
    >>> print(_broken("--of <" + "|".join(["choice"] * 11) + ">"))
    --of <choice|choice|choice|choice|choice|choice|choice|choice|choice|choice|
            choice>
    """
    if len(term) <= _WIDEST:
        return term
    cut = 1 + term.rfind("|", 0, _WIDEST)
    return f"{term[:cut]}\n{'':8}{term[cut:]}" if cut else term


class Group(TyperGroup):
    """A command of several others."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples."""
        _examples(ctx, formatter)


def _examples(ctx: Any, formatter: Any) -> None:
    found = EXAMPLES.get(ctx.command_path.partition(" ")[2], ())
    if found:
        with formatter.section("Example" if len(found) == 1 else "Examples"):
            for example in found:
                formatter.write(f"{'':{formatter.current_indent}}{example.line}\n")
                with formatter.indentation():
                    formatter.write_text(example.says)
