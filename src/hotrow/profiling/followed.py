"""What a table's followed lookups tell: miss ratios by cache size, and distinct rows of batches.

What sampling leaves open is estimated from eight parts of the followed rows and, where time is sampled, from its spans;
lookups whose distance lies across a gap count as half missed, and the other half is added to the error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hotrow.kernels import load_native
from hotrow.profiles import Curve, MissCurve
from hotrow.profiling.counting import Counted, as_native
from hotrow.profiling.curves import cuts
from hotrow.profiling.reuse import (
    NEVER,
    Bools,
    Floats,
    Ints,
    Stream,
    first_touches,
    half_width,
    row_hashes,
)

PREFIX_SHARES = (1 / 256, 1 / 32, 1 / 4)
"""Pinned prefixes that miss curves are made behind, beside none: shares of the places."""
NUM_SIZES = 24
NUM_SIMULATED_SIZES = (9, 5)
"""Of W-TinyLFU without a pinned prefix, and behind one, at least; all where lookups are few."""
MAX_SIMULATED = 1 << 20
"""First touches of batches that each cache of W-TinyLFU is simulated on, over all tables."""
TABLE_SIMULATED = (1 << 15, 1 << 18)
MIN_SIMULATED_ROWS = 1024
NUM_CHECKED_SIZES = 4
"""Simulated on quarters of the rows to estimate the error of W-TinyLFU."""
NEAR = 16
"""Times the slots of the largest batch, up to which LRU is simulated, too: of few slots it matters in which order the
rows of one batch leave."""
LRU, W_TINY_LFU = 2, 3  # their numbers in the native caches


class Followed:
    """What is computed of one table's followed lookups. batch_size: samples of the trainer's batches."""

    def __init__(self, counted: Counted, batch_size: int, num_distinct: int, by_heat: bool = False) -> None:
        self.counted, self.batch_size, self.num_distinct = counted, batch_size, num_distinct
        self.num_batches = -(-counted.num_samples // batch_size)
        self.half = self.num_batches // 2
        rows = as_native(counted.rows, np.uint32)
        places, numbers = load_native().renumber(rows.ctypes.data, len(rows))
        if counted.time_level > 0:  # rows between the spans are of the sample, too
            every = np.sort(counted.windowed_rows)
            numbers = np.searchsorted(every, places).astype(np.uint32)[numbers]
            places = every
        batches = (counted.samples // np.uint32(batch_size)).astype(np.uint32)
        rate = 1.0 if counted.row_rate == 1.0 else min(len(places) / max(num_distinct, 1), 1.0)
        self.number = np.arange(len(places))  # of each followed row, ascending, among the places
        if by_heat:
            self.number = self._order_by_heat()
            numbers = self.number.astype(np.uint32)[numbers]
            places = (np.arange(len(places)) / max(rate, 1e-12)).astype(np.int64)
        span_batches = counted.span // batch_size if counted.time_level > 0 else 0
        self.all = Stream(places.astype(np.int64), numbers, batches, rate, span_batches)
        self.firsts = self._first_touches()

    def _order_by_heat(self) -> Ints:
        """Number of each followed row by the lookups of the first half of the batches, most first; then by id."""
        counts = self.counted.row_counts([0, self.half * self.batch_size]).counts[0]
        number = np.empty(len(counts), np.int64)
        number[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
        return number

    def _first_touches(self) -> Stream:
        """Of the lookups those that touch their row first in their batch."""
        stream = self.all
        if not len(stream.rows):
            return stream
        at = first_touches(stream.rows, stream.batches, len(stream.places))
        return Stream(stream.places, stream.rows[at], stream.batches[at], stream.rate, stream.span_batches)

    def num_between(self, begin: int, end: int) -> float:
        """Lookups of all rows in [begin, end), as far as time was followed."""
        if self.counted.row_rate == 1.0:
            return float(np.diff(np.searchsorted(self.counted.samples, [begin, end]))[0])
        return self.counted.num_followed_between(begin, end)

    def by_span(self, begin: int) -> list[tuple[int, int, float]]:
        """(first batch, end, lookups of all rows) of each span of samples [begin, the end), short ones left out."""
        found = []
        for a, b in self.counted.spans(begin, self.counted.num_samples):
            found.append((a // self.batch_size, -(-b // self.batch_size), self.num_between(a, b)))
        most = max((num for *_, num in found), default=0.0)
        return [span for span in found if span[2] > most / 2]  # not what the ends cut off

    # -- the textbook's curve ------------------------------------------------------------------------------------------

    def miss_ratio_curve(self) -> tuple[Curve, float]:
        """LRU miss ratio of single lookups by cache rows, and the half-width of what sampling leaves open.

        A sample resolves caches of 1 / rate rows and more; smaller ones are left out.
        """
        sizes = cuts(max(self.num_distinct, 1), 64)
        sizes = sizes[sizes * self.all.rate >= 1.0]
        every = (0, self.num_batches, self.num_between(0, self.counted.num_samples))
        found = _single_misses(self.all, sizes, [every])
        if not found:
            return (), 0.0
        low, high = found[0]
        error = np.zeros(1)
        if not self.counted.is_complete:
            parts = [_single_misses(part, sizes, [every]) for part in self.all.of_parts()]
            error = half_width([np.mean(part[0], axis=0) for part in parts if part])
            if self.counted.time_level > 0:
                spans = _single_misses(self.all, sizes, self.by_span(0))
                error = np.hypot(error, half_width([np.mean(span, axis=0) for span in spans]))
        middle = (low + high) / 2
        worst = min(float((error + (high - low) / 2).max()), 1.0)
        return tuple((int(x), float(y)) for x, y in zip(sizes, middle)), worst

    # -- hotrow's caches -----------------------------------------------------------------------------------------------

    def prefixes(self) -> list[int]:
        """Lengths of pinned prefixes: none and shares of the places, those that are of use."""
        shares = {0} | {int(self.counted.num_rows * share) for share in PREFIX_SHARES}
        return sorted(p for p in shares if p == 0 or np.any(self.all.places < p))

    def miss_curves(self, look_ahead: int, num_tables: int, num_threads: int) -> tuple[MissCurve, ...]:
        """Rows read per lookup of the second half by LRU and by W-TinyLFU; () for fewer than two batches."""
        begin = self.half * self.batch_size
        num_judged = self.num_between(begin, self.counted.num_samples)
        if self.num_batches < 2 or not num_judged or not len(self.firsts.rows):
            return ()
        judge = _Judge(self.half, num_judged, look_ahead, num_threads)
        least, most = TABLE_SIMULATED
        wanted = min(max(MAX_SIMULATED // num_tables, least), most)
        thinned = self._thinned(wanted)
        found: list[MissCurve] = []
        tiny_error = 0.0  # told without a prefix: behind one there is less that can differ
        for prefix in self.prefixes():
            stream, few = self.firsts.behind(prefix), thinned.behind(prefix)
            if not len(stream.rows):
                continue
            sizes = _sizes(stream)
            low, high, is_open = judge.lru(stream, sizes)
            stack = (low + high) / 2
            error = self._error(judge, prefix, sizes)
            num_simulated = NUM_SIMULATED_SIZES[prefix > 0]
            num_simulated = max(num_simulated, num_simulated * wanted // max(len(few.rows), 1))
            near = sizes[sizes <= NEAR * sizes[0]]
            lru = judge.more_than_stack(LRU, few, near, sizes, max(4, num_simulated // 2))
            lru[len(near) :] = 0.0
            half_open = float((high - low).max()) / 2
            found.append(_curve("lru", prefix, sizes, stack + np.nan_to_num(lru), error + half_open))
            tiny = judge.more_than_stack(W_TINY_LFU, few, sizes, sizes, num_simulated)
            if np.isfinite(tiny).any():
                at = np.isfinite(tiny)
                if prefix == 0 and few.rate < 1.0:
                    tiny_error = judge.error_of_more(W_TINY_LFU, few, sizes, tiny)
                # No distance says which of its open lookups hit.
                error += tiny_error + is_open / 2
                found.append(_curve("wtinylfu", prefix, sizes[at], (stack + tiny)[at], error))
        return tuple(found)

    def _error(self, judge: _Judge, prefix: int, sizes: Ints) -> float:
        """Half-width of what LRU's stack distances leave open by the sampling of rows and of time, the largest."""
        if self.counted.is_complete:
            return 0.0
        parts = (
            self.firsts.of_parts()
        )  # of all rows, as how many lie behind the prefix is left to the sample, too
        error = half_width([judge.middle(part.behind(prefix), sizes) for part in parts])
        if self.counted.time_level > 0:
            judges = [
                replace(judge, begin=max(a, self.half), end=b, num_judged=num)
                for a, b, num in self.by_span(self.half * self.batch_size)
            ]
            stream = self.firsts.behind(prefix)
            error = np.hypot(error, half_width([one.middle(stream, sizes) for one in judges]))
        return float(error.max())

    def _thinned(self, wanted: int) -> Stream:
        """Fewer rows with about ``wanted`` lookups, so that each cache can be simulated."""
        stream, rate = self.firsts, 1.0
        floor = min(1.0, MIN_SIMULATED_ROWS / max(len(stream.places), 1))
        if len(stream.rows) > wanted:
            rate = max(wanted / len(stream.rows), floor)
        if rate >= 0.75:
            return stream
        return stream.sampled(row_hashes(stream.places, seed=2) < rate * 2.0**32)

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
            points.setdefault(self.batch_size, inside / (num_full * counted.followed_share(end)))
        if counted.num_samples:
            points[counted.num_samples] = float(self.num_distinct)
        return tuple(sorted(points.items()))

    def _followed_uniques(self) -> dict[int, float]:
        counted, stream = self.counted, self.all
        rows, samples = as_native(stream.rows, np.uint32), as_native(counted.samples, np.uint32)
        sums = load_native().sum_distinct(
            rows.ctypes.data, samples.ctypes.data, len(rows), len(stream.places), counted.num_samples
        )
        # Batches of 2^k samples that lie across the end of a span are few where 2^k is far below its length.
        longest = counted.num_samples if counted.time_level == 0 else counted.span // 8
        found: dict[int, float] = {}
        for k in range(longest.bit_length()):
            num_full = counted.num_samples >> k
            if num_full:
                time = counted.followed_share(num_full << k)
                found[1 << k] = sums[k] / (stream.rate * time * num_full)
        return found


