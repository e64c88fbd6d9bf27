"""How a result was made: the two files with their hashes, versions and machine, steps, and the recipe as resolved."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from onnxcompress.render import words
from onnxcompress.render.blocks import Table, row
from onnxcompress.render.html_blocks import section, table, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxcompress.report import ModelFacts, Report, Step


def making(report: Report) -> Iterator[str]:
    """The last sections of the page."""
    yield from section("models", table(_models(report)))
    if report.steps:
        yield from section("steps", table(_steps(report.steps)))
    yield from section("machine and versions", table(_machine(report)))
    recipe = json.dumps(report.to_json()["recipe"], indent=2, ensure_ascii=False)
    yield from section("recipe as resolved", (f'<pre tabindex="0">{text(words.safe_lines(recipe))}</pre>',))


def _models(report: Report) -> Table:
    facts: list[ModelFacts] = [report.original, *([report.compressed] if report.compressed else [])]
    rows = {
        "file": [words.safe(f.path) for f in facts],
        "SHA-256": [words.safe(f.sha256) for f in facts],
        "bytes": [f"{f.size_bytes:,}" for f in facts],
        "parameters": [f"{f.parameters:,}" for f in facts],
        "not zero": [_count(f.nonzero) for f in facts],
        "multiply-adds of a call": [_count(f.macs) for f in facts],
        "opset": [str(f.opset) for f in facts],
    }
    header = ("", "original", "compressed")[: 1 + len(facts)]
    return Table("models", header, tuple(row(name, *cells) for name, cells in rows.items()))


def _count(number: int | None) -> str:
    return "not known" if number is None else f"{number:,}"


def _steps(steps: tuple[Step, ...]) -> Table:
    header = ("step", "seconds", "peak memory", "done", "left alone", "options")
    rows = []
    for number, step in enumerate(steps, 1):
        done = sum(layer.status == "done" for layer in step.layers)
        figures = (
            f"{step.seconds:.1f}",
            words.size(step.peak_memory_bytes),
            f"{done:,}",
            f"{len(step.layers) - done:,}",
        )
        rows.append(row(words.safe(f"{number} {step.pass_name}"), *figures, _value(step.options)))
    return Table("steps", header, tuple(rows), frozenset({1, 2, 3, 4}))


def _machine(report: Report) -> Table:
    tool, facts = report.tool, report.to_json()["machine"]
    said = {tool.name: tool.version, "onnx": tool.onnx, "onnxruntime": tool.onnxruntime, **facts, "seed": report.seed}
    if isinstance(facts.get("memory_bytes"), int):
        said["memory_bytes"] = words.size(facts["memory_bytes"])
    names = {"memory_bytes": "memory", "isa": "instruction sets", "isa_class": "kind of processor"}
    rows = tuple(row(words.safe(names.get(name, name)), _value(value)) for name, value in said.items())
    return Table("machine and versions", ("", "value"), rows)


def _value(value: Any) -> str:
    """A value in a line: words as they are, lists with commas, what is not set left out."""
    if isinstance(value, dict):
        given = {k: v for k, v in value.items() if v is not None and v != []}
        return ", ".join(f"{words.safe(k)} {_value(v)}" for k, v in given.items()) or "none"
    if isinstance(value, list):
        return ", ".join(_value(v) for v in value) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    return words.safe(value)
