"""Numbers and names as people read them, and as a terminal may safely show them.

Names of nodes, tensors and files come from outside: a name with an escape sequence, a line break or a
right-to-left mark could repaint the screen or forge the last line. `safe` spells such characters out.
"""

from __future__ import annotations

import math
import unicodedata

# Control, format (bidirectional, zero width), surrogate, private, unassigned, line and paragraph separators.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_EXACT_DB = 140.0  # beyond what float32 can tell apart


def safe(text: object, limit: int | None = None) -> str:
    r"""The text on one line, unprintable characters spelt out, the middle left out beyond ``limit``.

    >>> safe("conv\x1b[31m/weight")
    'conv\\x1b[31m/weight'
    """
    spelt = "".join(c if _printable(c) else ascii(c)[1:-1] for c in str(text))
    if limit is None or len(spelt) <= limit:
        return spelt
    head = (limit - 1) // 2
    return spelt[:head] + "…" + spelt[len(spelt) - (limit - 1 - head) :]


def safe_lines(text: str) -> str:
    """The text with the line breaks that it has, all else as of `safe`."""
    return "\n".join(safe(line) for line in text.split("\n"))


def _printable(character: str) -> bool:
    return unicodedata.category(character) not in _UNPRINTABLE


def size(count: float) -> str:
    """Bytes in binary units with three significant digits.

    >>> size(24_117_248)
    '23.0 MiB'
    """
    value, unit = float(count), 0
    while abs(value) >= 1023.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} B" if unit == 0 else f"{_three(value)} {_UNITS[unit]}"


def count(number: int) -> str:
    """A number of things: exact up to a million, then in millions or billions.

    >>> count(22_713_216)
    '22.7 M'
    """
    if number < 1_000_000:
        return f"{number:,}"
    return f"{_three(number / 1e6)} M" if number < 999_500_000 else f"{_three(number / 1e9)} G"


def plural(number: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "tensor"), plural(3, "tensor")
    ('1 tensor', '3 tensors')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def milliseconds(value: float) -> str:
    """A time in milliseconds with three significant digits."""
    return f"{_three(value)} ms"


def decibels(value: float) -> str:
    """A signal to noise ratio; beyond the precision of float32 there is no difference left to speak of."""
    if math.isnan(value):
        return "not defined"
    return "exact" if value > _EXACT_DB else f"{value:.1f} dB"


def cosine(value: float) -> str:
    """A cosine similarity, with as many digits as it takes to tell it from one."""
    if math.isnan(value):
        return "not defined"
    digits = 4 if value < 0.999 else 6
    return f"{value:.{digits}f}"


def percent(share: float) -> str:
    """A share as a percentage.

    >>> percent(0.264)
    '26.4 %'
    """
    return f"{100 * share:.1f} %"


def number(value: float) -> str:
    """A plain number with up to five significant digits."""
    return f"{value:.5g}"


def measured(name: str, value: float | str | None) -> str:
    """The limit or the value of a budget, in the unit that its name implies.

    >>> measured("max_size", 20_971_520.0), measured("max_size", 0.3), measured("min_sqnr", 30.0)
    ('20.0 MiB', '30.0 %', '30')
    """
    if value is None or isinstance(value, str):
        return "-" if value is None else safe(value, 80)
    if not name.endswith("size"):
        return number(value)
    return size(value) if value > 1 else percent(value)


def _three(value: float) -> str:
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    rounded = float(f"{value:.3g}")
    digits = min(max(0, 2 - math.floor(math.log10(abs(rounded)))), 4)
    return f"{rounded:.{digits}f}"