@dataclass(frozen=True)
class _Judge:
    """Rows read per lookup in batches [begin, end), which have ``num_judged`` lookups of all rows."""

    begin: int
    num_judged: float
    look_ahead: int
    num_threads: int
    end: int = NEVER

    def lru(self, stream: Stream, sizes: Ints) -> tuple[Floats, Floats, float]:
        """Of LRU, at least and at most, and the share of lookups whose distance is open. A batch's rows all look, then
        move up: a row is there if fewer others than slots came since."""
        reuse, counted = stream.reuse(stream.begins()), self._counted(stream.batches)
        low, high = reuse.misses(sizes, counted)
        reads, expected = reuse.num_new(counted), self.num_judged * stream.rate
        is_open = float(np.count_nonzero(reuse.is_open & counted) / expected)
        return (
            np.clip((low + reads) / expected, 0.0, 1.0),
            np.clip((high + reads) / expected, 0.0, 1.0),
            is_open,
        )

    def middle(self, stream: Stream, sizes: Ints) -> Floats:
        low, high, _ = self.lru(stream, sizes)
        found: Floats = (low + high) / 2
        return found

    def _counted(self, batches: NDArray[np.uint32]) -> Bools:
        found: Bools = (batches >= self.begin) & (batches < self.end)
        return found

    def _stack_reads(self, stream: Stream, slots: Ints) -> Ints:
        """Rows that LRU caches of so many slots for the followed rows read."""
        distances = np.sort(
            stream.distances(stream.begins())[self._counted(stream.batches)]
        )  # NEVER is the largest
        found: Ints = len(distances) - np.searchsorted(distances, slots)
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
        slots = np.maximum(np.rint(some * stream.rate), 1).astype(np.int64)
        rows, begins = as_native(stream.rows, np.uint32), stream.begins()
        reads = np.array(
            load_native().simulate_caches(
                rows.ctypes.data,
                len(rows),
                begins.ctypes.data,
                len(begins) - 1,
                len(stream.places),
                [(policy, int(num)) for num in slots],
                self.look_ahead,
                int(np.searchsorted(stream.batches[begins[:-1]], self.begin)),
                self.num_threads,
            )
        )
        some, slots, reads = some[reads >= 0], slots[reads >= 0], reads[reads >= 0]
        if len(some):
            more = (reads - self._stack_reads(stream, slots)) / (self.num_judged * stream.rate)
            at = sizes >= some[0]
            found[at] = np.interp(np.log(sizes[at]), np.log(some), more)
        return found

    def error_of_more(self, policy: int, stream: Stream, sizes: Ints, more: Floats) -> float:
        """Of ``more_than_stack`` ``[sizes]``: by simulating quarters of the rows, how far these differ from each other
        and, as a smaller sample shows more of what sampling itself changes, from ``more``."""
        parts = [
            self.more_than_stack(policy, part, sizes, sizes, NUM_CHECKED_SIZES) for part in stream.of_parts(4)
        ]
        known = np.isfinite(more) & np.isfinite(np.array(parts)).all(axis=0)
        if not known.any():
            return 1.0
        own = half_width([part[known] for part in parts])
        return float((own + np.abs(np.mean(parts, axis=0) - more)[known]).max())


