"""Caching whole pages ("stretches") instead of rows: pages read per lookup at equal slots, on recorded traces.

    python benchmarks/replay_stretches.py DIRECTORY [--complete-journey DATA] [--rows-per-page 15]

A miss reads one page either way. `rows`: the row is kept; `pages`: all rows of the page are, in as many slots, so that
neighbours hit. LRU, no prefix, batches of 32 lookups; places by heat of the first half, and row ids as they are; the
second half is judged. `pages / missing row`: distinct pages over distinct rows that a batch of 1,024 misses, what
sorting by page spares. Counts only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from replay_policies import Stream, complete_journey, recorded

from hotrow.storage.replay import Ids, batches_of, places_by_count, replay

BATCH, LARGE_BATCH = 32, 1024
BUDGETS = (5, 10)  # % of distinct ids


def pages_per_row(places: Ids, rows_per_page: int) -> float:
    """Distinct pages over distinct rows of large batches."""
    batches = list(batches_of(places, LARGE_BATCH))
    rows = sum(len(np.unique(batch)) for batch in batches)
    return sum(len(np.unique(batch // rows_per_page)) for batch in batches) / rows


def print_stream(stream: Stream, rows_per_page: int) -> None:
    half = len(stream.ids) // 2
    test = stream.ids[half:].astype(np.int64)
    by_heat = places_by_count(stream.ids[:half], stream.num_rows)[test]
    for name, places in (("by heat", by_heat), ("by id", test)):
        for budget in BUDGETS:
            slots = len(np.unique(stream.ids)) * budget // 100
            rows = replay(places, BATCH, "lru", 0, slots).rows_read_per_lookup
            pages = replay(
                places // rows_per_page, BATCH, "lru", 0, slots // rows_per_page
            ).rows_read_per_lookup
            shared = pages_per_row(places, rows_per_page)
            print(
                f"{stream.name:<28} {name:<8} {budget:>3} %   rows {100 * rows:6.2f}   pages {100 * pages:6.2f}   "
                f"pages / row {shared:.2f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--complete-journey", type=Path, help="prepared data")
    parser.add_argument("--rows-per-page", type=int, default=15)
    args = parser.parse_args()
    streams = list(recorded(args.directory))
    if args.complete_journey is not None:
        streams += complete_journey(args.complete_journey, 1_000_000, 5)
    for stream in streams:
        print_stream(stream, args.rows_per_page)


if __name__ == "__main__":
    main()
