"""Reuse of a table's rows, from the lookups that were followed.

The rows of some hash values are followed with all of their lookups (Waldspurger et al.: Efficient MRC Construction with
SHARDS, FAST 2015). What they miss is set against the lookups expected of them, not those that are there (SHARDS-adj):
a hot row more or less in the sample changes little. What the sample leaves open is estimated from its quarters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hotrow.kernels import load_native
from hotrow.profiles import Curve, MissCurve
from hotrow.profiling.counting import Counted, as_native
from hotrow.profiling.curves import cuts

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Rows = NDArray[np.uint32]

NEVER = 0xFFFFFFFF
PREFIX_SHARES = (1 / 256, 1 / 32, 1 / 4)
"""Pinned prefixes that miss curves are made behind, beside none: shares of the places."""
NUM_SIZES = 24
NUM_SIMULATED_SIZES = (9, 5)
"""Of W-TinyLFU without a pinned prefix, and behind one, at least; all where lookups are few."""
MAX_SIMULATED = 1 << 20
"""First touches of batches that each cache of W-TinyLFU is simulated on, over all tables."""
TABLE_SIMULATED = (1 << 15, 1 << 18)
MIN_SIMULATED_ROWS = 4096
NUM_PARTS = 4
NEAR = 16
"""Times the slots of the largest batch, up to which LRU is simulated, too: of few slots it matters in which order the
rows of one batch leave."""
LRU, W_TINY_LFU = 2, 3  # their numbers in the native caches


@dataclass
class Stream:
    """Followed lookups of some rows, rows renumbered in order of place.

    places: of the rows, ascending [U]. rows [n], batches [n]: of each lookup. rate: share of the rows that these are.
    """

    places: Ints
    rows: Rows
    batches: Rows
    rate: float

    def of_rows(self, kept: NDArray[np.bool_], rate: float) -> Stream:
        """The lookups of the rows that are kept [U], which are ``rate`` of all rows."""
        numbers = (np.cumsum(kept) - 1).astype(np.uint32)
        lookups = kept[self.rows]
        return Stream(self.places[kept], numbers[self.rows[lookups]], self.batches[lookups], rate)

    def behind(self, prefix: int) -> Stream:
        """The lookups of places from ``prefix`` on."""
        return self if prefix == 0 else self.of_rows(self.places >= prefix, self.rate)

    def of_parts(self) -> list[Stream]:
        """Four streams of as many rows each, by another hash than the one that decided which are followed."""
        hashes = _hashes(self.places, seed=1) % NUM_PARTS
        return [self.of_rows(hashes == part, self.rate / NUM_PARTS) for part in range(NUM_PARTS)]

    def begins(self) -> Ints:
        """Where each batch begins, and the end."""
        if not len(self.rows):
            return np.zeros(1, np.int64)
        starts = np.flatnonzero(np.diff(self.batches)) + 1
        return np.concatenate(([0], starts, [len(self.rows)])).astype(np.int64)

    def distances(self, begins: Ints) -> NDArray[np.uint32]:
        """LRU stack distance of every lookup; ``begins``: where groups that move up together begin, and the end."""
        if not len(self.rows):
            return np.empty(0, np.uint32)
        rows, begins = as_native(self.rows, np.uint32), as_native(begins, np.int64)
        found: NDArray[np.uint32] = load_native().stack_distances(
            rows.ctypes.data, len(rows), begins.ctypes.data, len(begins) - 1, len(self.places)
        )
        return found


def _hashes(places: Ints, seed: int) -> Rows:
    rows = as_native(places, np.uint32)
    found: Rows = load_native().row_hashes(rows.ctypes.data, len(rows), seed)
    return found


class Followed:
    """What is computed of one table's followed lookups. batch_size: samples of the trainer's batches."""

    def __init__(self, counted: Counted, batch_size: int, num_distinct: int, by_heat: bool = False) -> None:
        self.counted, self.batch_size, self.num_distinct = counted, batch_size, num_distinct
        rows = as_native(counted.rows, np.uint32)
        places, numbers = load_native().renumber(rows.ctypes.data, len(rows))
        batches = (counted.samples // np.uint32(batch_size)).astype(np.uint32)
        self.all = Stream(places.astype(np.int64), numbers, batches, counted.row_rate)
        self.num_batches = -(-counted.num_samples // batch_size)
        self.half = self.num_batches // 2
        if by_heat:
            self._order_by_heat()
        self.firsts = self._first_touches()

    def _order_by_heat(self) -> None:
        """Places by the lookups of the first half of the batches, most first; then by id."""
        stream = self.all
        first = stream.rows[stream.batches < self.half]
        order = np.argsort(-np.bincount(first, minlength=len(stream.places)), kind="stable")
        number = np.empty(len(order), np.uint32)
        number[order] = np.arange(len(order), dtype=np.uint32)
        places = (np.arange(len(order)) / stream.rate).astype(np.int64)
        self.all = Stream(places, number[stream.rows], stream.batches, stream.rate)

    def _first_touches(self) -> Stream:
        """Of the lookups those that touch their row first in their batch."""
        stream = self.all
        if not len(stream.rows):
            return stream
        rows, batches = as_native(stream.rows, np.uint32), as_native(stream.batches, np.uint32)
        at = load_native().first_touches(rows.ctypes.data, batches.ctypes.data, len(rows), len(stream.places))
        return Stream(stream.places, rows[at], batches[at], stream.rate)

    def expected(self, begin: int, end: int) -> float:
        """Lookups of all rows in followed samples [begin, end)."""
        return self.counted.num_lookups_between(begin, end) * self.counted.followed_share(begin, end)

    def num_judged(self) -> float:
        """Lookups of all rows in the second half of the batches, as far as time was followed."""
        if self.counted.is_complete:
            return float(np.count_nonzero(self.all.batches >= self.half))
        return self.expected(self.half * self.batch_size, self.counted.num_samples)

    # -- the textbook's curve ------------------------------------------------------------------------------------------

    def miss_ratio_curve(self) -> tuple[Curve, float]:
        """LRU miss ratio of single lookups by cache rows, and the half-width of what sampling leaves open."""
        sizes = cuts(max(self.num_distinct, 1), 64)
        curve = self._single_misses(self.all, sizes)
        if curve is None:
            return (), 0.0
        error = 0.0
        if not self.counted.is_complete:
            error = _half_width([self._single_misses(part, sizes) for part in self.all.of_parts()])
        return tuple((int(x), float(y)) for x, y in zip(sizes, curve)), error

    def _single_misses(self, stream: Stream, sizes: Ints) -> Floats | None:
        distances = stream.distances(np.arange(len(stream.rows) + 1))
        again = np.sort(distances[distances != NEVER]) / stream.rate
        if self.counted.is_complete and stream.rate == 1.0:
            expected = float(len(again))
        else:
            every = self.expected(0, self.counted.num_samples) * stream.rate
            expected = every - min(self.num_distinct * stream.rate, len(stream.places))
        if expected <= 0:
            return None
        found: Floats = np.clip((len(again) - np.searchsorted(again, sizes)) / expected, 0.0, 1.0)
        return found

    # -- hotrow's caches -----------------------------------------------------------------------------------------------

    def prefixes(self) -> list[int]:
        """Lengths of pinned prefixes: none and shares of the places, those that are of use."""
        shares = {0} | {int(self.counted.num_rows * share) for share in PREFIX_SHARES}
        return sorted(p for p in shares if p == 0 or np.any(self.all.places < p))

    def miss_curves(self, look_ahead: int, num_tables: int, num_threads: int) -> tuple[MissCurve, ...]:
        """Rows read per lookup of the second half by LRU and by W-TinyLFU; () for fewer than two batches."""
        num_judged = self.num_judged()
        if self.num_batches < 2 or not num_judged or not len(self.firsts.rows):
            return ()
        judge = _Judge(self.half, num_judged, look_ahead, num_threads)
        least, most = TABLE_SIMULATED
        wanted = min(max(MAX_SIMULATED // num_tables, least), most)
        thinned = self._thinned(wanted)
        found: list[MissCurve] = []
        errors = (0.0, 0.0)
        for prefix in self.prefixes():
            stream, few = self.firsts.behind(prefix), thinned.behind(prefix)
            if not len(stream.rows):
                continue
            sizes = _sizes(stream)
            stack = judge.lru(stream, sizes)
            if not found:  # the largest, as fewer misses are open behind a prefix
                errors = self._errors(judge, sizes, thinned)
            num_simulated = NUM_SIMULATED_SIZES[prefix > 0]
            num_simulated = max(num_simulated, num_simulated * wanted // max(len(few.rows), 1))
            near = sizes[sizes <= NEAR * sizes[0]]
            lru = judge.more_than_stack(LRU, few, near, sizes, max(4, num_simulated // 2))
            lru[len(near) :] = 0.0
            found.append(_curve("lru", prefix, sizes, stack + np.nan_to_num(lru), errors[0]))
            tiny = judge.more_than_stack(W_TINY_LFU, few, sizes, sizes, num_simulated)
            if np.isfinite(tiny).any():
                at = np.isfinite(tiny)
                found.append(_curve("wtinylfu", prefix, sizes[at], (stack + tiny)[at], errors[1]))
        return tuple(found)

    def _errors(self, judge: _Judge, sizes: Ints, thinned: Stream) -> tuple[float, float]:
        """Half-widths of LRU and of W-TinyLFU, whose thinner sample leaves half of its own open: the rest cancels."""
        error = 0.0
        if not self.counted.is_complete:
            error = _half_width([judge.lru(part, sizes) for part in self.firsts.of_parts()])
        if thinned.rate == self.firsts.rate:
            return error, error
        own = _half_width([judge.lru(part, sizes) for part in thinned.of_parts()])
        return error, min(error + own / 2, 1.0)

    def _thinned(self, wanted: int) -> Stream:
        """Fewer rows with about ``wanted`` lookups, so that each cache can be simulated."""
        stream, rate = self.firsts, 1.0
        floor = min(1.0, MIN_SIMULATED_ROWS / max(len(stream.places), 1))
        if len(stream.rows) > wanted:
            rate = max(wanted / len(stream.rows), floor)
        if rate >= 0.75:
            return stream
        kept = _hashes(stream.places, seed=2) < rate * 2.0**32
        return stream.of_rows(kept, stream.rate * rate)

    # -- distinct rows of batches --------------------------------------------------------------------------------------

    def uniques_per_batch(self) -> Curve:
        """(samples of a batch, its distinct rows in the mean) at powers of two, at batch_size and of the whole pass."""
        counted = self.counted
        points: dict[int, float] = {}
        if counted.touched is not None and not counted.is_complete:
            for k in range((counted.num_samples >> 3).bit_length()):
                changed = counted.stamp_bits[k + 1 :].sum()
                points[1 << k] = float(changed) * (1 << k) / counted.num_samples
        elif len(self.all.rows):
            points |= self._followed_uniques()
        num_full = counted.num_samples // self.batch_size
        if num_full and len(self.firsts.rows):
            end = num_full * self.batch_size
            inside = np.count_nonzero(self.firsts.batches < num_full) / self.firsts.rate
            points.setdefault(self.batch_size, inside / (num_full * counted.followed_share(0, end)))
        if counted.num_samples:
            points[counted.num_samples] = float(self.num_distinct)
        return tuple(sorted(points.items()))

    def _followed_uniques(self) -> dict[int, float]:
        counted, stream = self.counted, self.all
        rows, samples = as_native(stream.rows, np.uint32), as_native(counted.samples, np.uint32)
        sums = load_native().sum_distinct(
            rows.ctypes.data, samples.ctypes.data, len(rows), len(stream.places), counted.num_samples
        )
        longest = counted.num_samples if counted.time_level == 0 else counted.span
        found: dict[int, float] = {}
        for k in range(longest.bit_length()):
            num_full = counted.num_samples >> k
            if num_full:
                time = counted.followed_share(0, num_full << k)
                found[1 << k] = sums[k] / (stream.rate * time * num_full)
        return found


@dataclass(frozen=True)
class _Judge:
    """Rows read per lookup in batches from ``half`` on, which have ``num_judged`` lookups of all rows."""

    half: int
    num_judged: float
    look_ahead: int
    num_threads: int

    def lru(self, stream: Stream, sizes: Ints) -> Floats:
        """Of LRU. A batch's rows all look, then move up: a row is there if fewer others than slots came since."""
        distances = stream.distances(stream.begins())[stream.batches >= self.half]
        reads = np.count_nonzero(distances == NEVER)
        again = np.sort(distances[distances != NEVER]) / stream.rate
        missed = reads + len(again) - np.searchsorted(again, sizes)
        found: Floats = np.clip(missed / (self.num_judged * stream.rate), 0.0, 1.0)
        return found

    def more_than_stack(
        self, policy: int, stream: Stream, simulated: Ints, sizes: Ints, num_simulated: int
    ) -> Floats:
        """Rows that a policy reads more or less than the stack distances of the same rows tell, at ``sizes``: simulated
        at some of ``simulated`` and interpolated, so that most of the error of sampling cancels. NaN below the least
        that holds every batch of the sample."""
        found = np.full(len(sizes), np.nan)
        if not len(stream.rows):
            return found
        numbers = np.unique(np.rint(np.linspace(0, len(simulated) - 1, num_simulated)).astype(np.int64))
        some = simulated[numbers]
        rows, begins = as_native(stream.rows, np.uint32), stream.begins()
        reads = np.array(
            load_native().simulate_caches(
                rows.ctypes.data,
                len(rows),
                begins.ctypes.data,
                len(begins) - 1,
                len(stream.places),
                [(policy, max(1, round(float(size) * stream.rate))) for size in some],
                self.look_ahead,
                int(np.searchsorted(stream.batches[begins[:-1]], self.half)),
                self.num_threads,
            )
        )
        some, reads = some[reads >= 0], reads[reads >= 0]
        if len(some):
            more = reads / (self.num_judged * stream.rate) - self.lru(stream, some)
            at = sizes >= some[0]
            found[at] = np.interp(np.log(sizes[at]), np.log(some), more)
        return found


def _sizes(stream: Stream) -> Ints:
    """Slots of the dynamic part: from what the largest batch needs to all rows that come."""
    least = int(np.ceil(np.diff(stream.begins()).max() / stream.rate))
    most = max(int(np.ceil(len(stream.places) / stream.rate)), least)
    return np.unique(np.rint(np.geomspace(least, most, NUM_SIZES)).astype(np.int64))


def _curve(policy: str, prefix: int, sizes: Ints, ratios: Floats, error: float) -> MissCurve:
    points = tuple((int(x), float(y)) for x, y in zip(sizes, np.clip(ratios, 0.0, 1.0)))
    return MissCurve(policy=policy, num_pinned_rows=prefix, points=points, error=error)


def _half_width(parts: Sequence[Any]) -> float:
    """Twice the standard error of the mean of parts, root mean square over the points of their curves."""
    known = np.array([part for part in parts if part is not None])
    if len(known) < 2:
        return 1.0
    variances = known.var(axis=0, ddof=1) / len(known)
    return float(min(2.0 * np.sqrt(variances.mean()), 1.0))