def _single_misses(
    stream: Stream, sizes: Ints, spans: list[tuple[int, int, float]]
) -> list[tuple[Floats, Floats]]:
    """Least and largest miss ratio of single lookups in each of ``spans`` (first batch, end, lookups of all rows),
    first lookups of rows left out. Spans that have no others are left out."""
    reuse = stream.reuse(np.arange(len(stream.rows) + 1))
    found = []
    for begin, end, num_lookups in spans:
        counted = (stream.batches >= begin) & (stream.batches < end)
        expected = num_lookups * stream.rate - reuse.num_new(counted)
        if expected <= 0 or not counted.any():
            continue
        low, high = (np.clip(misses / expected, 0.0, 1.0) for misses in reuse.misses(sizes, counted))
        found.append((low, high))
    return found


def _sizes(stream: Stream) -> Ints:
    """Slots of the dynamic part: from what the largest batch needs to all rows that come."""
    least = int(np.ceil(np.diff(stream.begins()).max() / stream.rate))
    most = max(int(np.ceil(len(stream.places) / stream.rate)), least)
    return np.unique(np.rint(np.geomspace(least, most, NUM_SIZES)).astype(np.int64))


def _curve(policy: str, prefix: int, sizes: Ints, ratios: Floats, error: float) -> MissCurve:
    points = tuple((int(x), float(y)) for x, y in zip(sizes, np.clip(ratios, 0.0, 1.0)))
    return MissCurve(policy=policy, num_pinned_rows=prefix, points=points, error=min(error, 1.0))
