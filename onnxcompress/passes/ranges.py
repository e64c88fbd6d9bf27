"""The grid of each value: of the candidates for its range the one that does least to the outputs.

Values that an operator only moves share one grid. Where trying every candidate on the whole model would take too long,
the squared error on a sample of the value decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.solvers.clipping import candidates, grid, squared_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxcompress.forms.chains import Unit
    from onnxcompress.progress import Progress
    from onnxcompress.stats.extremes import Extremes
    from onnxcompress.stats.whatif import WhatIf

_SECONDS = 20.0
_TRIALS = 4  # candidates of a value, roughly


def shared(units: Sequence[Unit]) -> list[list[str]]:
    """Values in groups of those that have to share one grid."""
    head: dict[str, str] = {}

    def root(name: str) -> str:
        while head.setdefault(name, name) != name:
            name = head[name]
        return name

    for unit in units:
        for name in (*unit.inputs, unit.output):
            root(name)
        if unit.moves:
            head[root(unit.output)] = root(unit.inputs[0])
    groups: dict[str, list[str]] = {}
    for name in head:
        groups.setdefault(root(name), []).append(name)
    return list(groups.values())


def grids(
    groups: Sequence[Sequence[str]],
    seen: Mapping[str, Extremes],
    session: WhatIf,
    progress: Progress,
    bits: int = 8,
) -> dict[str, tuple[float, int]]:
    """Scale and zero point of each value."""
    found: dict[str, tuple[float, int]] = {}
    measured = len(groups) * _TRIALS * session.seconds < _SECONDS
    progress.start("choosing ranges", len(groups))
    for names in groups:
        progress.advance(names[0])
        sample = np.concatenate([seen[n].sample for n in names])
        low, high = min(seen[n].low for n in names), max(seen[n].high for n in names)
        ranges = list(dict.fromkeys(candidates(sample, low, high, bits).values()))
        if measured and len(ranges) > 1:
            errors = [session.noise(dict.fromkeys(names, grid(*r, bits)), {}) for r in ranges]
        else:
            errors = [squared_error(sample, *r, bits) for r in ranges]
        found.update(dict.fromkeys(names, grid(*ranges[int(np.argmin(errors))], bits)))
    progress.finish()
    return found
