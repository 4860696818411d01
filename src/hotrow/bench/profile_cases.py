"""Cases of ``hotrow bench profile``, fixed before the code that they judge."""

from __future__ import annotations

from dataclasses import dataclass

SPEED_SHAPES = {"criteo": 400_000_000, "rm-zipf": 400_000_000, "rm2": 400_000_000}
"""Standard shape → lookups of the pass; its batches come round and round."""
MIN_LOOKUPS_PER_SECOND = 20e6
"""On two cores, the pass and what is computed at its end together."""


@dataclass(frozen=True, kw_only=True)
class MemoryCase:
    """One table, Zipf ids in scattered places; ``memory`` is the option given, ``max_more_bytes`` what the whole
    process may take beyond it."""

    num_lookups: int = 1_000_000_000
    num_rows: int = 500_000_000
    exponent: float = 1.05
    batch_size: int = 1 << 18
    memory: str = "1GiB"
    max_more_bytes: int = 200 << 20


LARGE = MemoryCase()

TRACES = ("dlrm_reuse_low", "dlrm_reuse_medium", "scarab")
TRACE_BATCH = 1024
"""Lookups of a batch; one a sample."""
JOURNEY_FEATURES = (
    "product_id",
    "product_x_store",
    "product_x_display_x_mailer",
    "store_x_manufacturer",
    "store_x_type",
)
"""Of Complete Journey as prepared, those that there are."""
JOURNEY_BATCH, JOURNEY_BATCHES = 8192, 600
"""Samples of a batch, and batches from the beginning of the training split in the trainer's order."""

BUDGETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Slots of a cache and rows of a prefix, as shares of the distinct rows of the profiled window. Left out are caches
that cannot hold the largest batch."""
POLICIES = ("lru", "wtinylfu")
MEMORIES = ("1GiB", "64MiB")
"""Options of ``memory``: all lookups followed, and a sample of them."""
MAX_ERROR = 0.02
"""Hit rate predicted less replayed, in sample."""
