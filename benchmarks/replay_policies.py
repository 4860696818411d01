"""Rows read from SSD per lookup, for every cache policy and share of pinned rows, and for the cache that is chosen.

    python benchmarks/replay_policies.py DIRECTORY [--complete-journey DATA] [--json FILE]

DIRECTORY has traces as .npz (`ids`, `num_rows`); DATA is what `hotrow prepare complete-journey` wrote: of it the
features with the most rows, as the trainer reads them. The budget is in slots, as a share of the distinct ids. Rows are
put in order of their count in the first half; the second half is replayed, from a cache that holds the pinned rows and
nothing else. `chosen` is `hotrow.storage.choose_cache` on the first half, with room for one batch beside the pinned
rows. `prefix` is the share of the slots that is pinned, `all`: but for a batch's worth; in sample: the order comes from
the second half itself. Belady: the fewest rows that any cache could read that starts empty, and that starts with the
rows of its choice. Counts only: no time is measured, every run prints the same. The bounds:

- the chosen cache reads at most one point more than the best of all that are listed, at every budget;
- a cache chosen for look-ahead (2 or 8 batches reserved) reads no more rows with it than without, and no more with 64
  batches announced beyond.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hotrow.data import Loader, Trace
from hotrow.recipes import read_recipe
from hotrow.storage import Window, choose_cache
from hotrow.storage.replay import Ids, batches_of, belady, places_by_count, replay

BUDGETS = (1, 5, 10)  # % of distinct ids
PREFIXES = (0, 12.5, 25, 50, 75, 90)  # % of slots
POLICIES = ("none", "lru", "wtinylfu", "generation")  # reserved batch by batch, `pinned` is LRU
AHEAD = (0, 2, 8)  # batches reserved
KNOWN = 64  # announced beyond those
MAX_DISTANCE = 0.01
HEADS = [*(f"{prefix:g} %" for prefix in PREFIXES), "all"]


@dataclass(frozen=True)
class Stream:
    """One table's lookups."""

    name: str
    ids: Ids
    num_rows: int


def recorded(directory: Path) -> Iterator[Stream]:
    for path in sorted(directory.glob("*.npz")):
        trace = Trace.load(path)
        yield Stream(path.stem, trace.ids, trace.num_rows)


def complete_journey(data: Path, num_samples: int, num_features: int) -> Iterator[Stream]:
    """The largest features, one lookup a sample, in the recipe's order."""
    values, _ = read_recipe("complete-journey")
    loader = Loader(data, "train", 4096, shuffle_rows=values["data"]["shuffle_samples"], seed=0)
    features = sorted(loader.dataset.manifest.features, key=lambda f: -f.num_rows)[:num_features]
    found: dict[str, list[Ids]] = {feature.name: [] for feature in features}
    num_read = 0
    for batch in loader:
        for name, pieces in found.items():
            pieces.append(batch.sparse[name].values().numpy())
        num_read += batch.num_samples
        if num_read >= num_samples:
            break
    loader.close()
    for feature in features:
        yield Stream(feature.name, np.concatenate(found[feature.name])[:num_samples], feature.num_rows)


def reads(ids: Ids, batch: int, cache: tuple[str, int, int], ahead: tuple[int, int] = (0, 0)) -> int | None:
    """Rows; None where a batch does not fit."""
    try:
        return int(replay(ids, batch, *cache, *ahead).rows_read)
    except ValueError:
        return None


def judge(stream: Stream, budget: int, batch: int, halves: tuple[Ids, Ids]) -> dict[str, Any]:
    """Everything about one stream at one budget. Rows read."""
    train, test = halves
    num_slots = len(np.unique(stream.ids)) * budget // 100
    places = places_by_count(train, stream.num_rows)[test]
    in_sample = places_by_count(test, stream.num_rows)[test]
    caches = {
        f"{policy} {prefix:g} %": (policy, int(num_slots * prefix / 100), num_slots)
        for policy in POLICIES
        for prefix in PREFIXES
    }
    caches |= {f"{policy} all": (policy, num_slots - batch, num_slots) for policy in POLICIES}
    single = {name: reads(places, batch, cache) for name, cache in caches.items()}
    rows = belady(test, batch, num_slots).rows_read
    return {
        "stream": stream.name,
        "budget_percent": budget,
        "num_slots": num_slots,
        "num_lookups": len(test),
        "single": single,
        "single_in_sample": {name: reads(in_sample, batch, cache) for name, cache in caches.items()},
        "chosen": [chosen(halves, batch, num_slots, places, in_sample, ahead) for ahead in AHEAD],
        "belady": rows,
        # The best rows to start with are those wanted first: a cache that starts empty reads just these in addition.
        "belady_filled": max(rows - num_slots, 0),
        "exceptions": _exceptions(places, batch, caches, single),
    }


def chosen(
    halves: tuple[Ids, Ids], batch: int, num_slots: int, places: Ids, in_sample: Ids, ahead: int
) -> dict[str, Any]:
    """The cache that is chosen for a look-ahead, and what it reads."""
    window = Window(
        list(batches_of(halves[0], batch)), order_is_new=True, look_ahead=ahead, num_room_batches=1
    )
    choice = choose_cache(window, num_slots)
    cache = choice.policy, choice.num_pinned_rows, choice.num_slots
    return {
        "reserved": ahead,
        "cache": cache,
        "expected": round(choice.rows_read_per_lookup * len(places)),
        "alone": reads(places, batch, cache),
        "in_sample": reads(in_sample, batch, cache),
        "ahead": reads(places, batch, cache, (ahead, 0)),
        "announced": reads(places, batch, cache, (ahead, KNOWN)),
    }


