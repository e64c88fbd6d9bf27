"""Groups of options as dataclasses, so that a command with thirty options takes five arguments.

Typer reads one function's signature, one parameter an option. `flat` lets a command be written as

    def verify(original: Original, compressed: Compressed, data: DataFlags, budgets: BudgetFlags) -> None

and gives Typer a function that has the fields of `DataFlags` and `BudgetFlags` as parameters instead. A field
is annotated as a parameter would be (``Annotated[int, typer.Option(help=...)]``). A pass is such a dataclass
too: its fields carry their help in their metadata, and `option` makes the annotation from it. So the command
line of a pass *is* the pass, and no second place has to be kept in step.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable
from typing import Annotated, Any, cast, get_args, get_origin, get_type_hints

import typer

from onnxcompress.errors import UsageError

Command = Callable[..., None]
_OPPOSITES = {"symmetric": "asymmetric"}  # where English has a word for it


def flat(command: Command) -> Command:
    """The command with the fields of its dataclass parameters as parameters of its own."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hints[name] for name in inspect.signature(command).parameters if _is_group(hints[name])}

    def run(**values: Any) -> None:
        arguments = {name: _take(kind, values) for name, kind in groups.items()}
        command(**values, **arguments)

    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += _parameters(groups[name])
        else:
            parameters.append(parameter.replace(annotation=hints[name], kind=parameter.KEYWORD_ONLY))
    run.__doc__, run.__name__ = command.__doc__, command.__name__
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    cast("Any", run).__signature__ = inspect.Signature(parameters)
    return run


def build(kind: type, values: dict[str, Any]) -> Any:
    """The dataclass with these values, lists from the command line as tuples.

    Raises:
        UsageError: the values do not go together; what a dataclass refuses is a wrong option.
    """
    fixed = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    try:
        return kind(**fixed)
    except ValueError as refusal:  # pydantic's ValidationError is one
        raise _usage(refusal) from refusal


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def _take(kind: type, values: dict[str, Any]) -> Any:
    return build(kind, {f.name: values.pop(f.name) for f in dataclasses.fields(kind)})


def _usage(refusal: ValueError) -> UsageError:
    errors = getattr(refusal, "errors", None)
    first: dict[str, Any] = errors()[0] if callable(errors) else {"msg": str(refusal), "loc": ()}
    where = "".join(f"--{str(part).replace('_', '-')}: " for part in first["loc"][:1])
    return UsageError(
        f"{where}{first['msg'].removeprefix('Value error, ')}",
        "Run the command with --help to see what is allowed.",
    )


def _parameters(kind: type) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    found = []
    for item in dataclasses.fields(kind):
        hint = hints[item.name]
        annotation = _grouped(hint if get_origin(hint) is Annotated else option(item, hint), kind)
        found.append(
            inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=_default(item), annotation=annotation)
        )
    return found


def _grouped(annotation: Any, kind: type) -> Any:
    """The annotation with the group of options that it stands in on the help: its own, or that of its dataclass."""
    panel = getattr(kind, "panel", None)
    hint, told = get_args(annotation)
    if panel is None or told.rich_help_panel is not None:
        return annotation
    told = copy.copy(told)
    told.rich_help_panel = panel
    return Annotated[hint, told]


def _default(item: dataclasses.Field[Any]) -> Any:
    value = item.default if item.default is not dataclasses.MISSING else cast("Any", item).default_factory()
    # Typer tells a repeatable option by a list.
    return list(value) if isinstance(value, tuple) else value


def option(item: dataclasses.Field[Any], hint: Any) -> Any:
    """The annotation of a pass's field: help, flag and metavar come from the field's metadata.

    Several values are several options; where it is not said what they are, they are patterns of names.
    """
    metavar = item.metadata.get("metavar")
    if get_origin(hint) is tuple:
        hint, metavar = list[str], metavar or "GLOB"
    flag = item.metadata.get("flag") or _flag(item, hint)
    return Annotated[hint, typer.Option(flag, help=item.metadata.get("help"), metavar=metavar)]


def _flag(item: dataclasses.Field[Any], hint: Any) -> str:
    """`--name`; a switch that is on by default gets its opposite, to turn it off."""
    word = item.name.replace("_", "-")
    if hint is bool and item.default is True:
        return f"--{word}/--{_OPPOSITES.get(word, f'no-{word}')}"
    return f"--{word}"
