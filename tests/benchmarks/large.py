"""A large model: time against a copy of the file, memory beyond that of an interpreter with the imports.

Weights are random, so that no page is equal to another one; they are kept in one file, then beside it. Copy
and tool run by turns, on a file that the system has in memory. Then each verb runs once on the model with external
data: seconds, and the peak memory of the process.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxcompress.graph import writer
from onnxcompress.graph.model import Model
from onnxcompress.verify.facts import model_files
from tests.benchmarks.measure import Ran, copy_seconds, python, run, tool
from tests.benchmarks.tables import number, spread, table, verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.settings import Settings

TITLE = "A large model: weight-only int8, then every verb once"
MOST_COPIES = 3.0
MOST_MIB = 400.0
TARGET = f"at most {MOST_COPIES:g} times a copy with fsync, {MOST_MIB:g} MiB beyond the imports"

_WIDTH = 4096
_ROUNDS = 3
_MIB = 1 << 20
_IMPORTS = (
    "import numpy, onnx, onnxruntime, onnxcompress.cli.work, onnxcompress.cli.one_pass,"
    " onnxcompress.passes.quantize, onnxcompress.passes.simplify"
)
_WAYS = {
    "as it is": ("--scheme", "weight-only", "--no-verify", "--no-simplify"),
    "simplified first": ("--scheme", "weight-only", "--no-verify"),
}
_VERBS = {
    "inspect": ("inspect",),
    "quantize, 8 bits": ("quantize", "--bits", "8"),
    "quantize, 4 bits": ("quantize", "--bits", "4"),
    "prune, half of it": ("prune", "--sparsity", "0.5"),
    "simplify": ("simplify",),
}


@dataclass(frozen=True)
class Row:
    """One way to quantize one file: seconds in each round, peak memory beyond the imports."""

    name: str
    tool_seconds: Sequence[float]
    copy_seconds: Sequence[float]
    cpu_seconds: float
    extra_bytes: int

    @property
    def ratios(self) -> list[float]:
        """The tool over the copy, round by round."""
        return [t / c for t, c in zip(self.tool_seconds, self.copy_seconds, strict=True)]

    @property
    def met(self) -> bool:
        """Whether both targets are met."""
        return median(self.ratios) <= MOST_COPIES and self.extra_bytes <= MOST_MIB * _MIB


def measure(settings: Settings) -> None:
    """Measure and print."""
    base = min(run(python(_IMPORTS)).peak_bytes for _ in range(3))
    rows = []
    for name, limit in (("one file", writer.SINGLE_FILE_LIMIT), ("external data", 0)):
        with tempfile.TemporaryDirectory(prefix="onnxcompress-bench-") as folder:
            path = Path(folder) / "large.onnx"
            write_large(path, settings.gigabytes, limit)
            rows += [_row(f"{name}, {way}", path, way, settings.rounds or _ROUNDS, base) for way in _WAYS]
            verbs = verb_runs(path) if limit == 0 else {}
    print(report(rows, base))
    print(f"\n{settings.gigabytes:g} GiB in external data\n\n{verb_table(verbs)}")


def write_large(path: Path, gigabytes: float, single_file_limit: int, width: int = _WIDTH) -> None:
    """A chain of square matrix products of so many GiB, with a Relu behind each: without, they could be one."""
    layers = max(1, round(gigabytes * 2**30 / (4 * width * width)))
    nodes = []
    for i in range(layers):
        nodes.append(helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"y{i}"]))
        nodes.append(helper.make_node("Relu", [f"y{i}"], [f"x{i + 1}"]))
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", width]) for n in ("x0", f"x{layers}")]
    proto = helper.make_model(
        helper.make_graph(nodes, "large", ports[:1], ports[1:]), opset_imports=[helper.make_opsetid("", 17)]
    )
    proto.ir_version = 8
    model = Model(proto)
    for i in range(layers):
        tensor = proto.graph.initializer.add(name=f"w{i}")
        model.set_lazy(tensor, onnx.TensorProto.FLOAT, (width, width), lambda i=i: _weights(i, width))  # type: ignore[misc]
    writer.save(model, path, single_file_limit=single_file_limit)


def _weights(seed: int, width: int) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((width, width), np.float32)
    return values * np.float32(width**-0.5)


def _row(name: str, path: Path, way: str, rounds: int, base: int) -> Row:
    files = model_files(Model.open(path))
    output = path.with_name("small.onnx")
    command = tool("quantize", path, "-o", output, "--force", "--quiet", *_WAYS[way])
    copies: list[float] = []
    runs: list[Ran] = []
    for i in range(rounds + 1):  # the first one does not count
        copied, ran = copy_seconds(files, path.parent), run(command)
        output.unlink()
        if i:
            copies.append(copied)
            runs.append(ran)
    extra = max(r.peak_bytes for r in runs) - base
    cpu = median(r.cpu_seconds / r.seconds for r in runs)
    return Row(name, [r.seconds for r in runs], copies, cpu, extra)


def verb_runs(path: Path) -> dict[str, Ran]:
    """Every verb once on a model, without verification."""
    runs = {}
    for name, words in _VERBS.items():
        with tempfile.TemporaryDirectory(prefix="made-", dir=path.parent) as folder:
            writes = () if words[0] == "inspect" else ("-o", str(Path(folder) / "made.onnx"), "--no-verify", "--quiet")
            runs[name] = run(tool(*words, path, *writes))
    return runs


def verb_table(runs: Mapping[str, Ran]) -> str:
    """Seconds by the clock and of processors, and peak memory, of each verb."""
    cells = [
        [name, f"{ran.seconds:.1f}", f"{ran.cpu_seconds:.1f}", f"{ran.peak_bytes / _MIB:.0f} MiB"]
        for name, ran in runs.items()
    ]
    return table(["verb", "seconds", "of processors", "peak memory"], cells)


def report(rows: Sequence[Row], base: int) -> str:
    """The table; ``base``: bytes of the interpreter with the imports."""
    cells = [
        [
            row.name,
            number(median(row.ratios)),
            spread(row.ratios),
            f"{median(row.tool_seconds):.1f} / {median(row.copy_seconds):.1f} s",
            number(row.cpu_seconds, 2),
            f"{row.extra_bytes / _MIB:.0f} MiB",
            verdict(row.met),
        ]
        for row in rows
    ]
    header = ["model", "tool / copy", "least to most", "medians", "cores busy", "beyond imports", "target"]
    return f"{table(header, cells)}\n\nthe imports alone: {base / _MIB:.0f} MiB"
