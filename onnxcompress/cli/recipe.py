"""`onnxcompress recipe`: the schema of recipes, a recipe to start from, and a check of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from onnxcompress.cli import completion
from onnxcompress.cli.help import Command, Group
from onnxcompress.cli.streams import DASH
from onnxcompress.errors import UsageError

app = typer.Typer(
    cls=Group, rich_markup_mode=None, add_completion=False, help="Write and check recipes.", no_args_is_help=True
)
Output = Annotated[Path | None, typer.Option("-o", "--output", help="The file to write; by default standard output.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the output if it exists.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.command(cls=Command)
def schema(output: Output = None, force: Force = False, debug: Debug = False) -> None:  # noqa: ARG001 - main reads debug
    """Print the JSON Schema of recipes, for editors and checks."""
    from onnxcompress.recipe import json_schema

    _write(json.dumps(json_schema(), indent=2) + "\n", output, force=force)


@app.command("list", cls=Command)
def list_(debug: Debug = False) -> None:  # noqa: ARG001 - main reads it
    """List the ready recipes, each with what it is for."""
    from onnxcompress.recipe import ready_names, ready_text

    for name in ready_names():
        first = ready_text(name).partition("\n")[0].lstrip("# ")
        typer.echo(f"{name:<14}{first}")


@app.command(cls=Command)
def show(
    name: Annotated[str, typer.Argument(help="The ready recipe.", autocompletion=completion.ready_recipes)],
    debug: Debug = False,  # noqa: ARG001 - main reads it
) -> None:
    """Print a ready recipe as it is."""
    from onnxcompress.recipe import ready_text

    typer.echo(ready_text(name), nl=False)


@app.command(cls=Command)
def init(
    name: Annotated[
        str | None,
        typer.Argument(
            help="The ready recipe to start from; by default they are listed.", autocompletion=completion.ready_recipes
        ),
    ] = None,
    output: Output = None,
    force: Force = False,
    debug: Debug = False,  # noqa: ARG001 - main reads it
) -> None:
    """Print a ready recipe to start from, or the names of all of them."""
    from onnxcompress.recipe import Recipe, ready_names

    text = Recipe.ready(name).to_toml() if name else "".join(f"{known}\n" for known in ready_names())
    _write(text, output, force=force)


@app.command(cls=Command)
def check(
    recipe: Annotated[
        Path, typer.Argument(metavar="FILE", help="The recipe to check.", autocompletion=completion.recipe_files)
    ],
    debug: Debug = False,  # noqa: ARG001 - main reads it
) -> None:
    """Check a recipe without running it."""
    from onnxcompress.recipe import Recipe
    from onnxcompress.render import words

    found = Recipe.from_toml(recipe)
    typer.echo(f"onnxcompress: PASSED {words.safe(recipe)}: {words.plural(len(found.steps), 'step')}")


def _write(text: str, output: Path | None, *, force: bool) -> None:
    if output is None or output == DASH:
        typer.echo(text, nl=False)
        return
    if output.exists() and not force:
        raise UsageError(f"{output} exists", "Choose another name, or overwrite it with --force.")
    output.write_text(text, encoding="utf-8")
