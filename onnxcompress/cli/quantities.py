"""Lists as people write them on a command line: 0.485,0.456,0.406 and 224x224."""

from __future__ import annotations

import math
import re

from onnxcompress.errors import UsageError


def numbers(text: str, name: str) -> tuple[float, ...]:
    """One number, or one for each channel: ``0.485,0.456,0.406``.

    Raises:
        UsageError: a part is no finite number.
    """
    values = tuple(_number(part) for part in text.split(","))
    if not all(map(math.isfinite, values)):
        raise UsageError(f"{name} is {text!r}", "Give numbers such as 0.485,0.456,0.406.")
    return values


def height_width(text: str, name: str) -> tuple[int, int]:
    """The size of an image: ``224x224``, height first, or ``224`` for a square.

    Raises:
        UsageError: it is neither.
    """
    match = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", text.strip().lower(), re.ASCII)
    if match is None:
        raise UsageError(f"{name} is {text!r}", "Give a size such as 224x224, height first.")
    return int(match[1]), int(match[2] or match[1])


def bytes_of(text: str, name: str) -> int:
    """Bytes: ``500MB``, ``1.5GiB`` or ``1000000``.

    Raises:
        UsageError: it is no size, or less than a megabyte.
    """
    match = re.fullmatch(r"(\d*\.?\d+)\s*([kmg]?)(i?)b?", text.strip().lower(), re.ASCII)
    if match is not None:
        base = 1024 if match[3] else 1000
        found = float(match[1]) * base ** " kmg".index(match[2] or " ")
        if 1e6 <= found < 2**62:
            return int(found)
    raise UsageError(f"{name} is {text!r}", "Give at least a megabyte, such as 500MB or 1GiB.")


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan
