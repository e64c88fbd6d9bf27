"""Costs measured on this machine, remembered in the user's cache folder beside those that ship with the package."""

from __future__ import annotations

import contextlib
import json
import os
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from onnxcompress.forms import blockwise, fused
from onnxcompress.forms.costs import CostTable, Point, parse, shipped

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onnxcompress.progress import Progress

Shape = tuple[int, int, int]


def cache_file() -> Path:
    """``costs.json`` in ``$XDG_CACHE_HOME/onnxcompress``, by default ``~/.cache/onnxcompress``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "onnxcompress" / "costs.json"


def costs(isa: str, shapes: Sequence[Shape], progress: Progress) -> CostTable:
    """The cost table for a kind of processor; ``shapes`` are measured first where that was not done before."""
    if not shapes:
        return {form: points for form, points in shipped(isa).items() if _runs(form)}
    key = f"{isa}, onnxruntime {_runtime()}"
    known = _read()
    table = {form: list(points) for form, points in parse(known, key).items()}
    done = {(p.rows, p.inputs, p.outputs) for points in table.values() for p in points}
    missing = [s for s in shapes if s not in done]
    for form, point in _measured(missing, progress):
        table.setdefault(form, []).append(point)
    if missing:
        rows = {f: [[p.rows, p.inputs, p.outputs, p.speedup] for p in points] for f, points in table.items()}
        _write({**known, key: {"points": rows}})
    return table


def _runs(form: str) -> bool:
    """False for a form that the installed runtime, being older than the table, does not fuse or does not have."""
    major, minor = (int(part) for part in _runtime().split(".")[:2])
    since = {fused.NAME: fused.FUSED_SINCE, f"{blockwise.OTHER_GRIDS}-w2": blockwise.TWO_BITS_SINCE}
    return all((major, minor) >= version for name, version in since.items() if form.startswith(name))


def _runtime() -> str:
    """Version of the installed ONNX Runtime, by whichever of its packages."""
    for name in ("onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return "0.0"


def _measured(shapes: Sequence[Shape], progress: Progress) -> Iterable[tuple[str, Point]]:
    from onnxcompress.forms.tune import VARIANTS, measure

    if shapes:
        progress.start("measuring forms on this machine", len(shapes) * len(VARIANTS))
    for form, point in measure(shapes):
        progress.advance(f"{form} at {point.rows} x {point.inputs} x {point.outputs}")
        yield form, point


def _read() -> dict[str, object]:
    try:
        data = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _write(data: dict[str, object]) -> None:
    """Remember for the next run; a cache that cannot be written is no reason to fail."""
    path = cache_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError:
        return
