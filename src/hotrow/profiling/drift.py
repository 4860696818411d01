"""How fast heat moves: what the hottest rows of one time window catch in those after it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hotrow.profiles import DriftPoint
from hotrow.profiling.followed import Followed

PREFIX_SHARES = tuple(2.0**-k for k in range(8, 0, -1))
"""Lengths of the hot prefixes: shares of the distinct rows."""


def drift(followed: Followed, num_windows: int) -> tuple[DriftPoint, ...]:
    """Of prefixes of eight lengths, over ``num_windows`` windows of equally many samples; () for fewer samples.

    Shares are one less what the sample catches outside of a prefix, against the lookups expected in a window.
    """
    counted, stream = followed.counted, followed.all
    if num_windows < 2 or counted.num_samples < num_windows or not len(stream.rows):
        return ()
    edges = [counted.num_samples * w // num_windows for w in range(num_windows + 1)]
    splits = np.searchsorted(counted.samples, edges)
    counts = [
        np.bincount(stream.rows[a:b], minlength=len(stream.places)) for a, b in zip(splits[:-1], splits[1:])
    ]
    if counted.is_complete:
        expected = [float(count.sum()) for count in counts]
    else:
        expected = [followed.expected(a, b) * stream.rate for a, b in zip(edges, edges[1:])]
    if not all(expected):
        return ()
    lengths = sorted({max(1, round(followed.num_distinct * share)) for share in PREFIX_SHARES})
    at = np.array([round(length * stream.rate) for length in lengths])
    caught = _caught(counts, expected, at)
    points = []
    for number, length in enumerate(lengths):
        later = [
            float(np.mean([caught[w, w + lag, number] for w in range(num_windows - lag)]))
            for lag in range(1, num_windows)
        ]
        same = float(np.mean([caught[w, w, number] for w in range(num_windows)]))
        points.append(DriftPoint(num_rows=length, same=same, later=tuple(later)))
    return tuple(points)


def _caught(
    counts: list[NDArray[np.int64]], expected: list[float], at: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Share of window v's lookups to the ``at[k]`` hottest rows of window w: [w, v, k] for v >= w."""
    num_windows = len(counts)
    found = np.zeros((num_windows, num_windows, len(at)))
    for w, count in enumerate(counts):
        coldness = (0xFFFF - np.minimum(count, 0xFFFF)).astype(np.uint16)  # sorted by radix
        order = np.argsort(coldness, kind="stable")[: np.count_nonzero(count)]  # rows not touched are not hot
        for v in range(w, num_windows):
            prefix = np.concatenate(([0], np.cumsum(counts[v][order])))
            outside = counts[v].sum() - prefix[np.minimum(at, len(order))]
            found[w, v] = np.clip(1.0 - outside / expected[v], 0.0, 1.0)
    return found
