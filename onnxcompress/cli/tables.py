"""What `bench` and `doctor` write besides their page: JSON and CSV, to files or to standard output."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from typer import Option

from onnxcompress.cli.files import write_whole
from onnxcompress.cli.options import ReportFlags
from onnxcompress.errors import UsageError


@dataclass(frozen=True)
class PageFlags:
    """How much is said, and where the values go."""

    panel: ClassVar[str] = "Reports and messages"

    json: Annotated[
        str | None, Option("--json", metavar="PATH|-", help="Write the values as JSON; - is standard output.")
    ] = None
    quiet: Annotated[bool, Option("-q", "--quiet", help="Print the last line only.")] = False
    verbose: Annotated[bool, Option("-v", "--verbose", help="Show every row of every table.")] = False
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False

    def check(self, *taken: Path | None) -> None:
        """Refuse JSON that cannot be written, or that would overwrite a file that the verb reads.

        Raises:
            UsageError: it cannot go there.
        """
        ReportFlags(json=self.json, quiet=self.quiet, verbose=self.verbose).check(*taken)

    def write(self, values: dict[str, Any]) -> None:
        """Write the values where they were asked for."""
        if self.json is not None:
            put(json.dumps(values, indent=2, allow_nan=False) + "\n", self.json)


def check_csv(path: str | None, *taken: Path | None) -> None:
    """Refuse a CSV file that cannot be written, or that would overwrite something else.

    Raises:
        UsageError: it cannot go there.
    """
    if path in (None, "-"):
        return
    given = Path(str(path))
    if given.suffix.lower() != ".csv":
        raise UsageError(
            f"--csv cannot write {given.suffix or 'a file without a suffix'}",
            "Give a .csv file, or - for standard output.",
        )
    if given.resolve() in {p.resolve() for p in taken if p is not None}:
        raise UsageError(f"the table would overwrite {given}", "Give it a name of its own.")
    if given.is_dir() or not given.resolve().parent.is_dir():
        raise UsageError(f"the table cannot be written to {given}", "Give a file in a folder that exists.")


def put(text: str, path: str) -> None:
    """Write a text to a file, or to standard output for ``-``."""
    if path != "-":
        write_whole(Path(path), text)
        return
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(text)
        sys.stdout.flush()
