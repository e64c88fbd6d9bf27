"""Confidence intervals of a ratio of latencies that was measured in rounds, each with sessions of its own.

Within a round, the 95 % interval of the median lies between two order statistics x₍ₖ₎ and x₍ₙ₊₁₋ₖ₎ with k the largest
for which P(Binomial(n, ½) < k) ≤ 2.5 % (David and Nagaraja, Order Statistics, 7.1): nothing is assumed of the noise but
that it is as often high as low. With fewer than six values it is the range of what was seen, which covers the median
with probability 1 − 2¹⁻ⁿ.

That is the interval for these sessions. Another session of the same model is 1 to 4 % faster or slower, as its memory
and its threads happen to lie (on a busy machine, twice as fast or slow), and the one loaded first is rather slower. No
number of calls averages that out; rounds with fresh sessions, loaded in the other order each time, do. So the ratio is
the geometric mean of the medians mᵢ of n rounds, and its interval is, in logarithms, the one within rounds and

    t(ν₀ + n − 1) · √(s²/n),   s² = (ν₀ σ₀² + Σ (log mᵢ − mean)²) / (ν₀ + n − 1)

in quadrature: Student's interval whose variance is shrunk to what sessions differ by on a quiet machine (a scaled
inverse-χ² prior; Gelman et al., Bayesian Data Analysis, 2.6).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

_SESSION_SPREAD = 0.015  # σ₀: standard deviation of the log ratio between pairs of sessions
_WEIGHT = 2  # ν₀: degrees of freedom that this is worth
_STUDENT = (4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # 97.5 % quantiles for 2, 3, 4 ... degrees

MOST_ROUNDS = len(_STUDENT)
USUAL_ROUNDS = 4
_LEAST_UNITS = 6  # pairs of calls that a round should have time for
_RELOAD_SHARES = ((USUAL_ROUNDS, 0.1), (2, 0.5))  # of the time, that loading the models once more may cost


def rounds_for(seconds: float, load_ms: float, calls_ms: float) -> int:
    """How many rounds to have at hand: as many with the one model loaded first as with the other, or a single one.

    Args:
        seconds: time to spend within calls.
        load_ms: what loading all models takes.
        calls_ms: what one call of each takes.
    """
    for rounds, share in _RELOAD_SHARES:
        if load_ms <= share * seconds * 1000 and rounds * _LEAST_UNITS * calls_ms <= seconds * 1000:
            return MOST_ROUNDS if rounds == USUAL_ROUNDS else rounds
    return 1


def over_rounds(rounds: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """The ratio, and the bounds of its 95 % confidence interval.

    Args:
        rounds: the ratios measured in each, at most `MOST_ROUNDS` of them, none empty.
    """
    logs = [[math.log(ratio) for ratio in ratios] for ratios in rounds]
    middles = [median(values) for values in logs]
    n, centre = len(middles), sum(middles) / len(middles)
    _, low, high = median_interval([v - m for values, m in zip(logs, middles, strict=True) for v in values])
    variance = (_WEIGHT * _SESSION_SPREAD**2 + sum((m - centre) ** 2 for m in middles)) / (_WEIGHT + n - 1)
    between = _STUDENT[n - 1] * math.sqrt(variance / n)
    return math.exp(centre), math.exp(centre - math.hypot(low, between)), math.exp(centre + math.hypot(high, between))


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median and the bounds of its 95 % confidence interval."""
    ordered = sorted(values)
    k = _rank(len(ordered))
    return median(ordered), ordered[k - 1], ordered[-k]


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two in the middle."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


@functools.cache
def _rank(n: int) -> int:
    """The k of the order statistics that bound the median of n values, at least 1."""
    if n > 200:
        return math.floor(n / 2 - 0.98 * math.sqrt(n))
    k, below = 0, math.comb(n, 0)
    while 40 * below <= 2**n:
        k += 1
        below += math.comb(n, k)
    return max(1, k)
