"""Groups of options become flags, and flags become groups of options again."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import pydantic
import pytest
import typer
from typer.testing import CliRunner

from onnxcompress.cli.flags import build, flat
from onnxcompress.cli.quantities import height_width, numbers
from onnxcompress.errors import UsageError


@dataclass(frozen=True)
class Group:
    level: Annotated[int, typer.Option("--level", help="A level.")] = 1
    quiet: Annotated[bool, typer.Option("--quiet", help="Say less.")] = False


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class Pass:
    """A pass with an option of every kind."""

    name: ClassVar[str] = "shrink"

    bits: Literal[8, 4] = field(default=8, metadata={"help": "Bits."})
    ratio: float | None = field(default=None, metadata={"help": "Ratio."})
    symmetric: bool = field(default=True, metadata={"help": "Symmetric."})
    per_tensor: bool = field(default=False, metadata={"help": "One scale."})
    refine: bool = field(default=True, metadata={"help": "Refine."})
    mode: Literal["fast", "best"] = field(default="fast", metadata={"help": "Mode.", "flag": "--how"})
    include: tuple[str, ...] = field(default=(), metadata={"help": "Names."})

    def __post_init__(self) -> None:
        if self.per_tensor and self.bits == 4:
            raise ValueError("4 bits need blocks")


def called(*arguments: str) -> Any:
    """What a command with both groups was called with."""
    seen: list[Any] = []

    def command(model: str, options: Pass, group: Group) -> None:
        seen.extend([model, options, group])

    app = typer.Typer()
    app.command()(flat(command))
    done = CliRunner().invoke(app, arguments)
    if done.exception is not None:
        raise done.exception
    return seen


# flat() looks the groups up by name, as commands are written with postponed annotations.
def test_defaults_are_those_of_the_dataclass() -> None:
    assert called("m") == ["m", Pass(), Group()]


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        (["--bits", "4"], {"bits": 4}),
        (["--ratio", "0.25"], {"ratio": 0.25}),
        (["--asymmetric"], {"symmetric": False}),
        (["--symmetric"], {}),
        (["--no-refine"], {"refine": False}),
        (["--per-tensor"], {"per_tensor": True}),
        (["--how", "best"], {"mode": "best"}),
        (["--include", "a*", "--include", "b"], {"include": ("a*", "b")}),
    ],
)
def test_every_kind_of_field_is_an_option(arguments: list[str], changes: dict[str, Any]) -> None:
    assert called("m", *arguments)[1] == dataclasses.replace(Pass(), **changes)


def test_groups_do_not_mix() -> None:
    assert called("m", "--level", "3", "--quiet") == ["m", Pass(), Group(3, quiet=True)]


@pytest.mark.parametrize("arguments", [["--bits", "3"], ["--how", "slow"], ["--level", "x"], ["--nope"]])
def test_bad_values_are_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        called("m", *arguments)


def test_what_a_dataclass_refuses_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="4 bits need blocks"):
        called("m", "--bits", "4", "--per-tensor")


def test_a_field_that_is_refused_is_named() -> None:
    with pytest.raises(UsageError, match=r"^--bits: "):
        build(Pass, {"bits": 5})


@pytest.mark.parametrize(
    ("text", "values"),
    [("0.5", (0.5,)), ("0.485,0.456, 0.406", (0.485, 0.456, 0.406)), ("-1,2e-3", (-1, 0.002))],
)
def test_numbers(text: str, values: tuple[float, ...]) -> None:
    assert numbers(text, "--mean") == values


@pytest.mark.parametrize("text", ["", "a", "1,", "nan", "inf,1", "1;2"])
def test_what_is_no_list_of_numbers(text: str) -> None:
    with pytest.raises(UsageError, match="--mean is"):
        numbers(text, "--mean")


@pytest.mark.parametrize(("text", "size"), [("224", (224, 224)), ("120x160", (120, 160)), (" 8X9 ", (8, 9))])
def test_image_sizes(text: str, size: tuple[int, int]) -> None:
    assert height_width(text, "--size") == size


@pytest.mark.parametrize("text", ["", "x", "1x", "x1", "1x2x3", "-1x2", "1.5", "9999999", "٣x٣"])
def test_what_is_no_image_size(text: str) -> None:
    with pytest.raises(UsageError, match="--size is"):
        height_width(text, "--size")
