"""Rows read from SSD per lookup, for every cache policy and share of pinned rows, on recorded traces.

    python benchmarks/replay_policies.py DIRECTORY [--batch-size 128] [--look-ahead 0] [--known-ahead 0]

DIRECTORY has traces as .npz (`ids`, `num_rows`). The budget is in slots, as a share of the trace's distinct ids. Rows
are put in order of their count in the first half of the trace; the second half is replayed, from a cache that holds
the pinned rows and nothing else. `prefix` is the share of the slots that is pinned; in sample: the order comes from
the second half itself. `prefix 100 %` has a batch's worth of slots on top, through which all other rows pass. Belady:
the fewest rows that any cache could read that starts empty, and that starts with the rows of its choice. Counts only:
no time is measured, every run prints the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from hotrow.data import Trace
from hotrow.storage.policies import POLICIES
from hotrow.storage.replay import Ids, belady, places_by_count, replay

BUDGETS = (1, 5, 10)  # % of distinct ids
PREFIXES = (0, 25, 50, 100)  # % of slots


def cell(ids: Ids, batch_size: int, policy: str, prefix: int, num_slots: int, ahead: tuple[int, int]) -> str:
    """One number of the table, or a dash where a batch does not fit."""
    num_pinned = num_slots * prefix // 100
    if prefix == 100:
        num_slots, policy = num_slots + batch_size, "none"
    try:
        counts = replay(ids, batch_size, policy, num_pinned, num_slots, *ahead)
    except ValueError:
        return "-"
    return f"{100 * counts.rows_read_per_lookup:.2f}"


def print_table(trace: Trace, args: argparse.Namespace) -> None:
    half = len(trace) // 2
    train, test = trace.ids[:half], trace.ids[half:]
    num_distinct = len(np.unique(trace.ids))
    places = places_by_count(train, trace.num_rows)[test]
    in_sample = places_by_count(test, trace.num_rows)[test]
    print(
        f"\n{trace.path.stem}: {len(test)} lookups judged, {num_distinct} distinct ids, % rows read per lookup"
    )
    ahead = args.look_ahead, args.known_ahead
    heads = [f"{prefix} %" for prefix in PREFIXES[:-1]]
    print(f"{'budget':>7} {'policy':<11}" + "".join(f"{'prefix ' + head:>13}" for head in heads))
    for budget in BUDGETS:
        slots = num_distinct * budget // 100
        for policy in POLICIES:
            row = [cell(places, args.batch_size, policy, p, slots, ahead) for p in PREFIXES[:-1]]
            print(f"{budget:>5} % {policy:<11}" + "".join(f"{value:>13}" for value in row))
        for name, ids in (("prefix 100 %", places), ("  in sample", in_sample)):
            print(f"{budget:>5} % {name:<11}{cell(ids, args.batch_size, 'none', 100, slots, (0, 0)):>12}")
        rows_read = belady(test, args.batch_size, slots).rows_read
        # The best rows to start with are those wanted first: a cache that starts empty reads just these in addition.
        for name, reads in (("Belady", rows_read), ("  pre-filled", max(rows_read - slots, 0))):
            print(f"{budget:>5} % {name:<12}{100 * reads / len(test):>12.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--batch-size", type=int, default=128, help="lookups of a batch")
    parser.add_argument("--look-ahead", type=int, default=0, help="batches reserved ahead")
    parser.add_argument("--known-ahead", type=int, default=0, help="batches announced beyond those")
    args = parser.parse_args()
    for path in sorted(args.directory.glob("*.npz")):
        print_table(Trace.load(path), args)


if __name__ == "__main__":
    main()
