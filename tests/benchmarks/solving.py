"""Pruning and factorization of a real encoder's products, against the time of measuring what they see."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from onnxcompress.data import load
from onnxcompress.data.options import DataOptions
from onnxcompress.graph.edit import Namer
from onnxcompress.graph.interface import interface
from onnxcompress.graph.layers import weights
from onnxcompress.graph.model import Model
from onnxcompress.graph.scopes import Scopes
from onnxcompress.passes.base import Context
from onnxcompress.passes.factor_options import Factoring
from onnxcompress.passes.factor_sites import Finder, Site
from onnxcompress.passes.rounding import Rounding, layers
from onnxcompress.passes.simplify import Simplify
from onnxcompress.solvers.low_rank import Decomposition
from onnxcompress.solvers.sparsity import pruned
from onnxcompress.solvers.supports import Pattern
from onnxcompress.stats.archive import Archive
from onnxcompress.stats.gram import grams
from tests.benchmarks.corpus import calibration
from tests.benchmarks.tables import table

if TYPE_CHECKING:
    from tests.benchmarks.settings import Settings

TITLE = "Solvers: half of the weights pruned, and half of the parameters factored away, of an encoder's products"
TARGET = "each under ten times the collection of the Gram matrices, on 256 calibration items"
_MODELS = ("minilm-l3",)
_ITEMS = 256


def measure(settings: Settings) -> None:
    """Measure and print a table."""
    wanted = [n for n in settings.real_models() if n in (settings.models or _MODELS)]
    if not settings.script.is_file() or not wanted:
        print("left out: the script that scores real models, or the models, are not there")
        return
    lines = []
    for name in wanted:
        with tempfile.TemporaryDirectory(prefix="onnxcompress-bench-") as folder:
            lines.append([name, *_row(settings.corpus / name / "model.onnx", Path(folder), name, settings)])
    print(table(["model", "Gram s", "products", "prune 50 %", "factor 50 %"], lines))


def _row(path: Path, folder: Path, name: str, settings: Settings) -> list[str]:
    model = Simplify().rewrite(Model.open(path), Context()).model
    data = load(calibration(name, folder, settings, _ITEMS), interface(model.proto).inputs, DataOptions())
    scopes = Scopes(model.proto)
    products = [w for w in weights(model, scopes) if w.op == "MatMul"]
    finder = Finder(model, scopes, Namer(scopes.names()), {})
    sites = [s for w in products if isinstance(s := finder.site(w), Site)]
    started = time.perf_counter()
    found = grams(model, layers([s.weight for s in sites], scopes.main), data, threads=2)
    collecting = time.perf_counter() - started
    archive = Archive(dict(found.left_out), found.passes)
    archive.add(found.layers)
    rounding = Rounding(archive)
    known = [(s.matrix(), Factoring(s, rounding).site.seen(rounding)[0]) for s in sites]
    started = time.perf_counter()
    for W, H in known:
        if H is not None:
            pruned(W, H, Pattern(), W.size // 2)
    pruning = time.perf_counter() - started
    started = time.perf_counter()
    for W, H in known:
        Decomposition(W, H).factors(max(1, W.size // (2 * sum(W.shape))))
    factoring = time.perf_counter() - started
    return [f"{collecting:.1f}", str(len(sites)), f"{pruning / collecting:.1f}", f"{factoring / collecting:.1f}"]
