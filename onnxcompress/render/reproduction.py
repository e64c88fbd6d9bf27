"""What came of a compression that was done again, as a page and a last line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from onnxcompress.render import words
from onnxcompress.render.blocks import Block, Cell, Lines
from onnxcompress.render.closing import NAME

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onnxcompress.reproduction import Reproduced


def blocks(found: Reproduced, *, verbose: bool = False) -> tuple[Block, ...]:
    """The whole page but the last line; ``verbose`` shows every option of the recipe."""
    return tuple(_blocks(found, verbose=verbose))


def _blocks(found: Reproduced, *, verbose: bool) -> Iterator[Block]:
    steps = [f"{step['pass']} {_options(step)}" if verbose else step["pass"] for step in found.recipe["steps"]]
    yield Lines("steps", tuple(Cell(words.safe(step, 2000)) for step in steps))
    given, made = found.sha256
    yield Lines("SHA-256", (Cell(f"given  {given}"), Cell(f"again  {made}", "good" if found.identical else "bad")))
    if found.elsewhere:
        yield Lines("other than when it was made", tuple(Cell(words.safe(text)) for text in found.elsewhere))


def _options(step: dict[str, object]) -> str:
    return json.dumps({name: value for name, value in step.items() if name != "pass"})


def closing(found: Reproduced, output: Path) -> str:
    """The verdict, with the first difference and what may have caused it."""
    if found.identical:
        return f"{NAME}: PASSED {words.safe(output)}: reproduced byte for byte, SHA-256 {found.sha256[0][:12]}..."
    what = words.safe(found.difference or "", 300)
    why = f" ({words.safe('; '.join(found.elsewhere), 300)})" if found.elsewhere else ""
    return f"{NAME}: FAILED {words.safe(output)} is not reproduced: {what}{why}"
