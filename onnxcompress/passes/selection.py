"""Which weights a user asked for, by patterns on their names and on the names of the nodes that read them."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from onnxcompress.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxcompress.graph.layers import Weight


class Selection:
    """The patterns of ``--include`` and ``--exclude``, checked against all weights of a model.

    Raises:
        UsageError: a pattern matches nothing.
    """

    def __init__(self, include: Sequence[str], exclude: Sequence[str], weights: Sequence[Weight]) -> None:
        self._include = include
        self._exclude = exclude
        for option, patterns in (("--include", include), ("--exclude", exclude)):
            for pattern in patterns:
                if not any(_matches(w, pattern) for w in weights):
                    raise UsageError(
                        f"{option} {pattern!r} matches no weight and no node that reads one",
                        "See the names with --dry-run --verbose; * and ? stand for any characters.",
                    )

    def reason(self, weight: Weight) -> str | None:
        """Why a weight is left out, or None where it is not."""
        for pattern in self._exclude:
            if _matches(weight, pattern):
                return f"excluded by {pattern!r}"
        if self._include and not any(_matches(weight, p) for p in self._include):
            return "not included"
        return None


def _matches(weight: Weight, pattern: str) -> bool:
    readers = {leaf.use.node.name for leaf in weight.leaves if leaf.use.node is not None}
    return any(fnmatchcase(name, pattern) for name in {weight.name, weight.label, *readers})
