"""Pooled batches from rows on SSD that are only read: hotrow beside a static cache with LRU and one pread per row.

    python benchmarks/read_only_batches.py

The case below is fixed. For now this prints what its ids are like.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hotrow.bench.inputs import draw_places, zipf_heat

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Tables of fp32 rows, every row on SSD. ids: Zipf with ``exponent``, scrambled by a fixed permutation per table.

    budget: share of the bytes of all rows that either side may take of DRAM for them; a cached row costs its bytes and
    24 more on both. num_callers: threads that call at the same time, each with batches of its own, each call
    synchronous. num_earlier: batches that the static part is chosen by. warm_up: batches before any that count.
    """

    num_tables: int = 8
    num_rows: int = 1_000_000
    embedding_dim: int = 64
    ids_per_bag: int = 32
    batch_size: int = 256
    exponent: float = 1.05
    budget: float = 0.05
    policy: str = "wtinylfu"
    num_callers: tuple[int, ...] = (1, 2, 8)
    num_earlier: int = 200
    warm_up: int = 64
    num_samples: int = 7
    batches_per_caller: int = 2
    seed: int = 20241120

    @property
    def row_bytes(self) -> int:
        return 4 * self.embedding_dim

    @property
    def budget_bytes(self) -> int:
        """Of all tables together."""
        return int(self.num_tables * self.num_rows * self.row_bytes * self.budget)

    @property
    def lookups_per_table(self) -> int:
        """Of one batch."""
        return self.batch_size * self.ids_per_bag


CASE = Case()
BASELINE_STATIC_SHARE = 0.5
"""Of the baseline's rows: the most frequent ones of the earlier batches, for ever; the others by LRU."""
BASELINE_IO_THREADS = (1, 16)
"""Threads that one call of the baseline reads with: its own (the one that is judged), or a pool that many."""
AT_LEAST = 2.0
"""Times faster than the baseline whose callers read themselves."""


class Draw:
    """A stream of batches: int64 ``[tables, lookups of a table]`` each, every one new."""

    def __init__(self, case: Case) -> None:
        self._case, self._rng = case, np.random.Generator(np.random.PCG64(case.seed))
        self._heat = zipf_heat(case.num_rows, case.exponent)
        self._scrambles = [self._rng.permutation(case.num_rows) for _ in range(case.num_tables)]

    def next(self) -> Ids:
        count = self._case.lookups_per_table
        return np.stack([scramble[draw_places(self._rng, count, self._heat)] for scramble in self._scrambles])

    @cached_property
    def best_static_share(self) -> float:
        """Of the lookups, those that the most frequent rows would have if the budget were all rows."""
        num_rows = int(self._case.num_rows * self._case.budget)
        return float(self._heat[num_rows - 1] / self._heat[-1])


def main() -> None:
    draw = Draw(CASE)
    batch = draw.next()
    distinct = sum(np.unique(ids).size for ids in batch)
    print(
        f"{CASE.budget_bytes} bytes; of {batch.size} lookups {distinct} are distinct rows; at best ", end=""
    )
    print(f"{draw.best_static_share:.4f} of the lookups are of rows that have room")


if __name__ == "__main__":
    main()
