"""The help of every command: groups of options, a sentence for each, and examples that are true."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from onnxcompress.cli import app
from onnxcompress.cli.examples import EXAMPLES
from onnxcompress.cli.verbs import pass_verbs, verbs


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by what is typed after the name of the tool."""
    for verb in verbs():
        command = verb.command()._loaded()  # type: ignore[attr-defined]
        yield verb.name, command
        for name, inner in getattr(command, "commands", {}).items():
            yield f"{verb.name} {name}", inner


COMMANDS = dict(commands())


def shown(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    assert app.run([*name.split(), "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_parameter_has_a_help_sentence(name: str) -> None:
    for parameter in COMMANDS[name].params:
        assert str(parameter.help).endswith("."), f"{name}: {parameter.name}"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_fits_a_terminal_and_ends_with_examples(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = shown(name, monkeypatch, capsys)
    assert max(map(len, page.splitlines())) <= 80
    assert "..." not in page.partition("\nCommands:")[2], "a summary is cut off"
    below = page.rpartition("\nExample")[2].splitlines()
    assert [line.strip() for line in below[1::2]] == [example.line for example in EXAMPLES[name]]
    assert f"onnxcompress {name.split()[0]} " in f"{below[1]} "


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_read_by_the_command_itself(name: str) -> None:
    for example in EXAMPLES[name]:
        tool, *words = shlex.split(example.line)
        plain = words[: next((i for i, word in enumerate(words) if word in "<|>"), None)]
        path = name.split()
        assert tool == "onnxcompress"
        assert plain[: len(path)] == path
        group = COMMANDS[name]
        context = group.make_context(name, plain[len(path) :])
        for option in (word for word in plain if word.startswith("--")):
            assert any(option in (*p.opts, *p.secondary_opts) for p in context.command.params), example.line
        if hasattr(group, "commands"):  # what follows is one of its commands
            assert plain[len(path)] in group.commands


def test_no_example_is_of_a_command_that_is_not_there() -> None:
    assert set(EXAMPLES) == set(COMMANDS)


@pytest.mark.parametrize("name", [verb.name for verb in pass_verbs()])
def test_options_stand_in_groups(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(name, monkeypatch, capsys).splitlines()
    heads = [line[:-1] for line in lines if line.endswith(":") and not line.startswith(" ")]
    middle = ["Data", "Output", "Budgets", "Machine", "Reports and messages", "Examples"]
    recovery = ["Recovery"] if name in ("factorize", "prune", "quantize") else []
    assert [head for head in heads if head != "Options"] == ["Arguments", *recovery, *middle]
    data = lines[lines.index("Data:") : lines.index("Output:")]
    assert any("--eval-data" in line for line in data)
    assert lines[lines.index("Examples:") - 2].strip().startswith("--help")
