"""Shares of models, found on labelled data: greedy selection with replacement.

Start with the model that scores best. Then add, again and again, the model whose addition to the mean scores best, as
long as that is better than before; one that is added k times of n has the share k/n. With every model at most once this
is the greedy soup of Wortsman et al. (2022, https://arxiv.org/abs/2203.05482); with replacement it is the selection of
Caruana et al. (Ensemble Selection from Libraries of Models, ICML 2004).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Shares = tuple[float, ...]
_MOST = 10  # additions


def searched(
    count: int, score: Callable[[Shares], float], better: Callable[[float, float], bool]
) -> tuple[Shares, float]:
    """The shares that score best, and their score.

    Args:
        count: models there are.
        score: of shares that sum to one.
        better: whether the second of two scores is better than the first.
    """
    known: dict[Shares, float] = {}

    def scored(chosen: Sequence[int]) -> float:
        shares = _shares(count, chosen)
        if shares not in known:
            known[shares] = score(shares)
        return known[shares]

    chosen = [0]
    for index in range(1, count):
        if better(scored(chosen), scored([index])):
            chosen = [index]
    while len(chosen) <= _MOST:
        best = chosen
        for index in range(count):
            if better(scored(best), scored([*chosen, index])):
                best = [*chosen, index]
        if best == chosen:
            break
        chosen = best
    return _shares(count, chosen), scored(chosen)


def _shares(count: int, chosen: Sequence[int]) -> Shares:
    return tuple(chosen.count(index) / len(chosen) for index in range(count))
