"""Real models with 70 % of the weights gone: what the file comes to, alone and with codes of eight bits.

Without data, as bytes and latency do not depend on which weights go.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.corpus import measured
from tests.benchmarks.corpus_row import MOSTLY
from tests.benchmarks.measure import Failed
from tests.benchmarks.tables import table, verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.corpus_row import Row
    from tests.benchmarks.settings import Settings

_MOST, _MOST_CODED = 0.36, 0.12
TITLE = "Real models: onnxcompress prune MODEL --sparsity 0.7, alone and with weights of eight bits"
TARGET = f"at most {_MOST} of the bytes, {_MOST_CODED} with codes, where {MOSTLY:.0%} are float weights; latency 1"
_HEADER = ["model", "float share", "bytes", "with codes", "latency, 1 thread", "latency with codes", "bar"]
_RECIPE = """
[[steps]]
pass = "simplify"
[[steps]]
pass = "prune"
sparsity = 0.7
[[steps]]
pass = "quantize"
scheme = "weight-only"
target = "portable"
"""


def measure(settings: Settings) -> None:
    """Measure and print, a line for each model when it is done, then the table."""
    if not settings.can_score:
        return
    lines = []
    for name in settings.real_models():
        try:
            with tempfile.TemporaryDirectory(prefix="onnxcompress-bench-") as folder:
                recipe = Path(folder) / "recipe.toml"
                recipe.write_text(_RECIPE)
                alone = measured(name, Path(folder), settings, "--sparsity", "0.7", verb="prune")
                coded = measured(name, Path(folder), settings, "--recipe", recipe, verb="compress")
        except Failed as failure:
            print(f"{name}: {failure}", flush=True)
            continue
        lines.append(cells(alone, coded))
        print("  ".join(lines[-1]), flush=True)
    print("\n" + table(_HEADER, lines))


def cells(alone: Row, coded: Row) -> list[str]:
    """The cells of one model."""
    misses = list(missed(alone, coded))
    return [
        alone.name,
        f"{alone.float_share:.3f}",
        f"{alone.bytes_ratio:.3f}",
        f"{coded.bytes_ratio:.4f}",
        str(alone.latency[0]),
        str(coded.latency[0]),
        f"{verdict(False)}: {', '.join(misses)}" if misses else verdict(True),
    ]


def missed(alone: Row, coded: Row) -> Iterator[str]:
    """The parts of the bar that a model does not meet."""
    if alone.float_share >= MOSTLY:
        if alone.bytes_ratio > _MOST:
            yield "size"
        if coded.bytes_ratio > _MOST_CODED:
            yield "size with codes"
    if alone.latency[0].low > 1:
        yield "latency"
