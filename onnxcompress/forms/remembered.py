"""Costs measured on this machine, remembered in the user's cache folder beside those that ship with the package."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import warnings
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from onnxcompress.forms import blockwise, fused
from onnxcompress.forms.costs import CostTable, Point, parse, shipped
from onnxcompress.runtime.cache_home import CacheWarning, cache_home, warn_ignored

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onnxcompress.progress import Progress

Shape = tuple[int, int, int]


def cache_file() -> Path | None:
    """``costs.json`` in the cache folder; None where there is none."""
    home = cache_home()
    return None if home is None else home / "costs.json"


def costs(
    isa: str, shapes: Sequence[Shape], progress: Progress, tuned: dict[str, list[Point]] | None = None
) -> CostTable:
    """The cost table for a kind of processor; ``shapes`` are measured first where that was not done before.

    Args:
        isa: the kind.
        shapes: those that the table is for; where there are none it is the one that ships with the package.
        progress: told of what is measured.
        tuned: costs that hold whatever was measured elsewhere, such as those of an earlier run; the shapes that it
            lacks are added.

    Returns:
        The costs of these shapes and no others, so that what other models left in the cache changes nothing.
    """
    if not shapes:
        return {form: points for form, points in shipped(isa).items() if runs(form)}
    table = {} if tuned is None else tuned
    missing = [s for s in shapes if s not in _shapes(table)]
    for form, points in (_known(isa, missing, progress) if missing else {}).items():
        table.setdefault(form, []).extend(p for p in points if _shape(p) in missing)
    return {form: [p for p in points if _shape(p) in shapes] for form, points in table.items()}


def _known(isa: str, shapes: Sequence[Shape], progress: Progress) -> dict[str, list[Point]]:
    """Costs of shapes among others, from the cache or measured now, and in the cache from then on."""
    key = f"{isa}, onnxruntime {runtime_version()}"
    table = {form: list(points) for form, points in parse(_read(), key).items()}
    found: dict[str, list[Point]] = {}
    for form, point in _measured([s for s in shapes if s not in _shapes(table)], progress):
        found.setdefault(form, []).append(point)
    if found:
        _add(key, found)
    return {form: [*table.get(form, ()), *found.get(form, ())] for form in dict.fromkeys((*table, *found))}


def _shape(point: Point) -> Shape:
    return point.rows, point.inputs, point.outputs


def _shapes(table: CostTable) -> set[Shape]:
    return {_shape(p) for points in table.values() for p in points}


def runs(form: str) -> bool:
    """False for a form that the installed runtime, being older than the table, does not fuse or does not have.

    ``form`` is its key there.
    """
    major, minor = (int(part) for part in runtime_version().split(".")[:2])
    since = {fused.NAME: fused.FUSED_SINCE, f"{blockwise.OTHER_GRIDS}-w2": blockwise.TWO_BITS_SINCE}
    return all((major, minor) >= version for name, version in since.items() if form.startswith(name))


def runtime_version() -> str:
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
    """What is in the cache: tables by their keys; nothing of a file that holds anything else."""
    path = cache_file()
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        warn_ignored(path, f"it cannot be read ({getattr(error, 'strerror', None) or 'no text'})")
        return {}
    try:
        data = json.loads(text)
        if not all(_whole(p) for key in data for points in parse(data, key).values() for p in points):
            raise ValueError("a number is missing")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        warn_ignored(path, "it does not hold costs of forms")
        return {}
    found: dict[str, object] = data
    return found


def _whole(point: Point) -> bool:
    return all(type(n) is int and n > 0 for n in _shape(point)) and float(point.speedup) > 0


def _add(key: str, found: CostTable) -> None:
    """Remember for the next run; a cache that cannot be written is no reason to fail.

    The file is read again, for others may have added to it meanwhile, and appears whole or not at all. Of two that add
    within the same instant one is forgotten, and measured again when it is needed.
    """
    path = cache_file()
    if path is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)  # it was told when it was read first
        data = _read()
    table = {form: list(points) for form, points in parse(data, key).items()}
    done = _shapes(table)
    for form, points in found.items():
        table.setdefault(form, []).extend(p for p in points if _shape(p) not in done)
    rows = {f: [[p.rows, p.inputs, p.outputs, p.speedup] for p in points] for f, points in table.items()}
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
        part = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(json.dumps({**data, key: {"points": rows}}, indent=1) + "\n")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
