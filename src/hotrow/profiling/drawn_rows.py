"""Rows drawn uniformly from tables, their counts, and how many rows of all are looked up so often."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hotrow.profiling.intervals import Interval, count_interval, first_true
from hotrow.profiling.sampled_inputs import Ints, SampledInputs

_SMALL = 1 << 22
"""Rows that are shuffled to draw some of them (32 MiB): faster than to look for repeated ones."""


@dataclass(frozen=True)
class RowPool:
    """The rows of some tables, numbered one behind the other within tables whose rows take the same bytes.

    counted: the inputs whose lookups count. row_bytes: of every table. members: numbers of the pool's tables.
    """

    counted: SampledInputs
    row_bytes: Sequence[int]
    members: Sequence[int]
    confidence: float

    @property
    def num_rows(self) -> int:
        return sum(self.counted.tables[t].num_embeddings for t in self.members)

    def draw(self, num_rows: int, rng: np.random.Generator) -> RowDraw:
        """``num_rows`` rows at least, each group of tables giving its share, uniform without replacement in each."""
        share = min(1.0, num_rows / max(self.num_rows, 1))
        draw = RowDraw(self)
        for size in sorted({self.row_bytes[t] for t in self.members}):
            group = [t for t in self.members if self.row_bytes[t] == size]
            ends = np.cumsum([self.counted.tables[t].num_embeddings for t in group])
            rows = distinct(int(ends[-1]), math.ceil(share * int(ends[-1])), rng)
            begins = np.concatenate(([0], ends[:-1]))
            cuts = np.searchsorted(rows, ends)
            for t, begin, low, high in zip(group, begins, [0, *cuts[:-1]], cuts):
                draw.counts[t] = np.sort(self.counted.counts(t, rows[low:high] - begin))
        return draw


def distinct(population: int, num: int, rng: np.random.Generator) -> Ints:
    """``num`` of ``[0, population)``, uniform without replacement, ascending; of a large one in memory of ``num``."""
    if num * 2 >= population or population <= _SMALL:
        return np.sort(rng.choice(population, num, replace=False, shuffle=False))
    drawn = np.empty(0, np.int64)
    while True:  # the first distinct ones of a sequence of uniform draws
        drawn = np.concatenate((drawn, rng.integers(0, population, num + num // 2 + 16)))
        rows, at = np.unique(drawn, return_index=True)
        if len(rows) >= num:
            return np.sort(rows[np.argsort(at)[:num]])


@dataclass(frozen=True)
class RowDraw:
    """counts: table → how often its drawn rows are looked up, ascending."""

    pool: RowPool
    counts: dict[int, Ints] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        return sum(map(len, self.counts.values()))

    @property
    def max_count(self) -> int:
        return max((int(counts[-1]) for counts in self.counts.values() if len(counts)), default=0)

    def num_found(self, threshold: int, tables: Sequence[int] | None = None) -> int:
        """Drawn rows that are looked up at least ``threshold`` times."""
        taken = self.counts if tables is None else tables
        return sum(len(self.counts[t]) - int(np.searchsorted(self.counts[t], threshold)) for t in taken)

    def interval(self, threshold: int, tables: Sequence[int], confidence: float) -> Interval:
        """Rows of ``tables`` that are looked up at least ``threshold`` times."""
        return count_interval(
            self.num_found(threshold, tables),
            sum(len(self.counts[t]) for t in tables),
            sum(self.pool.counted.tables[t].num_embeddings for t in tables),
            confidence,
        )

    def by_row_bytes(self, threshold: int) -> dict[int, Interval]:
        """Bytes of a row → hot rows of the tables that have such rows; together they hold with the confidence."""
        sizes = sorted({self.pool.row_bytes[t] for t in self.counts})
        confidence = 1 - (1 - self.pool.confidence) / max(len(sizes), 1)
        groups = {size: [t for t in self.counts if self.pool.row_bytes[t] == size] for size in sizes}
        return {size: self.interval(threshold, tables, confidence) for size, tables in groups.items()}

    def least_threshold(self, room_bytes: float, end: str = "high") -> int | None:
        """The least threshold whose hot rows take ``room_bytes`` at most by that end of their intervals, if any."""

        def fits(threshold: int) -> bool:
            groups = self.by_row_bytes(threshold)
            return sum(size * float(getattr(rows, end)) for size, rows in groups.items()) <= room_bytes

        last = self.max_count + 1
        return first_true(fits, 1, last) if fits(last) else None
