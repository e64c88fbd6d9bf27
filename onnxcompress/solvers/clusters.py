r"""Entries of a table that many weights share: weighted k-means.

Of N vectors v with the weights h the entries c minimise  Σ hᵢ ‖vᵢ − c(i)‖²  (Lloyd 1982), c(i) being the nearest one.
Single values are sorted once: a cluster is an interval then, and its mean a difference of cumulated sums. They start
where many entries are best placed, with a density that is the cube root of that of the values (Panter and Dite 1951).
Longer vectors start from entries drawn by their distance to those drawn before (k-means++, Arthur and Vassilvitskii
2007), from a seed.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray
_BINS = 4096
_SAMPLE = 1 << 20  # single values at most from which a table is found
_VECTORS = 1 << 16  # longer vectors at most
_SEEDED = 1 << 13  # of them, those from which the first entries are drawn
_PRODUCTS = 1 << 21  # distances held at a time


def scalar_table(values: Array, importance: Array, entries: int, iterations: int = 30) -> Array:
    """A table for single values.

    Args:
        values: finite numbers (n,).
        importance: what an error in each counts, positive, (n,).
        entries: number of entries.
        iterations: rounds of Lloyd's at most.

    Returns:
        (entries,) float32, ascending; values of few kinds are all in it.
    """
    step = max(1, -(-values.size // _SAMPLE))
    order = np.argsort(values[::step], kind="stable")
    v, h = (a[::step][order].astype(np.float64) for a in (values, importance))
    kinds = v[np.flatnonzero(np.diff(v, prepend=-np.inf))] if v.size else np.zeros(1)
    if len(kinds) <= entries:
        return np.concatenate([kinds, np.full(entries - len(kinds), kinds[-1])]).astype(np.float32)
    table = _companded(v, h, entries)
    counted, summed = (np.concatenate([[0.0], np.cumsum(a)]) for a in (h, h * v))
    for _ in range(iterations):
        cuts = np.concatenate([[0], np.searchsorted(v, (table[1:] + table[:-1]) / 2), [v.size]])
        share = np.diff(counted[cuts])
        moved = np.where(share > 0, np.diff(summed[cuts]) / np.where(share > 0, share, 1), table)
        moved = np.maximum.accumulate(moved)
        if np.array_equal(moved, table):
            break
        table = moved
    return table.astype(np.float32)


def _companded(v: Array, h: Array, entries: int) -> Array:
    """Where entries are placed at first: evenly in the cumulated cube root of the density."""
    density, edges = np.histogram(v, _BINS, weights=h)
    cumulated = np.cumsum(np.cbrt(density))
    places = np.interp((np.arange(entries) + 0.5) / entries * cumulated[-1], cumulated, edges[1:])
    return np.asarray(places, np.float64)


def vector_table(values: Array, importance: Array, entries: int, seed: int = 0, iterations: int = 12) -> Array:
    """A table for vectors.

    Args:
        values: finite vectors (n, length).
        importance: what an error in each number counts, positive, (n, length).
        entries: number of entries.
        seed: of the draws.
        iterations: rounds of Lloyd's.

    Returns:
        (entries, length) float32.
    """
    draw = np.random.default_rng(seed)
    chosen = np.sort(draw.choice(len(values), min(len(values), _VECTORS), replace=False))
    v, h = values[chosen].astype(np.float32), importance[chosen].astype(np.float32)
    some = slice(None, None, -(-len(v) // _SEEDED))
    table = _drawn(v[some], h[some], entries, draw)
    for _ in range(iterations):
        near, far = nearest_entries(v, h, table)
        share = np.stack([np.bincount(near, h[:, i], entries) for i in range(v.shape[1])], 1)
        total = np.stack([np.bincount(near, h[:, i] * v[:, i], entries) for i in range(v.shape[1])], 1)
        table = np.where(share > 0, total / np.where(share > 0, share, 1), table).astype(np.float32)
        empty = np.flatnonzero(share[:, 0] == 0)
        if empty.size:  # they go where most is lost
            worst = np.argsort(-far, kind="stable")[: empty.size]
            table[empty[: worst.size]] = v[worst]
    return table


def _drawn(v: Array, h: Array, entries: int, draw: np.random.Generator) -> Array:
    """Vectors drawn with a probability that is their distance to the nearest one drawn before."""
    table = np.empty((entries, v.shape[1]), np.float32)
    table[0] = v[draw.integers(len(v))]
    distance = np.full(len(v), np.inf)
    for entry in range(1, entries):
        distance = np.minimum(distance, (h * np.square(v - table[entry - 1])).sum(1, dtype=np.float64))
        cumulated = np.cumsum(distance)
        place = np.searchsorted(cumulated, draw.random() * cumulated[-1])
        table[entry] = v[min(int(place), len(v) - 1)]
    return table


def nearest_entries(v: Array, h: Array, table: Array) -> tuple[Array, Array]:
    """The nearest entry of each vector, and the distance to it.

    Args:
        v: vectors (n, length).
        h: what an error in each number counts, (n, length).
        table: entries (k, length).
    """
    near, far = np.empty(len(v), np.int64), np.empty(len(v), np.float32)
    squares = np.square(table).T
    step = max(1, _PRODUCTS // len(table))
    for low in range(0, len(v), step):
        part = slice(low, low + step)
        hv = h[part] * v[part]
        distance = h[part] @ squares
        distance -= 2 * (hv @ table.T)
        near[part] = distance.argmin(1)
        least = distance[np.arange(len(hv)), near[part]]
        far[part] = np.maximum(least + (hv * v[part]).sum(1), 0)
    return near, far
