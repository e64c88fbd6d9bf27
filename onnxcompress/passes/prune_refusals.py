"""Options of pruning that mean nothing, alone or together: one sentence of what is wrong, one of how to mend it."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING

from onnxcompress.errors import UsageError
from onnxcompress.solvers.supports import Pattern

if TYPE_CHECKING:
    from onnxcompress.passes.prune import Prune

_MOST_ROUNDS = 32
_UNORDERED = ("blocks", "row-share")  # blocks go by what the outputs lose
_OF_WEIGHTS = ("sparsity", "threshold", "pattern", "allocation", "form", "residual_rank")


def refuse(options: Prune) -> None:
    """Refuse what means nothing.

    Raises:
        UsageError: there is something.
    """
    try:
        pattern = Pattern.of(options.pattern)
    except ValueError as error:
        raise UsageError(str(error), "Choose another --pattern.") from error
    sparsity, threshold = options.sparsity, options.threshold
    if sparsity is not None and not 0 < sparsity < 1:
        raise UsageError(f"a sparsity of {sparsity:g} cannot be had", "Give a share between 0 and 1, as 0.5.")
    if threshold is not None and not (math.isfinite(threshold) and threshold > 0):
        raise UsageError("the threshold must be above zero", "Give a magnitude such as 0.01.")
    if threshold is not None and sparsity is not None:
        raise UsageError("--threshold and --sparsity exclude each other", "Leave one of them out.")
    if pattern.ratio is not None and (sparsity is not None or threshold is not None):
        raise UsageError(f"--pattern {options.pattern} says already how many weights go", "Leave out the other.")
    _mixture(options)
    _rounds(options, pattern)
    _product(options)


def _mixture(options: Prune) -> None:
    """Refuse options of single weights together with those of structures."""
    if options.structure is None:
        if options.ratio is not None:
            raise UsageError("--ratio has a meaning with --structure only", "Give --structure all, or --sparsity.")
        if options.importance == "row-share":
            raise UsageError("a row's share is that of a structure", "Give --structure all, or another --importance.")
        return
    if options.ratio is not None and not 0 < options.ratio < 1:
        raise UsageError(f"a ratio of {options.ratio:g} cannot be had", "Give a share between 0 and 1, as 0.3.")
    if options.importance not in ("auto", "row-share") or (options.structure, options.importance) == _UNORDERED:
        raise UsageError(
            f"--importance {options.importance} has no meaning with --structure {options.structure}",
            "Leave one of them out.",
        )
    kinds = {item.name: item.default for item in fields(options)}
    for name in _OF_WEIGHTS:
        if getattr(options, name) != kinds[name]:
            raise UsageError(f"--{name.replace('_', '-')} has no meaning with --structure", "Leave one of them out.")


def _rounds(options: Prune, pattern: Pattern) -> None:
    """Refuse a schedule of what has no share that could grow."""
    if options.schedule is None:
        if options.rounds is not None:
            raise UsageError("--rounds has a meaning with --schedule only", "Give --schedule cubic.")
        return
    if options.rounds is not None and not 2 <= options.rounds <= _MOST_ROUNDS:
        raise UsageError(f"a schedule of {options.rounds} rounds", f"Give 2 to {_MOST_ROUNDS} --rounds.")
    if options.threshold is not None or pattern.ratio is not None:
        raise UsageError("a schedule needs a share that grows from round to round", "Give --sparsity, or --ratio.")


def _product(options: Prune) -> None:
    """Refuse a product beside the weights that could not be told from them."""
    rank = options.residual_rank
    if rank is None:
        return
    if rank < 1:
        raise UsageError(f"there is no product of rank {rank}", "Give --residual-rank 1 or more.")
    if options.form == "dense":
        raise UsageError("a product added to dense weights leaves no zeros", "Leave out --residual-rank, or --form.")
    if options.schedule is not None:
        raise UsageError("a product stands beside weights that are pruned in one go", "Leave out --schedule.")
