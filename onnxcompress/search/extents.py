"""How far to go, found by going there: the least extent for which budgets hold, or the greatest for which they do.

Whether they hold is taken to change once along the way (more is cut out: faster, and further from the original). So the
place is bracketed from a first guess in steps that double, and halved from there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from onnxcompress.errors import UsageError
from onnxcompress.passes.base import Adjustable

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnxcompress.passes.base import Extents, Pass
    from onnxcompress.recipe import Recipe

_Tried = TypeVar("_Tried")
_NOT_AT_ALL = 0.0
_RECOVER = "recover"


def open_extents(recipe: Recipe) -> Extents | None:
    """What may become of the step of a recipe that leaves open how far it goes; None where no step does.

    Raises:
        UsageError: more than one does.
    """
    asked = recipe.budgets.asked
    found = [e for s in recipe.steps if isinstance(s, Adjustable) and (e := s.extents(asked)) is not None]
    if len(found) > 1:
        raise UsageError(
            "more than one step leaves open how far it goes", "Say it of all steps but one, as with ratio."
        )
    if found and found[0].most and len(_working(recipe)) > 1:  # the others may do without it
        return replace(found[0], values=(_NOT_AT_ALL, *found[0].values), first=found[0].first + 1)
    return found[0] if found else None


def tag_of(recipe: Recipe) -> str:
    """What the result is called after the model's own name, as in ``{stem}.{tag}.onnx``."""
    last = next((s for s in reversed(recipe.steps) if s.name != _RECOVER), recipe.steps[-1])
    tag = last.tag if open_extents(recipe) is None else last.name
    recovered = any(s.name == _RECOVER and s is not last for s in recipe.steps)
    return recipe.name or (f"{tag}-{_RECOVER}ed" if recovered else tag)


def settled_at(recipe: Recipe, extent: float) -> Recipe:
    """The recipe with its open step going so far, or without it where that is not at all."""
    asked = recipe.budgets.asked
    steps: list[Pass] = []
    for step in recipe.steps:
        is_open = isinstance(step, Adjustable) and step.extents(asked) is not None
        if not is_open:
            steps.append(step)
        elif extent > _NOT_AT_ALL and isinstance(step, Adjustable):
            steps.append(step.at(extent))
    return replace(recipe, steps=tuple(steps))


def told(extents: Extents, extent: float, opened: Recipe, settled: Recipe) -> str:
    """The sentence for the report on how far it went."""
    names = [step.name for step in opened.steps if step.name not in {s.name for s in settled.steps}]
    if names:
        return f"{', '.join(names)} left out, as not even a little of it keeps {', '.join(extents.budgets)}"
    return f"how far to go was found by measuring {', '.join(extents.budgets)}: {100 * extent:g} %"


def _working(recipe: Recipe) -> list[Pass]:
    return [step for step in recipe.steps if step.name != "simplify"]


def searched(
    extents: Extents, attempt: Callable[[float], _Tried], holds: Callable[[_Tried], bool]
) -> tuple[float, _Tried]:
    """The extent to keep, and what came of it.

    Args:
        extents: what is open.
        attempt: goes so far.
        holds: whether the budgets that decide hold of what came of it.

    Returns:
        Where they hold nowhere the furthest extent, or with ``most`` the nearest.
    """
    values, found = extents.values, dict[int, _Tried]()
    low, high = -1, len(values)  # below low one answer is known, from high on the other
    index, step = extents.first, 1
    while low < high - 1:
        found[index] = attempt(values[index])
        if holds(found[index]) != extents.most:
            high, onward = index, -1
        else:
            low, onward = index, 1
        if low >= 0 and high < len(values):
            index = (low + high) // 2
        else:
            index = min(max(index + onward * step, low + 1), high - 1)
            step *= 2
    best = max(low, 0) if extents.most else min(high, len(values) - 1)
    return values[best], found[best]
