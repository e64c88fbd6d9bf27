"""What is known of each layer, what that makes of those not measured, and which layers have to be left out.

Noise of independent errors adds up, so with nᵢ the noise-to-signal ratio that layer i alone makes at the outputs, the
fewest layers to leave out are the first of the worst such that Σ nᵢ of all others is at most the limit. Where nᵢ was
not measured, it is g · eᵢ: the error eᵢ at the layer's own output, and the median g of nᵢ / eᵢ where both are known.
"""

from __future__ import annotations

import json
import shlex
import statistics
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

WORST = 1e12  # noise-to-signal ratio of outputs that are not finite any more, or have another shape


@dataclass
class Knowledge:
    """Noise-to-signal ratios by the name of the weight. ``limit``: what all that stay may make together."""

    limit: float
    estimated: Mapping[str, float]
    measured: dict[str, float] = field(default_factory=dict)

    @property
    def gain(self) -> float:
        """How much of the noise of a layer arrives at the outputs, in the median."""
        pairs = [(n, self.estimated.get(name, 0.0)) for name, n in self.measured.items()]
        return statistics.median([n / e for n, e in pairs if n > 0 and e > 0] or [1.0])

    def noise(self, name: str, gain: float | None = None) -> float | None:
        """At the outputs, measured or expected; None where nothing is known."""
        if name in self.measured:
            return self.measured[name]
        own = self.estimated.get(name)
        return None if own is None else min(own * (self.gain if gain is None else gain), WORST)

    def ranked(self, names: Iterable[str]) -> list[tuple[str, float]]:
        """Layers of which something is known, with their noise, the worst first."""
        gain = self.gain
        known = [(n, noise) for n in names if (noise := self.noise(n, gain)) is not None]
        return sorted(known, key=lambda pair: (-pair[1], pair[0]))

    def excluded(self, names: Iterable[str]) -> list[str]:
        """The fewest layers whose leaving-out brings the noise of all others below the limit."""
        ranked = self.ranked(names)
        count = fewest([noise for _, noise in ranked], self.limit)
        return [name for name, _ in ranked[:count]]

    def next(self, names: Sequence[str], waiting: Sequence[str]) -> str:
        """The layer to measure next: one of which nothing is known, else the worst and the one nearest to the border.

        The two take turns; the border is where the layers that may stay begin.
        """
        ranked = self.ranked(names)
        places = {name: i for i, (name, _) in enumerate(ranked)}
        unknown = [name for name in waiting if name not in places]
        if unknown:
            return unknown[0]
        border = fewest([noise for _, noise in ranked], self.limit) - 0.5
        if len(self.measured) % 2:
            return min(waiting, key=lambda name: (abs(places[name] - border), places[name]))
        return min(waiting, key=lambda name: places[name])


def fewest(noises: Sequence[float], limit: float) -> int:
    """How many of the largest have to go, such that the others sum up to at most the limit.

    Args:
        noises: in falling order.
        limit: of their sum.
    """
    total, count = 0.0, len(noises)
    for noise in reversed(noises):
        total += noise
        if total > limit:
            break
        count -= 1
    return count


def pattern(name: str) -> str:
    """The name as a pattern that matches it: special characters in brackets, unprintable ones as ``?``."""
    return "".join(f"[{c}]" if c in "*?[" else c if _printable(c) else "?" for c in name)


def _printable(character: str) -> bool:
    return unicodedata.category(character)[0] not in "CZ" or character == " "


def shell(patterns: Sequence[str]) -> str:
    """Options for a command line. A pattern that begins with a dash is joined to its option."""
    return " ".join(f"--exclude{'=' if p.startswith('-') else ' '}{_quoted(p)}" for p in patterns)


def _quoted(text: str) -> str:
    return "'" + text + "'" if "'" not in text else shlex.quote(text)


def toml(patterns: Sequence[str]) -> str:
    """A line for a step of a recipe. Strings of JSON are strings of TOML where nothing in them is unprintable."""
    return f"exclude = [{', '.join(json.dumps(p, ensure_ascii=False) for p in patterns)}]"
