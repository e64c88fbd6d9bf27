"""The functions of the package: recipes of one or two steps over `compress`."""

from __future__ import annotations

import dataclasses
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxcompress.compress import Result, RunOptions, verify_models
from onnxcompress.compress import compress as run_recipe
from onnxcompress.data.options import DataOptions
from onnxcompress.errors import UsageError
from onnxcompress.passes.factorize import Factorize
from onnxcompress.passes.prune import Prune
from onnxcompress.passes.quantize import Quantize
from onnxcompress.passes.simplify import Simplify
from onnxcompress.recipe import Recipe
from onnxcompress.verify.budgets import Budgets

if TYPE_CHECKING:
    from onnxcompress.passes.base import Pass
    from onnxcompress.report import Report

ModelPath = str | PathLike[str]
_PATHS = ("output", "data", "eval_data")
_BUDGETS = frozenset(f.name for f in dataclasses.fields(Budgets))
_RUN = frozenset(f.name for f in dataclasses.fields(RunOptions))
_DATA = frozenset(f.name for f in dataclasses.fields(DataOptions))


def quantize(model: ModelPath, output: ModelPath | None = None, *, simplify: bool = True, **options: Any) -> Result:
    """Quantize the weights of a model file.

    Args:
        model: the ONNX file; it is never changed.
        output: the file to write; by default ``{stem}.int8.onnx`` beside the model.
        simplify: simplify the graph first.
        options: fields of `Quantize` (bits, scheme, block_size, ...), of `RunOptions` (force, data, device, ...),
            of `DataOptions` (labels, tokenizer, ...) and of `Budgets` (max_drop, min_sqnr, ...).

    Raises:
        UsageError: an option or a path is wrong.
        ModelError: the model cannot be used.
        DataError: the data do not fit the model.
        RuntimeFailure: the device is not to be had, or the machine could not do it.
    """
    return _one_pass(model, output, Quantize, options, simplify=simplify)


def prune(model: ModelPath, output: ModelPath | None = None, *, simplify: bool = True, **options: Any) -> Result:
    """Prune weights or structures of a model file; by default into ``{stem}.sparse50.onnx``.

    Takes the fields of `Prune` (sparsity, pattern, structure, ratio, ...) and else what `quantize` takes, and raises
    its errors.
    """
    return _one_pass(model, output, Prune, options, simplify=simplify)


def factorize(model: ModelPath, output: ModelPath | None = None, *, simplify: bool = True, **options: Any) -> Result:
    """Replace layers of a model file by products of smaller ones; by default into ``{stem}.factored75.onnx``.

    Takes the fields of `Factorize` (params, rank, energy, ...) and else what `quantize` takes, and raises its errors;
    `ModelError` also where the result was measured to be slower.
    """
    return _one_pass(model, output, Factorize, options, simplify=simplify)


def simplify(model: ModelPath, output: ModelPath | None = None, **options: Any) -> Result:
    """Fold constants, remove dead code and fuse batch normalization; by default into ``{stem}.simplified.onnx``.

    Takes the fields of `RunOptions`, `DataOptions` and `Budgets`; raises the errors of `quantize`.
    """
    return _run(model, output, (Simplify(),), options)


def compress(model: ModelPath, recipe: Recipe | ModelPath, output: ModelPath | None = None, **options: Any) -> Result:
    """Run a recipe: a `Recipe`, the path of a TOML file, or the name of a ready recipe.

    Takes the fields of `RunOptions`, `DataOptions` and `Budgets`; budgets given here replace those of the recipe.
    Raises the errors of `quantize`.
    """
    if not isinstance(recipe, Recipe):
        path = Path(recipe)
        recipe = Recipe.from_toml(path) if path.suffix == ".toml" or path.exists() else Recipe.ready(str(recipe))
    run_options, budgets = _options(output, options)
    limits = {**recipe.budgets.asked, **budgets}
    return run_recipe(Path(model), dataclasses.replace(recipe, budgets=Budgets(**limits)), run_options)


def verify(original: ModelPath, compressed: ModelPath, **options: Any) -> Report:
    """Compare a compressed model with its original; ``report.verdict`` is "passed" or "failed".

    Takes the fields of `RunOptions`, `DataOptions` and `Budgets`; raises the errors of `quantize`.
    """
    run_options, budgets = _options(None, options)
    return verify_models(Path(original), Path(compressed), Budgets(**budgets), run_options).report


def _run(model: ModelPath, output: ModelPath | None, steps: tuple[Pass, ...], options: dict[str, Any]) -> Result:
    run_options, budgets = _options(output, options)
    return run_recipe(Path(model), Recipe.of(steps, Budgets(**budgets)), run_options)


def _one_pass(
    model: ModelPath, output: ModelPath | None, kind: type[Pass], options: dict[str, Any], *, simplify: bool
) -> Result:
    names = frozenset(f.name for f in dataclasses.fields(kind))  # type: ignore[arg-type]
    own, rest = _split(options, names)
    before: tuple[Pass, ...] = (Simplify(),) if simplify else ()
    return _run(model, output, (*before, kind(**own)), rest)


def _split(options: dict[str, Any], names: frozenset[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    return {k: v for k, v in options.items() if k in names}, {k: v for k, v in options.items() if k not in names}


def _options(output: ModelPath | None, options: dict[str, Any]) -> tuple[RunOptions, dict[str, Any]]:
    budgets, rest = _split(options, _BUDGETS)
    data, rest = _split(rest, _DATA)
    run, unknown = _split(rest, _RUN)
    if unknown:
        raise UsageError(f"there is no option {sorted(unknown)[0]!r}", "See the fields named in the docstring.")
    paths = {name: Path(run[name]) for name in _PATHS if run.get(name) is not None}
    if output is not None:
        paths["output"] = Path(output)
    files = {name: Path(data[name]) for name in ("labels", "tokenizer") if data.get(name) is not None}
    return RunOptions(**{**run, **paths, "data_options": DataOptions(**{**data, **files})}), budgets
