"""Simple rules for the same budget: what the planner is measured against. Plans for one rank.

``uniform``: every table gets the same share. ``hottest_first``: tables with most lookups per byte go whole into DRAM,
the others share what is left. ``cached_kernel``: TorchRec's heuristic without statistics (TorchRec 1.8,
distributed/planner/constants.py ``kernel_bw_lookup`` and the default ``cache_load_factor`` of 0.2): a cache of the same
share of every table's rows is taken to hit in proportion to that share, with a tenth of the bandwidth, (share * fast +
(1 - share) * slow) / 10; tables for which whole rows in fast memory gain most seconds per byte are promoted. Here DRAM
is the fast memory and the SSD the slow one. Its planner also knows offload statistics, which no public tool makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hotrow.core import EmbeddingConfig
from hotrow.errors import PlanInfeasible
from hotrow.optim import Optimizer
from hotrow.planning.candidates import BATCH_MARGIN, RowSizes
from hotrow.planning.statistics import TableStatistics, read_profile
from hotrow.plans import Plan, table_bytes
from hotrow.profiles import AccessProfile
from hotrow.sizes import parse_bytes
from hotrow.storage import capacity_for

LOAD_FACTOR = 0.2
"""TorchRec's default share of a table's rows in its cache."""


def uniform(
    tables: Sequence[EmbeddingConfig], profile: AccessProfile, dram: int | str, optimizer: Optimizer
) -> Plan:
    """The same share for every table, at least what its batches need."""
    have = parse_bytes(dram, "dram")
    least = least_caches(tables, profile, optimizer)
    whole = {table.name: table_bytes(table, optimizer) for table in tables}
    return _plan(tables, _shared(list(whole), whole, least, have), whole)


def hottest_first(
    tables: Sequence[EmbeddingConfig], profile: AccessProfile, dram: int | str, optimizer: Optimizer
) -> Plan:
    """Whole tables by lookups per byte as long as the caches of the others fit, too; these share what is left."""
    have = parse_bytes(dram, "dram")
    least = least_caches(tables, profile, optimizer)
    whole = {table.name: table_bytes(table, optimizer) for table in tables}
    heat = {name: profile.tables[name].num_lookups / whole[name] for name in whole}
    return _promoted(tables, whole, dict(least), least, have, sorted(whole, key=lambda name: -heat[name]))


def cached_kernel(
    tables: Sequence[EmbeddingConfig],
    profile: AccessProfile,
    dram: int | str,
    optimizer: Optimizer,
    *,
    fast_bytes_per_second: float,
    slow_bytes_per_second: float,
) -> Plan:
    """The same load factor for every table, at most TorchRec's default; whole tables where its model gains most."""
    have = parse_bytes(dram, "dram")
    least = least_caches(tables, profile, optimizer)
    whole = {table.name: table_bytes(table, optimizer) for table in tables}
    factor = min(LOAD_FACTOR, max(0.0, (have - sum(least.values())) / max(sum(whole.values()), 1)))
    caches = {name: min(whole[name], max(least[name], int(factor * whole[name]))) for name in whole}
    while sum(caches.values()) > have and factor > 1e-4:
        factor *= 0.9
        caches = {name: min(whole[name], max(least[name], int(factor * whole[name]))) for name in whole}
    bandwidth = (factor * fast_bytes_per_second + (1 - factor) * slow_bytes_per_second) / 10

    def gain(name: str) -> float:
        moved = profile.tables[name].num_lookups * next(t for t in tables if t.name == name).embedding_dim * 4
        return moved * (1 / bandwidth - 1 / fast_bytes_per_second) / max(whole[name] - caches[name], 1)

    return _promoted(tables, whole, caches, least, have, sorted(whole, key=lambda name: -gain(name)))


def least_caches(
    tables: Sequence[EmbeddingConfig], profile: AccessProfile, optimizer: Optimizer
) -> dict[str, int]:
    """Bytes of the smallest legal cache of each table, or of all of it where that is less."""
    found = {}
    statistics: Mapping[str, TableStatistics] = read_profile(tables, profile)[0]
    for table in tables:
        sizes = RowSizes.of(table, optimizer, True)
        distinct = statistics[table.name].distinct(profile.batch_size)
        slots = int(np.ceil((distinct * BATCH_MARGIN + 4 * np.sqrt(distinct) + 1) * (profile.look_ahead + 2)))
        capacity = capacity_for(min(slots, table.num_embeddings), table.num_embeddings, sizes.slot)
        found[table.name] = min(capacity, table_bytes(table, optimizer))
    return found


def _promoted(
    tables: Sequence[EmbeddingConfig],
    whole: Mapping[str, int],
    caches: Mapping[str, int],
    least: Mapping[str, int],
    have: int,
    order: Sequence[str],
) -> Plan:
    """Whole tables in this order while caches fit beside them; what is left over goes to the caches in equal parts."""
    sizes = dict(caches)
    for name in order:
        if sum(sizes.values()) - sizes[name] + whole[name] <= have:
            sizes[name] = whole[name]
    rest = [name for name in sizes if sizes[name] < whole[name]]
    left = have - sum(sizes[name] for name in sizes if name not in rest)
    floor = {name: max(sizes[name], least[name]) for name in rest}
    return _plan(tables, {**sizes, **_shared(rest, whole, floor, left)}, whole)


def _shared(
    names: Sequence[str], whole: Mapping[str, int], least: Mapping[str, int], have: int
) -> dict[str, int]:
    """Equal shares, no less than the least and no more than all of a table. Raises PlanInfeasible."""
    need = sum(least[name] for name in names)
    if need > have:
        raise PlanInfeasible(
            f"dram: the smallest caches need {need} bytes, has {have}, {need - have} too few; give them"
        )
    low, high = 0, have
    while low < high:
        level = (low + high + 1) // 2
        total = sum(min(max(level, least[name]), whole[name]) for name in names)
        low, high = (level, high) if total <= have else (low, level - 1)
    return {name: min(max(low, least[name]), whole[name]) for name in names}


def _plan(tables: Sequence[EmbeddingConfig], sizes: Mapping[str, int], whole: Mapping[str, int]) -> Plan:
    choices: dict[str, Any] = {
        name: "dram" if size >= whole[name] else {"cache": {"policy": "lru", "bytes": size}}
        for name, size in sizes.items()
    }
    return Plan.manual(choices, tables)
