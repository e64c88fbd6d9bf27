"""A command line written out again from what was read of it, for another process that does a part of the work."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

_GIVEN = ("COMMANDLINE", "ENVIRONMENT")


def again(context: Any, left_out: Collection[str] = ()) -> list[str]:
    """The options that were given, as words that are read as the same values.

    Args:
        context: Typer's context of the command, whose parameters are read.
        left_out: names of parameters that the other process is told otherwise, or not at all.
    """
    return [
        word
        for parameter in context.command.params
        if parameter.param_type_name == "option" and parameter.name in context.params
        if parameter.name not in left_out and _given(context, parameter.name)
        for word in _words(parameter, context.params[parameter.name])
    ]


def _given(context: Any, name: str) -> bool:
    """Whether it was given: a default needs no telling, and may be another one by the name of the command."""
    source = context.get_parameter_source(name)
    return source is not None and source.name in _GIVEN


def _words(parameter: Any, value: Any) -> Iterator[str]:
    name = max(parameter.opts, key=len)
    if parameter.is_flag:
        yield name if value else max(parameter.secondary_opts, key=len)
        return
    for one in value if parameter.multiple else (value,):
        yield f"{name}={one}"  # in one word, as a value may begin with a dash
