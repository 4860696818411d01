"""What ``hotrow bench store`` measures: shapes, budgets, seeds. Data only, fixed before the code they judge."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hotrow.core import EmbeddingBagConfig
from hotrow.optim import RowWiseAdagrad

OPTIMIZER = RowWiseAdagrad(lr=0.01)


@dataclass(frozen=True, kw_only=True)
class StoreCase:
    """Training of tables that do not fit their memory: forward, backward with a given gradient, row-wise Adagrad.

    ids: Zipf with ``exponent``, every batch a new one; scrambled by a fixed permutation per table, or in heat order, as
    ``hotrow prepare`` gives them (all contestants get the same). budget: share of the bytes of rows and state that may
    be in DRAM, each table its part. prefix: share of that for the first rows, the rest is the cache's. warm_up: steps
    before any that count.
    """

    name: str
    num_tables: int
    num_rows: int
    embedding_dim: int
    ids_per_bag: int
    batch_size: int
    exponent: float
    budget: float
    policy: str
    scrambled: bool = True
    prefix: float = 0.0
    look_ahead: int = 2
    warm_up: int = 24
    num_steps: int = 4
    seed: int = 20240611

    @property
    def num_lookups(self) -> int:
        """Of one step."""
        return self.num_tables * self.batch_size * self.ids_per_bag

    @property
    def record_bytes(self) -> int:
        """A row with its state."""
        return 4 * self.embedding_dim + OPTIMIZER.state_bytes_per_row(self.embedding_dim)

    @property
    def prefix_rows(self) -> int:
        """Of one table, in DRAM for ever."""
        return int(self.budget_bytes * self.prefix / self.num_tables / self.record_bytes)

    @property
    def cache_bytes(self) -> int:
        """Of one table."""
        return self.budget_bytes // self.num_tables - self.prefix_rows * self.record_bytes

    @property
    def budget_bytes(self) -> int:
        """Of all tables together."""
        return int(self.num_tables * self.num_rows * self.record_bytes * self.budget)

    def tables(self) -> list[EmbeddingBagConfig]:
        return [
            EmbeddingBagConfig(
                name=f"t{table}",
                num_embeddings=self.num_rows,
                embedding_dim=self.embedding_dim,
                feature_names=[f"f{table}"],
            )
            for table in range(self.num_tables)
        ]


IO_BOUND = StoreCase(
    name="io-bound",
    num_tables=8,
    num_rows=4_000_000,
    embedding_dim=64,
    ids_per_bag=120,
    batch_size=256,
    exponent=1.05,
    budget=0.10,
    policy="wtinylfu",
)
HEAT_ORDER = replace(
    IO_BOUND, name="io-bound-heat-order", scrambled=False, policy="lru", prefix=0.75, warm_up=50
)
"""What heat order is worth: a line of its own."""
SMALL = StoreCase(
    name="small",
    num_tables=4,
    num_rows=100_000,
    embedding_dim=32,
    ids_per_bag=10,
    batch_size=64,
    exponent=1.05,
    budget=0.25,
    policy="lru",
    warm_up=4,
    num_steps=4,
)
"""Seconds long, for tests of the benchmark itself; no number is asked of it."""

STORE_CASES = {case.name: case for case in (IO_BOUND, HEAT_ORDER, SMALL)}

MAX_STEP_RATIO = 1.2
"""Of a step to max(step in memory, I/O bound)."""
MIN_MMAP_RATIO = 5.0
"""Of a step on mapped files with the same memory to hotrow's."""
MIN_SCAN_RATIO = 0.8
"""Of random page reads a second to fio's on the same file."""
MAX_REQUEST_RATIO = 1.02
"""Of read requests to distinct missing pages."""
MAX_MORE_BYTES = 100 << 20
"""Resident besides the budget and what the process takes with empty tables."""
