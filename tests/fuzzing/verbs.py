"""What is done with a damaged model, and what has to come of it: a result that was judged, or an intended error."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxcompress.cli.app import intended
from onnxcompress.compress import RunOptions, compress
from onnxcompress.errors import OnnxCompressError
from onnxcompress.graph.model import Model
from onnxcompress.inspection import look
from onnxcompress.passes.factorize import Factorize
from onnxcompress.passes.prune import Prune
from onnxcompress.passes.quantize import Quantize
from onnxcompress.passes.simplify import Simplify
from onnxcompress.recipe import Recipe
from onnxcompress.runtime.session import Session

if TYPE_CHECKING:
    from pathlib import Path

    from onnxcompress.passes.base import Pass

LOAD, INSPECT = "load", "inspect"
_STEPS: dict[str, tuple[Pass, ...]] = {
    "simplify": (Simplify(),),
    "quantize": (Simplify(), Quantize()),
    "quantize4": (Quantize(bits=4),),
    "quantize2": (Quantize(bits=2, codebook_length=2),),
    "halves": (Quantize(scheme="float16"),),
    "prune": (Prune(sparsity=0.5),),
    "patterns": (Prune(pattern="2:4"),),
    "channels": (Prune(structure="channels", ratio=0.25),),
    "structures": (Prune(structure="all", ratio=0.25),),
    "factorize": (Factorize(params=0.3),),
}
VERBS = (INSPECT, *_STEPS)
_SECONDS = 0.01  # of timing


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    ``kind``: opened, inspected, written, structure (written, but as its original not run), rejected, refused, or
    unexpected; ``detail``: the exit code, or why.
    """

    kind: str
    detail: str = ""


def outcome(verb: str, path: Path) -> Outcome:
    """What a verb makes of a model file."""
    try:
        if verb == LOAD:
            Model.open(path)
            return Outcome("opened")
        if verb == INSPECT:
            look.inspect(path)
            return Outcome("inspected")
        return _compressed(verb, path)
    except Exception as problem:
        return _refused(verb, problem)


def _refused(verb: str, problem: Exception) -> Outcome:
    error = problem if verb == LOAD and not isinstance(problem, OnnxCompressError) else intended(problem)
    if not isinstance(error, OnnxCompressError):
        return Outcome("unexpected", "".join(traceback.format_exception(problem)))
    if not error.message.strip() or not error.hint.strip():
        return Outcome("unexpected", f"no words: {error.message!r}, {error.hint!r}\n{traceback.format_exc()}")
    return Outcome("refused", str(error.exit_code))


def _compressed(verb: str, path: Path) -> Outcome:
    target = path.with_suffix(".out.onnx")
    result = compress(path, Recipe.of(_STEPS[verb]), RunOptions(output=target, force=True, threads=1, seconds=_SECONDS))
    if not result.report.budgets or result.path is None or not result.path.exists():
        return Outcome("unexpected", "nothing was judged, or nothing written")
    if not result.passed:
        failed = (f"{check.name} {check.value}" for check in result.report.budgets if not check.ok)
        return Outcome("rejected", "; ".join(failed))
    try:
        Session(result.path, threads=1)
    except OnnxCompressError as error:
        if _loads(path):
            return Outcome("unexpected", f"passed, but does not load: {error.message}")
        return Outcome("structure")
    return Outcome("written" if any(check.name == "loads" for check in result.report.budgets) else "structure")


def _loads(path: Path) -> bool:
    """Whether ONNX Runtime knows the operators of a model; where it does not, the structure alone is verified."""
    try:
        Session(path, threads=1)
    except OnnxCompressError:
        return False
    return True
