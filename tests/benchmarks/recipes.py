"""Real models: what each recipe that fits makes of them, beside quantization alone, all with the same data."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.corpus import calibration, measured
from tests.benchmarks.measure import Failed
from tests.benchmarks.tables import number, table

if TYPE_CHECKING:
    from tests.benchmarks.corpus_row import Row
    from tests.benchmarks.settings import Settings

TITLE = "Real models: recipes against quantization alone"
TARGET = "some recipe is smaller or faster than quantize at a metric within 1 % of the original's"
_ALONE = "quantize"
_ENCODERS = ("encoder", "tiny", "small")
_NETWORKS = ("edge-cnn", "tiny", "small")
_RECIPES = {
    "minilm-l3": _ENCODERS,
    "magika": _ENCODERS,
    "lac-gru": ("tiny", "small"),
    "silero-vad": ("tiny", "small"),
    "silero-vad-16k-seq": ("tiny", "small"),
    "smollm2-135m-instruct": ("decoder-4bit",),
}
_ITEMS = {"smollm2-135m-instruct": 4, "silero-vad": 1, "silero-vad-16k-seq": 1, "dnsmos": 4, "minilm-l3": 64}
_MANY = 32
_HEADER = ["model", "recipe", "bytes", "SQNR dB", "task metric", "latency, 1 thread", "latency, 2 threads", "tool s"]


def measure(settings: Settings) -> None:
    """Measure and print, a line for each recipe when it is done, then the table."""
    if not settings.can_score:
        return
    lines = []
    for name in settings.real_models():
        with tempfile.TemporaryDirectory(prefix="onnxcompress-bench-") as folder:
            data = calibration(name, Path(folder), settings, _ITEMS.get(name, _MANY))
            for recipe in (_ALONE, *_RECIPES.get(name, _NETWORKS)):
                words = [] if recipe == _ALONE else ["--recipe", recipe]
                verb = "compress" if words else _ALONE
                try:
                    row = measured(name, Path(folder), settings, *words, "--data", data, verb=verb)
                except Failed as failure:
                    print(f"{name}, {recipe}: {failure}", flush=True)
                    continue
                lines.append(cells(row, recipe))
                print("  ".join(lines[-1]), flush=True)
    print("\n" + table(_HEADER, lines))


def cells(row: Row, recipe: str) -> list[str]:
    """The cells of one recipe."""
    return [
        row.name,
        recipe,
        f"{row.bytes_ratio:.3f}",
        f"{row.sqnr_db:.1f}",
        f"{row.metric} {number(row.before, 4)} to {number(row.after, 4)}",
        *(str(interval) for interval in row.latency),
        f"{row.seconds:.0f}",
    ]
