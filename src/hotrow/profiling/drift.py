"""How fast heat moves: what the hottest rows of one time window catch in those after it.

Windows are compared by the counts of followed rows over all of their time, whatever part of it reuse was followed in:
a row's count in a part of a window says less of which rows are hot, so that ``same`` would come out too high and
``later`` too low.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hotrow.profiles import DriftPoint
from hotrow.profiling.followed import Followed

PREFIX_SHARES = tuple(2.0**-k for k in range(8, 0, -1))
"""Lengths of the hot prefixes: shares of the distinct rows."""


def drift(followed: Followed, num_windows: int) -> tuple[tuple[DriftPoint, ...], str]:
    """Of prefixes of eight lengths, over ``num_windows`` windows of equally many samples; and what cannot be told, in
    words.

    Shares are one less what the followed rows catch outside of a prefix, against the lookups expected in a window.
    Windows without lookups are left out.
    """
    counted, stream = followed.counted, followed.all
    if counted.num_samples < num_windows:
        return (), f"drift unknown: {counted.num_samples} samples are fewer than {num_windows} windows"
    if not len(stream.places):
        return (), "drift unknown: no row was followed; give more memory or smaller batches"
    found = counted.row_counts([counted.num_samples * w // num_windows for w in range(num_windows + 1)])
    expected = found.counts.sum(1).astype(np.float64)
    if counted.row_rate < 1.0:
        between = zip(found.edges, found.edges[1:])
        expected = np.array([counted.num_lookups_between(a, b) for a, b in between]) * stream.rate
    is_used = (expected > 0) & (found.counts.sum(1) > 0)
    pairs = [(w, v) for w in np.flatnonzero(is_used) for v in np.flatnonzero(is_used) if v > w]
    lags = {v - w for w, v in pairs}
    num_lags = next(lag for lag in range(1, num_windows + 1) if lag not in lags) - 1
    remark = "" if num_lags == num_windows - 1 else f"drift over {num_lags} windows: others have no lookups"
    lengths = sorted({max(1, round(followed.num_distinct * share)) for share in PREFIX_SHARES})
    short = [length for length in lengths if length * stream.rate < 1.0]
    lengths = [length for length in lengths if length not in short]
    if short:
        remark += (
            f"{'; ' if remark else ''}drift of up to {short[-1]} rows unknown: fewer than 1 of them followed"
        )
    caught = _caught(found.counts, expected, np.array(lengths) * stream.rate)
    points = []
    for number, length in enumerate(lengths):
        later = [
            float(np.mean([caught[w, v, number] for w, v in pairs if v - w == lag]))
            for lag in range(1, num_lags + 1)
        ]
        same = float(np.mean([caught[w, w, number] for w in np.flatnonzero(is_used)]))
        points.append(DriftPoint(num_rows=length, same=same, later=tuple(later)))
    return tuple(points), remark


def _caught(
    counts: NDArray[np.int64], expected: NDArray[np.float64], at: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Share of window v's lookups to the ``at[k]`` hottest rows of window w: [w, v, k] for v >= w.

    What a window's sampled rows lack of the lookups expected of them, or have too much, is of v's hottest rows: a few
    of these more or less in the sample make the difference. Window w's rows catch of it what they catch of the hottest
    ones of v that are there.
    """
    num_windows = len(counts)
    found = np.zeros((num_windows, num_windows, len(at)))
    ranks = [_ranks(count) for count in counts]
    for v in range(num_windows):
        hottest = np.flatnonzero(ranks[v] < (at[0] if len(at) else 0))
        heat = counts[v][hottest]
        lacking = expected[v] - counts[v].sum()
        for w in range(v + 1):
            share = np.ones(len(at))
            if w < v:
                share = (heat @ (ranks[w][hottest][:, None] < at)) / max(heat.sum(), 1)
            caught = _inside(counts[v], ranks[w], at) + lacking * share
            found[w, v] = np.clip(caught / max(expected[v], 1.0), 0.0, 1.0)
    return found


def _ranks(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of the rows from the hottest on; those not touched are behind all others."""
    coldness = (0xFFFF - np.minimum(counts, 0xFFFF)).astype(np.uint16)  # sorted by radix
    ranks = np.empty(len(counts), np.int64)
    ranks[np.argsort(coldness, kind="stable")] = np.arange(len(counts))
    ranks[counts == 0] = len(counts)
    return ranks


def _inside(
    counts: NDArray[np.int64], ranks: NDArray[np.int64], at: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Lookups of the rows of the first ``at[k]`` ranks; of a part of the last one where it is no whole number."""
    by_rank = np.bincount(ranks, counts, minlength=len(counts) + 1)[:-1]
    sums = np.concatenate(([0.0], np.cumsum(by_rank)))
    found: NDArray[np.float64] = np.interp(at, np.arange(len(sums)), sums)
    return found
