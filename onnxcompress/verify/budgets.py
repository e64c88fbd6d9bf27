"""Limits that a compressed model has to keep, and how they are written: ``0.5%``, ``12MB``, ``1.5x``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields

from onnxcompress.errors import UsageError
from onnxcompress.report import BudgetResult

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_NUMBER = r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*"


@dataclass(frozen=True)
class Budgets:
    """Limits; those that are None are not asked for."""

    max_drop: float | None = None  # fraction of the original's task metric; without labels: 1 - agreement
    min_sqnr: float | None = None  # dB, of the worst output or group
    min_cosine: float | None = None
    min_speedup: float | None = None
    max_size: float | None = None  # bytes; up to 1: a fraction of the original's
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        """Refuse limits that nothing, or everything, would keep.

        Raises:
            UsageError: a limit is out of range.
        """
        for name, low, high in (
            ("max_drop", 0, 1), ("min_sqnr", -math.inf, 200), ("min_cosine", -1, 1),
            ("min_speedup", 0, 1000), ("max_size", 0, math.inf), ("min_agreement", 0, 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"{name} is {value:g}", f"Give a value from {low:g} to {high:g}.")

    def counted_size(self, compressed_bytes: int, original_bytes: int) -> float:
        """A size as its limit counts it: a fraction of the original's where the limit is one, else bytes."""
        return compressed_bytes / original_bytes if (self.max_size or 0) <= 1 else float(compressed_bytes)

    @property
    def asked(self) -> dict[str, float]:
        """The limits that are set, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}


def judge(budgets: Budgets, measured: dict[str, float | None], reason: str = "") -> tuple[BudgetResult, ...]:
    """Each limit against what was measured; one that could not be measured does not hold.

    Args:
        budgets: the limits.
        measured: values by the name of the budget.
        reason: why values are missing, if they are.
    """
    results = []
    for name, limit in budgets.asked.items():
        value = measured.get(name)
        if value is None or math.isnan(value):
            results.append(BudgetResult(name, limit, f"not measured: {reason or 'it has no value here'}", ok=False))
        else:
            holds = value <= limit if name.startswith("max_") else value >= limit
            results.append(BudgetResult(name, limit, value, holds))
    return tuple(results)


def parse_fraction(text: str, name: str = "the value") -> float:
    """``0.5%`` or ``0.005`` as a fraction.

    Raises:
        UsageError: it is neither, or above 100 %.
    """
    found = re.fullmatch(_NUMBER + r"(%?)\s*", text)
    value = float(found[1]) / (100 if found[2] else 1) if found else math.inf
    if value > 1:
        raise UsageError(f"{name} is {text!r}", "Give a percentage such as 0.5%, or a fraction such as 0.005.")
    return value


def parse_size(text: str, name: str = "the size") -> float:
    """``12MB``, ``12MiB`` or ``12000000`` as bytes; ``27%`` or ``0.27`` as a fraction of the original.

    Raises:
        UsageError: it is none of these.
    """
    found = re.fullmatch(_NUMBER + r"([a-zA-Z]*|%)\s*", text)
    unit = found[2].upper() if found else "?"
    if found and unit == "%" and float(found[1]) <= 100:
        return float(found[1]) / 100
    if not found or unit not in _UNITS or float(found[1]) <= 0:
        raise UsageError(f"{name} is {text!r}", "Give bytes such as 12MB or 11.5MiB, or a percentage such as 27%.")
    value = float(found[1]) * _UNITS[unit]
    return max(value, math.nextafter(1, 2)) if unit else value


def parse_factor(text: str, name: str = "the factor") -> float:
    """``1.5`` or ``1.5x``.

    Raises:
        UsageError: it is neither.
    """
    found = re.fullmatch(_NUMBER + r"[xX×]?\s*", text)
    if not found:
        raise UsageError(f"{name} is {text!r}", "Give a factor such as 1.5.")
    return float(found[1])
