"""Reuse of followed rows: LRU stack distances, and what they tell of caches of any size.

The rows of some hash values are followed (Waldspurger et al.: Efficient MRC Construction with SHARDS, FAST 2015). What
they miss is set against the lookups expected of them, not those that are there (SHARDS-adj): a hot row more or less in
the sample changes little. Where rows are so few that time is sampled, too, in spans, the first lookup of a row in a
span has an unknown distance: at least the distinct rows of the span before it, and less than all rows. So it is open
whether it misses, and both answers are carried along.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hotrow.kernels import load_native
from hotrow.profiling.counting import as_native

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Rows = NDArray[np.uint32]

NEVER = 0xFFFFFFFF
NUM_PARTS = 8
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36)
"""Student's t of 1, 2, ... degrees of freedom, 95 % two-sided."""


@dataclass
class Stream:
    """Followed lookups of some rows, rows renumbered in order of place.

    places: of the rows, ascending ``[U]``. rows ``[n]``, batches ``[n]``: of each lookup. rate: share of the distinct
    rows that these are. span_batches: batches of a span of time; 0 if all time was followed.
    """

    places: Ints
    rows: Rows
    batches: Rows
    rate: float
    span_batches: int = 0

    def of_rows(self, kept: Bools, rate: float) -> Stream:
        """The lookups of the rows that are kept ``[U]``, which are ``rate`` of all rows."""
        numbers = (np.cumsum(kept) - 1).astype(np.uint32)
        lookups = kept[self.rows]
        rows = numbers[self.rows[lookups]]
        return Stream(self.places[kept], rows, self.batches[lookups], rate, self.span_batches)

    def behind(self, prefix: int) -> Stream:
        """The lookups of places from ``prefix`` on."""
        return self if prefix == 0 else self.of_rows(self.places >= prefix, self.rate)

    def sampled(self, kept: Bools) -> Stream:
        """The lookups of a sample of the rows."""
        return self.of_rows(kept, self.rate * np.count_nonzero(kept) / max(len(kept), 1))

    def of_parts(self, num: int = NUM_PARTS) -> list[Stream]:
        """Streams of about as many rows each, by another hash than the one that decided which are followed."""
        hashes = row_hashes(self.places, seed=1) % num
        parts = [self.sampled(hashes == part) for part in range(num)]
        return [part for part in parts if len(part.places)]

    def begins(self) -> Ints:
        """Where each batch begins, and the end."""
        if not len(self.rows):
            return np.zeros(1, np.int64)
        starts = np.flatnonzero(np.diff(self.batches)) + 1
        return np.concatenate(([0], starts, [len(self.rows)])).astype(np.int64)

    def distances(self, begins: Ints) -> Rows:
        """LRU stack distance of every lookup as if there were no gaps, ``NEVER`` for a row's first.

        begins: where groups that move up together begin, and the end.
        """
        if not len(self.rows):
            return np.empty(0, np.uint32)
        rows, begins = as_native(self.rows, np.uint32), as_native(begins, np.int64)
        found: Rows = load_native().stack_distances(
            rows.ctypes.data, len(rows), begins.ctypes.data, len(begins) - 1, len(self.places)
        )
        return found

    def reuse(self, begins: Ints) -> Reuse:
        """Distances within spans, and which are open."""
        distances = self.distances(begins)
        is_first, is_open = distances == NEVER, np.zeros(len(self.rows), np.bool_)
        if self.span_batches and len(self.rows):
            spans = (self.batches // np.uint32(self.span_batches)).astype(np.uint32)
            at = first_touches(self.rows, spans, len(self.places))
            group = begins[np.searchsorted(begins, at, side="right") - 1]
            before = np.searchsorted(at, group) - np.searchsorted(at, np.searchsorted(spans, spans[at]))
            later = spans[at] > 0  # the first span begins with the log: what is first there is new
            distances[at[later]] = before[later]
            is_open[at[later]] = True
        return Reuse(distances, is_first, is_open, len(self.places), self.rate)


def row_hashes(places: Ints, seed: int) -> Rows:
    rows = as_native(places, np.uint32)
    found: Rows = load_native().row_hashes(rows.ctypes.data, len(rows), seed)
    return found


def first_touches(rows: Rows, groups: Rows, num_rows: int) -> Ints:
    """Positions of the lookups that touch their row first in their group, ascending."""
    rows, groups = as_native(rows, np.uint32), as_native(groups, np.uint32)
    found = load_native().first_touches(rows.ctypes.data, groups.ctypes.data, len(rows), num_rows)
    positions: Ints = found.astype(np.int64)
    return positions


@dataclass
class Reuse:
    """Of each lookup ``[n]``: its stack distance among the followed rows; whether its row was not seen before; whether
    the distance is open, which is then the least. num_rows: followed rows, which are ``rate`` of all."""

    distances: Rows
    is_first: Bools
    is_open: Bools
    num_rows: int
    rate: float

    def num_new(self, counted: Bools) -> int:
        """Of the ``counted`` lookups ``[n]`` those that are the first of their row for certain."""
        return int(np.count_nonzero(counted & self.is_first & ~self.is_open))

    def misses(self, sizes: Ints, counted: Bools) -> tuple[Floats, Floats]:
        """How many of the ``counted`` lookups ``[n]`` but new ones LRU caches of ``sizes`` rows miss: at least and at
        most, ``[len(sizes)]`` each."""
        known = np.sort(self.distances[counted & ~self.is_open & ~self.is_first])
        seen = np.sort(self.distances[counted & self.is_open & ~self.is_first])
        unseen = np.sort(self.distances[counted & self.is_open & self.is_first])
        low, high = np.empty(len(sizes)), np.empty(len(sizes))
        for number, size in enumerate(sizes):
            slots, chances = slots_of(int(size), self.num_rows, self.rate)
            misses = _at_least(known, slots) @ chances
            low[number] = misses + (_at_least(seen, slots) + _at_least(unseen, slots)) @ chances
            holds_all = float(chances[slots >= self.num_rows].sum())
            high[number] = misses + len(seen) * (1.0 - holds_all) + len(unseen)
        return low, high


def _at_least(values: Rows, bounds: Ints) -> Ints:
    found: Ints = len(values) - np.searchsorted(values, bounds)
    return found


def slots_of(size: int, num_rows: int, rate: float) -> tuple[Ints, Floats]:
    """How many of ``num_rows`` sampled rows are among ``size`` of all, which are ``num_rows / rate``; and the chances
    of each number: the hypergeometric distribution, but for tails beyond eight standard deviations."""
    population = max(round(num_rows / rate), num_rows) if rate else num_rows
    size = min(size, population)
    least, most = max(0, size - (population - num_rows)), min(num_rows, size)
    mean = size * num_rows / max(population, 1)
    spread = 8 * np.sqrt(mean * (1 - num_rows / max(population, 1))) + 8
    slots = np.arange(max(least, int(mean - spread)), min(most, int(mean + spread) + 1) + 1, dtype=np.int64)
    at = slots[:-1].astype(np.float64)
    ratios = (num_rows - at) * (size - at) / ((at + 1) * (population - num_rows - size + at + 1))
    logs = np.concatenate(([0.0], np.cumsum(np.log(ratios))))
    chances = np.exp(logs - logs.max())
    return slots, chances / chances.sum()


def half_width(curves: list[Floats]) -> Floats:
    """Of the mean of independent curves ``[k, sizes]``: half of its 95 % interval by Student's t, at every size. 1 for
    fewer than two."""
    if len(curves) < 2:
        return np.ones(1)
    known = np.array(curves)
    quantile = _T[min(len(known) - 1, len(_T)) - 1]
    found: Floats = quantile * np.sqrt(known.var(axis=0, ddof=1) / len(known))
    return np.minimum(found, 1.0)
