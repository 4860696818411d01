"""Curves of heat: by the hottest rows, and by places in the order that a table has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hotrow.profiles import Curve
from hotrow.profiling.counting import Counted

Floats = NDArray[np.float64]

MAX_CUTS = 1024


def cuts(last: int, num_cuts: int = MAX_CUTS) -> NDArray[np.int64]:
    """Whole numbers from 1 to ``last``, all of them or spaced geometrically, at most ``num_cuts``."""
    if last <= num_cuts:
        return np.arange(1, last + 1)
    return np.unique(np.rint(np.geomspace(1, last, num_cuts)).astype(np.int64))


class Heat:
    """Accesses of a table's rows, most first: ``counts`` [n], each of so many rows as ``weights`` [n] says.

    Exact, or from frequent rows (DataSketches) in front of followed rows, whose accesses are made to add up.
    """

    def __init__(self, counted: Counted) -> None:
        self.is_exact = counted.touched is not None
        if counted.touched is not None:
            counts = np.sort(counted.touched)
            starts = np.flatnonzero(np.diff(counts, prepend=0))
            self.counts: Floats = counts[starts][::-1].astype(np.float64)
            self.weights: Floats = np.diff(starts, append=len(counts))[::-1].astype(np.float64)
        else:
            self.counts, self.weights = _estimated(counted)
        self.num_lookups = counted.num_lookups
        self.num_distinct = int(round(float(self.weights.sum())))

    def curve(self) -> Curve:
        """(rows, share of accesses) at up to 1,024 cut points, ending at (distinct rows, 1)."""
        if not self.num_distinct:
            return ()
        rows, shares = np.cumsum(self.weights), np.cumsum(self.counts * self.weights)
        at = cuts(self.num_distinct)
        found = np.interp(at, np.concatenate(([0.0], rows)), np.concatenate(([0.0], shares / shares[-1])))
        found[-1] = 1.0
        return tuple((int(x), float(y)) for x, y in zip(at, np.minimum(found, 1.0)))


def _estimated(counted: Counted) -> tuple[Floats, Floats]:
    head = np.array([row for row, _ in counted.frequent], np.uint32)
    head_counts = np.array([count for _, count in counted.frequent], np.float64)
    found = counted.row_counts([0, counted.num_samples])
    tail = found.counts[0][~np.isin(found.rows, head)].astype(np.float64)
    weight = 1.0 / counted.row_rate
    rest = max(counted.num_lookups - float(head_counts.sum()), 0.0)
    seen = float(tail.sum()) * weight
    tail *= rest / seen if seen else 1.0
    every = np.concatenate((head_counts, tail))
    weights = np.concatenate((np.ones(len(head_counts)), np.full(len(tail), weight)))
    order = np.argsort(-every, kind="stable")
    return every[order], weights[order]


def place_curve(counted: Counted, begin: float, end: float) -> Curve:
    """(places, share of the accesses of samples [begin, end) to them): groups of places were counted, every lookup."""
    by_group = counted.window_shares(begin, end) @ counted.windows.astype(np.float64)
    total = by_group.sum()
    if not total:
        return ()
    ends = np.minimum(np.append(counted.group_begins[1:], 1 << 32), counted.num_rows)
    shares = np.minimum(np.cumsum(by_group) / total, 1.0)
    last = int(np.searchsorted(ends, counted.num_rows)) + 1
    return tuple((int(x), float(y)) for x, y in zip(ends[:last], shares[:last]))


def pooling_curve(counted: Counted) -> tuple[Curve, float]:
    """(ids of a bag, share of bags), and the mean."""
    if not counted.num_bags:
        return (), 0.0
    found = tuple((n, count / counted.num_bags) for n, count in sorted(counted.bag_lengths.items()))
    return found, counted.num_lookups / counted.num_bags