def _exceptions(
    places: Ids, batch: int, caches: dict[str, tuple[str, int, int]], single: dict[str, int | None]
) -> list[str]:
    """Caches, of all that are listed, that read more rows with look-ahead."""
    found = []
    for name, cache in caches.items():
        alone = single[name]
        for ahead in AHEAD[1:]:
            count = reads(places, batch, cache, (ahead, 0))
            if alone is not None and count is not None and count > alone:
                found.append(f"{name}, {ahead} reserved: {alone} -> {count}")
    return found


def print_cell(cell: dict[str, Any]) -> None:
    """One budget's rows of the table."""

    def percent(rows: int | None) -> str:
        return "-" if rows is None else f"{100 * rows / cell['num_lookups']:.2f}"

    budget, single = cell["budget_percent"], cell["single"]
    for policy in POLICIES:
        for what, rows in (("", single), ("  in sample", cell["single_in_sample"])):
            if what and policy != "lru":
                continue
            values = [percent(rows[f"{policy} {head}"]) for head in HEADS]
            print(f"{budget:>5} % {what or policy:<11}" + "".join(f"{value:>9}" for value in values))
    for choice in cell["chosen"]:
        policy, pinned, slots = choice["cache"]
        print(f"{budget:>5} % {'chosen':<11}{percent(choice['alone']):>9}", end="")
        numbers = {name: percent(choice[name]) for name in ("expected", "in_sample", "ahead", "announced")}
        print(
            f"   {policy}, {pinned} of {slots} pinned, for {choice['reserved']} reserved: {numbers['ahead']}; "
            f"{KNOWN} known {numbers['announced']}; expected {numbers['expected']}, in sample {numbers['in_sample']}"
        )
    print(
        f"{budget:>5} % {'Belady':<11}{percent(cell['belady']):>9}   pre-filled {percent(cell['belady_filled'])}"
    )


def bounds(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each bound, the cell where it is met least, and whether it is met."""
    distances, ahead, announced, to_belady = [], [], [], []
    for cell in cells:
        where, lookups = f"{cell['stream']} at {cell['budget_percent']} %", cell["num_lookups"]
        best = min(rows for rows in cell["single"].values() if rows is not None)
        distances.append(((cell["chosen"][0]["alone"] - best) / lookups, where))
        to_belady.append(((cell["chosen"][0]["alone"] - cell["belady_filled"]) / lookups, where))
        for choice in cell["chosen"]:
            ahead.append(((choice["ahead"] - choice["alone"]) / lookups, where))
            announced.append(((choice["announced"] - choice["alone"]) / lookups, where))
    limits = (
        ("chosen minus best", distances, MAX_DISTANCE),
        ("chosen with look-ahead minus without", ahead, 0.0),
        ("chosen with look-ahead and announcements minus without", announced, 0.0),
    )
    found = []
    for what, values, limit in limits:
        worst, where = max(values)
        bound = f"{what} <= {100 * limit:g} points"
        found.append(
            {"bound": bound, "measured": round(100 * worst, 2), "where": where, "met": worst <= limit}
        )
    low, high = min(to_belady), max(to_belady)
    print(
        f"\nchosen minus pre-filled Belady: {100 * low[0]:.1f} ({low[1]}) to {100 * high[0]:.1f} points ({high[1]})"
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--complete-journey", type=Path, help="prepared data")
    parser.add_argument("--samples", type=int, default=1_000_000, help="of Complete Journey, both halves")
    parser.add_argument("--features", type=int, default=5, help="of Complete Journey, the largest")
    parser.add_argument("--batch-size", type=int, default=128, help="lookups of a batch")
    parser.add_argument("--json", type=Path, help="also written here")
    args = parser.parse_args()
    streams = list(recorded(args.directory))
    if args.complete_journey is not None:
        streams += complete_journey(args.complete_journey, args.samples, args.features)
    cells = []
    for stream in streams:
        half = len(stream.ids) // 2
        halves = stream.ids[:half], stream.ids[half:]
        print(
            f"\n{stream.name}: {len(halves[1])} lookups judged, {len(np.unique(stream.ids))} distinct ids, ",
            end="",
        )
        print("% rows read per lookup")
        heads = "".join(f"{head:>9}" for head in HEADS)
        print(f"{'budget':>7} {'prefix':<11}{heads}")
        for budget in BUDGETS:
            cell = judge(stream, budget, args.batch_size, halves)
            print_cell(cell)
            cells.append(cell)
    print("\nread more with look-ahead, of all that are listed:")
    for cell in cells:
        for line in cell["exceptions"]:
            print(f"  {cell['stream']} at {cell['budget_percent']} %: {line}")
    found = bounds(cells)
    print()
    for bound in found:
        print(
            f"{bound['bound']}: {bound['measured']} ({bound['where']}): {'met' if bound['met'] else 'NOT met'}"
        )
    if args.json is not None:
        args.json.write_text(json.dumps({"cells": cells, "bounds": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
